"""From a row and a column kernel to a dense one, and back: outer products and their SVD."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "as_matrices",
    "full_rank",
    "merge_bias",
    "merge_weights",
    "split_matrices",
    "split_weight",
]


def merge_weights(
    weight1: Tensor, weight2: Tensor, groups: tuple[int, int], row_first: bool
) -> tuple[Tensor, int]:
    """Return the kernel that does what the pair does, (K, C / g, k', k), and its groups g.

    weight[o, i, v, h] = sum over m of column(v) * row(h), where m runs over the channels between
    the two; g is the greatest common divisor of both groups.
    """
    common = math.gcd(*groups)
    first, second = (
        _ungroup(weight, own, common)
        for weight, own in zip((weight1, weight2), groups, strict=True)
    )
    if row_first:
        weight = torch.einsum("gmih,gomv->goivh", first[..., 0, :], second[..., 0])
    else:
        weight = torch.einsum("gmiv,gomh->goivh", first[..., 0], second[..., 0, :])
    return weight.flatten(0, 1), common


def merge_bias(bias1: Tensor, weight2: Tensor, groups2: int) -> Tensor:
    """Return what ``bias1`` adds to each output, (K,), away from padding."""
    size = weight2.shape[1]
    weight = weight2.sum((2, 3)).reshape(groups2, -1, size)
    return torch.einsum("gom,gm->go", weight, bias1.reshape(groups2, size)).flatten()


def _ungroup(weight: Tensor, groups: int, target: int) -> Tensor:
    """Return a weight of ``groups`` as (target, out / target, in / target, kh, kw), with zeros."""
    out_channels, in_channels, height, width = weight.shape
    parts = groups // target
    blocks = weight.reshape(target, parts, out_channels // groups, in_channels, height, width)
    result = weight.new_zeros(
        target, parts, out_channels // groups, parts, in_channels, height, width
    )
    for part in range(parts):
        result[:, part, :, part] = blocks[:, part]
    return result.reshape(target, out_channels // target, parts * in_channels, height, width)


def full_rank(weight: Tensor, groups: int, row_first: bool) -> int:
    """Return the rank, in channels per group, at which a pair can be any kernel of this shape."""
    out_channels, in_channels, height, width = weight.shape
    first, second = (width, height) if row_first else (height, width)
    return min(in_channels * first, out_channels // groups * second)


def split_weight(weight: Tensor, groups: int, rank: int, row_first: bool) -> tuple[Tensor, Tensor]:
    """Return the pair with ``rank`` channels per group whose product is nearest to ``weight``."""
    matrices = as_matrices(weight, groups, row_first)
    return split_matrices(matrices, rank, weight.shape, row_first)


def as_matrices(weight: Tensor, groups: int, row_first: bool) -> Tensor:
    """Return a kernel as a matrix per group, which the pair's product must come near to.

    The second convolution's sides (o, v) on one hand and the first one's (i, h) on the other, for
    a row first; (o, h) and (i, v) for a column first. Shape (g, o v, i h).
    """
    out_channels, in_channels, height, width = weight.shape
    kernel = weight.reshape(groups, out_channels // groups, in_channels, height, width)
    axes = (0, 1, 3, 2, 4) if row_first else (0, 1, 4, 2, 3)
    return kernel.permute(axes).flatten(3).flatten(1, 2)


def split_matrices(
    matrices: Tensor, rank: int, shape: tuple[int, ...], row_first: bool
) -> tuple[Tensor, Tensor]:
    """Return the pair whose product is nearest to the matrices of a kernel of this shape.

    The truncated SVD is the nearest matrix of its rank in the sum of squares; both weights take
    the roots of the singular values.
    """
    out_channels, in_channels = shape[:2]
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    root = values[:, :rank].sqrt()
    left, right = left[:, :, :rank] * root[:, None], right[:, :rank] * root[:, :, None]
    first = right.reshape(len(matrices) * rank, in_channels, -1)
    second = left.reshape(out_channels, -1, rank).transpose(1, 2)
    if row_first:
        return first.unsqueeze(2), second.unsqueeze(3)
    return first.unsqueeze(3), second.unsqueeze(2)
