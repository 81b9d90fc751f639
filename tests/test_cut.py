"""Cutting a plan short: the step at which so many epochs are done."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyphase import PhaseError, Plan, TrainingPhase
from pyphase.cut import cut_position


def plan(*epochs, per_epoch=10):
    return Plan([TrainingPhase(length) for length in epochs], per_epoch)


@pytest.mark.parametrize(
    ("cut", "step"),
    [
        (None, 30),
        (0.01, 1),
        (0.5, 5),
        (1, 10),
        (1.01, 11),
        (2.99, 30),
        (3, 30),
        (99, 30),
        (np.float32(0.5), 5),
        ([1], 10),
        ([1, 0.5], 15),
        ((1, 1, 1), 30),
    ],
)
def test_position(cut, step):
    assert cut_position(plan(1.5, 1.5), cut) == step


def test_phases_of_other_epochs():
    """Two epochs: one and a half of 10 steps, half a one of 4."""
    long, short = range(10), range(4)
    two = Plan([TrainingPhase(1.5, data=long), TrainingPhase(3, data=short)])
    assert cut_position(two, 2) == 15 + 2
    assert cut_position(two, 1) == 10


def test_phases_in_steps_count_by_their_epochs():
    mixed = Plan([TrainingPhase(steps=25), TrainingPhase(1)], 10)
    assert cut_position(mixed, 1) == 10
    assert cut_position(mixed, 3) == 30
    with pytest.raises(PhaseError, match=r"phase 0: `cut` counts epochs.*unknown"):
        cut_position(Plan([TrainingPhase(steps=25)]), 1)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=6), st.integers(1, 40))
def test_a_cut_at_a_border_of_phases_is_that_border(eighths, per_epoch):
    per_epoch *= 8
    whole = plan(*[e / 8 for e in eighths], per_epoch=per_epoch)
    for index, (_, end) in enumerate(whole.spans):
        assert cut_position(whole, [e / 8 for e in eighths[: index + 1]]) == end


@pytest.mark.parametrize("cut", [0, -1, [], [1, 0], [1, -1], math.nan, math.inf])
def test_not_positive(cut):
    with pytest.raises(PhaseError, match="`cut"):
        cut_position(plan(1), cut)


@pytest.mark.parametrize("cut", ["1", True, ["1"], {}, 1j])
def test_not_a_number(cut):
    with pytest.raises(TypeError, match="`cut"):
        cut_position(plan(1), cut)
