"""When a loss counts as diverging."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyphase.apply.divergence import DivergenceCheck, smooth

quick = settings(deadline=None, derandomize=True, max_examples=60)


def first_alarm(losses, check=None):
    """Return the index of the loss that raises the alarm, and what it says."""
    check = DivergenceCheck() if check is None else check
    for index, loss in enumerate(losses):
        reason = check(loss)
        if reason is not None:
            return index, reason
    return None


def weighted_mean(losses, beta):
    """s_k as a plain weighted mean: loss j of k has the weight beta^(k - j)."""
    weights = [beta ** (len(losses) - 1 - j) for j in range(len(losses))]
    return math.fsum(w * x for w, x in zip(weights, losses, strict=True)) / math.fsum(weights)


@quick
@given(st.lists(st.floats(-100, 100), max_size=40), st.sampled_from([0.0, 0.5, 0.98]))
def test_smoothing_is_a_weighted_mean(losses, beta):
    expected = [weighted_mean(losses[: k + 1], beta) for k in range(len(losses))]
    assert smooth(losses, beta) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 5, 30])
def test_a_loss_that_is_not_finite_is_said_at_once(loss, at):
    assert first_alarm([1.0] * at + [loss]) == (at, f"the loss is {loss}")


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_four_times_the_best_is_the_limit(scale):
    """Without smoothing: 4.0 is not over the limit, a little more is."""
    losses = [3.0 * scale] * 5 + [1.0 * scale] + [2.0 * scale, 3.999 * scale, 4.001 * scale]
    check = DivergenceCheck(beta=0.0, patience=0)
    index, reason = first_alarm(losses, check)
    assert index == 8
    assert reason.startswith("the smoothed loss is ")
    assert reason.endswith(f"its best of this phase was {scale:.4g}")


def test_a_rise_counts_after_the_patience():
    assert first_alarm([1.0, *[100.0] * 10], DivergenceCheck(beta=0.0)) is None
    assert first_alarm([1.0] * 11 + [100.0], DivergenceCheck(beta=0.0))[0] == 11
    assert first_alarm([1.0, 100.0], DivergenceCheck(beta=0.0, patience=0))[0] == 1


def test_one_bad_batch_is_smoothed_away():
    assert first_alarm([1.0] * 50 + [20.0] + [1.0] * 50) is None
    assert first_alarm([1.0] * 50 + [20.0] * 50) is not None


@pytest.mark.parametrize("seed", range(5))
def test_a_noisy_way_from_one_to_minus_five_is_no_divergence(seed):
    noise = random.Random(seed)
    losses = [1 - 6 * min(k / 200, 1) + noise.gauss(0, 1) for k in range(400)]
    assert first_alarm(losses) is None


@pytest.mark.parametrize("best", [-5.0, -0.01, 0.01])
def test_a_negative_loss_that_diverges_is_found(best):
    losses = [1 - (1 - best) * k / 100 for k in range(101)] + [-1e-9]
    assert first_alarm(losses) is None
    rising = losses + [best + 2.0**k for k in range(30)]
    assert first_alarm(rising)[0] > 101


def test_negative_losses_that_stay_are_no_divergence():
    assert first_alarm([-3.0] * 100) is None
    assert first_alarm([-100.0 - k for k in range(100)]) is None


@quick
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=40), st.integers(0, 39))
def test_its_state_decides_the_rest(losses, cut):
    whole, again = DivergenceCheck(patience=3), DivergenceCheck(patience=3)
    answers = [whole(loss) for loss in losses]
    part = DivergenceCheck(patience=3)
    for loss in losses[:cut]:
        part(loss)
    again.load_state_dict(part.state_dict())
    assert [again(loss) for loss in losses[cut:]] == answers[cut:]
    assert again.state_dict() == (whole.state_dict())
