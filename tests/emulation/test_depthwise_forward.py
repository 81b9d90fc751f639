"""Depthwise pairs on the CUDA kernels' own source, run on fibers: values against float64.

The bound is that of ``conv_errors.py``: twice torch's own error and one rounding.
"""

from __future__ import annotations

import conv_reference as reference
import pytest
import torch
from conv_errors import Bound, pair_bound
from conv_reference import Problem
from hypothesis import given, settings
from hypothesis import strategies as st

from emulation.depthwise import DTYPES, SMALL, Device, Sum, forward, plan
from emulation.machine import Fault

pytestmark = pytest.mark.emulation


def depthwise(channels, size, kernel, **more):
    return Problem((channels,) * 3, size, kernel, groups=(channels,) * 2, **more)


# Every size that the kernel is compiled for, and what is embedded in the next larger one.
MARCHES = {
    "3": depthwise(5, (9, 13), (3, 3)),
    "5, fours": depthwise(8, (11, 16), (5, 5), batch=1),
    "7, small planes": depthwise(20, (7, 7), (7, 7)),
    "11, column first": depthwise(4, (14, 14), (11, 11), row_first=False),
    "19, gelu": depthwise(3, (20, 24), (19, 19), activation="gelu", batch=1),
    "21, cut across": depthwise(2, (24, 68), (21, 21), batch=1),
    "3, cut across, by twos": depthwise(2, (3, 518), (3, 3), batch=1),
    "3, cut across, by ones": depthwise(1, (3, 517), (3, 3), batch=1),
    "21, larger than the image": depthwise(3, (6, 5), (21, 21), row_first=False),
    "9 by 5": depthwise(3, (12, 10), (9, 5), row_first=False),
    "even kernels": depthwise(3, (9, 10), (4, 2)),
    "1 by 7, silu": depthwise(4, (8, 8), (1, 7), activation="silu"),
    "dilation": depthwise(4, (22, 12), (7, 3), dilation=(3, 2), activation="relu"),
    "no biases": depthwise(17, (5, 8), (5, 5), biases=(False, False)),
    "first bias, column first": depthwise(3, (9, 6), (7, 5), biases=(True, False), row_first=False),
}
GENERALS = {
    "strides": depthwise(5, (11, 14), (5, 7), stride=(2, 3), padding=(1, 3), batch=1),
    "no padding": depthwise(3, (9, 11), (3, 5), padding=(0, 0)),
    "activation, column first": depthwise(6, (9, 8), (7, 5), activation="gelu", row_first=False),
    "63": depthwise(2, (10, 70), (31, 63), batch=1),
    "more padding than kernel": depthwise(3, (2, 3), (3, 1), padding=(4, 3), batch=1),
    "stride beyond the kernel": depthwise(3, (12, 13), (1, 3), stride=(4, 5), padding=(0, 1)),
    "dilated, far": depthwise(3, (30, 14), (7, 3), dilation=(5, 4), activation="silu"),
}


def hold(problem, dtype, channels_last, device=SMALL, march=None):
    tensors = reference.tensors(problem, dtype)
    case = Sum((problem,), dtype, channels_last)
    grad = torch.ones(case.output_shape)
    allowed = pair_bound(problem, tensors, grad).of([0])
    hold_within(allowed, case, tensors, device, march)


def hold_within(allowed: Bound, case: Sum, tensors, device=SMALL, march=None):
    if march is not None:
        assert plan(case, device=device).is_march == march
    x, w1, w2, b1, b2 = tensors
    allowed.hold([forward(case, x, [w1, w2, b1, b2], device)], case)


@pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [*MARCHES, *GENERALS])
def test_output_errs_no_more_than_torch(name, dtype, channels_last):
    march = name in MARCHES
    hold((MARCHES | GENERALS)[name], dtype, channels_last, march=march)


@pytest.mark.parametrize("sms", [1, 24])
@pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
def test_blocks_that_cut_the_rows_agree(channels_last, sms):
    problem = depthwise(4, (50, 12), (7, 7), batch=1)
    cuts = plan(Sum((problem,), channels_last=channels_last), device=Device(sms)).choice[4]
    assert cuts == (2 if sms == 1 else 7)
    hold(problem, torch.float32, channels_last, Device(sms), march=True)


def test_little_shared_memory_makes_small_tiles():
    device = Device(1, 20 << 10, 9 << 10)
    problem = depthwise(2, (40, 33), (5, 25), batch=1)
    case = Sum((problem,))
    assert plan(case, device=device).grid > 2
    hold(problem, torch.float32, False, device, march=False)


def test_what_no_launch_can_hold_is_not_covered():
    with pytest.raises(Fault, match="not covered"):
        plan(Sum((depthwise(2, (40, 300), (3, 200), batch=1),)), device=Device(1, 4096, 1024))


@st.composite
def problems(draw):
    kernel = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    size = draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    stride = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 3), (2, 2)]))
    least = [max(0, -(-((k - 1) * d + 1 - n) // 2)) for k, d, n in
             zip(kernel, dilation, size, strict=True)]  # fmt: skip
    padding = tuple(draw(st.integers(low, low + 3)) for low in least)
    if stride == (1, 1) and draw(st.booleans()):
        padding = "same"
    row_first = kernel == (1, 1) or draw(st.booleans())  # two kernels of 1x1: the first is the row
    return depthwise(
        draw(st.integers(1, 18)), size, kernel, row_first=row_first,
        batch=draw(st.integers(1, 2)), stride=stride, padding=padding, dilation=dilation,
        activation=draw(st.sampled_from(["none", "relu", "gelu", "silu"])),
        biases=draw(st.tuples(st.booleans(), st.booleans())),
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(problems(), st.sampled_from(DTYPES), st.booleans())
def test_drawn_problems_err_no_more_than_torch(problem, dtype, channels_last):
    hold(problem, dtype, channels_last)
