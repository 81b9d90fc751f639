"""The networks of the time-to-accuracy benchmark.

Residual networks in torchvision's layout, so that ``pyphase.nets.replace_stem`` takes them, and the
wide one of fast.ai's entry to DAWNBench.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

__all__ = ["NETWORKS", "ResNet", "WideResNet", "resnet50", "small_resnet", "wrn_22"]


def conv(before: int, after: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)


class Basic(nn.Module):
    """x + two 3x3 convolutions of it."""

    expansion = 1

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(before, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.downsample = shortcut(before, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(inner + self.downsample(x))


class Bottleneck(nn.Module):
    """x + a 1x1, a 3x3 (with the stride) and a 1x1 convolution of it."""

    expansion = 4

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        after = self.expansion * width
        self.conv1, self.bn1 = conv(before, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, after, 1), nn.BatchNorm2d(after)
        nn.init.zeros_(self.bn3.weight)  # each block begins as the identity
        self.downsample = shortcut(before, after, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        inner = torch.relu(self.bn2(self.conv2(inner)))
        return torch.relu(self.bn3(self.conv3(inner)) + self.downsample(x))


def shortcut(before: int, after: int, stride: int) -> nn.Module:
    if stride == 1 and before == after:
        return nn.Identity()
    return nn.Sequential(conv(before, after, 1, stride), nn.BatchNorm2d(after))


class ResNet(nn.Module):
    """A 7x7 stem of stride 2, a pool, stages of blocks, a linear layer.

    (N, in_channels, H, W) to (N, num_classes).

    Args:
        block: ``Basic`` or ``Bottleneck``.
        depths: blocks of each stage; all but the first stage halve the image.
        widths: channels of each stage, before a bottleneck's expansion.
        pool: halve the image once more after the stem.
    """

    def __init__(
        self,
        block: type[Basic] | type[Bottleneck],
        depths: Sequence[int],
        widths: Sequence[int],
        in_channels: int,
        num_classes: int,
        *,
        pool: bool = True,
    ) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, widths[0], 7, 2)
        self.bn1, self.relu = nn.BatchNorm2d(widths[0]), nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if pool else nn.Identity()
        before = widths[0]
        stages = []
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for index in range(depth):
                blocks.append(block(before, width, 2 if stage and not index else 1))
                before = width * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.fc = nn.Linear(before, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in self.stages:
            x = stage(x)
        return self.fc(x.mean((2, 3)))


def small_resnet(in_channels: int, num_classes: int) -> ResNet:
    """Return a network of three small stages for images of 14 pixels and more."""
    return ResNet(Basic, (1, 1, 1), (8, 16, 32), in_channels, num_classes, pool=False)


def resnet50(in_channels: int = 3, num_classes: int = 1000) -> ResNet:
    """Return ResNet-50 with its stride in the 3x3 convolutions, as torchvision and imagenet18."""
    widths = (64, 128, 256, 512)
    model = ResNet(Bottleneck, (3, 4, 6, 3), widths, in_channels, num_classes)
    nn.init.normal_(model.fc.weight, std=0.01)
    return model


class PreActivation(nn.Module):
    """y + two 3x3 convolutions of it, with y = relu(bn(x)); a 1x1 one of y where sizes change."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(before), conv(before, after, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(after), conv(after, after, 3)
        self.shortcut = nn.Identity() if before == after else conv(before, after, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(x))
        return self.conv2(torch.relu(self.bn2(self.conv1(x)))) + self.shortcut(x)


class WideResNet(nn.Module):
    """A 3x3 stem, three stages of ``depth`` blocks, ``factor`` times as wide as 16, 32, 64.

    Source: Zagoruyko & Komodakis, "Wide Residual Networks", 2016, with the shortcuts and the head
    of fast.ai's entry (the last norm after the pool, no bias).
    """

    def __init__(self, depth: int, factor: int, in_channels: int, num_classes: int) -> None:
        super().__init__()
        before, layers = 16, [conv(in_channels, 16, 3)]
        for stage in range(3):
            width = 16 * 2**stage * factor
            for index in range(depth):
                layers.append(PreActivation(before, width, 2 if stage and not index else 1))
                before = width
        self.features = nn.Sequential(*layers)
        self.bn = nn.BatchNorm1d(before)
        self.fc = nn.Linear(before, num_classes, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.bn(self.features(x).mean((2, 3)))))


def wrn_22(in_channels: int = 3, num_classes: int = 10) -> WideResNet:
    """Return the wide network of fast.ai's entry for CIFAR-10: 3 x 3 blocks, 6 times as wide."""
    return WideResNet(3, 6, in_channels, num_classes)


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "small": small_resnet,
    "resnet50": resnet50,
    "wrn_22": wrn_22,
}
