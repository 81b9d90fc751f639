"""Run launches as PTX: the kernel's name, grid and arguments as the launching code passes them."""

from __future__ import annotations

import ctypes
import math
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from emulation.machine import Fault, Launched, Tensor, launches_go_to

from .counters import Counts
from .machine import Machine
from .parse import Kernel, parse
from .tensors import Tensors
from .values import Array

LANES = 32768  # that run at once: enough to make numpy's overhead small, and they fit the cache


def run_launch(
    kernels: Mapping[str, Kernel],
    name: str,
    launched: Launched,
    tensors: Tensors,
    counts: Counts | None = None,
    sample: int | None = None,
) -> None:
    """Run one launch, or a sample of so many blocks; raises Fault for what a check finds."""
    kernel = kernels[name]
    grid, block = tuple(launched.grid), tuple(launched.block)
    threads = int(np.prod(block))
    if threads > kernel.max_threads:
        raise Fault(f"{name}: {threads} threads, but __launch_bounds__({kernel.max_threads})")
    arguments = pack(kernel, launched.argument_bytes())
    tensors.begin_launch()
    every = chosen(int(np.prod(grid)), sample)
    step = max(LANES // threads, 1)
    with np.errstate(all="ignore"):
        for first in range(0, len(every), step):
            part = every[first : first + step]
            Machine(kernel, grid, block, launched.shared, arguments, tensors, part, counts).run()


def chosen(blocks: int, sample: int | None) -> Array:
    """All blocks, or a sample of so many where they are far more, at no period of the grid's."""
    if sample is None or blocks <= 3 * sample:
        return np.arange(blocks)
    golden = (math.sqrt(5) - 1) / 2
    return np.sort((np.arange(1, sample + 1) * golden % 1 * blocks).astype(int))


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


class PtxLibrary:
    """A host library whose launches run as PTX: its launching code and entry points are the same.

    `counts`, the `parts` that each launch has in it (the share of its blocks that ran, its counts),
    and the bytes `moved` of each tensor, are those of the last call.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        modules: Sequence[str],
        *,
        count: bool = False,
        sample: int | None = None,  # blocks of each launch; results are then incomplete
    ) -> None:
        self._library = library
        self._sample = sample
        self._kernels: Mapping[str, Kernel] = ChainMap(*map(parse, modules))
        self._count = count
        self.counts = Counts()
        self.parts: list[tuple[float, Counts]] = []
        self.moved: list[dict[str, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def run(
        self, tensors: Sequence[Tensor], call: Callable[[list[int | None]], None]
    ) -> list[dict[str, int]]:
        """What `machine.run_on_fibers` does, with launches run as PTX."""
        copies = [tensor._replace(array=_aligned(tensor.array)) for tensor in tensors]
        reachable = Tensors(copies, self._sample is not None)
        self.counts, self.parts = Counts(), []

        def take(name: str, launched: Launched) -> None:
            counts = Counts() if self._count else None
            run_launch(self._kernels, name, launched, reachable, counts, self._sample)
            if counts:
                blocks = int(np.prod(tuple(launched.grid)))
                self.parts.append((len(chosen(blocks, self._sample)) / blocks, counts))
                self.counts.add(counts)

        with launches_go_to(self._library, take) as raised:
            try:
                call([t.array.ctypes.data if t.array.size else None for t in copies])
            except Fault:
                if not raised:  # else the launch failed for what the interpreter raised
                    raise
        if self._sample is None:
            reachable.require_complete()
        for tensor, copy in zip(tensors, copies, strict=True):
            tensor.array[...] = copy.array
        self.moved = reachable.bytes_moved(copies)
        return self.moved


def _aligned(array: np.ndarray) -> np.ndarray:
    """A copy at a multiple of 512 bytes, where PyTorch's allocator puts tensors."""
    room = np.empty(array.nbytes + 512, np.uint8)
    start = -room.ctypes.data % 512
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
