"""Torch's own two convolutions: what serves where no fused kernel does.

Everything here is made of torch's differentiable operations alone, so that it can be
differentiated again, to any order, and mapped over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pyphase.conv.check import Shapes, Size
from pyphase.conv.options import MOST, Four, Options, Two

__all__ = [
    "Steps",
    "make_steps",
    "pair_backward",
    "pair_forward",
    "strips_backward",
    "strips_forward",
]

# With fewer channels than a block has, oneDNN's gradient of a 1x1 weight with a stride writes
# outside of its memory in channels_last: uxlfoundation/oneDNN, issue 6035.
_BLOCK = 8 if torch.backends.cpu.get_cpu_capability() == "AVX2" else 16

# On a CPU with 16-bit AVX-512 instructions, oneDNN never ends making code for a depthwise
# convolution in 16 bits with at most so many channels and at least so many columns of taps, stride
# and dilation 1 (its brdgmm kernel, torch 2.13; from 31 columns of output on).
_STALLS_CHANNELS, _STALLS_TAPS = 16, 15

Grad = Tensor | None

aten: Any = torch.ops.aten

_ACTIVATE: dict[str, Any] = {
    "relu": torch.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
}
_ACTIVATE_BACKWARD: dict[str, Any] = {
    "relu": lambda grad, x: aten.threshold_backward.default(grad, x, 0),
    "gelu": aten.gelu_backward.default,
    "silu": lambda grad, x: _silu_backward(grad, x),
}


class Half(NamedTuple):
    """One of the two convolutions, in conv2d's own terms."""

    stride: Two
    padding: Two
    dilation: Two
    groups: int
    uneven: Four | None  # (left, right, top, bottom) for pad(), in place of even padding
    picked: Two | None  # the stride, where pixels are to be picked before a gradient is taken
    stalls: bool  # in 16 bits: then it is computed in float32, and rounded


class Steps(NamedTuple):
    """A pair as torch computes it: two convolutions and what lies between."""

    first: Half
    second: Half
    activation: str
    mid_shape: Size


def make_steps(
    options: Options, shapes: Shapes, weights: tuple[Size, Size], device: torch.device
) -> Steps:
    """Return a pair's options in conv2d's terms."""
    on_cpu = device.type == "cpu"
    first = _half(options, shapes.row_first, options.groups[0], weights[0], on_cpu)
    second = _half(options, not shapes.row_first, options.groups[1], weights[1], on_cpu)
    return Steps(first, second, options.activation, shapes.mid)


def _half(options: Options, is_row: bool, groups: int, weight: Size, on_cpu: bool) -> Half:
    def along(value: int, other: int) -> Two:
        return (other, value) if is_row else (value, other)

    axis = 1 if is_row else 0
    begin, end = options.padding[2 * axis : 2 * axis + 2]
    stride, dilation = along(options.stride[axis], 1), along(options.dilation[axis], 1)
    uneven = None
    if begin != end:
        uneven = (begin, end, 0, 0) if is_row else (0, 0, begin, end)
        begin = 0
    faulty = on_cpu and groups == 1 and weight[2:] == (1, 1) and weight[1] < _BLOCK
    picked = stride if faulty and begin == 0 and stride != (1, 1) else None
    narrow = on_cpu and groups == weight[0] <= _STALLS_CHANNELS and weight[1] == 1
    stalls = narrow and weight[3] >= _STALLS_TAPS and stride == dilation == (1, 1)
    return Half(stride, along(begin, 0), dilation, groups, uneven, picked, stalls)


def pair_forward(
    steps: Steps,
    input: Tensor,
    weight1: Tensor,
    weight2: Tensor,
    bias1: Tensor | None,
    bias2: Tensor | None,
) -> Tensor:
    """Return ``conv2d(act(conv2d(input, weight1, bias1)), weight2, bias2)``."""
    mid = _conv(input, weight1, bias1, steps.first)
    if steps.activation == "relu" and not mid.requires_grad:
        mid = mid.relu_()
    elif steps.activation != "none":
        mid = _ACTIVATE[steps.activation](mid)
    return _conv(mid, weight2, bias2, steps.second)


