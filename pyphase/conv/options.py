"""The options of a pair of convolutions, from what a caller writes to plain numbers."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

from pyphase.errors import shown

__all__ = [
    "ACTIVATIONS",
    "Options",
    "check_options",
    "make_options",
    "pair_of",
    "same_padding",
    "whole",
]

ACTIVATIONS = ("none", "relu", "gelu", "silu")

MOST = 2**31 - 1  # of any number here

Two = tuple[int, int]
Four = tuple[int, int, int, int]


class Options(NamedTuple):
    """What a pair is besides its tensors, in the order of the registered ops' arguments."""

    stride: Two  # (vertical, horizontal)
    padding: Four  # (top, bottom, left, right)
    dilation: Two  # (vertical, horizontal)
    groups: Two  # of the first and of the second convolution
    activation: str


def make_options(
    stride: Any, padding: Any, dilation: Any, groups: Any, activation: Any, kernel_size: Two | None
) -> Options:
    """Return the options as numbers; ``kernel_size`` (vertical, horizontal) is for ``"same"``."""
    stride = pair_of("stride", stride, least=1)
    dilation = pair_of("dilation", dilation, least=1)
    if isinstance(padding, str):
        if padding != "same" or kernel_size is None:
            raise ValueError(f"`padding` (={shown(padding)}) must be numbers or 'same'")
        if stride != (1, 1):
            raise ValueError(
                f"padding='same' needs `stride` 1, as in torch's conv2d, got {stride}: "
                "give `padding` in numbers"
            )
        sides = same_padding(kernel_size, dilation)
    else:
        vertical, horizontal = pair_of("padding", padding, least=0)
        sides = (vertical, vertical, horizontal, horizontal)
    groups = pair_of("groups", groups, least=1, parts="one per convolution")
    return Options(stride, sides, dilation, groups, check_activation(activation))


def check_options(options: Options) -> Options:
    """Return an op's options, which come as lists of any length, or raise ValueError."""
    for name in ("stride", "padding", "dilation", "groups"):
        count, least = (4, 0) if name == "padding" else (2, 1)
        values: tuple[int, ...] = getattr(options, name)
        if len(values) != count or min(values) < least:
            raise ValueError(
                f"`{name}` (={shown(values)}) must be {count} whole numbers >= {least}"
            )
    check_activation(options.activation)
    return options


def check_activation(activation: Any) -> str:
    """Return the name of an activation, or raise."""
    if activation in ACTIVATIONS:  # an unhashable one is in no tuple either
        return str(activation)
    kind = ValueError if isinstance(activation, str) else TypeError
    raise kind(f"`activation` (={shown(activation)}) must be one of {ACTIVATIONS}")


def same_padding(kernel_size: Two, dilation: Two) -> Four:
    """Return (top, bottom, left, right) that keep the size: dilation * (kernel - 1) in all.

    The half of it that is rounded up goes to the end, as in torch.
    """
    vertical, horizontal = (d * (k - 1) for k, d in zip(kernel_size, dilation, strict=True))
    top, left = vertical // 2, horizontal // 2
    return top, vertical - top, left, horizontal - left


def pair_of(
    name: str, value: Any, *, least: int, parts: str = "(vertical, horizontal)"
) -> tuple[int, int]:
    """Return a whole number, or two, as two of at least ``least``."""
    if type(value) is int and least <= value <= MOST:  # most calls
        return value, value
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ValueError(f"`{name}` (={shown(value)}) must be an int or a pair, {parts}")
        first, second = whole(name, value[0]), whole(name, value[1])
    else:
        first = second = whole(name, value)
    if first < least or second < least:
        raise ValueError(f"`{name}` (={shown(value)}) must be >= {least}")
    if max(first, second) > MOST:
        raise ValueError(f"`{name}` (={shown(value)}) must be <= {MOST}")
    return first, second


def whole(name: str, value: Any) -> int:
    """Return an int as it is (a symbolic one too), a numpy integer as an int; a bool is neither."""
    if type(value) is int:
        return value
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(f"`{name}` must be a whole number, got {shown(value)}")
