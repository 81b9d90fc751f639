"""A roofline on paper for the CUDA kernels, from data sheets and exact counts: no measurement.

    python bench/roofline.py cuda [--device NAME] [--shapes REGEX]

For each problem: the floor of the planned kernel, from the bytes that its launches move (halos and
workspace included) and the operations that they do (those on halos and padding included), and the
floor of torch's pair by cuDNN, kernel after kernel. Both floors assume:

- the data sheet's bandwidth and clock; float32 sums at the FMA peak; tensor cores at the rates in
  csrc/conv/cuda/clock_rates.cpp: the fastest instructions for cuDNN, mma.sync for the kernel (its
  rates on H100 and B200 are not published: 2560 and 2048 operations a clock and SM are assumed);
- 2 us from one kernel to the next;
- an intermediate of at most half of the L2 cache is read and written there, twice as fast;
- activations take a kernel of their own, biases and the sums of their gradients nothing.

Depthwise convolutions of torch are taken to be at their floor too; they are known to be far from it
in NCHW. A ratio here says what there is to gain at most, never what was gained.
"""

from __future__ import annotations

import argparse
import re
from typing import Any, NamedTuple

import torch  # noqa: F401  (before the extension, as everywhere)
from conv_core import requests
from conv_cuda_shapes import PROBLEMS
from conv_shapes import Problem

from pyphase.conv import cuda

__all__ = ["DEVICES", "Floor", "floors", "print_floors"]


# Data sheets and the CUDA programming guide's table of technical specifications: boost clock (that
# of the data sheet's own peaks), memory bandwidth, L2, shared memory of an SM and of a block.
DEVICES: dict[str, dict[str, Any]] = {
    "A100 SXM 80GB": {
        "capability": 80,
        "sms": 108,
        "threads_per_sm": 2048,
        "registers_per_sm": 65536,
        "shared_per_sm": 164 << 10,
        "shared_per_block": 163 << 10,
        "l2": 40 << 20,
        "bandwidth": 2.04e12,
        "clock": 1.41e9,
    },
    "H100 SXM": {
        "capability": 90,
        "sms": 132,
        "threads_per_sm": 2048,
        "registers_per_sm": 65536,
        "shared_per_sm": 228 << 10,
        "shared_per_block": 227 << 10,
        "l2": 50 << 20,
        "bandwidth": 3.35e12,
        "clock": 1.83e9,
    },
    "B200": {
        "capability": 100,
        "sms": 148,
        "threads_per_sm": 2048,
        "registers_per_sm": 65536,
        "shared_per_sm": 228 << 10,
        "shared_per_block": 227 << 10,
        "l2": 126 << 20,
        "bandwidth": 8.0e12,
        "clock": 1.85e9,
    },
    "RTX 4090": {
        "capability": 89,
        "sms": 128,
        "threads_per_sm": 1536,
        "registers_per_sm": 65536,
        "shared_per_sm": 100 << 10,
        "shared_per_block": 99 << 10,
        "l2": 72 << 20,
        "bandwidth": 1.008e12,
        "clock": 2.52e9,
    },
    "RTX 5090": {
        "capability": 120,
        "sms": 170,
        "threads_per_sm": 1536,
        "registers_per_sm": 65536,
        "shared_per_sm": 100 << 10,
        "shared_per_block": 99 << 10,
        "l2": 96 << 20,
        "bandwidth": 1.792e12,
        "clock": 2.41e9,
    },
}


class Floor(NamedTuple):
    """Predicted seconds of a pass, and what the kernel's are made of."""

    kernel: str
    native: float
    torch: float
    bytes: float
    flops: float
    bound: str  # "memory", "fma" or "tensor"


def floors(
    problem: Problem, dtype: str, channels_last: bool, device: dict[str, Any]
) -> dict[str, Floor]:
    """Return the floors of the passes that have a kernel."""
    module = cuda.load()
    if cuda.why_not(module):
        raise SystemExit(f"no CUDA kernels to plan: {cuda.why_not(module)}")
    at = module.Device(**device)
    planned = plan(module, problem, dtype, channels_last, at)
    found = {}
    for task, backward in (("forward", False), ("backward", True)):
        if planned.covers(backward):
            native, torchs = planned.floors(backward)
            moved, flops, tensor_cores = planned.work(backward)
            kind = "tensor" if tensor_cores else "fma"
            peak = at.tensor / (1 + (dtype == "float32")) if tensor_cores else at.fma
            bound = kind if flops / peak > moved / at.bandwidth else "memory"
            found[task] = Floor(planned.kernel, native, torchs, moved, flops, bound)
    return found


def plan(module: Any, problem: Problem, dtype: str, channels_last: bool, at: Any) -> Any:
    """Return a problem planned for a device."""
    pairs = [module.Pair(**request) for request in requests(problem, dtype, channels_last)]
    if problem.family == "strips":
        return module.PlannedStrips(pairs, True, at)
    return module.PlannedPair(pairs[0], at, dtype == "float32")


def print_floors(device: str, shapes: str) -> None:
    """Print a table for a device."""
    print(f"\n{device}: predicted floors in us, on paper; nothing here ran on a GPU")
    heading = f"{'':40}{'dtype':9}{'layout':7}{'pass':9}{'kernel':>8}{'cuDNN':>8}{'at most':>9}"
    print(f"{heading}{'MB':>8}{'GFLOP':>8}  bound")
    for problem in PROBLEMS:
        if not re.search(shapes, problem.label):
            continue
        for dtype in problem.dtypes:
            for layout, last in (("nchw", False), ("nhwc", True)):
                for task, found in floors(problem, dtype, last, DEVICES[device]).items():
                    cells = [f"{problem.label:40}{dtype:9}{layout:7}{task:9}"]
                    cells += [f"{1e6 * found.native:8.1f}{1e6 * found.torch:8.1f}"]
                    cells += [f"{found.torch / found.native:8.2f}x{found.bytes / 1e6:8.1f}"]
                    print("".join(cells) + f"{found.flops / 1e9:8.2f}  {found.bound}")


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="roofline.py cuda",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=list(DEVICES), help="default: all")
    parser.add_argument("--shapes", default="", metavar="REGEX", help="only labels that match")
    arguments = parser.parse_args(words)
    assert __doc__ is not None
    print(__doc__.partition("For each problem:")[2].strip())
    for device in [arguments.device] if arguments.device else DEVICES:
        print_floors(device, arguments.shapes)
