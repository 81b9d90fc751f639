"""The greedy path: hulls, moves in order, ladders of ranks; the decomposition by itself."""

import itertools
import math

import pytest
import torch
from torch import nn

from pyphase.conv.decompose import Decomposition
from pyphase.conv.ranks import Choice, greedy, hull, ladder


def choice(cost, error):
    return Choice("row_col", 1, cost, error)


DENSE = choice(10, 0.0)


def test_hull_leaves_out_what_lies_above_a_line():
    found = hull(DENSE, [choice(8, 0.5), choice(6, 0.3), choice(2, 0.6), choice(12, 0.0)])
    assert [own.cost for own in found] == [10, 6, 2]
    slopes = [(b.loss - a.loss) / (a.cost - b.cost) for a, b in itertools.pairwise(found)]
    assert slopes == sorted(slopes)


def test_greedy_takes_the_least_loss_per_cost():
    hulls = [
        hull(DENSE, [choice(5, 0.1), choice(1, 0.9)]),
        hull(DENSE, [choice(5, 0.2), choice(1, 0.3)]),
    ]
    moves = greedy(hulls)
    for count in range(len(moves) + 1):
        state = [DENSE, DENSE]
        for move in moves[:count]:
            state[move.layer] = move.choice
        cost = sum(own.cost for own in state)
        others = [
            sum(own.loss for own in pair)
            for pair in itertools.product(*hulls)
            if sum(own.cost for own in pair) <= cost
        ]
        assert sum(own.loss for own in state) == pytest.approx(min(others))


def test_loss_of_a_lost_layer_is_finite():
    assert math.isfinite(choice(1, 1.0).loss)


def test_ladder():
    assert ladder(5, 1, 8) == [1, 2, 3, 4, 5]
    assert ladder(3, 4, 8) == []
    long = ladder(1000, 8, 6)
    assert (long[0], long[-1], len(long)) == (8, 1000, 6)
    assert all(rank % 8 == 0 for rank in long)


@pytest.mark.parametrize("row_first", [True, False])
def test_outputs_are_fitted_better_than_by_any_truncation(row_first):
    """With all moments alike both fits are one; with unlike ones the output's is the better."""
    torch.manual_seed(0)
    weight = nn.Conv2d(4, 6, 3).weight.double()
    plain = Decomposition(weight, 1, row_first)
    white = Decomposition(weight, 1, row_first, torch.eye(36)[None])
    assert plain.error(4) == pytest.approx(white.error(4))
    assert plain.pair(4)[2] == pytest.approx(white.pair(4)[2])
    root = torch.randn(36, 36, dtype=torch.float64) * torch.logspace(0, -2, 36).double()
    moment = root @ root.T
    fitted = Decomposition(weight, 1, row_first, moment[None])

    def output_error(pair):
        first, second = (part.squeeze(2).squeeze(-1) for part in pair[:2])
        kind = "mih,omv->oivh" if row_first else "miv,omh->oivh"
        difference = (torch.einsum(kind, first, second) - weight).flatten(1)
        whole = weight.flatten(1)
        return (difference @ moment * difference).sum() / (whole @ moment * whole).sum()

    ours, theirs = output_error(fitted.pair(4)), output_error(plain.pair(4))
    assert ours < 0.7 * theirs
    assert fitted.pair(4)[2] <= fitted.error(4)
    assert fitted.error(fitted.full_rank) == 0
