"""Factorized convolutions as layers.

Long, since a third of it is docstrings: two classes with all of Conv2d's options.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from pyphase.conv.dense import full_rank, merge_bias, merge_weights, split_weight
from pyphase.conv.functional import Two, check_tensors, run_pair, run_strips
from pyphase.conv.options import Options, make_options, pair_of, same_padding, whole
from pyphase.errors import check_flags, shown

__all__ = ["FactorizedConv2d", "MultiStripConv2d", "pair_like"]

skip_init: Any = nn.utils.skip_init  # leaves the random numbers alone

ORDERS = ("row_col", "col_row")


class FactorizedConv2d(nn.Module):
    """Convolve with a row and a column kernel: :func:`factorized_conv2d` with its parameters.

    With x the input, * the convolution and act the ``activation``::

        output = act(x * weight1 + bias1) * weight2 + bias2

    Both weights and biases start as those of two ``torch.nn.Conv2d`` do, in the same order of
    random numbers: uniform in +-1/sqrt(fan_in), each of its own convolution.

    Args:
        in_channels: of the input, >= 1.
        out_channels: of the output, >= 1.
        kernel_size: >= 1, in pixels; an int or (vertical, horizontal).
        mid_channels: between the two. None: ``in_channels`` if the first convolution is depthwise
            (as many groups as channels, and more than one), else ``out_channels``.
        stride: as in :func:`factorized_conv2d`.
        padding: >= 0, in pixels at both ends; an int, (vertical, horizontal), or ``"same"``:
            dilation * (kernel_size - 1) in all, half of it at either end, an odd pixel at the end.
            An output is then ceil(size / stride) long, with any stride (torch's conv2d wants 1).
        dilation: as in :func:`factorized_conv2d`.
        groups: an int for both convolutions, or one for each.
        bias: whether the second convolution has a bias.
        mid_bias: whether the first one has.
        activation: between the two: None, ``"relu"``, ``"gelu"`` or ``"silu"``.
        order: ``"row_col"`` or ``"col_row"``.
        device: of the parameters.
        dtype: of the parameters.

    Shapes: (N, in_channels, H, W) to (N, out_channels, H', W'), or both without N; ``weight1``
    (mid_channels, in_channels / groups[0], 1, k) and ``weight2`` (out_channels, mid_channels /
    groups[1], k', 1), or with rows and columns exchanged; ``bias1`` (mid_channels,), ``bias2``
    (out_channels,), or None.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or channels don't divide by groups.

    Equivalent to: ``torch.nn.Sequential(Conv2d(in_channels, mid_channels, (1, k)), act,
    Conv2d(mid_channels, out_channels, (k, 1)))``, with the parts of the options.

    Example:
        >>> layer = FactorizedConv2d(3, 8, 7, stride=2, activation="relu")
        >>> layer(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 8, 16, 16])
        >>> layer
        FactorizedConv2d(3, 8, kernel_size=(7, 7), stride=(2, 2), padding=same, activation=relu)

    Source: Jaderberg, Vedaldi & Zisserman (2014), arXiv 1405.3866; Szegedy, Vanhoucke, Ioffe,
    Shlens & Wojna (2016), arXiv 1512.00567.
    """

    weight1: nn.Parameter
    weight2: nn.Parameter
    bias1: nn.Parameter | None
    bias2: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Two,
        *,
        mid_channels: int | None = None,
        stride: Two = 1,
        padding: Two | str = "same",
        dilation: Two = 1,
        groups: Two = 1,
        bias: bool = True,
        mid_bias: bool = False,
        activation: str | None = None,
        order: str = "row_col",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_flags(bias=bias, mid_bias=mid_bias)
        if order not in ORDERS:
            raise ValueError(f"`order` (={shown(order)}) must be one of {ORDERS}")
        self.order = order
        self.in_channels = _channels("in_channels", in_channels)
        self.out_channels = _channels("out_channels", out_channels)
        self.kernel_size = pair_of("kernel_size", kernel_size, least=1)
        self.activation = None if activation == "none" else activation
        self.options = self._make_options(stride, padding, dilation, groups)
        self.stride, (top, _, left, _), self.dilation, self.groups, _ = self.options
        self.padding = padding if isinstance(padding, str) else (top, left)
        if mid_channels is None:
            is_depthwise = self.groups[0] == self.in_channels > 1
            mid_channels = self.in_channels if is_depthwise else self.out_channels
        self.mid_channels = _channels("mid_channels", mid_channels)
        self._make_parameters(bias, mid_bias, {"device": device, "dtype": dtype})
        self.reset_parameters()

    def _make_options(self, stride: Any, padding: Any, dilation: Any, groups: Any) -> Options:
        is_same = isinstance(padding, str) and padding == "same"
        name = "none" if self.activation is None else self.activation
        plain = 0 if is_same else padding
        options = make_options(stride, plain, dilation, groups, name, self.kernel_size)
        if not is_same:
            return options
        return options._replace(padding=same_padding(self.kernel_size, options.dilation))

    def _make_parameters(self, bias: bool, mid_bias: bool, factory: dict[str, Any]) -> None:
        channels = (self.in_channels, self.mid_channels, self.out_channels)
        names = ("in_channels", "mid_channels", "out_channels")
        kernels = [(1, self.kernel_size[1]), (self.kernel_size[0], 1)]
        if self.order == "col_row":
            kernels.reverse()
        for i, has_bias in enumerate((mid_bias, bias)):
            groups = self.groups[i]
            for name, count in zip(names[i : i + 2], channels[i : i + 2], strict=True):
                if count % groups != 0:
                    raise ValueError(f"`{name}` (={count}) must divide by groups={groups}")
            shape = (channels[i + 1], channels[i] // groups, *kernels[i])
            weight = nn.Parameter(torch.empty(shape, **factory))
            self.register_parameter(f"weight{i + 1}", weight)
            bias_parameter = nn.Parameter(torch.empty(shape[0], **factory)) if has_bias else None
            self.register_parameter(f"bias{i + 1}", bias_parameter)

    def reset_parameters(self) -> None:
        """Draw both weights and biases anew, each as ``torch.nn.Conv2d`` draws its own."""
        for weight, bias in ((self.weight1, self.bias1), (self.weight2, self.bias2)):
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
            if bias is not None:
                bound = 1 / math.sqrt(weight[0].numel())
                nn.init.uniform_(bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        check_tensors(input=input)
        return run_pair(input, self.weight1, self.weight2, self.bias1, self.bias2, self.options)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        if self.mid_channels != self.out_channels:
            text += f", mid_channels={self.mid_channels}"
        text += f", stride={self.stride}, padding={self.padding}"
        shown_unless = {
            "dilation": (1, 1),
            "groups": (1, 1),
            "activation": None,
            "order": "row_col",
        }
        for name, default in shown_unless.items():
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        text += ", bias=False" if self.bias2 is None else ""
        return text + (", mid_bias=True" if self.bias1 is not None else "")

    @torch.no_grad()
    def to_dense(self) -> nn.Conv2d:
        """Return the one ``torch.nn.Conv2d`` that does what the pair does.

        Its weight is the sum of outer products, weight[o, i, v, h] = sum over m of
        column(v) * row(h). It has as many groups as the greatest common divisor of both.

        Raises:
            ValueError: no dense convolution does the same: there is an activation; a bias between
                the two meets the second one's padding; or a stride comes with uneven padding.

        Example:
            >>> layer = FactorizedConv2d(4, 6, (3, 5))
            >>> layer.to_dense()
            Conv2d(4, 6, kernel_size=(3, 5), stride=(1, 1), padding=(1, 2))
        """
        if self.activation is not None:
            raise ValueError(f"to_dense: no Conv2d has an activation inside ({self.activation!r})")
        row_first = self.order == "row_col"
        top, bottom, left, right = self.options.padding
        is_even = (top, left) == (bottom, right)
        if not is_even and self.stride != (1, 1):
            raise ValueError(
                f"to_dense: Conv2d has no uneven padding, {self.options.padding} (top, bottom, "
                f"left, right), with stride {self.stride}"
            )
        second_pads = top + bottom if row_first else left + right
        has_mid_bias = self.bias1 is not None and bool(self.bias1.any())
        if has_mid_bias and second_pads:
            raise ValueError(
                "to_dense: `bias1` makes the border differ from the inside, because the second "
                "convolution pads with zeros: no Conv2d does that"
            )
        wide = torch.promote_types(self.weight1.dtype, torch.float32)
        weight, groups = merge_weights(
            self.weight1.to(wide), self.weight2.to(wide), self.groups, row_first
        )
        conv: nn.Conv2d = skip_init(
            nn.Conv2d,
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            stride=self.stride,
            padding=(top, left) if is_even else "same",
            dilation=self.dilation,
            groups=groups,
            bias=has_mid_bias or self.bias2 is not None,
            device=self.weight1.device,
            dtype=self.weight1.dtype,
        )
        conv.weight.copy_(weight)
        if conv.bias is not None:
            conv.bias.zero_()
            if self.bias1 is not None:
                conv.bias += merge_bias(self.bias1, self.weight2, self.groups[1])
            if self.bias2 is not None:
                conv.bias += self.bias2
        conv.train(self.training)
        return conv

    @classmethod
    @torch.no_grad()
    def from_dense(cls, conv: nn.Conv2d, rank: int, *, order: str = "row_col") -> FactorizedConv2d:
        """Return the pair that is nearest to a convolution, of all with ``rank`` channels between.

        The nearest in the sum of squared differences of the weights, by a truncated SVD in
        float64; at full rank, min(C * k_first, K * k_second) with the channels of one group, the
        pair is exact.

        Args:
            conv: a convolution that pads with zeros, grouped or not.
            rank: channels between the two, per group, >= 1. A depthwise convolution stays
                depthwise at rank 1.
            order: ``"row_col"`` or ``"col_row"``.

        Raises:
            TypeError: ``conv`` is not a ``torch.nn.Conv2d``, or ``rank`` not an int.
            ValueError: ``rank`` is out of its range; ``conv`` pads with something else, or its
                weight is not finite, or a meta tensor without numbers.

        Example:
            >>> conv = torch.nn.Conv2d(8, 16, 3, padding=1)
            >>> layer = FactorizedConv2d.from_dense(conv, rank=24)  # full: min(8 * 3, 16 * 3)
            >>> image = torch.randn(1, 8, 5, 5)
            >>> torch.allclose(layer(image), conv(image), atol=1e-5)
            True

        Source: Tai, Xiao, Zhang, Wang & E (2016), arXiv 1511.06067.
        """
        if not isinstance(conv, nn.Conv2d) or isinstance(conv.weight, nn.UninitializedParameter):
            raise TypeError(f"`conv` must be an initialized torch.nn.Conv2d, got {shown(conv)}")
        if conv.padding_mode != "zeros":
            raise ValueError(f"`conv` must pad with zeros, got padding_mode={conv.padding_mode!r}")
        if conv.weight.is_meta or not conv.weight.isfinite().all():
            where = "on meta" if conv.weight.is_meta else "not finite"
            raise ValueError(f"`conv` must have a weight of finite numbers, but it is {where}")
        groups, rank = conv.groups, whole("rank", rank)
        full = full_rank(conv.weight, groups, order == "row_col")
        if not 1 <= rank <= full:
            raise ValueError(f"`rank` (={rank}) must be in 1 ... {full}, the full rank")
        layer = pair_like(conv, rank, order)
        first, second = split_weight(conv.weight.double().cpu(), groups, rank, order == "row_col")
        layer.weight1.copy_(first)
        layer.weight2.copy_(second)
        return layer


@torch.no_grad()
def pair_like(conv: nn.Conv2d, rank: int, order: str) -> FactorizedConv2d:
    """Return a pair with a convolution's options and bias, and weights that are yet to be filled.

    It has ``rank`` channels per group between the two.
    """
    padding: Any = 0 if conv.padding == "valid" else conv.padding
    layer: FactorizedConv2d = skip_init(
        FactorizedConv2d,
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        mid_channels=conv.groups * rank,
        stride=conv.stride,
        padding=padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=conv.bias is not None,
        order=order,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    if conv.bias is not None:
        cast(Tensor, layer.bias2).copy_(conv.bias)
    layer.train(conv.training)
    return layer


class MultiStripConv2d(nn.Module):
    """Add up depthwise row-and-column convolutions: :func:`multi_strip_conv2d` with parameters.

    With x the input, * the depthwise convolution, each padded to the input's size::

        output = x + sum over strips of ((x * weight1 + bias1) * weight2 + bias2)

    Args:
        channels: of input and output, >= 1.
        kernel_sizes: one for each strip: an int or (vertical, horizontal), >= 1, in pixels.
        bias: whether all convolutions have a bias.
        residual: whether x itself is one of the summands.
        device: of the parameters.
        dtype: of the parameters.

    Shapes: (N, channels, H, W), or without N, to the same. The parameters are those of the strips,
    which are :class:`FactorizedConv2d`: ``strips.0.weight1`` and so on.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or there is no strip.

    Example:
        >>> layer = MultiStripConv2d(16, kernel_sizes=(7, 11))
        >>> layer(torch.zeros(1, 16, 8, 8)).shape
        torch.Size([1, 16, 8, 8])
        >>> layer.strips[1].weight1.shape
        torch.Size([16, 1, 1, 11])

    Source: the attention of SegNeXt: Guo et al. (2022), arXiv 2209.08575, which has (7, 11, 21).
    """

    def __init__(
        self,
        channels: int,
        kernel_sizes: Sequence[Two] = (7, 11, 21),
        *,
        bias: bool = True,
        residual: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_flags(bias=bias, residual=residual)
        if not isinstance(kernel_sizes, tuple | list):
            raise TypeError(f"`kernel_sizes` must be a sequence, got {shown(kernel_sizes)}")
        if not kernel_sizes:
            raise ValueError("`kernel_sizes` must have at least one strip")
        self.channels = _channels("channels", channels)
        self.residual = residual
        self.strips = nn.ModuleList(
            FactorizedConv2d(
                channels,
                channels,
                kernel_size,
                groups=channels,
                bias=bias,
                mid_bias=bias,
                device=device,
                dtype=dtype,
            )
            for kernel_size in kernel_sizes
        )

    def reset_parameters(self) -> None:
        """Draw the parameters of all strips anew."""
        for strip in self._strips():
            strip.reset_parameters()

    def _strips(self) -> Iterable[FactorizedConv2d]:
        return cast(Iterable[FactorizedConv2d], self.strips)

    def forward(self, input: Tensor) -> Tensor:
        check_tensors(input=input)
        weights: list[Tensor] = []
        biases: list[Tensor | None] = []
        for strip in self._strips():
            weights += [strip.weight1, strip.weight2]
            biases += [strip.bias1, strip.bias2]
        return run_strips(input, weights, biases, self.residual)

    def extra_repr(self) -> str:
        return f"{self.channels}, residual={self.residual}"


def _channels(name: str, value: Any) -> int:
    count = whole(name, value)
    if count < 1:
        raise ValueError(f"`{name}` (={count}) must be >= 1")
    return count
