"""A generator and a critic that grow from 4x4 to 32x32 pixels.

Layout, equalised learning rate, pixel norm and minibatch standard deviation are those of Karras,
Aila, Laine & Lehtinen (2018), arXiv 1710.10196, in small; the class enters as in the projection
critic of Miyato & Koyama (2018), arXiv 1802.05637.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pyphase.conv import FactorizedConv2d
from pyphase.nets import FadeIn

CLASSES = 10
SIZES = (4, 8, 16, 32)  # pixels of each stage


class Scale(nn.Module):
    """Equalised learning rate: w = gain / sqrt(fan_in) * w', w' from N(0, 1) and trained.

    Adam moves each number by about the rate, whatever its size: so scaled, all layers learn alike.
    """

    def __init__(self, weight: Tensor, gain: float) -> None:
        super().__init__()
        self.factor = gain / math.sqrt(weight[0].numel())

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.factor


def equalized(layer: nn.Module, gain: float = math.sqrt(2)) -> nn.Module:
    """Draw a layer's weights from N(0, 1), zero its biases, and scale the weights in use."""
    for name, param in list(layer.named_parameters()):
        if name.startswith("bias"):
            nn.init.zeros_(param)
            continue
        nn.init.normal_(param)
        # Between the two convolutions of a pair there is no activation that the gain makes up for.
        own = 1.0 if name == "weight1" else gain
        parametrize.register_parametrization(layer, name, Scale(param, own))
    return layer


def conv3(in_channels: int, out_channels: int, kind: str) -> nn.Module:
    """Return a 3x3 convolution, or a 1x3 and a 3x1 one as one fused operation."""
    if kind == "factorized":
        return equalized(FactorizedConv2d(in_channels, out_channels, 3))
    return equalized(nn.Conv2d(in_channels, out_channels, 3, padding=1))


def leaky() -> nn.Module:
    return nn.LeakyReLU(0.2)


class PixelNorm(nn.Module):
    """Divide each pixel's vector of channels by its root mean square: (N, C, ...) to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return input * (input.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class MinibatchDeviation(nn.Module):
    """Append a channel with the mean deviation over the batch: (N, C, H, W) to (N, C + 1, H, W).

    Samples that are all alike have none of it: the critic sees what a single image can't show.
    """

    def forward(self, input: Tensor) -> Tensor:
        deviation = (input.var(0, unbiased=False) + 1e-8).sqrt().mean()
        return torch.cat([input, deviation.expand(len(input), 1, *input.shape[2:])], 1)


class Generator(nn.Module):
    """Map latents (N, latent) and labels (N,) to images (N, 1, S, S), about in [-1, 1].

    Args:
        widths: channels at each of ``SIZES``.
        latent: numbers in a latent vector.
        kind: "dense" or "factorized" 3x3 convolutions.
    """

    def __init__(self, widths: tuple[int, ...], latent: int, kind: str) -> None:
        super().__init__()
        self.widths, self.kind, self.stage = widths, kind, 0
        first = widths[0]
        self.normalize = PixelNorm()
        self.body = nn.Sequential(
            *(equalized(nn.Linear(latent + CLASSES, first * 16), math.sqrt(2) / 4),),
            *(nn.Unflatten(1, (first, 4, 4)), leaky(), PixelNorm()),
            *(conv3(first, first, kind), leaky(), PixelNorm()),
        )
        self.head: nn.Module = equalized(nn.Conv2d(first, 1, 1), 1.0)

    def grow(self) -> None:
        """Fade in a block that doubles the image's size."""
        self.stage += 1
        before, width = self.widths[self.stage - 1 : self.stage + 1]
        block = nn.Sequential(
            *(nn.Upsample(scale_factor=2), conv3(before, width, self.kind), leaky(), PixelNorm()),
            *(conv3(width, width, self.kind), leaky(), PixelNorm()),
        )
        new = nn.Sequential(block, equalized(nn.Conv2d(width, 1, 1), 1.0))
        self.head = FadeIn(nn.Sequential(self.head, nn.Upsample(scale_factor=2)), new)

    def settle(self) -> None:
        """Put the block that was faded in into the body, and drop the old output layer."""
        block, self.head = self.head.new
        self.body.append(block)

    def set_alpha(self, value: float) -> None:
        """Set the share of the new block, in [0, 1]."""
        self.head.set_alpha(value)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        one_hot = nn.functional.one_hot(labels, CLASSES) * math.sqrt(CLASSES)
        return self.head(self.body(torch.cat([self.normalize(latents), one_hot], 1)))


class Critic(nn.Module):
    """Map images (N, 1, S, S) and labels (N,) to scores (N,): the generator's mirror image."""

    def __init__(self, widths: tuple[int, ...], kind: str) -> None:
        super().__init__()
        self.widths, self.kind, self.stage = widths, kind, 0
        first = widths[0]
        self.entry = self._from_gray(first)
        self.body = nn.Sequential(
            *(MinibatchDeviation(), conv3(first + 1, first, kind), leaky(), nn.Flatten()),
            *(equalized(nn.Linear(first * 16, first)), leaky()),
            equalized(nn.Linear(first, CLASSES), 1.0),  # a score for each class: the label's counts
        )

    def _from_gray(self, width: int) -> nn.Module:
        return nn.Sequential(equalized(nn.Conv2d(1, width, 1)), leaky())

    def grow(self) -> None:
        """Fade in a block that takes images of twice the size."""
        self.stage += 1
        after, width = self.widths[self.stage - 1 : self.stage + 1]
        block = nn.Sequential(
            *(conv3(width, width, self.kind), leaky()),
            *(conv3(width, after, self.kind), leaky(), nn.AvgPool2d(2)),
        )
        new = nn.Sequential(self._from_gray(width), block)
        self.entry = FadeIn(nn.Sequential(nn.AvgPool2d(2), self.entry), new)

    def settle(self) -> None:
        """Put the block that was faded in into the body, and drop the old input layer."""
        self.entry, block = self.entry.new
        self.body.insert(0, block)

    def set_alpha(self, value: float) -> None:
        """Set the share of the new block, in [0, 1]."""
        self.entry.set_alpha(value)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.body(self.entry(images)).gather(1, labels[:, None]).squeeze(1)
