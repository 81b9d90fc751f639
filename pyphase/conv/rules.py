"""The rules that choose ranks: one layer at a time, or over the whole model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pyphase.conv.clock import time_layers, time_models
from pyphase.conv.decompose import Decomposition
from pyphase.conv.layers import FactorizedConv2d, pair_like
from pyphase.conv.ranks import Choice, Shape, greedy, hull, ladder
from pyphase.conv.sites import Site
from pyphase.errors import shown

__all__ = [
    "Layer",
    "by_energy",
    "by_latency",
    "by_macs",
    "by_rank",
    "by_ratio",
    "by_score",
    "score",
    "with_pairs",
]

_EVERY = 1 << 30  # all ranks: their errors come with one SVD
_CALIBRATED = 24  # each rank costs a factorization of its own
_TIMED = 8  # each rank is timed
_ATTEMPTS = 4  # at a latency, as layers alone don't take the time that they take in a model


@dataclass
class Layer:
    """A convolution that may become a pair, and what it becomes."""

    site: Site
    shape: Shape
    fits: dict[str, Decomposition]
    multiple: int
    choice: Choice | None = None
    pairs: dict[tuple[str, int], tuple[FactorizedConv2d, float]] = field(default_factory=dict)

    def most(self, order: str, share: float = 1.0) -> int:
        """Return the highest rank that gains, in multiples, with at most this share of MACs."""
        most = min(self.shape.most(order, share), self.fits[order].full_rank)
        return most - most % self.multiple

    def at(self, order: str, rank: int) -> Choice:
        """Return the choice of a rank, its cost in MACs."""
        macs = rank * self.shape.macs_per_rank[order]
        return Choice(order, rank, macs, self.fits[order].error(rank))

    def best(self, ranks: dict[str, int]) -> Choice | None:
        """Return the choice with the least error of one rank per order; 0 is none."""
        found = [self.at(order, rank) for order, rank in ranks.items() if rank > 0]
        return min(found, key=lambda choice: (choice.error, choice.cost), default=None)

    def choices(self, steps: int) -> list[Choice]:
        """Return up to ``steps`` ranks per order that gain."""
        return [
            self.at(order, rank)
            for order in self.fits
            for rank in ladder(self.most(order), self.multiple, steps)
        ]

    def pair(self, choice: Choice) -> tuple[FactorizedConv2d, float]:
        """Return the layer for a choice, and its relative squared error."""
        key = choice.order, choice.rank
        if key not in self.pairs:
            first, second, error = self.fits[choice.order].pair(choice.rank)
            with torch.inference_mode(False), torch.no_grad():  # so that it can train later
                layer = pair_like(self.site.dense, choice.rank, choice.order)
                layer.weight1.copy_(first)
                layer.weight2.copy_(second)
            self.pairs[key] = layer, error
        return self.pairs[key]

    def no_gain(self) -> str:
        """Return why no rank serves."""
        order = min(self.shape.macs_per_rank, key=lambda key: self.shape.macs_per_rank[key])
        least = self.multiple * self.shape.macs_per_rank[order] / self.shape.macs
        return f"no gain: its lowest rank, {self.multiple}, has {least:.0%} of its MACs"

    def break_even(self) -> int:
        """Return the least rank at which neither order gains."""
        return max(self.shape.most(order) for order in self.fits) + 1


def with_pairs(model: nn.Module, layers: Sequence[Layer]) -> nn.Module:
    """Return a copy of the model in eval mode, with the layers' choices in place."""
    memo: dict[int, Any] = {}  # deepcopy takes what it finds here for a copy that it made already
    for layer in layers:
        if layer.choice is not None:
            memo[id(layer.site.conv)] = copy.deepcopy(layer.pair(layer.choice)[0])
            if layer.site.norm:
                memo[id(model.get_submodule(layer.site.norm[0]))] = nn.Identity()
    return copy.deepcopy(model, memo).eval()


def by_rank(layer: Layer, rank: int) -> str:
    """Take one rank; return why not, or ""."""
    layer.choice = layer.best({o: rank if rank <= layer.most(o) else 0 for o in layer.fits})
    return "" if layer.choice else f"no gain: its break-even rank is {layer.break_even()}"


def by_ratio(layer: Layer, ratio: float) -> str:
    """Take the highest rank with at most a share of the layer's MACs."""
    layer.choice = layer.best({order: layer.most(order, ratio) for order in layer.fits})
    return "" if layer.choice else layer.no_gain()


def by_energy(layer: Layer, energy: float) -> str:
    """Take the cheapest rank that keeps a share of the energy."""
    found = []
    for order, fit in layer.fits.items():
        low, high = 0, layer.most(order) // layer.multiple
        if high and fit.error(high * layer.multiple) <= 1 - energy:
            while high - low > 1:
                middle = (low + high) // 2
                if fit.error(middle * layer.multiple) <= 1 - energy:
                    high = middle
                else:
                    low = middle
            found.append(layer.at(order, high * layer.multiple))
    layer.choice = min(found, key=lambda choice: (choice.cost, choice.error), default=None)
    if layer.choice:
        return ""
    return f"no gain: energy {energy:g} needs its break-even rank, {layer.break_even()}, or more"


