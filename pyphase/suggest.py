"""Learning rates that an LR range test suggests, as in fastai 2."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["SUGGESTIONS", "minimum", "slide", "steep", "valley"]

Array = NDArray[np.float64]


def valley(lrs: Array, losses: Array) -> float:
    """Return the rate half way into the middle third of the longest valley.

    The valley is the longest decreasing subsequence of the losses (not of neighbours: noise
    between is jumped over); the point is 1/3 + 1/6 of its way.

    Source: fastai 2, ``suggest_funcs=valley`` (novetta, 2021).
    """
    count = len(losses)
    longest = np.ones(count, np.int64)
    for i in range(1, count):
        above = losses[:i] > losses[i]
        if above.any():
            longest[i] = longest[:i][above].max() + 1
    end = int(longest.argmax())
    start = end - int(longest[end])  # fastai's start, one before a valley without gaps
    section = (end - start) / 3
    return float(lrs[max(start + int(section) + int(section / 2), 0)])


def steep(lrs: Array, losses: Array) -> float:
    """Return the rate where the loss falls fastest over the logarithm of the rate."""
    slopes = np.diff(losses) / np.diff(np.log(lrs))
    return float(lrs[int(slopes.argmin())])


def minimum(lrs: Array, losses: Array) -> float:
    """Return a tenth of the rate with the lowest loss."""
    return float(lrs[int(losses.argmin())]) / 10


def slide(lrs: Array, losses: Array, *, distance: int = 15, threshold: float = 0.005) -> float:
    """Return the rate before the loss explodes.

    A pair of points ``distance`` apart slides down from the largest rates until their slopes
    differ by less than ``threshold``.

    Source: fastai 2, ``suggest_funcs=slide`` (A. Shah, 2020).
    """
    slopes = np.gradient(losses)
    right, left = len(losses) - 1, max(len(losses) - 1 - distance, 0)
    found = left
    while left >= 0 and abs(slopes[right] - slopes[left]) > threshold:
        found = left
        right, left = right - 1, left - 1
    return float(lrs[found])


SUGGESTIONS: dict[str, Callable[[Array, Array], float]] = {
    "valley": valley,
    "steep": steep,
    "minimum": minimum,
    "slide": slide,
}
