"""The plan of a factorized model: what becomes of each layer, to look at, apply and undo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pyphase.conv.factor_table import LayerPlan, render
from pyphase.conv.layers import FactorizedConv2d
from pyphase.conv.sites import Site, has_hooks

__all__ = ["FactorPlan", "Swap"]


@dataclass
class Swap:
    """A site, the pair that takes its place, and the tensors that the pair was made from."""

    site: Site
    pair: FactorizedConv2d
    norm: nn.Module | None
    versions: list[tuple[int, int]]

    @classmethod
    def of(cls, model: nn.Module, site: Site, pair: FactorizedConv2d) -> Swap:
        """Return the swap of a site in its model as it is now."""
        norm = model.get_submodule(site.norm[0]) if site.norm else None
        return cls(site, pair, norm, _versions(site.conv, norm))

    def is_stale(self) -> bool:
        """Return whether the tensors have changed since, or something would now be lost."""
        trains = self.norm is not None and self.norm.training
        changed = _versions(self.site.conv, self.norm) != self.versions
        modules = filter(None, (self.site.conv, self.norm))
        return changed or trains or any(has_hooks(module) for module in modules)

    def follow(self) -> None:
        """Let the pair train what the convolution trains now."""
        conv = self.site.conv
        self.pair.requires_grad_(conv.weight.requires_grad)
        if conv.bias is not None and self.pair.bias2 is not None:
            self.pair.bias2.requires_grad_(conv.bias.requires_grad)

    def places(self, applied: bool) -> list[tuple[str, nn.Module, nn.Module]]:
        """Return (name, module that is there, module to put there)."""
        pairs: list[tuple[str, nn.Module, nn.Module]]
        pairs = [(name, self.site.conv, self.pair) for name in self.site.names]
        if self.norm is not None:
            pairs += [(name, self.norm, self._nothing) for name in self.site.norm]
        return [(name, new, old) if applied else (name, old, new) for name, old, new in pairs]

    def __post_init__(self) -> None:
        self._nothing = nn.Identity()


def _versions(*modules: nn.Module | None) -> list[tuple[int, int]]:
    tensors = [
        tensor
        for module in modules
        if module is not None
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
    ]
    return [(id(tensor), -1 if tensor.is_inference() else tensor._version) for tensor in tensors]


class FactorPlan:
    """What :func:`pyphase.conv.factorize` would make of a model; ``apply()`` makes it so.

    ``print(plan)`` shows the table.

    Attributes:
        layers: a :class:`LayerPlan` for each 2-D convolution: ``name``, ``reason`` where it is left
            alone, ``order``, ``rank``, and before and after: ``params``, ``macs``, ``ms``; the
            relative ``error`` and the ``energy`` kept, 1 - error^2.
        macs: multiplications of one forward pass with the example inputs, before and after, of the
            whole model.
        params: numbers in all parameters, before and after.
        ms: milliseconds of one forward pass in eval mode, before and after, or None if they were
            not measured.
        scores: what ``evaluate`` gave, before and after, or None without it.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 5, padding=2), torch.nn.ReLU())
        >>> from pyphase import conv
        >>> plan = conv.factorize(model, torch.zeros(1, 8, 9, 9), rank=6, order="row_col")
        >>> plan.apply()
        >>> model[0]
        FactorizedConv2d(8, 16, kernel_size=(5, 5), mid_channels=6, stride=(1, 1), padding=(2, 2))
        >>> plan.undo()
        >>> model[0]
        Conv2d(8, 16, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2))
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[LayerPlan],
        swaps: Sequence[Swap],
        macs: tuple[int, int],
        params: tuple[int, int],
        ms: tuple[float, float] | None,
        scores: tuple[float, float] | None,
        fits_outputs: bool,
    ) -> None:
        self.layers = tuple(layers)
        self.macs, self.params, self.ms, self.scores = macs, params, ms, scores
        self.applied = False
        self._model, self._swaps, self._fits_outputs = model, tuple(swaps), fits_outputs

    @property
    def ranks(self) -> dict[str, tuple[str, int]]:
        """The order and rank of each factorized layer, by name.

        As ``rank`` of :func:`pyphase.conv.factorize` they give another copy of the model the same
        layers, for a saved ``state_dict`` to be loaded into. JSON may hold them.
        """
        return {layer.name: (layer.order, layer.rank) for layer in self.layers if not layer.reason}

    def apply(self) -> None:
        """Put the pairs into the model, in place. The model's own modules are kept for ``undo``.

        Make the optimizer afterwards: the pairs' parameters are new.

        Raises:
            RuntimeError: it is applied already, or the model has changed since the plan was made;
                nothing is changed then.
        """
        if self.applied:
            raise RuntimeError("the plan is applied already")
        for swap in self._swaps:
            if swap.is_stale():
                raise RuntimeError(
                    f"{swap.site.name!r} has changed since the plan was made: factorize again"
                )
        for swap in self._swaps:
            swap.follow()
        self._swap("the plan was made")

    def undo(self) -> None:
        """Put the modules that ``apply`` replaced back, with the weights that they had.

        Raises:
            RuntimeError: it is not applied, or a pair is no longer where ``apply`` put it; nothing
                is changed then.
        """
        if not self.applied:
            raise RuntimeError("the plan is not applied")
        self._swap("the plan was applied")

    def _swap(self, since: str) -> None:
        places = [place for swap in self._swaps for place in swap.places(self.applied)]
        for name, there, _ in places:
            parent, _, leaf = name.rpartition(".")
            try:
                found = self._model.get_submodule(parent)._modules.get(leaf)
            except AttributeError:
                found = None
            if found is not there:
                raise RuntimeError(f"{name!r} is another module than when {since}")
        for name, there, new in places:
            parent, _, leaf = name.rpartition(".")
            _settle(new, there)
            self._model.get_submodule(parent)._modules[leaf] = new
        self.applied = not self.applied

    def __reduce__(self) -> str:
        raise TypeError("a plan belongs to its model and can't be copied: keep `plan.ranks`")

    def __repr__(self) -> str:
        return render(self, self._fits_outputs)


def _settle(new: nn.Module, there: nn.Module) -> None:
    """Give a module the mode, device and dtype of the one whose place it takes."""
    new.train(there.training)
    tensor: Any = next(there.parameters(), None)
    if isinstance(tensor, torch.Tensor):
        new.to(device=tensor.device, dtype=tensor.dtype)