class _Path:
    """The greedy path of a model from dense to its cheapest, the least loss per cost first."""

    def __init__(
        self, layers: Sequence[Layer], costs: Sequence[float], choices: list[list[Choice]]
    ):
        self.layers, self.costs, self.choices = layers, costs, choices
        dense = [Choice("", 0, cost, 0.0) for cost in costs]
        self.moves = greedy([hull(*both) for both in zip(dense, choices, strict=True)])

    def take(self, count: int) -> None:
        """Set the layers' choices to those after some moves."""
        for layer in self.layers:
            layer.choice = None
        for move in self.moves[:count]:
            self.layers[move.layer].choice = move.choice

    def saved(self) -> float:
        """Return what the layers' choices save."""
        pairs = zip(self.costs, self.layers, strict=True)
        return sum(cost - layer.choice.cost for cost, layer in pairs if layer.choice)

    def save(self, wanted: float) -> float:
        """Go along the path until so much is saved, or to its end; return what is saved."""
        self.take(0)
        moved = []
        for move in self.moves:
            if self.saved() >= wanted:
                break
            self.layers[move.layer].choice = move.choice
            moved.append(move.layer)
        if self.saved() >= wanted:
            for index in reversed(moved):
                self._give_back(index, wanted)
        return self.saved()

    def _give_back(self, index: int, wanted: float) -> None:
        """Let a layer keep what the budget leaves it: choices off the hull too."""
        layer = self.layers[index]
        assert layer.choice is not None
        limit = layer.choice.cost + self.saved() - wanted
        fitting = [choice for choice in self.choices[index] if choice.cost <= limit]
        layer.choice = min(fitting, key=lambda c: (c.error, c.cost), default=layer.choice)


def by_macs(layers: Sequence[Layer], total: int, share: float, calibrated: bool) -> None:
    """Take the ranks of least error with at most a share of the model's MACs."""
    path = _macs_path(layers, calibrated)
    wanted = (1 - share) * total
    saved = path.save(wanted)
    if saved < wanted:
        raise ValueError(
            f"`macs` (={share:g}) is out of reach: with every layer at its lowest rank the model "
            f"has {1 - saved / total:.3g} of its MACs"
        )


def score(evaluate: Callable[[nn.Module], float], model: nn.Module) -> float:
    """Return what ``evaluate`` gives for a model, which must be a number."""
    found = evaluate(model)
    try:
        return float(found)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"`evaluate` must return a number, got {shown(found)}") from error


def by_score(
    model: nn.Module,
    layers: Sequence[Layer],
    evaluate: Callable[[nn.Module], float],
    max_drop: float,
    calibrated: bool,
) -> None:
    """Take the fewest MACs whose score falls by ``max_drop`` at most, by bisection of the path."""
    path = _macs_path(layers, calibrated)
    path.take(0)
    dense = score(evaluate, with_pairs(model, layers))
    if not math.isfinite(dense):
        raise ValueError(f"`max_drop` needs a finite score of the model, got {dense}")
    low, high = 0, len(path.moves) + 1
    while high - low > 1:
        middle = (low + high) // 2
        path.take(middle)
        if score(evaluate, with_pairs(model, layers)) >= dense - max_drop:
            low = middle
        else:
            high = middle
    path.take(low)


def by_latency(model: nn.Module, layers: Sequence[Layer], inputs: Any, share: float) -> None:
    """Take the ranks of least error with at most a share of the model's time, as measured."""
    costs, choices = [], []
    for layer in layers:
        tried = layer.choices(_TIMED)
        pairs = [_untrained(layer, choice) for choice in tried]
        dense, *took = time_layers(layer.site, [layer.site.dense, *pairs])
        costs.append(dense)
        choices.append([c._replace(cost=s) for c, s in zip(tried, took, strict=True)])
    path = _Path(layers, costs, choices)
    path.take(0)
    dense_model = with_pairs(model, layers)
    wanted = (1 - share) * time_models([dense_model], inputs)[0]
    found = 1.0
    for _ in range(_ATTEMPTS):
        saved = path.save(wanted)
        before, after = time_models([dense_model, with_pairs(model, layers)], inputs)
        found = min(found, after / before)
        if after <= share * before:
            return
        if saved < wanted:
            break
        wanted += 1.1 * (after - share * before)
    raise ValueError(
        f"`latency` (={share:g}) is out of reach: the fastest model found takes {found:.3g} of the "
        "time"
    )


def _macs_path(layers: Sequence[Layer], calibrated: bool) -> _Path:
    choices = [layer.choices(_CALIBRATED if calibrated else _EVERY) for layer in layers]
    return _Path(layers, [layer.shape.macs for layer in layers], choices)


def _untrained(layer: Layer, choice: Choice) -> FactorizedConv2d:
    """Return a pair of the choice's sizes to be timed."""
    pair = pair_like(layer.site.dense, choice.rank, choice.order)
    generator = torch.Generator(pair.weight1.device).manual_seed(0)
    for weight in (pair.weight1, pair.weight2):
        nn.init.normal_(weight, generator=generator)
    return pair
