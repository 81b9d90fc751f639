"""Published layouts in torch's own modules, names included, with nothing of the package in them.

Inception-ResNet-v2 as timm and Cadene have it, Inception-v4's stem, SegNeXt's attention, and
torchvision's DenseNet and ResNet down to what a stem meets.
"""

from collections import OrderedDict

import torch
from torch import nn


class Unit(nn.Module):
    def __init__(self, into, out, kernel, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(into, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


def units(into, *rest):
    """Return units in a row; each is (channels, kernel, stride, padding)."""
    layers = []
    for out, *options in rest:
        layers.append(Unit(into, out, *options))
        into = out
    return nn.Sequential(*layers)


def concatenate(parts, x):
    return torch.cat([part(x) for part in parts], dim=1)


ROW7, COLUMN7 = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
ROW3, COLUMN3 = ((1, 3), 1, (0, 1)), ((3, 1), 1, (1, 0))


class Parallel(nn.Module):
    """branch0, branch1, ... side by side; with ``back``, added to the input as a residual."""

    def __init__(self, *branches, back=None, scale=1.0, relu=True):
        super().__init__()
        self.count, self.scale, self.rectify = len(branches), scale, relu
        for i, branch in enumerate(branches):
            self.add_module(f"branch{i}", branch)
        self.conv2d = None if back is None else nn.Conv2d(*back, 1)

    def forward(self, x):
        joined = concatenate([getattr(self, f"branch{i}") for i in range(self.count)], x)
        if self.conv2d is None:
            return joined
        total = x + self.scale * self.conv2d(joined)
        return torch.relu(total) if self.rectify else total


def block35(channels=320):
    return Parallel(
        Unit(channels, 32, 1),
        units(channels, (32, 1), (32, 3, 1, 1)),
        units(channels, (32, 1), (48, 3, 1, 1), (64, 3, 1, 1)),
        back=(128, channels),
        scale=0.17,
    )


def block17(channels=1088):
    branch1 = units(channels, (128, 1), (160, *ROW7), (192, *COLUMN7))
    return Parallel(Unit(channels, 192, 1), branch1, back=(384, channels), scale=0.10)


def block8(channels=2080, scale=0.20, relu=True):
    branch1 = units(channels, (192, 1), (224, *ROW3), (256, *COLUMN3))
    return Parallel(Unit(channels, 192, 1), branch1, back=(448, channels), scale=scale, relu=relu)


def mixed_5b():
    return Parallel(
        Unit(192, 96, 1),
        units(192, (48, 1), (64, 5, 1, 2)),
        units(192, (64, 1), (96, 3, 1, 1), (96, 3, 1, 1)),
        nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), Unit(192, 64, 1)),
    )


def mixed_6a():
    return Parallel(
        Unit(320, 384, 3, 2),
        units(320, (256, 1), (256, 3, 1, 1), (384, 3, 2)),
        nn.MaxPool2d(3, 2),
    )


def mixed_7a():
    return Parallel(
        units(1088, (256, 1), (384, 3, 2)),
        units(1088, (256, 1), (288, 3, 2)),
        units(1088, (256, 1), (288, 3, 1, 1), (320, 3, 2)),
        nn.MaxPool2d(3, 2),
    )


def inception_resnet_v2(classes, head):
    """``head`` is the classifier's name: classif (timm) or last_linear (Cadene)."""
    steps = OrderedDict(
        conv2d_1a=Unit(3, 32, 3, 2),
        conv2d_2a=Unit(32, 32, 3),
        conv2d_2b=Unit(32, 64, 3, 1, 1),
        maxpool_3a=nn.MaxPool2d(3, 2),
        conv2d_3b=Unit(64, 80, 1),
        conv2d_4a=Unit(80, 192, 3),
        maxpool_5a=nn.MaxPool2d(3, 2),
        mixed_5b=mixed_5b(),
        repeat=nn.Sequential(*[block35() for _ in range(10)]),
        mixed_6a=mixed_6a(),
        repeat_1=nn.Sequential(*[block17() for _ in range(20)]),
        mixed_7a=mixed_7a(),
        repeat_2=nn.Sequential(*[block8() for _ in range(9)]),
        block8=block8(scale=1.0, relu=False),
        conv2d_7b=Unit(2080, 1536, 1),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
    )
    steps[head] = nn.Linear(1536, classes)
    return nn.Sequential(steps)


