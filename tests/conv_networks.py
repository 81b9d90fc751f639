"""Blocks of published networks in torch's own modules, and the same with the package's layers."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from pyphase.conv import FactorizedConv2d, MultiStripConv2d


class Pair(nn.Sequential):
    """Two convolutions, with or without a ReLU between."""

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d, relu: bool = False) -> None:
        super().__init__(first, *[nn.ReLU()] * relu, second)


class Strips(nn.Module):
    """x + sum of depthwise pairs."""

    def __init__(self, channels: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        self.pairs = nn.ModuleList(
            Pair(
                nn.Conv2d(channels, channels, (1, k), padding=(0, k // 2), groups=channels),
                nn.Conv2d(channels, channels, (k, 1), padding=(k // 2, 0), groups=channels),
            )
            for k in kernels
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + sum(pair(x) for pair in self.pairs)


class SegNeXtAttention(nn.Module):
    """SegNeXt's spatial attention: projections round a gate of multi-scale strips."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(channels, channels, 1)
        self.activation = nn.GELU()
        self.conv0 = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.strips = Strips(channels, (7, 11, 21))
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.proj_2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        u = self.activation(self.proj_1(x))
        gated = self.conv3(self.strips(self.conv0(u))) * u
        return x + self.proj_2(gated)


def basic(into: int, out: int, kernel: tuple[int, int]) -> nn.Sequential:
    """Return Inception's convolution without bias, batch norm, ReLU."""
    padding = (kernel[0] // 2, kernel[1] // 2)
    conv = nn.Conv2d(into, out, kernel, padding=padding, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out, eps=1e-3), nn.ReLU())


class Block17(nn.Module):
    """Inception-ResNet-v2's block17: 1x1, and 1x1 - 1x7 - 7x1, joined, added to the input."""

    def __init__(self, channels: int = 34) -> None:
        super().__init__()
        self.branch0 = basic(channels, 24, (1, 1))
        self.reduce = basic(channels, 16, (1, 1))
        self.strip = nn.Sequential(basic(16, 20, (1, 7)), basic(20, 24, (7, 1)))
        self.conv2d = nn.Conv2d(48, channels, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.branch0(x), self.strip(self.reduce(x))]
        return self.relu(x + 0.1 * self.conv2d(torch.cat(branches, 1)))

    def folded(self) -> Block17:
        """Return the block for inference: each batch norm folded into its convolution."""
        block = copy.deepcopy(self)
        block.branch0 = nn.Sequential(fold(self.branch0), nn.ReLU())
        block.reduce = nn.Sequential(fold(self.reduce), nn.ReLU())
        row, column = self.strip
        block.strip = nn.Sequential(Pair(fold(row), fold(column), relu=True), nn.ReLU())
        return block


def fold(layers: nn.Sequential) -> nn.Conv2d:
    """Return the one convolution that a convolution and its batch norm are in eval mode."""
    folded = nn.utils.fusion.fuse_conv_bn_eval(layers[0].eval(), layers[1].eval())
    return folded.requires_grad_()


class NonBottleneck1D(nn.Module):
    """ERFNet's residual block: two pairs, the second one dilated."""

    def __init__(self, channels: int = 16, dilation: int = 4) -> None:
        super().__init__()
        self.pair1 = self._pair(channels, 1)
        self.bn1 = nn.BatchNorm2d(channels, eps=1e-3)
        self.relu1 = nn.ReLU()
        self.pair2 = self._pair(channels, dilation)
        self.bn2 = nn.BatchNorm2d(channels, eps=1e-3)
        self.relu2 = nn.ReLU()

    @staticmethod
    def _pair(channels: int, d: int) -> Pair:
        column = nn.Conv2d(channels, channels, (3, 1), padding=(d, 0), dilation=(d, 1))
        row = nn.Conv2d(channels, channels, (1, 3), padding=(0, d), dilation=(1, d))
        return Pair(column, row, relu=True)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.pair2(self.relu1(self.bn1(self.pair1(x)))))
        return self.relu2(inner + x)


class BasicBlock(nn.Module):
    """torchvision's BasicBlock."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu2 = nn.ReLU()
        self.downsample = None
        if stride != 1 or into != out:
            shortcut = nn.Conv2d(into, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        inner = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(inner + identity)


class ResNet(nn.Module):
    """torchvision's layout, with a 7x7 stem of stride 2 that is a row and a column."""

    def __init__(self, widths: tuple[int, ...] = (8, 12, 16, 24), classes: int = 10) -> None:
        super().__init__()
        row = nn.Conv2d(3, 6, (1, 7), (1, 2), (0, 3), bias=False)
        column = nn.Conv2d(6, widths[0], (7, 1), (2, 1), (3, 0), bias=False)
        self.conv1 = Pair(row, column)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        layers = []
        for i, width in enumerate(widths):
            before = widths[max(i - 1, 0)]
            first = BasicBlock(before, width, 1 if i == 0 else 2)
            layers.append(nn.Sequential(first, BasicBlock(width, width, 1)))
        self.layers = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        return self.fc(self.avgpool(x).flatten(1))


def factorized(net: nn.Module) -> nn.Module:
    """Return a copy in which the package's layers stand for all pairs and strips."""
    if isinstance(net, Pair):
        return _layer(net)
    if isinstance(net, Strips):
        return _strips(net)
    copied = copy.copy(net)
    copied._modules = {
        name: None if child is None else factorized(child) for name, child in net._modules.items()
    }
    if not net._modules:
        return copy.deepcopy(net)
    return copied


def _layer(pair: Pair) -> FactorizedConv2d:
    first, second = pair[0], pair[-1]
    row_first = first.kernel_size[0] == 1
    row, column = (first, second) if row_first else (second, first)
    layer = FactorizedConv2d(
        first.in_channels,
        second.out_channels,
        (column.kernel_size[0], row.kernel_size[1]),
        mid_channels=first.out_channels,
        stride=(column.stride[0], row.stride[1]),
        padding=(column.padding[0], row.padding[1]),
        dilation=(column.dilation[0], row.dilation[1]),
        groups=(first.groups, second.groups),
        bias=second.bias is not None,
        mid_bias=first.bias is not None,
        activation="relu" if len(pair) == 3 else None,
        order="row_col" if row_first else "col_row",
        dtype=first.weight.dtype,
    )
    _take(layer, pair)
    return layer


def _strips(strips: Strips) -> MultiStripConv2d:
    first = strips.pairs[0][0]
    kernels = [pair[0].kernel_size[1] for pair in strips.pairs]
    layer = MultiStripConv2d(first.in_channels, kernels, dtype=first.weight.dtype)
    for own, pair in zip(layer.strips, strips.pairs, strict=True):
        _take(own, pair)
    return layer


@torch.no_grad()
def _take(layer: FactorizedConv2d, pair: Pair) -> None:
    for own, conv in ((("weight1", "bias1"), pair[0]), (("weight2", "bias2"), pair[-1])):
        for name, parameter in zip(own, (conv.weight, conv.bias), strict=True):
            if parameter is not None:
                getattr(layer, name).copy_(parameter)


def in_order(net: nn.Module) -> list[Tensor]:
    """Return the parameters, those of a pair as weight, bias, weight, bias, whoever holds them."""
    if isinstance(net, FactorizedConv2d):
        own = [net.weight1, net.bias1, net.weight2, net.bias2]
        return [parameter for parameter in own if parameter is not None]
    own = list(net.parameters(recurse=False))
    return own + [p for child in net.children() for p in in_order(child)]