def pair_backward(
    steps: Steps,
    grad_output: Tensor,
    input: Tensor,
    weight1: Tensor,
    weight2: Tensor,
    bias1: Tensor | None,
    mask: Sequence[bool],
) -> list[Grad]:
    """Return the gradients of input, weight1, weight2, bias1 and bias2, those in ``mask``."""
    has_activation = steps.activation != "none"
    need_mid = mask[0] or mask[1] or mask[3]
    if mask[2] or (need_mid and has_activation):
        before = _conv(input, weight1, bias1, steps.first)
        mid = _ACTIVATE[steps.activation](before) if has_activation else before
    else:  # only the shape of the intermediate matters
        before = mid = grad_output.new_empty(steps.mid_shape)
    grad_mid, grad_weight2, grad_bias2 = _conv_backward(
        grad_output, mid, weight2, steps.second, (need_mid, mask[2], mask[4])
    )
    if grad_mid is None:
        return [None, None, grad_weight2, None, grad_bias2]
    if has_activation:
        grad_mid = _ACTIVATE_BACKWARD[steps.activation](grad_mid, before)
    grad_input, grad_weight1, grad_bias1 = _conv_backward(
        grad_mid, input, weight1, steps.first, (mask[0], mask[1], mask[3])
    )
    return [grad_input, grad_weight1, grad_weight2, grad_bias1, grad_bias2]


def strips_forward(
    forward: Callable[..., Tensor],
    strips: Sequence[Any],
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    residual: bool,
) -> Tensor:
    """Return the sum of the pairs over the same input, and of the input if ``residual``.

    ``forward`` computes a pair: :func:`pair_forward`, with the steps of each in ``strips``, or
    whatever takes the same arguments.
    """
    outputs = [input] if residual else []
    for i, strip in enumerate(strips):
        both = slice(2 * i, 2 * i + 2)
        outputs.append(forward(strip, input, *weights[both], *biases[both]))
    total, *rest = outputs
    for output in rest:
        total = total + output
    return total


def strips_backward(
    backward: Callable[..., Sequence[Grad]],
    strips: Sequence[Any],
    grad_output: Tensor,
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    residual: bool,
    mask: Sequence[bool],
) -> list[Grad]:
    """Return the gradients of the input, of all weights and of all biases, those in ``mask``.

    ``backward`` is that of a pair: :func:`pair_backward`, or what takes the same arguments.
    """
    grad_input = grad_output if residual and mask[0] else None
    grad_weights: list[Grad] = []
    grad_biases: list[Grad] = []
    mask_weights, mask_biases = mask[1 : 1 + len(weights)], mask[1 + len(weights) :]
    for i, strip in enumerate(strips):
        both = slice(2 * i, 2 * i + 2)
        own_mask = (mask[0], *mask_weights[both], *mask_biases[both])
        grad, *grads = backward(strip, grad_output, input, *weights[both], biases[2 * i], own_mask)
        if mask[0] and grad is not None:
            grad_input = grad if grad_input is None else grad_input + grad
        grad_weights += grads[:2]
        grad_biases += grads[2:]
    return [grad_input, *grad_weights, *grad_biases]


def _conv(input: Tensor, weight: Tensor, bias: Tensor | None, half: Half) -> Tensor:
    stride, padding, dilation, groups, uneven, picked, stalls = half
    if uneven is not None:
        input = functional.pad(input, uneven)
    if picked is not None and torch.is_grad_enabled():
        input, stride = input[:, :, :: picked[0], :: picked[1]], (1, 1)
    if not stalls or input.dtype.itemsize != 2:
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    bias = None if bias is None else bias.float()
    with torch.autocast("cpu", enabled=False):
        output = torch.conv2d(
            input.float(), weight.float(), bias, stride, padding, dilation, groups
        )
    return output.to(input.dtype)


def _conv_backward(
    grad_output: Tensor, input: Tensor, weight: Tensor, half: Half, mask: Sequence[bool]
) -> tuple[Grad, Grad, Grad]:
    stride, padding, dilation, groups, uneven, picked, _ = half
    height, width = input.shape[2:]
    if uneven is not None:
        input = functional.pad(input, uneven)
    whole = input.shape
    if picked is not None:
        input, stride = input[:, :, :: picked[0], :: picked[1]], (1, 1)
    grad_input, grad_weight, grad_bias = aten.convolution_backward.default(
        grad_output,
        input,
        weight,
        [weight.shape[0]],
        stride,
        padding,
        dilation,
        False,  # transposed
        (0, 0),  # output padding
        groups,
        mask,
    )
    if picked is not None and grad_input is not None:
        axis = 2 if picked[0] > 1 else 3  # a row or a column strides along one alone
        grad_input = aten.slice_backward.default(grad_input, whole, axis, 0, MOST, max(picked))
    if uneven is not None and grad_input is not None:
        left, _, top, _ = uneven
        grad_input = grad_input[:, :, top : top + height, left : left + width]
    # a backend may fill in what was not asked for
    return (
        grad_input if mask[0] else None,
        grad_weight if mask[1] else None,
        grad_bias if mask[2] else None,
    )


def _silu_backward(grad: Tensor, x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        result: Tensor = aten.silu_backward.default(grad, x)
        return result
    sigmoid = x.sigmoid()  # aten's own has no derivative
    return grad * sigmoid * (1 + x * (1 - sigmoid))
