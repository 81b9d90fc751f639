"""Run launches as PTX: the kernel's name, grid and arguments as the launching code passes them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from emulation.machine import Fault, Launched

from .counters import Counts
from .machine import Machine
from .parse import Kernel
from .tensors import Tensors

LANES = 32768  # that run at once: enough to make numpy's overhead small, and they fit the cache


def run_launch(
    kernels: Mapping[str, Kernel],
    name: str,
    launched: Launched,
    tensors: Tensors,
    counts: Counts | None = None,
    blocks: range | None = None,
) -> None:
    """Run one launch, or some of its blocks; raises Fault for what a check finds."""
    kernel = kernels[name]
    grid, block = tuple(launched.grid), tuple(launched.block)
    threads = int(np.prod(block))
    if threads > kernel.max_threads:
        raise Fault(f"{name}: {threads} threads, but __launch_bounds__({kernel.max_threads})")
    arguments = pack(kernel, launched.argument_bytes())
    tensors.begin_launch()
    every = range(int(np.prod(grid))) if blocks is None else blocks
    step = max(LANES // threads, 1)
    with np.errstate(all="ignore"):
        for first in range(0, len(every), step):
            part = every[first : first + step]
            Machine(kernel, grid, block, launched.shared, arguments, tensors, part, counts).run()


def pack(kernel: Kernel, arguments: list[bytes]) -> bytes:
    """The arguments at the places that the kernel's parameters have."""
    if len(arguments) != len(kernel.parameters):
        raise Fault(f"{kernel.name}: {len(arguments)} arguments for {len(kernel.parameters)}")
    packed = bytearray()
    for (name, offset, size), value in zip(kernel.parameters, arguments, strict=True):
        if size != len(value):
            raise Fault(f"{name}: {len(value)} bytes for {size}")
        packed += bytes(offset - len(packed)) + value
    return bytes(packed)
