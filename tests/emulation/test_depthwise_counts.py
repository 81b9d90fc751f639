"""Exact counts of the depthwise kernels' PTX at the shapes of the benchmarks, on an A100's plan.

Global bytes over compulsory ones (input and output once each; backward the input, the gradient of
the output, that of the input), shared memory's wavefronts over those without a conflict of banks,
multiply-adds and instructions over outputs. They say what the code does, not how fast it is. A
sample of each launch's blocks is run; batches are smaller than in the benchmarks, yet fill the GPU
several times. One backward pass is not within 1.15 times the compulsory bytes: sums of strips in
NHWC, whose tiles read their halos again.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import conv_reference as reference
import pytest
import torch
from conv_reference import Problem

from emulation import build
from emulation.depthwise import A100, DTYPES, SOURCES, UNITS, Sum, run
from emulation.ptx.launch import PtxLibrary

pytestmark = pytest.mark.emulation
SAMPLE = 12  # blocks
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
# Sums of strips have a march backward in NCHW alone: bytes over the compulsory ones in NHWC.
TILES = {"SegNeXt-S, sum": 4.4, "SegNeXt-S, sum, small": 2.0}
# Multiply-adds and instructions over the 2 k multiply-adds of an output, 4 k backward. Wavefronts
# over those without conflicts.
BUDGETS = {
    "forward": {"wavefronts": 1.1, "fma": 1.7, "instructions": 8.0},
    "backward": {"wavefronts": 1.1, "fma": 1.7, "instructions": 8.0},
    "tiles": {"wavefronts": 1.1, "fma": 2.0, "instructions": 45.0},
    "longest": {"wavefronts": 1.1, "fma": 2.0, "instructions": 20.0},  # a kernel for every case
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
    found.hold(BUDGETS["forward"], SHAPES[name])


@LAYOUTS
@pytest.mark.parametrize("name", SHAPES)
def test_counts_of_gradients_stay_within_their_bounds(name, channels_last):
    found = cost(SHAPES[name], torch.bfloat16, channels_last, backward=True)
    tiles = channels_last and name in TILES
    assert found.bytes <= (TILES[name] if tiles else 1.15), "global memory"
    found.hold(BUDGETS["tiles" if tiles else "backward"], SHAPES[name])


@LAYOUTS
def test_counts_of_the_kernel_for_every_case_stay_within_their_bounds(channels_last):
    shape = (8, 64, 64, (63,))
    cost(shape, torch.bfloat16, channels_last).hold(BUDGETS["longest"], shape)
