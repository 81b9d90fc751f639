"""Ranks: what a layer may become, and the rules that choose one for each layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pyphase.conv.sites import Site

__all__ = ["ORDERS", "Choice", "Move", "Shape", "greedy", "hull", "ladder"]

ORDERS = ("row_col", "col_row")


class Choice(NamedTuple):
    """A layer as a pair: in which order, of which rank, at what cost."""

    order: str
    rank: int
    cost: float  # MACs of all calls, or seconds
    error: float  # relative and squared: ||change||^2 / ||whole||^2

    @property
    def loss(self) -> float:
        """-log of the energy kept: a model's losses add up, and no layer is given up for a sum."""
        return -math.log(max(1 - self.error, 1e-300))


class Shape(NamedTuple):
    """What a layer's MACs follow from."""

    macs: int  # of the dense convolution, over all calls
    macs_per_rank: dict[str, int]  # by order

    @classmethod
    def of(cls, site: Site) -> Shape:
        """Return the shape of a site that was called."""
        conv = site.dense
        out, into, height, width = conv.weight.shape
        positions = 0
        weights = {"row_col": conv.groups * (into * width), "col_row": conv.groups * into * height}
        seconds = {"row_col": out * height, "col_row": out * width}
        per_rank = dict.fromkeys(ORDERS, 0)
        for call in site.calls:
            count, _, in_height, in_width = call.shape
            outputs = count * call.height * call.width
            positions += outputs
            between = {
                "row_col": count * in_height * call.width,
                "col_row": count * call.height * in_width,
            }
            for order in ORDERS:
                per_rank[order] += between[order] * weights[order] + outputs * seconds[order]
        return cls(macs=positions * conv.weight.numel(), macs_per_rank=per_rank)

    def most(self, order: str, share: float = 1.0) -> int:
        """Return the highest rank with fewer MACs than the convolution, at most this share."""
        if share < 1:
            return int(share * self.macs / self.macs_per_rank[order])
        return math.ceil(self.macs / self.macs_per_rank[order]) - 1


def ladder(most: int, multiple: int, steps: int) -> list[int]:
    """Return up to ``steps`` multiples up to ``most``, the highest among them, near in ratio."""
    top = most // multiple
    if top <= steps:
        return [multiple * i for i in range(1, top + 1)]
    ratio = top ** (1 / (steps - 1))
    return sorted({multiple * round(ratio**i) for i in range(steps)})


def hull(dense: Choice, choices: Iterable[Choice]) -> list[Choice]:
    """Return the choices below every line between two others, from the dearest to the cheapest.

    It begins with the dense layer: along it, loss per saved cost only grows.
    """
    ordered = sorted(choices, key=lambda choice: (-choice.cost, choice.error))
    kept = [dense]
    for choice in ordered:
        if choice.cost >= dense.cost:
            continue
        while len(kept) > 1 and _slope(kept[-2], choice) <= _slope(kept[-2], kept[-1]):
            kept.pop()
        if choice.cost < kept[-1].cost:
            kept.append(choice)
    return kept


class Move(NamedTuple):
    """A step of the greedy path: a layer goes on to a cheaper choice."""

    layer: int
    choice: Choice
    slope: float  # loss added per cost saved


def greedy(hulls: Sequence[Sequence[Choice]]) -> list[Move]:
    """Return all steps from the dense model to its cheapest, the least loss per cost first.

    The slopes along a hull only grow, so sorting them is the greedy choice at every step, and
    each point of the path has the least loss of all choices from the hulls at its cost.
    """
    moves = [
        Move(layer, after, _slope(before, after))
        for layer, choices in enumerate(hulls)
        for before, after in itertools.pairwise(choices)
    ]
    return sorted(moves, key=lambda move: move.slope)


def _slope(before: Choice, after: Choice) -> float:
    saved = before.cost - after.cost
    return (after.loss - before.loss) / saved if saved > 0 else math.inf
