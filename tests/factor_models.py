"""Models to factorize, and a plain spatial SVD to compare with: no code shared with the package."""

from __future__ import annotations

import torch
from conv_networks import BasicBlock
from torch import Tensor, nn


class ResNet(nn.Module):
    """torchvision's layout: 7x7 stem of stride 2, stages of basic blocks, a linear head."""

    def __init__(self, widths: tuple[int, ...] = (16, 24), blocks: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for i, width in enumerate(widths):
            before = widths[max(i - 1, 0)]
            first = BasicBlock(before, width, 1 if i == 0 else 2)
            rest = [BasicBlock(width, width, 1) for _ in range(blocks - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(first, *rest))
        self.stages = len(widths)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for i in range(self.stages):
            x = getattr(self, f"layer{i + 1}")(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Odd(nn.Module):
    """Every kind of layer that is left alone, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(4, 8, 3, padding=1)
        self.point = nn.Conv2d(8, 8, 1)
        self.strip = nn.Conv2d(8, 8, (1, 7), padding=(0, 3))
        self.grouped = nn.Conv2d(8, 8, 5, padding=2, groups=8)
        self.circular = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")
        self.other = Subclass(8, 8, 3, padding=1)
        self.hooked = nn.Conv2d(8, 8, 3, padding=1)
        self.hooked.register_forward_hook(lambda module, args, output: None)
        self.tied = nn.Conv2d(8, 8, 3, padding=1)
        self.tie = nn.Conv2d(8, 8, 3, padding=1)
        self.tie.weight = self.tied.weight
        self.zero = nn.Conv2d(8, 8, 3, padding=1)
        nn.init.zeros_(self.zero.weight)
        self.unused = nn.Conv2d(8, 8, 3)
        self.single = nn.Conv2d(8, 1, 2, padding=1)
        self.ignored = nn.Conv2d(1, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.strip(self.point(self.plain(x))))
        x = self.hooked(self.other(self.circular(x)))
        return self.ignored(self.single(self.zero(self.tie(self.tied(x)))))


class Subclass(nn.Conv2d):
    """A convolution that does something more."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).abs()


def smooth_images(count: int, size: int = 32, seed: int = 0) -> Tensor:
    """Return images with the correlations of real ones: noise, blurred at three scales."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(count, 3, size, size)
    for scale in (2, 4, 8):
        noise = torch.randn(count, 3, size // scale, size // scale, generator=generator)
        image += nn.functional.interpolate(noise, size=(size, size), mode="bilinear")
    return image


def train_mode_statistics(model: nn.Module, images: Tensor) -> nn.Module:
    """Give the batch norms statistics and affine parameters that are not their first ones."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for p in (module.weight, module.bias):
                p.data += 0.3 * torch.randn(p.shape, generator=generator)
    with torch.no_grad():
        for _ in range(3):
            model(images)
    return model.eval()


def plain_svd(conv: nn.Conv2d, rank: int) -> nn.Sequential:
    """Return AIMET's spatial SVD: a column of ``rank`` channels first, then a row.

    The kernel as (C k', K k), its SVD cut off at the rank, roots of the values to both; the
    vertical options go to the column, the horizontal ones to the row, the bias to the row.
    """
    out, into, height, width = conv.weight.shape
    matrix = conv.weight.detach().permute(1, 2, 0, 3).reshape(into * height, out * width)
    u, s, vh = torch.linalg.svd(matrix)
    root = s[:rank].sqrt()
    (sh, sw), (ph, pw) = conv.stride, conv.padding
    column = nn.Conv2d(into, rank, (height, 1), (sh, 1), (ph, 0), bias=False)
    row = nn.Conv2d(rank, out, (1, width), (1, sw), (0, pw), bias=conv.bias is not None)
    with torch.no_grad():
        first = (u[:, :rank] * root).T.reshape(rank, into, height, 1)
        second = (vh[:rank] * root[:, None]).reshape(rank, out, width).permute(1, 0, 2)
        column.weight.copy_(first)
        row.weight.copy_(second.unsqueeze(2))
        if conv.bias is not None:
            row.bias.copy_(conv.bias)
    return nn.Sequential(column, row)
