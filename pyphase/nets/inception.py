"""The blocks of Inception-ResNet-v2, with the published layout's names and numbers of channels."""

from __future__ import annotations

from torch import Tensor, nn

from pyphase.errors import check_flags, check_number, check_whole
from pyphase.nets.basic import BasicConv2d, Branch, Joined, Two

__all__ = ["Block8", "Block17", "Block35", "mixed_5b", "mixed_6a", "mixed_7a"]


def same(in_channels: int, out_channels: int, kernel_size: Two) -> BasicConv2d:
    """Return Inception's convolution, padded to its input's size; the kernel is odd."""
    high, wide = (kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size
    return BasicConv2d(in_channels, out_channels, (high, wide), padding=(high // 2, wide // 2))


class _Residual(Joined):
    """Branches, joined, brought back to the input's channels, scaled and added to the input."""

    def __init__(
        self, width: int, in_channels: int, scale: float, relu: bool, **branches: nn.Module
    ) -> None:
        super().__init__(**branches)
        check_flags(relu=relu)
        self.scale = check_number("scale", scale)
        self.conv2d = nn.Conv2d(width, in_channels, 1)
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.relu(self.conv2d(super().forward(input)) * self.scale + input)
        return output

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}"


class Block35(_Residual):
    """Add three branches to the input, as Inception-ResNet-v2 does at 35 x 35.

    With x the input, [ , ] the concatenation, every 1x1 and 3x3 a :class:`BasicConv2d`, and conv a
    1x1 convolution with bias back to the input's channels::

        output = relu(x + scale * conv([1x1 32,  1x1 32 - 3x3 32,  1x1 32 - 3x3 48 - 3x3 64]))

    Args:
        in_channels: of input and output, >= 1; 320 in the published network.
        scale: of what is added; 0.17 in the published network.

    Shapes: (N, in_channels, H, W) to the same.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: ``in_channels`` is below 1, or ``scale`` not finite.

    Example:
        >>> import torch
        >>> Block35()(torch.zeros(1, 320, 5, 5)).shape
        torch.Size([1, 320, 5, 5])

    Source: Szegedy, Ioffe, Vanhoucke & Alemi (2017), arXiv 1602.07261, figure 16.
    """

    def __init__(self, in_channels: int = 320, *, scale: float = 0.17) -> None:
        check_whole("in_channels", in_channels)
        super().__init__(
            128,
            in_channels,
            scale,
            True,
            branch0=same(in_channels, 32, 1),
            branch1=Branch(same(in_channels, 32, 1), same(32, 32, 3)),
            branch2=Branch(same(in_channels, 32, 1), same(32, 48, 3), same(48, 64, 3)),
        )


class Block17(_Residual):
    """Add a 1x1 branch and a factorized 7x7 one to the input, as Inception-ResNet-v2 at 17 x 17.

    With x the input, [ , ] the concatenation, each factor a :class:`BasicConv2d`, and conv a 1x1
    convolution with bias back to the input's channels::

        output = relu(x + scale * conv([1x1 192,  1x1 128 - 1x7 160 - 7x1 192]))

    In eval mode 1x7 and 7x1 are one fused convolution: see :class:`Branch`.

    Args:
        in_channels: of input and output, >= 1; 1088 in the published network.
        scale: of what is added; 0.1 in the published network.

    Shapes: (N, in_channels, H, W) to the same.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: ``in_channels`` is below 1, or ``scale`` not finite.

    Example:
        >>> import torch
        >>> Block17(64)(torch.zeros(1, 64, 5, 5)).shape
        torch.Size([1, 64, 5, 5])

    Source: Szegedy, Ioffe, Vanhoucke & Alemi (2017), arXiv 1602.07261, figure 17; the numbers of
    channels are those of the released network.
    """

    def __init__(self, in_channels: int = 1088, *, scale: float = 0.1) -> None:
        check_whole("in_channels", in_channels)
        super().__init__(
            384,
            in_channels,
            scale,
            True,
            branch0=same(in_channels, 192, 1),
            branch1=Branch(
                same(in_channels, 128, 1), same(128, 160, (1, 7)), same(160, 192, (7, 1))
            ),
        )


class Block8(_Residual):
    """Add a 1x1 branch and a factorized 3x3 one to the input, as Inception-ResNet-v2 at 8 x 8.

    With x the input, [ , ] the concatenation, each factor a :class:`BasicConv2d`, and conv a 1x1
    convolution with bias back to the input's channels::

        output = relu(x + scale * conv([1x1 192,  1x1 192 - 1x3 224 - 3x1 256]))

    In eval mode 1x3 and 3x1 are one fused convolution: see :class:`Branch`.

    Args:
        in_channels: of input and output, >= 1; 2080 in the published network.
        scale: of what is added; 0.2 in the published network, 1 in its last block.
        relu: whether the sum is rectified; not so in the last block.

    Shapes: (N, in_channels, H, W) to the same.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: ``in_channels`` is below 1, or ``scale`` not finite.

    Example:
        >>> import torch
        >>> Block8(64)(torch.zeros(1, 64, 4, 4)).shape
        torch.Size([1, 64, 4, 4])

    Source: Szegedy, Ioffe, Vanhoucke & Alemi (2017), arXiv 1602.07261, figure 19.
    """

    def __init__(self, in_channels: int = 2080, *, scale: float = 0.2, relu: bool = True) -> None:
        check_whole("in_channels", in_channels)
        super().__init__(
            448,
            in_channels,
            scale,
            relu,
            branch0=same(in_channels, 192, 1),
            branch1=Branch(
                same(in_channels, 192, 1), same(192, 224, (1, 3)), same(224, 256, (3, 1))
            ),
        )


def mixed_5b() -> Joined:
    """Return the Inception block before the first residual ones: 192 to 320 channels."""
    pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return Joined(
        branch0=same(192, 96, 1),
        branch1=Branch(same(192, 48, 1), same(48, 64, 5)),
        branch2=Branch(same(192, 64, 1), same(64, 96, 3), same(96, 96, 3)),
        branch3=nn.Sequential(pool, same(192, 64, 1)),
    )


def mixed_6a() -> Joined:
    """Return the reduction from 35 x 35 to 17 x 17: 320 to 1088 channels."""
    return Joined(
        branch0=BasicConv2d(320, 384, 3, stride=2),
        branch1=Branch(same(320, 256, 1), same(256, 256, 3), BasicConv2d(256, 384, 3, stride=2)),
        branch2=nn.MaxPool2d(3, stride=2),
    )


def mixed_7a() -> Joined:
    """Return the reduction from 17 x 17 to 8 x 8: 1088 to 2080 channels."""
    return Joined(
        branch0=Branch(same(1088, 256, 1), BasicConv2d(256, 384, 3, stride=2)),
        branch1=Branch(same(1088, 256, 1), BasicConv2d(256, 288, 3, stride=2)),
        branch2=Branch(same(1088, 256, 1), same(256, 288, 3), BasicConv2d(288, 320, 3, stride=2)),
        branch3=nn.MaxPool2d(3, stride=2),
    )
