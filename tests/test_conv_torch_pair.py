"""What torch's own convolutions are given where they serve: never what they can't take."""

from __future__ import annotations

import conv_reference as reference
import numpy as np
import pytest
import torch
from conv_reference import Problem
from torch.utils._python_dispatch import TorchDispatchMode

from pyphase import conv
from pyphase.conv.ops import pair_op
from pyphase.conv.options import make_options
from pyphase.conv.problem import PairProblem
from pyphase.conv.torch_pair import pair_backward

FORWARD = torch.ops.aten.convolution.default
BACKWARD = torch.ops.aten.convolution_backward.default
PICKED = [
    Problem((4, 3, 5), (6, 8), (3, 1), stride=(1, 2), padding=(1, 0), activation="gelu"),
    Problem((4, 3, 5), (6, 9), (1, 3), stride=(3, 2), padding=(0, 1), row_first=False),
    Problem((3, 2, 4), (6, 8), (1, 1), stride=(2, 2), padding=(0, 0), activation="silu"),
]


class Recorder(TorchDispatchMode):
    """Keeps the arguments of every call of an op."""

    def __init__(self, op):
        super().__init__()
        self.op, self.seen = op, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is self.op:
            self.seen.append(args)
        return function(*args, **kwargs or {})


def by_function(problem, tensors):
    return conv.factorized_conv2d(*tensors, **problem.options)


def by_op(problem, tensors):
    stride, _, dilation, groups, activation = problem.options.values()
    return pair_op(*tensors, stride, problem.sides, dilation, groups, activation)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("call", [by_function, by_op])
@pytest.mark.parametrize("problem", PICKED)
def test_a_strided_tap_over_few_channels_is_the_oracles(problem, call, channels_last):
    tensors = reference.tensors(problem, channels_last=channels_last, grad=True)
    with conv.backend("torch"):
        output = call(problem, tensors)
        grads = torch.autograd.grad(output.square().sum() / 2, tensors)
    arrays = reference.draw(problem)
    expected = reference.pair_grads(problem, arrays, output.detach().numpy())
    for grad, wanted in zip(grads, expected, strict=True):
        np.testing.assert_allclose(grad, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("problem", PICKED)
def test_onednn_never_sees_it(problem):
    """Its gradient of such a weight writes outside of its memory: uxlfoundation/oneDNN, 6035."""
    tensors = reference.tensors(problem, grad=True)
    with conv.backend("torch"), Recorder(BACKWARD) as recorder:
        output = by_function(problem, tensors)
        torch.autograd.grad(output.sum(), tensors)
        steps = PairProblem(*tensors, make_options(*problem.options.values(), None)).steps
        grad = torch.ones_like(output)
        pair_backward(steps, grad, *[tensor.detach() for tensor in tensors[:4]], [True] * 5)
    taps = [tuple(args[4]) for args in recorder.seen if args[2].shape[2:] == (1, 1)]
    assert len(taps) == (4 if problem.kernel == (1, 1) else 2)
    assert set(taps) == {(1, 1)}


@pytest.mark.parametrize("call", [by_function, by_op])
def test_picked_pixels_have_gradients_of_any_order(call):
    problem = Problem((2, 2, 1), (3, 4), (2, 1), batch=1, stride=(1, 2), padding=(0, 0))
    tensors = reference.tensors(problem, grad=True)
    assert torch.autograd.gradgradcheck(lambda *t: call(problem, t), tensors)


def test_pixels_are_picked_of_a_padded_image():
    tensors = [
        torch.randn(1, 2, 4, 5).double().requires_grad_(),
        torch.randn(3, 2, 1, 1).double().requires_grad_(),
        torch.randn(2, 3, 3, 1).double().requires_grad_(),
    ]
    padded = torch.nn.functional.pad(tensors[0], (2, 1))
    expected = torch.conv2d(
        torch.conv2d(padded, tensors[1], None, (1, 3)), tensors[2], None, (1, 1)
    )
    with conv.backend("torch"):
        output = pair_op(*tensors, None, None, [1, 3], [0, 0, 2, 1], [1, 1], [1, 1], "none")
    torch.testing.assert_close(output, expected)
    grad = torch.randn_like(output)
    torch.testing.assert_close(
        torch.autograd.grad(output, tensors, grad), torch.autograd.grad(expected, tensors, grad)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [(16, 15), (17, 15), (3, 14)])
def test_long_rows_over_few_channels_are_not_made_in_16_bits(size, dtype):
    channels, taps = size
    problem = Problem((channels,) * 3, (4, 46), (3, taps), padding=(1, 0), groups=(channels,) * 2)
    tensors = reference.tensors(problem, dtype, grad=True)
    with conv.backend("torch"):
        with torch.autocast("cpu", dtype), Recorder(FORWARD) as recorder:
            output = by_function(problem, tensors)
        assert torch.equal(by_op(problem, tensors), output)
    row_type = torch.float32 if size == (16, 15) else dtype
    found = [(args[1].shape[3], args[0].shape[1], args[0].dtype) for args in recorder.seen]
    assert found == [(taps, channels, row_type), (1, channels, dtype)]
    exact = reference.torch_pair(problem, *(tensor.detach().double() for tensor in tensors))
    error = (output.double() - exact).abs().max()
    assert output.dtype == dtype
    assert error <= 4 * torch.finfo(dtype).eps * exact.abs().max()
    assert all(grad.dtype == dtype for grad in torch.autograd.grad(output.sum(), tensors))
