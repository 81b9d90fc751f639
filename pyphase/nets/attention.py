"""SegNeXt's attention: multi-scale strips that gate their input."""

from __future__ import annotations

from torch import Tensor, nn

from pyphase.conv import MultiStripConv2d
from pyphase.errors import check_whole

__all__ = ["MSCA", "SpatialAttention"]


class MSCA(nn.Module):
    """Multiply the input with a map of its surroundings: multi-scale convolutional attention.

    With x the input, dw a depthwise 5x5 convolution, s_k a depthwise 1xk and then a kx1 one, and
    conv a 1x1 convolution, all with biases::

        output = x * conv(y + s_7(y) + s_11(y) + s_21(y)),  where y = dw(x)

    The sum in brackets is one :class:`pyphase.conv.MultiStripConv2d`, in training as in eval.

    Args:
        channels: of input and output, >= 1.

    Shapes: (N, channels, H, W) to the same.

    Raises:
        TypeError: ``channels`` is not an int.
        ValueError: ``channels`` is below 1.

    Example:
        >>> import torch
        >>> block = MSCA(32)
        >>> block(torch.zeros(1, 32, 16, 16)).shape
        torch.Size([1, 32, 16, 16])
        >>> sum(parameter.numel() for parameter in block.parameters())  # 32 * (32 + 111)
        4576

    Source: Guo, Lu, Hou, Liu, Cheng & Hu (2022), arXiv 2209.08575, equations 1 and 2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        check_whole("channels", channels)
        self.conv0 = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.strips = MultiStripConv2d(channels, (7, 11, 21))
        self.conv3 = nn.Conv2d(channels, channels, 1)

    def forward(self, input: Tensor) -> Tensor:
        attention: Tensor = self.conv3(self.strips(self.conv0(input)))
        return attention * input


class SpatialAttention(nn.Module):
    """Put :class:`MSCA` between two projections, and add the input: SegNeXt's attention block.

    With x the input and proj_1, proj_2 1x1 convolutions::

        output = x + proj_2(msca(gelu(proj_1(x))))

    Args:
        channels: of input and output, >= 1.

    Shapes: (N, channels, H, W) to the same.

    Raises:
        TypeError: ``channels`` is not an int.
        ValueError: ``channels`` is below 1.

    Example:
        >>> import torch
        >>> SpatialAttention(32)(torch.zeros(1, 32, 16, 16)).shape
        torch.Size([1, 32, 16, 16])

    Source: Guo, Lu, Hou, Liu, Cheng & Hu (2022), arXiv 2209.08575, and their code.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        check_whole("channels", channels)
        self.proj_1 = nn.Conv2d(channels, channels, 1)
        self.activation = nn.GELU()
        self.spatial_gating_unit = MSCA(channels)
        self.proj_2 = nn.Conv2d(channels, channels, 1)

    def forward(self, input: Tensor) -> Tensor:
        gated = self.spatial_gating_unit(self.activation(self.proj_1(input)))
        output: Tensor = self.proj_2(gated) + input
        return output
