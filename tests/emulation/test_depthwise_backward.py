"""The gradients of depthwise pairs on the CUDA kernels' own source, run on fibers.

Values are held to float64 by the bound of ``conv_errors.py``.
"""

from __future__ import annotations

import conv_reference as reference
import pytest
import torch
from conv_errors import pair_bound
from conv_reference import Problem
from hypothesis import given, settings
from hypothesis import strategies as st

from emulation.depthwise import DTYPES, SMALL, Device, Sum, plan, run
from emulation.test_depthwise_forward import GENERALS, MARCHES, depthwise, problems

pytestmark = pytest.mark.emulation


def hold(problem: Problem, dtype, channels_last, device=SMALL):
    tensors = reference.tensors(problem, dtype)
    shape = reference.torch_pair(problem, *tensors).shape
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    allowed = pair_bound(problem, tensors, grad)
    present = range(1, len(allowed.exact))
    case = Sum((problem,), dtype, channels_last)
    x, w1, w2, b1, b2 = tensors
    allowed.of(present).hold(run(case, x, [w1, w2, b1, b2], grad, device), case)


@pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [*MARCHES, *GENERALS])
def test_gradients_err_no_more_than_torch(name, dtype, channels_last):
    hold((MARCHES | GENERALS)[name], dtype, channels_last)


@pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("row_first", [False, True])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
def test_small_tiles_agree(stride, row_first, channels_last):
    room = (40 << 10, 19 << 10) if channels_last else (12 << 10, 5 << 10)
    device = Device(1, *room)
    problem = depthwise(
        3, (23, 29), (5, 7), stride=stride, padding=(2, 3), row_first=row_first, activation="silu"
    )
    case = Sum((problem,), torch.float32, channels_last)
    assert plan(case, True, device).grid > 2 * 3  # more than images and channels
    hold(problem, torch.float32, channels_last, device)


@settings(max_examples=40, deadline=None)
@given(problems(), st.sampled_from(DTYPES), st.booleans())
def test_gradients_of_drawn_problems_err_no_more_than_torch(problem, dtype, channels_last):
    hold(problem, dtype, channels_last)
