"""A new part of a growing network, faded in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyphase.errors import check_fraction, shown

__all__ = ["FadeIn"]


class FadeIn(nn.Module):
    """Go over from one module to another: a network grows without a jump.

    With x the input::

        output = (1 - alpha) * old(x) + alpha * new(x)

    A phase drives alpha by ``values={fade.set_alpha: Linear(0, 1)}``. At 0 and at 1 the output is
    the old or the new module's exactly, if both are finite. Both are computed, so that a network
    puts ``fade.new`` in the place of the whole once alpha is 1.

    Args:
        old: what the network has had.
        new: what it grows into; its output has the shape of the old one's.
        alpha: share of the new one, in [0, 1]; a buffer, so that it is saved with the network.

    Shapes: those of both modules.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: ``alpha`` is outside of [0, 1], or the two outputs differ in shape.

    Example:
        >>> fade = FadeIn(torch.nn.Identity(), torch.nn.ReLU())
        >>> fade.set_alpha(0.25)
        >>> fade(torch.tensor([-4.0, 4.0]))
        tensor([-3.,  4.])

    Source: Karras, Aila, Laine & Lehtinen (2018), arXiv 1710.10196, figure 2.
    """

    alpha: Tensor

    def __init__(self, old: nn.Module, new: nn.Module, alpha: float = 0.0) -> None:
        super().__init__()
        for name, module in (("old", old), ("new", new)):
            if not isinstance(module, nn.Module):
                raise TypeError(f"`{name}` must be a torch.nn.Module, got {shown(module)}")
        self.old, self.new = old, new
        self.register_buffer("alpha", torch.tensor(check_fraction("alpha", alpha)))

    def set_alpha(self, value: float) -> None:
        """Set the share of the new module, in [0, 1]."""
        self.alpha.fill_(check_fraction("alpha", value))

    def forward(self, input: Tensor) -> Tensor:
        old: Tensor = self.old(input)
        new: Tensor = self.new(input)
        if old.shape != new.shape:
            raise ValueError(
                f"`old` and `new` must give the same shape, got {tuple(old.shape)} and "
                f"{tuple(new.shape)}"
            )
        return torch.lerp(old, new, self.alpha.to(new.dtype))
