"""Dense pairs on the CUDA kernels' own source, run on fibers: values against float64.

The bound is that of ``conv_errors.py``: twice torch's own error and one rounding. Products in TF32
have a bound of their own: both operands of each are rounded to 11 bits, and at most three products
in a row make an element, so that it errs by at most 6 * 2^-11 of the sum of its absolute terms, and
a tenth for what the sums themselves round.
"""

from __future__ import annotations

import conv_reference as reference
import pytest
import torch
from conv_errors import evaluate, pair_bound
from conv_reference import PROBLEMS, Problem
from hypothesis import given, settings
from hypothesis import strategies as st

from emulation import dense
from emulation.dense import A100, DTYPES, Gpu

pytestmark = pytest.mark.emulation
LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
PASSES = pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
NAMES = [name for name, problem in PROBLEMS.items() if problem.groups == (1, 1)]
UNCOVERED = ("dense, 1x1", "dense, more padding than kernel")  # of backward passes
SMALL = Gpu(sms=16)  # for the layers: few blocks, whose tiles are as large as in a whole network
LAYERS = {
    "low rank": Problem((16, 4, 16), (20, 19), (7, 7), biases=(False, True)),
    "ERFNet": Problem(
        (40, 72, 40), (18, 20), (3, 3), dilation=(2, 2), row_first=False, activation="relu"
    ),
    "stem": Problem((3, 16, 24), (33, 30), (7, 7), stride=(2, 2), padding=(3, 3)),
    "Inception": Problem((32, 48, 64), (17, 17), (7, 7), batch=1),
    "long": Problem((8, 8, 8), (12, 40), (5, 21), batch=1, activation="gelu"),
}


def draw(problem, dtype, channels_last):
    """Return the tensors of a problem, and a gradient of the output in its layout."""
    tensors = reference.tensors(problem, dtype, channels_last)
    shape = reference.torch_pair(problem, *tensors).shape
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    if channels_last:
        grad = grad.contiguous(memory_format=torch.channels_last)
    return tensors, grad


def hold(problem, dtype, channels_last, backward=(False, True), gpu=A100):
    tensors, grad = draw(problem, dtype, channels_last)
    allowed = pair_bound(problem, tensors, grad)
    for back in backward:
        found = dense.run(dense.library(), problem, tensors, grad, backward=back, gpu=gpu)
        allowed.of(range(1, len(allowed.exact)) if back else [0]).hold(found, problem)


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [*NAMES, *LAYERS])
def test_output_and_gradients_err_no_more_than_torch(name, dtype, channels_last):
    backward = (False,) if name in UNCOVERED else (False, True)
    gpu = SMALL if name in LAYERS else A100
    hold((PROBLEMS | LAYERS)[name], dtype, channels_last, backward, gpu)


@st.composite
def problems(draw):
    """Draw a ragged problem: sizes, kernels, strides, dilations, padding, order, activation."""
    size = st.tuples(st.integers(1, 20), st.integers(1, 20))
    kernel, stride, dilation = (
        draw(st.tuples(s, s)) for s in map(st.integers, (1,) * 3, (7, 3, 3))
    )
    height, width = draw(size)
    reach = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    height, width = max(height, reach[0] + 1), max(width, reach[1] + 1)
    return Problem(
        channels=draw(st.tuples(*[st.integers(1, 80)] * 3)),
        size=(height, width),
        kernel=kernel,
        row_first=draw(st.booleans()),
        batch=draw(st.integers(1, 2)),
        stride=stride,
        padding=tuple(draw(st.integers(0, r)) for r in reach),
        dilation=dilation,
        activation=draw(st.sampled_from(dense.ACTIVATIONS)),
        biases=(draw(st.booleans()), draw(st.booleans())),
    )


@settings(max_examples=12, deadline=None, derandomize=True)
@given(problems(), st.sampled_from(DTYPES), st.booleans(), st.sampled_from((1, 16, 108)))
def test_ragged_problems_err_no_more_than_torch(problem, dtype, channels_last, sms):
    hold(problem, dtype, channels_last, gpu=Gpu(sms=sms))


def hold_tf32(lib, problem, tensors, grad, backward, gpu=A100):
    """Hold a pass in TF32 by the bound of this file; with more error than float32 would have."""
    wide = [None if t is None else t.double() for t in tensors]
    exact = evaluate(lambda *t: reference.torch_pair(problem, *t), wide, grad.double())
    absolute = [None if t is None else t.abs() for t in wide]
    terms = evaluate(lambda *t: reference.torch_pair(problem, *t), absolute, grad.double().abs())
    found = dense.run(lib, problem, tensors, grad, backward=backward, tf32=True, gpu=gpu)
    part = slice(1, None) if backward else slice(1)
    errors = [(a.double() - b).abs() for a, b in zip(found, exact[part], strict=True)]
    limits = [6 * 2.0**-11 * 1.1 * t for t in terms[part]]
    assert all(bool((e <= limit).all()) for e, limit in zip(errors, limits, strict=True)), problem
    assert errors[0].max() > 2.0**-20 * terms[part][0].max()  # else it wasn't TF32


@PASSES
@LAYOUTS
@pytest.mark.parametrize("name", ["low rank", "stem", "Inception"])
def test_tf32_errs_by_the_rounding_of_operands(name, channels_last, backward):
    problem = LAYERS[name]
    drawn = draw(problem, torch.float32, channels_last)
    hold_tf32(dense.library(), problem, *drawn, backward, SMALL)


@pytest.mark.parametrize("index", range(5))
def test_gradients_that_are_not_asked_for_are_left_out(index):
    problem = LAYERS["low rank"]._replace(activation="silu", biases=(True, True), batch=1)
    tensors, grad = draw(problem, torch.bfloat16, True)
    every = dense.run(dense.library(), problem, tensors, grad, backward=True)
    wanted = [i == index for i in range(5)]
    (alone,) = dense.run(dense.library(), problem, tensors, grad, backward=True, wanted=wanted)
    assert torch.equal(alone, every[index])
