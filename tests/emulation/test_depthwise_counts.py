"""Exact counts of the depthwise kernels' PTX at the shapes of the benchmarks, on an A100's plan.

Global bytes over compulsory ones (input and output once each), shared memory's wavefronts over
those without a conflict of banks, multiply-adds and instructions over outputs. They say what the
code does, not how fast it is. A sample of each launch's blocks is run; batches are smaller than
in the benchmarks, yet fill the GPU several times.
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
BUDGETS = {"fma": 1.7, "instructions": 8.0}  # each over the 2 k multiply-adds of an output


class Cost(NamedTuple):
    """Of one output: ratios to what is compulsory or ideal."""

    bytes: float
    sectors: float
    wavefronts: float
    fma: float
    instructions: float


@cache
def libraries(dtype) -> PtxLibrary:
    text = build.ptx_text(UNITS[(torch.float32, torch.float16, torch.bfloat16).index(dtype)], 80)
    return PtxLibrary(build.host_library(SOURCES), [text], count=True, sample=SAMPLE)


def cost(name: str, dtype: torch.dtype, channels_last: bool) -> Cost:
    batch, channels, size, kernels = SHAPES[name]
    pairs = tuple(
        Problem((channels,) * 3, (size, size), (k, k), batch=batch, groups=(channels,) * 2)
        for k in kernels
    )
    x = torch.ones((batch, channels, size, size), dtype=dtype)
    weights = [t for pair in pairs for t in reference.tensors(pair._replace(batch=1), dtype)[1:]]
    library = libraries(dtype)
    residual = len(kernels) > 1
    run(Sum(pairs, dtype, channels_last, residual), x, weights, None, A100, library)
    outputs = library.moved[1]["written"] // x.element_size()
    compulsory = 2 * outputs * x.element_size()
    products = 2 * sum(kernels) * outputs
    moved, shared = library.counts.space("global"), library.counts.space("shared")
    return Cost(
        moved.bytes / compulsory,
        32 * moved.units / compulsory,
        shared.units / max(shared.ideal, 1),
        library.counts.fma / products,
        library.counts.total / products,
    )


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("name", SHAPES)
def test_counts_stay_within_their_bounds(name, dtype, channels_last):
    found = cost(name, dtype, channels_last)
    assert found.bytes <= 1.15, "global memory"
    assert found.wavefronts <= 1.1, "conflicts of shared memory's banks"
    assert 1 <= found.fma <= BUDGETS["fma"]
    assert found.instructions <= BUDGETS["instructions"]