class Beside(nn.Module):
    """Named parts side by side."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        return concatenate(self.children(), x)


def inception_v4_stem(channels=3, padding=0):
    """The first six features; ``padding`` where the published ones have none."""
    p = padding
    mixed_4a = Beside(
        branch0=units(160, (64, 1), (96, 3, 1, p)),
        branch1=units(160, (64, 1), (64, *ROW7), (64, *COLUMN7), (96, 3, 1, p)),
    )
    return nn.Sequential(
        Unit(channels, 32, 3, 2, p),
        Unit(32, 32, 3, 1, p),
        Unit(32, 64, 3, 1, 1),
        Beside(maxpool=nn.MaxPool2d(3, 2, p), conv=Unit(64, 96, 3, 2, p)),
        mixed_4a,
        Beside(conv=Unit(192, 192, 3, 2), maxpool=nn.MaxPool2d(3, 2)),
    )


class AttentionModule(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.conv0 = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        for i, k in enumerate((7, 11, 21)):
            row = nn.Conv2d(dim, dim, (1, k), padding=(0, k // 2), groups=dim)
            column = nn.Conv2d(dim, dim, (k, 1), padding=(k // 2, 0), groups=dim)
            self.add_module(f"conv{i}_1", row)
            self.add_module(f"conv{i}_2", column)
        self.conv3 = nn.Conv2d(dim, dim, 1)

    def forward(self, x):
        y = self.conv0(x)
        strips = self.conv0_2(self.conv0_1(y)), self.conv1_2(self.conv1_1(y))
        total = y + strips[0] + strips[1] + self.conv2_2(self.conv2_1(y))
        return self.conv3(total) * x


class SpatialAttention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.proj_1 = nn.Conv2d(dim, dim, 1)
        self.spatial_gating_unit = AttentionModule(dim)
        self.proj_2 = nn.Conv2d(dim, dim, 1)

    def forward(self, x):
        inner = torch.nn.functional.gelu(self.proj_1(x))
        return x + self.proj_2(self.spatial_gating_unit(inner))


class DenseLayer(nn.Module):
    def __init__(self, into, growth, bn_size):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(into)
        self.conv1 = nn.Conv2d(into, bn_size * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(bn_size * growth)
        self.conv2 = nn.Conv2d(bn_size * growth, growth, 3, padding=1, bias=False)

    def forward(self, x):
        return self.conv2(self.norm2(self.conv1(self.norm1(x).relu())).relu())


class DenseBlock(nn.Module):
    def __init__(self, layers, into, growth, bn_size=4):
        super().__init__()
        for i in range(layers):
            self.add_module(f"denselayer{i + 1}", DenseLayer(into + i * growth, growth, bn_size))

    def forward(self, x):
        parts = [x]
        for layer in self.children():
            parts.append(layer(torch.cat(parts, dim=1)))
        return torch.cat(parts, dim=1)


class DenseNet(nn.Module):
    """torchvision's layout, with one block in place of four."""

    def __init__(self, width=64, classes=10):
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict(
                conv0=nn.Conv2d(3, width, 7, 2, 3, bias=False),
                norm0=nn.BatchNorm2d(width),
                relu0=nn.ReLU(inplace=True),
                pool0=nn.MaxPool2d(3, 2, 1),
                denseblock1=DenseBlock(2, width, 8),
                norm5=nn.BatchNorm2d(width + 16),
            )
        )
        self.classifier = nn.Linear(width + 16, classes)

    def forward(self, x):
        return self.classifier(self.features(x).relu().mean((2, 3)))


class ResNet(nn.Module):
    """torchvision's layout, with one convolution in place of the residual layers."""

    def __init__(self, width=64, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Conv2d(width, 32, 3, 1, 1)
        self.fc = nn.Linear(32, classes)

    def stem(self, x):
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))

    def forward(self, x):
        return self.fc(self.layer1(self.stem(x)).relu().mean((2, 3)))
