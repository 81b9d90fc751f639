"""Sums of strips on the CUDA kernels' own source, run on fibers: values against float64.

The bound is that of ``conv_errors.py``, torch's own error being that of its pairs, one by one.
"""

from __future__ import annotations

from typing import NamedTuple

import conv_reference as reference
import pytest
import torch
from conv_errors import bound, strips
from conv_reference import Problem
from hypothesis import given, settings
from hypothesis import strategies as st

from emulation.depthwise import DTYPES, SMALL, Device, Sum, forward, plan, run

pytestmark = pytest.mark.emulation


class Strips(NamedTuple):
    """A sum of pairs over one input."""

    kernels: tuple[tuple[int, int], ...]
    channels: int = 4
    size: tuple[int, int] = (20, 18)
    batch: int = 2
    row_first: bool = True
    residual: bool = True
    biases: tuple[bool, bool] = (True, True)

    def pairs(self) -> tuple[Problem, ...]:
        same = (self.channels,) * 3
        return tuple(
            Problem(
                same, self.size, kernel, self.row_first, self.batch, groups=same[:2],
                biases=self.biases,
            )
            for kernel in self.kernels
        )  # fmt: skip


SEGNEXT = ((7, 7), (11, 11), (21, 21))
MARCHES = {
    "SegNeXt": Strips(SEGNEXT),
    "SegNeXt, columns first": Strips(SEGNEXT, 6, (13, 16), 1, row_first=False),
    "SegNeXt, wide": Strips(SEGNEXT, 3, (9, 68), 1),
    "SegNeXt, no residual, no biases": Strips(SEGNEXT, residual=False, biases=(False, False)),
    "SegNeXt, small planes": Strips(SEGNEXT, 20, (4, 7)),
    "two": Strips(((3, 9), (13, 5)), biases=(True, False)),
}
GENERALS = {
    "four": Strips(((3, 3), (5, 5), (7, 7), (9, 9)), size=(12, 11)),
    "too large": Strips(((23, 21), (7, 11)), size=(12, 16), row_first=False),
    "one and the input": Strips(((31, 25),), size=(12, 16)),
}


def hold(problem: Strips, dtype, channels_last, backward, device=SMALL, library=None):
    tensors = []
    for seed, pair in enumerate(problem.pairs()):
        x, w1, w2, b1, b2 = reference.tensors(pair, dtype, seed=seed)
        tensors += [w1, b1, w2, b2] if tensors else [x, w1, b1, w2, b2]
    x, *rest = tensors
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(dtype)

    def plain(*tensors):
        return strips(
            *tensors, kernels=problem.kernels, row_first=problem.row_first,
            residual=problem.residual,
        )  # fmt: skip

    allowed = bound(plain, plain, tensors, grad)
    weights = [rest[i + j] for i in range(0, len(rest), 4) for j in (0, 2, 1, 3)]
    case = Sum(problem.pairs(), dtype, channels_last, problem.residual)
    if not backward:
        allowed.of([0]).hold([forward(case, x, weights, device, library)], problem)
        return
    found = run(case, x, weights, grad, device, library)
    # Gradients in the order of the kernel's weights, expected in torch's: w1, b1, w2, b2.
    given = iter(found[1:])
    by_weight = {i: next(given) for i, w in enumerate(weights) if w is not None}
    swap = [i + j for i in range(0, len(rest), 4) for j in (0, 2, 1, 3)]
    ours = [found[0], *(by_weight[i] for i in swap if i in by_weight)]
    allowed.of(range(1, len(allowed.exact))).hold(ours, problem)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [*MARCHES, *GENERALS])
def test_sums_err_no_more_than_torch(name, dtype, channels_last, backward):
    problem = (MARCHES | GENERALS)[name]
    case = Sum(problem.pairs(), dtype, channels_last, problem.residual)
    assert plan(case, backward).is_march == (name in MARCHES)
    hold(problem, dtype, channels_last, backward)


ROOM = Device(4, 80 << 10, 24 << 10), Device(4, 160 << 10, 80 << 10)  # NCHW, NHWC
CUTS = {  # a backward march's plan: the choice that is more than 1
    "rows": (Strips(SEGNEXT, 2, (70, 12), 1), (Device(400),) * 2, 4),
    "tiles": (Strips(SEGNEXT, 2, (4, 330), 1), ROOM, 2),
    "images": (Strips(((13, 9), (3, 5)), 17, (5, 6), 17), (Device(1),) * 2, 9),
}


@pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("name", CUTS)
def test_marches_of_sums_that_are_cut_agree(name, channels_last):
    problem, devices, choice = CUTS[name]
    device = devices[channels_last]
    for dtype in (torch.bfloat16, torch.float32):
        case = Sum(problem.pairs(), dtype, channels_last, problem.residual)
        found = plan(case, True, device)
        assert found.is_march
        assert found.choice[choice] > 1
        hold(problem, dtype, channels_last, True, device)


def test_one_pass_reads_the_input_once():
    """SegNeXt's sum moves two tensors, where torch moves 21."""
    problem = Strips(SEGNEXT, 64, (128, 128), 8)
    case = Sum(problem.pairs(), torch.bfloat16, residual=True)
    tensor = 2 * 8 * 64 * 128 * 128
    assert plan(case, device=Device(108)).bytes <= 1.05 * 2 * tensor


sizes = st.integers(1, 16).map(lambda n: 2 * n - 1)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(sizes, sizes), min_size=1, max_size=4),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.booleans(),
    st.booleans(),
    st.sampled_from(DTYPES),
    st.booleans(),
    st.booleans(),
)
def test_drawn_sums_err_no_more_than_torch(
    kernels, size, row_first, residual, dtype, channels_last, backward
):
    problem = Strips(tuple(kernels), 3, size, 1, row_first, residual)
    hold(problem, dtype, channels_last, backward)
