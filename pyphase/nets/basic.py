"""Inception's convolution, batch norm and ReLU; in eval mode a row and a column one as one."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from pyphase.conv import factorized_conv2d
from pyphase.conv.sites import has_hooks
from pyphase.errors import check_whole

__all__ = ["BasicConv2d", "Branch", "Joined", "Two"]

Two = int | tuple[int, int]

_Norm = nn.BatchNorm2d | nn.SyncBatchNorm


class BasicConv2d(nn.Module):
    """Convolve without bias, normalize over the batch, rectify.

    With x the input, * the convolution, and m, v the mean and variance of x * w over (N, H, W), in
    eval mode those that training has left::

        output = relu(gamma * (x * w - m) / sqrt(v + 0.001) + beta)

    Args:
        in_channels: of the input, >= 1.
        out_channels: of the output, >= 1.
        kernel_size: as in ``torch.nn.Conv2d``.
        stride: as in ``torch.nn.Conv2d``.
        padding: as in ``torch.nn.Conv2d``.

    Shapes: (N, in_channels, H, W) to (N, out_channels, H', W'). Parameters: ``conv.weight``,
    ``bn.weight`` (gamma), ``bn.bias`` (beta).

    Raises:
        TypeError: a number of channels is not an int.
        ValueError: a number of channels is below 1.

    Example:
        >>> BasicConv2d(3, 8, 3, stride=2)(torch.zeros(1, 3, 9, 9)).shape
        torch.Size([1, 8, 4, 4])

    Source: Szegedy, Ioffe, Vanhoucke & Alemi (2017), arXiv 1602.07261.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Two,
        *,
        stride: Two = 1,
        padding: Two = 0,
    ) -> None:
        super().__init__()
        check_whole("in_channels", in_channels)
        check_whole("out_channels", out_channels)
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.relu(self.bn(self.conv(input)))
        return output

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return the weight and bias of the convolution that this one and its norm are in eval.

        Gradients flow through them to the parameters.
        """
        dtype = self.conv.weight.dtype
        wide = torch.promote_types(dtype, torch.float32)
        mean, variance = self.bn.running_mean, self.bn.running_var
        assert mean is not None  # _is_foldable asked
        assert variance is not None
        scale = torch.rsqrt(variance.to(wide) + self.bn.eps)
        if self.bn.affine:
            scale = scale * self.bn.weight
        shift = -mean * scale
        if self.conv.bias is not None:
            shift = shift + self.conv.bias * scale
        if self.bn.affine:
            shift = shift + self.bn.bias
        weight = self.conv.weight * scale.view(-1, 1, 1, 1)
        return weight.to(dtype), shift.to(dtype)


class Branch(nn.Sequential):
    """Run layers one after the other, and two of them as one where that is possible.

    A :class:`BasicConv2d` with a row kernel, 1 x k, and one with a column kernel next to it, in
    either order, are a :func:`pyphase.conv.factorized_conv2d` while their batch norms are in eval
    mode, since each norm then folds into its convolution; the fused kernel serves as
    :class:`pyphase.conv.backend` says. While the norms train, they need the whole intermediate, and
    the layers run one by one. They do as well where somebody looks on or has changed them: with
    hooks, or with something else in the place of convolution, norm or ReLU.

    Args:
        layers: modules, as in ``torch.nn.Sequential``; parameters are named as there.

    Equivalent to: ``torch.nn.Sequential(*layers)``, but for rounding.

    Example:
        >>> row = BasicConv2d(16, 24, (1, 7), padding=(0, 3))
        >>> column = BasicConv2d(24, 32, (7, 1), padding=(3, 0))
        >>> branch = Branch(BasicConv2d(8, 16, 1), row, column)
        >>> [pair.at for pair in branch.eval().pairs()]  # places of pairs that run as one
        [1]
        >>> branch.train().pairs()
        []
        >>> branch(torch.zeros(2, 8, 9, 9)).shape
        torch.Size([2, 32, 9, 9])
    """

    def forward(self, input: Tensor) -> Tensor:
        pairs = {pair.at: pair for pair in self.pairs()}
        for at, layer in enumerate(self):
            if at in pairs:
                input = pairs[at].run(input)
            elif at - 1 not in pairs:
                input = layer(input)
        return input

    def pairs(self) -> list[Pair]:
        """Return the pairs that run as one in the present state of the layers."""
        found: list[Pair] = []
        for at, (first, second) in enumerate(pairwise(self)):
            is_free = not found or found[-1].at + 1 < at
            if is_free and _is_foldable(first) and _is_foldable(second):
                options = _options(first.conv, second.conv)
                if options is not None:
                    found.append(Pair(at, first, second, options))
        return found


class Pair(NamedTuple):
    """Two layers that run as one: the first one's place, both, and what goes with the weights."""

    at: int
    first: BasicConv2d
    second: BasicConv2d
    options: dict[str, Any]

    def run(self, input: Tensor) -> Tensor:
        (weight1, bias1), (weight2, bias2) = self.first.folded(), self.second.folded()
        output: Tensor = self.second.relu(
            factorized_conv2d(
                input, weight1, weight2, bias1, bias2, activation="relu", **self.options
            )
        )
        return output


class Joined(nn.Module):
    """Run branches on one input and concatenate what they give along the channels."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)
        self.branches = tuple(branches)

    def forward(self, input: Tensor) -> Tensor:
        return torch.cat([self.get_submodule(name)(input) for name in self.branches], 1)


def _is_foldable(layer: nn.Module) -> TypeGuard[BasicConv2d]:
    """Return whether a layer is what it was built as, its norm is fixed, and nobody looks on."""
    if not isinstance(layer, BasicConv2d):
        return False
    conv, bn, relu = layer.conv, layer.bn, layer.relu
    is_fixed = isinstance(bn, _Norm) and not bn.training and bn.running_mean is not None
    is_own = type(conv).forward is nn.Conv2d.forward and conv.padding_mode == "zeros"
    if not (is_fixed and is_own and isinstance(relu, nn.ReLU)):
        return False
    return not any(has_hooks(part) for part in (layer, conv, bn, relu))


def _options(first: nn.Conv2d, second: nn.Conv2d) -> dict[str, Any] | None:
    """Return how a row and a column convolution go together, or None if they don't."""
    row, column = (first, second) if first.kernel_size[0] == 1 else (second, first)
    if row.kernel_size[0] != 1 or column.kernel_size[1] != 1:
        return None
    if row.kernel_size[1] == 1 or column.kernel_size[0] == 1:  # a 1x1: no pair of strips
        return None
    if isinstance(row.padding, str) or isinstance(column.padding, str):
        return None
    across = (row.stride[0], row.padding[0], column.stride[1], column.padding[1])
    if across != (1, 0, 1, 0):
        return None
    return {
        "stride": (column.stride[0], row.stride[1]),
        "padding": (column.padding[0], row.padding[1]),
        "dilation": (column.dilation[0], row.dilation[1]),
        "groups": (first.groups, second.groups),
    }
