"""The one check of a convolution's problem, in arithmetic that symbolic sizes can follow too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from pyphase.conv.options import Options, Two

__all__ = [
    "Shapes",
    "check_gradient",
    "check_pair",
    "check_strip",
    "check_tensors",
    "is_channels_last",
    "is_row_first",
    "kernel_size_of",
]

Size = tuple[int, ...]
Layout = tuple[Size, Size]  # shape and strides

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Shapes(NamedTuple):
    """What follows from a problem: the order of its convolutions and the shapes after each."""

    row_first: bool
    mid: Size
    output: Size


def check_pair(
    input_shape: Size,
    weights: tuple[Size, Size],
    biases: tuple[Size | None, Size | None],
    options: Options,
) -> Shapes:
    """Return what follows from a pair's shapes, or raise ValueError naming those that don't fit."""
    if len(input_shape) != 4:
        raise ValueError(f"`input` must be (N, C, H, W), got shape {tuple(input_shape)}")
    row_first = is_row_first(*weights)
    mid = _check_half(0, input_shape, weights[0], biases[0], options, row_first)
    output = _check_half(1, mid, weights[1], biases[1], options, not row_first)
    return Shapes(row_first, mid, output)


def is_row_first(weight1: Size, weight2: Size) -> bool:
    """Return whether the first convolution is the row one, (., ., 1, k).

    A (., ., 1, 1) kernel is whichever the other is not; of two, the first is the row.
    """
    for i, shape in enumerate((weight1, weight2), start=1):
        if len(shape) != 4 or (shape[2] != 1 and shape[3] != 1) or min(shape) < 1:
            raise ValueError(
                f"`weight{i}` must be a row, (out, in/groups, 1, k), or a column, "
                f"(out, in/groups, k, 1), with no size of 0, got shape {tuple(shape)}"
            )
    (height1, width1), (height2, width2) = weight1[2:], weight2[2:]
    if (height1 > 1 and height2 > 1) or (width1 > 1 and width2 > 1):
        both = "columns" if height1 > 1 else "rows"
        raise ValueError(
            f"one weight must be a row and the other a column, got two {both}: "
            f"`weight1` {tuple(weight1)} and `weight2` {tuple(weight2)}"
        )
    return height1 == 1 and width2 == 1


def kernel_size_of(weight1: Size, weight2: Size) -> Two:
    """Return the (vertical, horizontal) size of a row and a column together."""
    first_is_row = is_row_first(weight1, weight2)
    row, column = (weight1, weight2) if first_is_row else (weight2, weight1)
    return column[2], row[3]


def _check_half(
    index: int, shape: Size, weight: Size, bias: Size | None, options: Options, is_row: bool
) -> Size:
    """Check one convolution against what comes in, and return what goes out."""
    name, groups = f"weight{index + 1}", options.groups[index]
    source = "`input`" if index == 0 else "the first convolution"
    if shape[1] != weight[1] * groups:
        raise ValueError(
            f"`{name}` {tuple(weight)} with groups={groups} takes {weight[1] * groups} channels, "
            f"but {source} gives {shape[1]}: shape {tuple(shape)}"
        )
    if weight[0] % groups != 0:
        raise ValueError(
            f"`{name}` {tuple(weight)}: its {weight[0]} channels must divide by groups={groups}"
        )
    if bias is not None and tuple(bias) != (weight[0],):
        raise ValueError(
            f"`bias{index + 1}` must have shape ({weight[0]},) for `{name}` {tuple(weight)}, "
            f"got {tuple(bias)}"
        )
    axis, kernel = (1, weight[3]) if is_row else (0, weight[2])
    begin, end = options.padding[2 * axis : 2 * axis + 2]
    reach = options.dilation[axis] * (kernel - 1) + 1
    sizes = list(shape[2:])
    padded = sizes[axis] + begin + end
    if padded < reach or min(sizes) < 1:
        raise ValueError(
            f"`{name}` {tuple(weight)} reaches over {reach} with dilation "
            f"{options.dilation[axis]}, but what comes in, {tuple(shape)}, has {padded} with "
            f"the padding ({begin}, {end})"
        )
    sizes[axis] = (padded - reach) // options.stride[axis] + 1
    return (shape[0], weight[0], *sizes)


def check_strip(input_shape: Size, weights: tuple[Size, Size]) -> None:
    """Raise ValueError unless both weights of a strip are depthwise over the input's channels."""
    if len(input_shape) != 4:
        raise ValueError(f"`input` must be (N, C, H, W), got shape {tuple(input_shape)}")
    channels = input_shape[1]
    for i, shape in enumerate(weights, start=1):
        if tuple(shape[:2]) != (channels, 1):
            raise ValueError(
                f"`weight{i}` must be depthwise, ({channels}, 1, ., .), for an `input` of shape "
                f"{tuple(input_shape)}, got {tuple(shape)}"
            )


def check_tensors(input: Tensor, others: Iterable[tuple[str, Tensor | None]]) -> None:
    """Raise unless all are floating point, of the input's dtype and on its device, and strided."""
    if input.dtype not in DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise TypeError(f"`input` must be one of {names}, got {input.dtype}")
    if input.layout != torch.strided or input.is_nested:
        raise TypeError(f"`input` must be a dense tensor, got one of layout {input.layout}")
    for name, tensor in others:
        if tensor is None:
            continue
        if tensor.layout != torch.strided or tensor.is_nested:
            raise TypeError(f"`{name}` must be a dense tensor, got one of layout {tensor.layout}")
        if tensor.dtype == input.dtype and tensor.device == input.device:
            continue
        raise ValueError(
            f"`{name}` {tuple(tensor.shape)} is {tensor.dtype} on {tensor.device}, "
            f"but `input` {tuple(input.shape)} is {input.dtype} on {input.device}"
        )


def check_gradient(grad_output: Tensor, shape: Size, input: Tensor) -> None:
    """Raise ValueError unless a gradient is one of an output of that shape."""
    check_tensors(input, [("grad_output", grad_output)])
    if tuple(grad_output.shape) != tuple(shape):
        raise ValueError(
            f"`grad_output` must have the output's shape, {tuple(shape)}, got "
            f"{tuple(grad_output.shape)}"
        )


def is_channels_last(shape: Size, strides: Size) -> bool:
    """Return torch's own reading of strides, by which conv2d chooses the format of its output.

    Shapes that are both, such as (N, 1, H, W), go by the strides of their sizes of 1.
    """
    if strides[1] == 0:
        return False
    least = 0
    for axis in (1, 3, 2, 0):
        if shape[axis] == 0 or strides[axis] < least:
            return False
        if axis == 0 and least == strides[1]:
            return False
        least = strides[axis] * shape[axis] if shape[axis] > 1 else strides[axis]
    return True
