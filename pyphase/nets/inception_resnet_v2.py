"""Inception-ResNet-v2, whole."""

from __future__ import annotations

from torch import Tensor, nn

from pyphase.errors import check_fraction, check_whole
from pyphase.nets.basic import BasicConv2d
from pyphase.nets.inception import Block8, Block17, Block35, mixed_5b, mixed_6a, mixed_7a

__all__ = ["InceptionResNetV2", "inception_resnet_v2"]

_SMALLEST = 75  # a pixel of the last 3 x 3 reduction is left


class InceptionResNetV2(nn.Module):
    """Classify images: 10 blocks 35, 20 blocks 17, 10 blocks 8, with reductions between.

    Args:
        num_classes: >= 1.
        in_channels: of the images, >= 1.
        dropout: probability that a feature is left out in front of the classifier, in [0, 1). The
            paper trains with 0.2.

    Shapes: (N, in_channels, H, W), H and W >= 75 (299 as published), to (N, num_classes). The
    parameters have timm's names; :func:`load_published` takes those of other checkpoints.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range; an image is too small, or has other channels.

    Example:
        >>> import torch
        >>> with torch.device("meta"):  # shapes without numbers
        ...     model = InceptionResNetV2(num_classes=10)
        >>> model.classif
        Linear(in_features=1536, out_features=10, bias=True)

    Source: Szegedy, Ioffe, Vanhoucke & Alemi (2017), arXiv 1602.07261; numbers of channels and
    scales are those of the released network, inception_resnet_v2_2016_08_30.
    """

    def __init__(
        self, num_classes: int = 1000, *, in_channels: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_whole("num_classes", num_classes)
        self.in_channels = check_whole("in_channels", in_channels)
        self.conv2d_1a = BasicConv2d(in_channels, 32, 3, stride=2)
        self.conv2d_2a = BasicConv2d(32, 32, 3)
        self.conv2d_2b = BasicConv2d(32, 64, 3, padding=1)
        self.maxpool_3a = nn.MaxPool2d(3, stride=2)
        self.conv2d_3b = BasicConv2d(64, 80, 1)
        self.conv2d_4a = BasicConv2d(80, 192, 3)
        self.maxpool_5a = nn.MaxPool2d(3, stride=2)
        self.mixed_5b = mixed_5b()
        self.repeat = nn.Sequential(*(Block35() for _ in range(10)))
        self.mixed_6a = mixed_6a()
        self.repeat_1 = nn.Sequential(*(Block17() for _ in range(20)))
        self.mixed_7a = mixed_7a()
        self.repeat_2 = nn.Sequential(*(Block8() for _ in range(9)))
        self.block8 = Block8(scale=1.0, relu=False)
        self.conv2d_7b = BasicConv2d(2080, 1536, 1)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(check_fraction("dropout", dropout, closed=False))
        self.classif = nn.Linear(1536, num_classes)

    def forward_features(self, input: Tensor) -> Tensor:
        """Return the last features, (N, 1536, H', W')."""
        self._check(input)
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(input)))
        x = self.conv2d_4a(self.conv2d_3b(self.maxpool_3a(x)))
        x = self.repeat(self.mixed_5b(self.maxpool_5a(x)))
        x = self.repeat_1(self.mixed_6a(x))
        x = self.repeat_2(self.mixed_7a(x))
        output: Tensor = self.conv2d_7b(self.block8(x))
        return output

    def forward(self, input: Tensor) -> Tensor:
        features = self.global_pool(self.forward_features(input)).flatten(1)
        output: Tensor = self.classif(self.dropout(features))
        return output

    def _check(self, input: Tensor) -> None:
        channels, least = self.in_channels, _SMALLEST
        if input.ndim != 4 or input.shape[1] != channels or min(input.shape[2:]) < least:
            raise ValueError(
                f"`input` must be (N, {channels}, H, W) with H and W >= {least}, "
                f"got shape {tuple(input.shape)}"
            )


def inception_resnet_v2(
    num_classes: int = 1000, *, in_channels: int = 3, dropout: float = 0.0
) -> InceptionResNetV2:
    """Return an Inception-ResNet-v2 with random weights: :class:`InceptionResNetV2`.

    Args:
        num_classes: >= 1.
        in_channels: of the images, >= 1.
        dropout: probability that a feature is left out in front of the classifier, in [0, 1).

    Shapes: the network takes (N, in_channels, H, W), H and W >= 75, to (N, num_classes).

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range.

    Example:
        >>> import torch
        >>> with torch.device("meta"):
        ...     model = inception_resnet_v2(1000)
        >>> sum(parameter.numel() for parameter in model.parameters())
        55843464

    Source: Szegedy, Ioffe, Vanhoucke & Alemi (2017), arXiv 1602.07261.
    """
    return InceptionResNetV2(num_classes, in_channels=in_channels, dropout=dropout)
