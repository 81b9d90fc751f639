"""Exact counts of the dense kernels' PTX at shapes of the benchmarks, on an A100's plan.

Shared memory's wavefronts over those without a conflict of banks; multiply-adds (those of a tensor
core's instructions as well) and instructions over the multiply-adds of the definition. They say
what the code does, not how fast it is. A sample of each launch's blocks is run.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import pytest
import torch
from conv_reference import Problem

from emulation import build, dense
from emulation.ptx.launch import PtxLibrary

pytestmark = pytest.mark.emulation
SHAPES = {
    "low rank ResNet-50": Problem((64, 32, 64), (56, 56), (3, 3), batch=32),
    "ERFNet": Problem((64,) * 3, (128, 256), (3, 3), row_first=False, batch=1, activation="relu"),
}
MATHS = {
    "bfloat16": (torch.bfloat16, False),
    "TF32": (torch.float32, True),
    "float32": (torch.float32, False),
}


CASES = (  # multiply-adds of float32 take the interpreter long
    ("low rank ResNet-50", "bfloat16", True, False),
    ("low rank ResNet-50", "bfloat16", True, True),
    ("ERFNet", "TF32", True, False),
    ("ERFNet", "TF32", True, True),
    ("low rank ResNet-50", "float32", False, False),
)
# Multiply-adds and instructions by kernel; the backward pass makes the intermediate again, and
# gradients of weights come in tiles of 64 x 64 channels.
BUDGETS = {
    "pair": (1.4, 0.8),
    "gradient": (2.1, 1.4),
    "w1": (2.1, 1.2),
    "w2": (2.1, 1.2),
    "pair in float32": (1.4, 3.0),
}


class Cost(NamedTuple):
    """Of one kernel; instructions of a thread, over the multiply-adds that it stands for."""

    wavefronts: float
    products: float
    instructions: float


@cache
def library(unit) -> PtxLibrary:
    return PtxLibrary(dense.library(), [build.ptx_text(unit, 80)], count=True, sample=2)


def costs(problem: Problem, math: str, channels_last: bool, backward: bool) -> dict[str, Cost]:
    """Return what each kernel of a pass takes."""
    dtype, tf32 = MATHS[math]
    unit = dense.UNITS[dense.DTYPES.index(dtype)]
    into, mid, out = problem.channels
    height, width = (s // d for s, d in zip(problem.size, problem.stride, strict=True))
    first, second = problem.kernel[::-1] if problem.row_first else problem.kernel
    mid_pixels = problem.size[0] * width if problem.row_first else height * problem.size[1]
    products = {
        "w1": problem.batch * mid_pixels * into * first * mid,
        "w2": problem.batch * height * width * mid * second * out,
    }
    both = products["w1"] + products["w2"]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, y = (
        torch.ones((problem.batch, *shape), dtype=dtype).to(memory_format=layout)
        for shape in ((into, *problem.size), (out, height, width))
    )
    shapes = [(mid, into, 1, first), (out, mid, second, 1)]
    if not problem.row_first:
        shapes = [(mid, into, first, 1), (out, mid, 1, second)]
    tensors = [x, *(torch.ones(shape, dtype=dtype) for shape in shapes), None, None]
    kernels = {2: ("pair" if tf32 or dtype != torch.float32 else "pair in float32", both)}
    if backward:
        kernels = {3: ("gradient", both), 4: ("w1", products["w1"]), 6: ("w2", products["w2"])}
    ptx = library(unit)
    dense.run(ptx, problem, tensors, y, backward=backward, tf32=tf32)
    found = {}
    for i, (name, defined) in kernels.items():
        share, counts = ptx.parts[i]
        done = counts.mma * (16 * 8 * (8 if tf32 else 16)) + counts.fma
        shared = counts.space("shared")
        found[name] = Cost(
            shared.units / shared.ideal, done / (share * defined), counts.total / (share * defined)
        )
    return found


@pytest.mark.parametrize(("name", "math", "channels_last", "backward"), CASES)
def test_counts_stay_within_their_budgets(name, math, channels_last, backward):
    for kernel, found in costs(SHAPES[name], math, channels_last, backward).items():
        products, instructions = BUDGETS[kernel]
        assert found.wavefronts <= 1.1, (kernel, "conflicts of shared memory's banks")
        assert 1 <= found.products <= products, kernel
        assert found.instructions <= instructions, kernel
