"""Slow oracles that share no code with the package.

Every curve takes the step and the number of steps as whole numbers, so that f = k/n and its
complement g = (n - k)/n are both exact to a rounding of the wide type, and combines the ends with
two weights that are each free of cancellation. In 80-bit long doubles the result is good to about
1e-18 of the value for ends of one sign, however far apart they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction

import numpy as np

Wide = np.longdouble

_PI = Wide("3.14159265358979323846264338327950288")


def _f_g(step, num_steps):
    step, num_steps = Wide(step), Wide(num_steps)
    return step / num_steps, (num_steps - step) / num_steps


def constant(start, end, step, num_steps, param=None):
    return Wide(start) + 0 * Wide(step)


def linear(start, end, step, num_steps, param=None):
    f, g = _f_g(step, num_steps)
    return Wide(start) * g + Wide(end) * f


def cosine(start, end, step, num_steps, param=None):
    """(1 + cos(pi f))/2 = sin^2(pi g/2) and (1 - cos(pi f))/2 = sin^2(pi f/2)."""
    f, g = _f_g(step, num_steps)
    return Wide(start) * np.sin(_PI / 2 * g) ** 2 + Wide(end) * np.sin(_PI / 2 * f) ** 2


def exponential(start, end, step, num_steps, param=None):
    f, g = _f_g(step, num_steps)
    sign = 1 if start > 0 else -1
    return sign * np.exp(np.log(Wide(abs(start))) * g + np.log(Wide(abs(end))) * f)


def polynomial(start, end, step, num_steps, power=1.0):
    """1 - g^p by expm1, with log(g) from whichever of f and g is the smaller."""
    f, g = _f_g(step, num_steps)
    with np.errstate(divide="ignore"):
        log_g = np.where(f < 0.5, np.log1p(-f), np.log(g))
        rest = -np.expm1(Wide(power) * log_g)
    return Wide(start) * g ** Wide(power) + Wide(end) * rest


def one_minus_sqrt(start, end, step, num_steps, param=None):
    """1 - sqrt(f) = g / (1 + sqrt(f))."""
    f, g = _f_g(step, num_steps)
    return Wide(start) * g / (1 + np.sqrt(f)) + Wide(end) * np.sqrt(f)


def inverse_sqrt(start, end, step, num_steps, param=None):
    """1/v^2 moves in a straight line from 1/start^2 to 1/end^2."""
    f, g = _f_g(step, num_steps)
    sign = 1 if start > 0 else -1
    return sign / np.sqrt(g / Wide(start) ** 2 + f / Wide(end) ** 2)


def rex(start, end, step, num_steps, beta=0.5):
    f, g = _f_g(step, num_steps)
    beta = Wide(beta)
    scale = (1 - beta) + beta * g
    return Wide(start) * g / scale + Wide(end) * (1 - beta) * f / scale


def table(knots, step, num_steps):
    """Linear interpolation, with the place among the knots found in whole numbers."""
    numerator = int(step) * (len(knots) - 1)
    left, rest = divmod(numerator, int(num_steps))
    if rest == 0:
        return Wide(knots[left])
    weight = Wide(rest) / Wide(num_steps)
    return Wide(knots[left]) * (1 - weight) + Wide(knots[left + 1]) * weight


CURVES: dict[str, Callable] = {
    "Constant": constant,
    "Linear": linear,
    "Cosine": cosine,
    "Exponential": exponential,
    "Polynomial": polynomial,
    "OneMinusSqrt": one_minus_sqrt,
    "InverseSqrt": inverse_sqrt,
    "Rex": rex,
}


def boundaries(lengths: Iterable[Fraction]) -> list[int]:
    """Cumulative lengths in steps, rounded up; within 1e-6 of a whole number they are that."""
    ends, total = [], Fraction(0)
    for length in lengths:
        total += length
        nearest = round(total)
        noise = Fraction(1, 10**6) + total / 10**15
        ends.append(nearest if abs(total - nearest) <= noise else math.ceil(total))
    return ends


def relative_error(value, expected, scale=None):
    """Largest distance in units of ``scale`` (the expected value unless given)."""
    expected = np.asarray(expected, dtype=Wide)
    scale = np.abs(expected) if scale is None else Wide(scale)
    distance = np.abs(np.asarray(value, dtype=Wide) - expected)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.max(np.where(distance == 0, Wide(0), distance / scale)))
