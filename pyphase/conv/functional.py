"""Factorized convolutions as functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyphase.conv.check import kernel_size_of
from pyphase.conv.compute import compute_pair, compute_strips
from pyphase.conv.ops import pair_op, pair_with_grad, strips_op, strips_with_grad
from pyphase.conv.options import Options, make_options
from pyphase.conv.problem import (
    PairProblem,
    StripsProblem,
    laid_out,
    pair_problem,
    strips_problem,
)
from pyphase.conv.registry import (
    any_requires_grad,
    autocast,
    below_autograd,
    is_autocast,
    is_plain,
    is_transformed,
)
from pyphase.conv.torch_pair import pair_forward, strips_forward
from pyphase.errors import check_flags, shown

__all__ = ["check_tensors", "factorized_conv2d", "multi_strip_conv2d", "run_pair", "run_strips"]

is_any_autocast = torch._C._is_any_autocast_enabled  # without asking for the kind of a device

Two = int | tuple[int, int]
Pair = tuple[Tensor, Tensor] | tuple[Tensor, Tensor | None, Tensor, Tensor | None]


def factorized_conv2d(
    input: Tensor,
    weight1: Tensor,
    weight2: Tensor,
    bias1: Tensor | None = None,
    bias2: Tensor | None = None,
    *,
    stride: Two = 1,
    padding: Two | str = 0,
    dilation: Two = 1,
    groups: Two = 1,
    activation: str = "none",
) -> Tensor:
    """Convolve with a row and a column kernel, one after the other.

    With x the ``input``, w1, w2 the weights, b1, b2 the biases, * the convolution, and act the
    ``activation``::

        output = act(x * w1 + b1) * w2 + b2

    The order is read from the weights' shapes. Each convolution takes its own part of ``stride``,
    ``padding`` and ``dilation``: the row (1 x k) the horizontal one, the column (k x 1) the
    vertical one. A 1x1 kernel is whichever the other is not; if both are 1x1, ``weight1`` is the
    row. ``padding`` pads with zeros, the intermediate too.

    Args:
        input: (N, C, H, W), or (C, H, W) for one image; float32, float64, bfloat16 or float16.
            Any strides will do; channels_last images (as conv2d tells them) give channels_last
            ones, all others contiguous ones.
        weight1: (M, C / groups[0], 1, k) or (M, C / groups[0], k, 1).
        weight2: (K, M / groups[1], k', 1) or (K, M / groups[1], 1, k'), the other direction.
        bias1: (M,) or None.
        bias2: (K,) or None.
        stride: >= 1, in pixels; an int or (vertical, horizontal).
        padding: >= 0, in pixels at both ends; an int, (vertical, horizontal), or ``"same"`` for
            an output of the input's size, with an even kernel's odd pixel at the end. ``"same"``
            needs stride 1.
        dilation: >= 1, in pixels; an int or (vertical, horizontal).
        groups: >= 1; an int for both convolutions, or one for each.
        activation: between the two: ``"none"``, ``"relu"``, ``"gelu"`` (the exact one, by erf) or
            ``"silu"``.

    Shapes: (N, K, H', W'), where H' = (H + top + bottom - dilation * (k - 1) - 1) // stride + 1
    with the vertical parts, and W' likewise with the horizontal ones.

    A fused kernel does it in one pass where there is one and it is the faster one, else torch's
    own two convolutions do: see :class:`pyphase.conv.backend`. The fused kernel does not keep the
    intermediate for the backward pass, but computes it again; nor does compiled code. Gradients of
    any order work, and so do autocast, torch.func (where torch's convolutions serve), torch.compile
    and torch.export.

    Raises:
        TypeError: an argument has the wrong type, or the input is not floating point.
        ValueError: shapes, dtypes or devices don't fit together, or an option is out of its range.

    Equivalent to: for a row first, ``act(conv2d(input, weight1, bias1, (1, sw), (0, pw), (1, dw),
    groups[0]))`` and then ``conv2d(., weight2, bias2, (sh, 1), (ph, 0), (dh, 1), groups[1])``.

    Example:
        >>> image = torch.arange(9.0).reshape(1, 1, 3, 3)
        >>> row, column = torch.ones(1, 1, 1, 3), torch.ones(1, 1, 3, 1)
        >>> factorized_conv2d(image, row, column)  # the sum over a 3x3 window
        tensor([[[[36.]]]])

    Source: Jaderberg, Vedaldi & Zisserman (2014), arXiv 1405.3866; Szegedy, Vanhoucke, Ioffe,
    Shlens & Wojna (2016), arXiv 1512.00567.
    """
    check_tensors(input=input, weight1=weight1, weight2=weight2)
    _check_tensors_or_none(bias1=bias1, bias2=bias2)
    kernel_size = None
    if isinstance(padding, str):
        kernel_size = kernel_size_of(tuple(weight1.shape), tuple(weight2.shape))
    options = make_options(stride, padding, dilation, groups, activation, kernel_size)
    return run_pair(input, weight1, weight2, bias1, bias2, options)


def multi_strip_conv2d(input: Tensor, pairs: Sequence[Pair], *, residual: bool = True) -> Tensor:
    """Add up depthwise row-and-column convolutions of one input, and the input itself.

    With x the ``input``, * the depthwise convolution and each image padded with zeros to the
    input's size::

        output = x + sum over pairs of ((x * w1 + b1) * w2 + b2)

    Args:
        input: (N, C, H, W), or (C, H, W) for one image; as in :func:`factorized_conv2d`.
        pairs: ``(weight1, weight2)`` or ``(weight1, bias1, weight2, bias2)`` for each strip. One
            weight is a row, (C, 1, 1, k), the other a column, (C, 1, k', 1), in the order of
            execution; biases are (C,) or None. An even kernel's odd pixel of padding is at the
            end.
        residual: whether the input itself is one of the summands.

    Shapes: the input's.

    Raises:
        TypeError: an argument has the wrong type, or the input is not floating point.
        ValueError: there is no pair, or shapes, dtypes or devices don't fit together.

    Equivalent to: ``input + sum(factorized_conv2d(input, w1, w2, b1, b2, padding="same",
    groups=C) for w1, b1, w2, b2 in pairs)``.

    Example:
        >>> image = torch.ones(1, 1, 3, 3)
        >>> row, column = torch.ones(1, 1, 1, 3), torch.ones(1, 1, 3, 1)
        >>> multi_strip_conv2d(image, [(row, column)])[0, 0]
        tensor([[ 5.,  7.,  5.],
                [ 7., 10.,  7.],
                [ 5.,  7.,  5.]])

    Source: the attention of SegNeXt: Guo et al. (2022), arXiv 2209.08575.
    """
    check_tensors(input=input)
    check_flags(residual=residual)
    if not isinstance(pairs, Sequence) or isinstance(pairs, str):
        raise TypeError(f"`pairs` must be a sequence of tuples of tensors, got {shown(pairs)}")
    weights: list[Tensor] = []
    biases: list[Tensor | None] = []
    for i, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) not in (2, 4):
            raise TypeError(
                f"`pairs[{i}]` must be (weight1, weight2) or (weight1, bias1, weight2, bias2), "
                f"got {shown(pair)}"
            )
        w1, b1, w2, b2 = pair if len(pair) == 4 else (pair[0], None, pair[1], None)
        check_tensors(**{f"pairs[{i}]: weight1": w1, f"pairs[{i}]: weight2": w2})
        _check_tensors_or_none(**{f"pairs[{i}]: bias1": b1, f"pairs[{i}]: bias2": b2})
        weights += [w1, w2]
        biases += [b1, b2]
    return run_strips(input, weights, biases, residual)


def run_pair(
    input: Tensor,
    weight1: Tensor,
    weight2: Tensor,
    bias1: Tensor | None,
    bias2: Tensor | None,
    options: Options,
) -> Tensor:
    """Compute :func:`factorized_conv2d` with options that are numbers already."""
    if input.ndim == 3:
        return run_pair(input.unsqueeze(0), weight1, weight2, bias1, bias2, options).squeeze(0)
    if torch.compiler.is_compiling() and not is_transformed():
        return pair_op(input, weight1, weight2, bias1, bias2, *options)
    tensors: tuple[Tensor | None, ...] = (input, weight1, weight2, bias1, bias2)
    if is_any_autocast() and is_autocast(input.device.type):
        tensors = autocast(tensors, input.device.type)
        input, weight1, weight2, bias1, bias2 = tensors  # type: ignore[assignment]
    if is_transformed():
        problem = PairProblem(input, weight1, weight2, bias1, bias2, options)
        return pair_forward(problem.steps, input, weight1, weight2, bias1, bias2)
    problem = pair_problem(input, weight1, weight2, bias1, bias2, options)
    with_grad = torch.is_grad_enabled() and any_requires_grad(tensors)
    if not problem.is_native(with_grad):
        output = pair_forward(problem.steps, input, weight1, weight2, bias1, bias2)
        return laid_out(output, problem.output)
    plain = is_plain(tensors)
    if with_grad:
        return pair_with_grad(problem if plain else None, *tensors, *options)
    if plain:
        return compute_pair(problem, input, weight1, weight2, bias1, bias2)
    return below_autograd(pair_op, *tensors, *options)


def run_strips(
    input: Tensor, weights: list[Tensor], biases: list[Tensor | None], residual: bool
) -> Tensor:
    """Compute :func:`multi_strip_conv2d` with the pairs' weights in one list, biases in another."""
    if input.ndim == 3:
        return run_strips(input.unsqueeze(0), weights, biases, residual).squeeze(0)
    if torch.compiler.is_compiling() and not is_transformed():
        return strips_op(input, weights, biases, residual)
    if is_any_autocast() and is_autocast(input.device.type):
        input, weights, biases = autocast((input, weights, biases), input.device.type)
    if is_transformed():
        steps = StripsProblem(input, weights, biases, residual).steps
        return strips_forward(pair_forward, steps, input, weights, biases, residual)
    problem = strips_problem(input, weights, biases, residual)
    tensors = (input, *weights, *biases)
    with_grad = torch.is_grad_enabled() and any_requires_grad(tensors)
    if not problem.is_native(with_grad):
        steps = problem.steps
        output = strips_forward(pair_forward, steps, input, weights, biases, residual)
        return laid_out(output, problem.output)
    if with_grad:
        return strips_with_grad(residual, *tensors)
    if is_plain(tensors):
        return compute_strips(problem, input, weights, biases)
    return below_autograd(strips_op, input, weights, biases, residual)


def check_tensors(**tensors: Any) -> None:
    """Raise TypeError unless all are tensors."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"`{name}` must be a tensor, got {shown(tensor)}")


def _check_tensors_or_none(**tensors: Any) -> None:
    for name, tensor in tensors.items():
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"`{name}` must be a tensor or None, got {shown(tensor)}")
