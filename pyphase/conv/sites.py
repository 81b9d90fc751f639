"""The convolutions of a model: which may become pairs, and why the others may not."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyphase.errors import shown

__all__ = ["Call", "Site", "find_sites", "has_hooks", "has_numbers"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Call(NamedTuple):
    """What a convolution was called with, (N, C, H, W), and the sizes that came out."""

    shape: tuple[int, ...]
    channels_last: bool
    dtype: torch.dtype
    device: torch.device
    height: int  # of the output
    width: int


@dataclass
class Site:
    """A 2-D convolution in a model, under all the names that it has there.

    Attributes:
        names: dotted, as in ``named_modules``; the first one stands for the site.
        conv: the model's own module.
        reason: why it is left alone; "" where it may be factorized.
        dense: what is to be factorized: ``conv``, or ``conv`` with its batch norm folded in.
        norm: the batch norm's names, where it is folded.
        calls: one for each call in a forward pass.
        moment: second moments of the input patches, (groups, d, d), where outputs are fitted.
    """

    names: list[str]
    conv: nn.Conv2d
    reason: str = ""
    dense: nn.Conv2d = field(init=False)
    norm: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    moment: Tensor | None = None

    def __post_init__(self) -> None:
        self.dense = self.conv

    @property
    def name(self) -> str:
        return self.names[0]


def find_sites(model: nn.Module, ignore: Collection[str], grouped: bool) -> list[Site]:
    """Return all 2-D convolutions of a model, each with the reason where it is left alone.

    Args:
        model: any module.
        ignore: names of convolutions, or of modules that hold some, to leave alone.
        grouped: whether grouped convolutions may be factorized.
    """
    found: dict[int, Site] = {}
    names = set()
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.add(name)
        if isinstance(module, nn.Conv2d):
            found.setdefault(id(module), Site([], module)).names.append(name)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(type(module).__name__)
    for name in ignore:
        if name not in names:
            raise ValueError(f"`ignore`: the model has no module {shown(name)}")
    if "" in (name for site in found.values() for name in site.names):
        raise ValueError("`model` is itself a Conv2d: use FactorizedConv2d.from_dense(model, rank)")
    for site in found.values():
        is_shared = any(len(owners[id(p)]) > 1 for p in site.conv.parameters(recurse=False))
        if any(
            name in ("", own) or own.startswith(f"{name}.") for own in site.names for name in ignore
        ):
            site.reason = "ignored"
        else:
            site.reason = _reason(site.conv, grouped, is_shared)
    return list(found.values())


def _reason(conv: nn.Conv2d, grouped: bool, is_shared: bool) -> str:
    kernel = "x".join(str(k) for k in conv.kernel_size)
    if type(conv) is not nn.Conv2d:
        return f"{type(conv).__name__} may compute something else than Conv2d"
    if conv.kernel_size == (1, 1):
        return "1x1: there is nothing to split"
    if 1 in conv.kernel_size:
        return f"{kernel}: it is a row or a column already"
    if conv.groups > 1 and not grouped:
        return f"grouped ({conv.groups}): `grouped` is False"
    if conv.padding_mode != "zeros":
        return f"pads with {conv.padding_mode!r}, not with zeros"
    if has_hooks(conv):
        return "has hooks or a forward of its own, which would be lost"
    if is_shared:
        return "shares a parameter with another module"
    if conv.weight.is_meta or not conv.weight.is_floating_point():
        return f"its weight is {conv.weight.dtype} on {conv.weight.device}"
    return "" if has_numbers(conv.weight) else "its weight is zero or not finite"


def has_numbers(weight: Tensor) -> bool:
    """Return whether a weight has a shape to be near to: finite, and not all zeros."""
    return bool(weight.isfinite().all() and weight.any())


def has_hooks(module: nn.Module) -> bool:
    """Return whether anything looks on, or steps in, when the module itself is called."""
    return any(getattr(module, name) for name in _HOOKS) or "forward" in vars(module)
