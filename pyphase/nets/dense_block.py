"""DenseNet's block: concatenation where a ResNet adds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyphase.errors import check_fraction, check_whole

__all__ = ["DenseBlock"]


class DenseBlock(nn.Module):
    """Let each layer see the input and what all layers before it gave.

    With x_0 the input, [ , ] the concatenation along the channels, and layer_i = dropout o 3x3 o
    relu o norm o 1x1 o relu o norm::

        x_i = layer_i([x_0, ..., x_(i-1)]),  output = [x_0, ..., x_num_layers]

    Args:
        num_layers: >= 1.
        in_channels: of the input, >= 1.
        growth_rate: channels of each x_i, >= 1.
        bn_size: channels of the 1x1 convolutions, >= 1, in units of ``growth_rate``.
        drop_rate: probability that an element of x_i is left out in training, in [0, 1).

    Shapes: (N, in_channels, H, W) to (N, in_channels + num_layers * growth_rate, H, W). The
    parameters are named as in torchvision's DenseNet: ``denselayer1.norm1.weight`` and so on.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range.

    Example:
        >>> block = DenseBlock(num_layers=6, in_channels=64, growth_rate=32)
        >>> block(torch.zeros(1, 64, 8, 8)).shape
        torch.Size([1, 256, 8, 8])

    Source: Huang, Liu, van der Maaten & Weinberger (2017), arXiv 1608.06993: DenseNet-B.
    """

    def __init__(
        self,
        num_layers: int,
        in_channels: int,
        growth_rate: int,
        *,
        bn_size: int = 4,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        check_whole("num_layers", num_layers)
        check_whole("in_channels", in_channels)
        check_whole("growth_rate", growth_rate)
        check_whole("bn_size", bn_size)
        check_fraction("drop_rate", drop_rate, closed=False)
        for i in range(num_layers):
            layer = _DenseLayer(in_channels + i * growth_rate, growth_rate, bn_size, drop_rate)
            self.add_module(f"denselayer{i + 1}", layer)

    def forward(self, input: Tensor) -> Tensor:
        features = input
        for layer in self.children():
            features = torch.cat([features, layer(features)], 1)
        return features


class _DenseLayer(nn.Sequential):
    def __init__(self, in_channels: int, growth_rate: int, bn_size: int, drop_rate: float) -> None:
        super().__init__()
        width = bn_size * growth_rate
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, growth_rate, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(drop_rate)
