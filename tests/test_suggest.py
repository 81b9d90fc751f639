"""The suggestions against fastai 2's rules, written out as they were published."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyphase.suggest import SUGGESTIONS, minimum, slide, steep, valley


def fastai_valley(lrs, losses):
    n = len(losses)
    max_start, max_end = 0, 0
    lds = [1] * n
    for i in range(1, n):
        for j in range(i):
            if losses[i] < losses[j] and lds[i] < lds[j] + 1:
                lds[i] = lds[j] + 1
            if lds[max_end] < lds[i]:
                max_end = i
                max_start = max_end - lds[max_end]
    sections = (max_end - max_start) / 3
    return lrs[max_start + int(sections) + int(sections / 2)]


def fastai_slide(lrs, losses, lr_diff=15, thresh=0.005):
    grad = np.gradient(losses)
    right, left = -1, -1 - lr_diff
    found = lrs[left]
    while left >= -len(losses) and abs(grad[right] - grad[left]) > thresh:
        found = lrs[left]
        right, left = right - 1, left - 1
    return found


curves = st.lists(
    st.floats(0.01, 10, allow_subnormal=False), min_size=20, max_size=60, unique=True
).map(np.asarray)


@settings(max_examples=60, deadline=None)
@given(curves)
def test_rules_of_fastai(losses):
    lrs = np.geomspace(1e-7, 10, len(losses))
    assert valley(lrs, losses) == fastai_valley(lrs, losses)
    assert slide(lrs, losses) == fastai_slide(lrs, losses)
    assert minimum(lrs, losses) == lrs[losses.argmin()] / 10
    slopes = (losses[1:] - losses[:-1]) / (np.log(lrs[1:]) - np.log(lrs[:-1]))
    assert steep(lrs, losses) == lrs[slopes.argmin()]


@pytest.mark.parametrize("name", SUGGESTIONS)
def test_a_real_looking_curve(name):
    x = np.linspace(-7, 1, 85)
    losses = 2.3 - 1.8 / (1 + np.exp(-3 * (x + 3))) + np.exp(4 * (x - 0.5))
    assert 1e-7 < SUGGESTIONS[name](10**x, losses) < 1.0


@settings(max_examples=60, deadline=None)
@given(curves, st.integers(3, 60), st.floats(0.0, 1.0))
def test_valleys_that_begin_with_the_curve(losses, turn, noise):
    """Smoothed losses fall from the first point on, as those of an LR range test do."""
    falling = np.linspace(20, 10, len(losses)) + noise * 1e-2 * losses
    falling[turn:] += np.arange(len(falling[turn:]))
    lrs = np.geomspace(1e-7, 10, len(losses))
    assert valley(lrs, falling) == fastai_valley(lrs, falling)
    assert slide(lrs, falling) == fastai_slide(lrs, falling)


@pytest.mark.parametrize("count", range(2, 20))
@pytest.mark.parametrize("rises", [True, False])
def test_fault_few_points(count, rises):
    """fastai's valley of two points is the last rate of all, its slide of 15 an IndexError."""
    lrs = np.geomspace(1e-4, 1, count)
    losses = np.linspace(1, 2, count) if rises else np.linspace(2, 1, count)
    for rule in SUGGESTIONS.values():
        assert lrs[0] / 10 <= rule(lrs, losses) <= lrs[-1]
    assert valley(lrs, losses) <= lrs[count // 2]
