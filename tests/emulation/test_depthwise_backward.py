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


def hold(problem: Problem, dtype, channels_last, device=SMALL, march=None):
    tensors = reference.tensors(problem, dtype)
    case = Sum((problem,), dtype, channels_last)
    grad = torch.randn(case.output_shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    allowed = pair_bound(problem, tensors, grad)
    present = range(1, len(allowed.exact))
    if march is not None:
        assert plan(case, True, device).is_march == march
    x, w1, w2, b1, b2 = tensors
    allowed.of(present).hold(run(case, x, [w1, w2, b1, b2], grad, device), case)


@pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [*MARCHES, *GENERALS])
def test_gradients_err_no_more_than_torch(name, dtype, channels_last):
    hold((MARCHES | GENERALS)[name], dtype, channels_last, march=name in MARCHES)


# Of two layouts: NCHW has room for 32 groups of threads at K = 7, and for 128 at K = 21.
SMALL_ROOM = Device(1, 8 << 10, 2700), Device(1, 80 << 10, 24 << 10)
RING_ROOM = Device(1, 48 << 10, 16 << 10), Device(1, 80 << 10, 48 << 10)
CUTS = {  # a march's plan: the choice that is more than 1
    "rows": (depthwise(4, (50, 12), (7, 7), batch=1), (Device(24),) * 2, 4),
    "two tiles": (depthwise(3, (9, 150), (7, 5), batch=1, row_first=False), SMALL_ROOM, 2),
    "tiles, activation": (depthwise(2, (5, 230), (7, 7), activation="silu"), SMALL_ROOM, 2),
    "images": (depthwise(17, (5, 6), (3, 3), batch=13), (Device(1),) * 2, 9),
    "ring, rows": (depthwise(2, (64, 12), (21, 21), batch=1), (Device(400),) * 2, 4),
    "ring, tiles": (depthwise(1, (3, 1030), (21, 21), batch=1), RING_ROOM, 2),
    "ring, images": (depthwise(17, (5, 6), (21, 21), batch=17), (Device(1),) * 2, 9),
}


@pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("name", CUTS)
def test_marches_that_are_cut_agree(name, channels_last):
    problem, devices, choice = CUTS[name]
    device = devices[channels_last]
    for dtype in (torch.bfloat16, torch.float32):
        cuts = plan(Sum((problem,), dtype, channels_last), True, device).choice[choice]
        assert cuts > 1
        hold(problem, dtype, channels_last, device, march=True)


@pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("row_first", [False, True])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
def test_small_tiles_agree(stride, row_first, channels_last):
    room = (40 << 10, 19 << 10) if channels_last else (12 << 10, 5 << 10)
    device = Device(1, *room)
    problem = depthwise(
        3, (23, 29), (5, 7), stride=stride, padding=(1, 3), row_first=row_first, activation="silu"
    )
    case = Sum((problem,), torch.float32, channels_last)
    assert plan(case, True, device).grid > 2 * 3  # more than images and channels
    hold(problem, torch.float32, channels_last, device)


@settings(max_examples=40, deadline=None)
@given(problems(), st.sampled_from(DTYPES), st.booleans())
def test_gradients_of_drawn_problems_err_no_more_than_torch(problem, dtype, channels_last):
    hold(problem, dtype, channels_last)
