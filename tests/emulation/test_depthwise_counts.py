"""Exact counts of the depthwise kernels' PTX at the shapes of the benchmarks, on an A100's plan.

Global bytes over compulsory ones (input and output once each; backward the input, the gradient of
the output, that of the input), shared memory's wavefronts over those without a conflict of banks,
multiply-adds and instructions over outputs. They say what the code does, not how fast it is. A
sample of each launch's blocks is run; batches are smaller than in the benchmarks, yet fill the GPU
several times.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import NamedTuple

import conv_reference as reference
import pytest
import torch
from conv_reference import Problem

from emulation import build
from emulation.depthwise import A100, DTYPES, SOURCES, UNITS, Sum, plan, run
from emulation.ptx.launch import PtxLibrary

sys.path.insert(0, str(build.ROOT / "bench"))

from conv_cuda_shapes import PROBLEMS

pytestmark = pytest.mark.emulation
SAMPLE = 6  # blocks
SHAPES = {  # batch, channels, height and width, kernels
    "SegNeXt-S, 7": (8, 64, 128, (7,)),
    "SegNeXt-S, 21": (8, 128, 64, (21,)),
    "strip, 3": (8, 64, 112, (3,)),
    "strip, 7": (32, 64, 56, (7,)),
    "Strip R-CNN, 19": (8, 320, 64, (19,)),
    "GhostNetV2, 5": (64, 120, 14, (5,)),
    "SegNeXt-S, sum": (8, 64, 128, (7, 11, 21)),
    "SegNeXt-S, sum, small": (32, 512, 16, (7, 11, 21)),
}
# Sectors of 32 bytes over those that hold the compulsory bytes, where not 1.25, 1.35 backward: rows
# of 14 columns are moved two by two, and pixels of 120 channels begin within a sector.
SECTORS = {("GhostNetV2, 5", False): 4.0, ("GhostNetV2, 5", True): 1.75}
# Wavefronts over those without conflicts; multiply-adds and instructions over the 2 k multiply-adds
# of an output, 4 k backward.
BUDGETS = {
    "forward": {"wavefronts": 1.1, "fma": 1.7, "instructions": 8.0},
    "backward": {"wavefronts": 1.1, "fma": 1.7, "instructions": 8.0},
    # The kernel for every case.
    "longest": {"wavefronts": 1.1, "fma": 2.0, "instructions": 20.0},
}
LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])


class Cost(NamedTuple):
    """Of one output: ratios to what is compulsory or ideal."""

    bytes: float
    sectors: float
    wavefronts: float
    fma: float
    instructions: float

    def hold(self, budgets: dict[str, float], shape: tuple[int, int, int, tuple[int, ...]]) -> None:
        """Hold all but the bytes; what a march would add to rows above the image may be missing."""
        *_, size, kernels = shape
        above = sum(k // 2 for k in kernels) / (2 * sum(kernels) * size)
        assert self.wavefronts <= budgets["wavefronts"], "conflicts of shared memory's banks"
        assert 1 - above - 1e-9 <= self.fma <= budgets["fma"]
        assert self.instructions <= budgets["instructions"]


@cache
def libraries(dtype) -> PtxLibrary:
    text = build.ptx_text(UNITS[(torch.float32, torch.float16, torch.bfloat16).index(dtype)], 80)
    return PtxLibrary(build.host_library(SOURCES), [text], count=True, sample=SAMPLE)


def cost(shape, dtype: torch.dtype, channels_last: bool, backward: bool = False) -> Cost:
    batch, channels, size, kernels = shape
    pairs = tuple(
        Problem((channels,) * 3, (size, size), (k, k), batch=batch, groups=(channels,) * 2)
        for k in kernels
    )
    x = torch.ones((batch, channels, size, size), dtype=dtype)
    weights = [t for pair in pairs for t in reference.tensors(pair._replace(batch=1), dtype)[1:]]
    library = libraries(dtype)
    case = Sum(pairs, dtype, channels_last, len(kernels) > 1)
    run(case, x, weights, x if backward else None, A100, library)
    counts = library.parts[0][1]  # not those of the kernel that adds partial sums up
    outputs = library.moved[3 if backward else 1]["written"] // x.element_size()
    compulsory = (2 + backward) * outputs * x.element_size()
    products = (2 + 2 * backward) * sum(kernels) * outputs
    moved, shared = counts.space("global"), counts.space("shared")
    return Cost(
        moved.bytes / compulsory,
        32 * moved.units / compulsory,
        shared.units / max(shared.ideal, 1),
        counts.fma / products,
        counts.total / products,
    )


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@LAYOUTS
@pytest.mark.parametrize("name", SHAPES)
def test_counts_stay_within_their_bounds(name, dtype, channels_last):
    found = cost(SHAPES[name], dtype, channels_last)
    assert found.bytes <= 1.15, "global memory"
    assert found.sectors <= SECTORS.get((name, channels_last), 1.25)
    found.hold(BUDGETS["forward"], SHAPES[name])


@LAYOUTS
@pytest.mark.parametrize("name", SHAPES)
def test_counts_of_gradients_stay_within_their_bounds(name, channels_last):
    found = cost(SHAPES[name], torch.bfloat16, channels_last, backward=True)
    assert found.bytes <= 1.15, "global memory"
    assert found.sectors <= SECTORS.get((name, channels_last), 1.35)
    found.hold(BUDGETS["backward"], SHAPES[name])


BATCHES = [p for p in PROBLEMS if p.family != "dense" and p.batch > 1]


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@LAYOUTS
@pytest.mark.parametrize("problem", BATCHES, ids=lambda problem: problem.label)
def test_plans_of_the_benchmark_move_little_more_than_they_must(
    problem, channels_last, dtype, backward
):
    size = (problem.height, problem.width)
    pairs = tuple(
        Problem(
            problem.channels, size, (k, k), batch=problem.batch, groups=problem.channels[:2],
            dilation=(problem.dilation,) * 2,
        )
        for k in problem.kernels
    )  # fmt: skip
    case = Sum(pairs, dtype, channels_last, len(pairs) > 1)
    compulsory = (2 + backward) * problem.batch * problem.channels[0] * size[0] * size[1]
    wide = backward and channels_last and dtype.itemsize == 2 and problem.kernels == (19,)
    most = 1.2 if wide and problem.width == 256 else 1.15
    assert plan(case, backward, A100).bytes <= most * compulsory * dtype.itemsize


@LAYOUTS
def test_counts_of_the_kernel_for_every_case_stay_within_their_bounds(channels_last):
    shape = (8, 64, 64, (63,))
    cost(shape, torch.bfloat16, channels_last).hold(BUDGETS["longest"], shape)
