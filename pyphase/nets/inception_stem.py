"""The stem of Inception-v4, as published and with padding."""

from __future__ import annotations

from torch import nn

from pyphase.nets.basic import BasicConv2d, Branch, Joined
from pyphase.nets.inception import same

__all__ = ["InceptionV4Stem", "quarter_stem"]


class InceptionV4Stem(nn.Sequential):
    """Take images to features of an eighth of their size, as Inception-v4 does.

    Three 3x3 convolutions, then three steps that concatenate: a pool beside a strided convolution;
    1x1 - 3x3 beside 1x1 - 1x7 - 7x1 - 3x3; a strided convolution beside a pool. Nothing but the
    third convolution and the strips is padded. In eval mode 1x7 and 7x1 are one fused convolution:
    see :class:`Branch`.

    Args:
        in_channels: of the images, >= 1.

    Shapes: (N, in_channels, H, W) to (N, 384, H', W'): 299 x 299 gives 35 x 35; H and W >= 27. The
    parameters are named as in ``features.0`` ... ``features.5`` of the published Inception-v4.

    Raises:
        TypeError: ``in_channels`` is not an int.
        ValueError: ``in_channels`` is below 1.

    Example:
        >>> import torch
        >>> InceptionV4Stem()(torch.zeros(1, 3, 43, 43)).shape
        torch.Size([1, 384, 3, 3])

    Source: Szegedy, Ioffe, Vanhoucke & Alemi (2017), arXiv 1602.07261, figure 3.
    """

    def __init__(self, in_channels: int = 3) -> None:
        last = Joined(conv=BasicConv2d(192, 192, 3, stride=2), maxpool=nn.MaxPool2d(3, stride=2))
        super().__init__(*_to_a_quarter(in_channels, 0), last)


def quarter_stem(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return Inception-v4's stem up to a quarter of the image's size, padded, then a 1x1.

    (N, in_channels, H, W) becomes (N, out_channels, ceil(ceil(H / 2) / 2), ...), as behind a
    strided 7x7 convolution and a strided 3x3 pool that are padded.
    """
    return nn.Sequential(*_to_a_quarter(in_channels, 1), BasicConv2d(192, out_channels, 1))


def _to_a_quarter(in_channels: int, padding: int) -> list[nn.Module]:
    """Return the steps of the stem at halves and quarters of the image's size: 192 channels.

    ``padding`` is that of the 3x3 convolutions and pools that have none in the published layout.
    """
    return [
        BasicConv2d(in_channels, 32, 3, stride=2, padding=padding),
        BasicConv2d(32, 32, 3, padding=padding),
        same(32, 64, 3),
        Joined(
            maxpool=nn.MaxPool2d(3, stride=2, padding=padding),
            conv=BasicConv2d(64, 96, 3, stride=2, padding=padding),
        ),
        Joined(
            branch0=Branch(same(160, 64, 1), BasicConv2d(64, 96, 3, padding=padding)),
            branch1=Branch(
                same(160, 64, 1),
                same(64, 64, (1, 7)),
                same(64, 64, (7, 1)),
                BasicConv2d(64, 96, 3, padding=padding),
            ),
        ),
    ]
