"""The error of a wrong declaration, and the checks that raise it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = [
    "PhaseError",
    "check_flags",
    "check_fraction",
    "check_number",
    "check_positive",
    "check_whole",
    "shown",
]


class PhaseError(ValueError):
    """Report a wrong phase, plan or recipe: which field, its value, what was expected."""


def check_number(name: str, value: Any) -> float:
    """Return ``value`` as a finite float.

    Raises:
        TypeError: it is not a real number (a bool is not one).
        PhaseError: it is NaN or infinite.
    """
    not_numbers = bool | np.bool_ | np.timedelta64  # the last is a np.number
    if isinstance(value, not_numbers) or not isinstance(value, int | float | np.number):
        raise TypeError(f"`{name}` must be a number, got {shown(value)}")
    if isinstance(value, complex | np.complexfloating):
        raise TypeError(f"`{name}` must be a real number, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        raise PhaseError(f"`{name}` (={shown(value)}) must fit a float") from None
    if not math.isfinite(number):
        raise PhaseError(f"`{name}` (={shown(value)}) must be finite")
    return number


def check_flags(**flags: Any) -> None:
    """Raise TypeError for an argument that is not a bool."""
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"`{name}` must be a bool, got {shown(flag)}")


def check_positive(name: str, value: Any) -> float:
    """Return ``value`` as a finite float above 0, or raise as :func:`check_number` does."""
    number = check_number(name, value)
    if number <= 0:
        raise PhaseError(f"`{name}` (={shown(value)}) must be > 0")
    return number


def check_fraction(name: str, value: Any, *, closed: bool = True) -> float:
    """Return ``value`` as a float in [0, 1], or [0, 1) unless ``closed``."""
    number = check_number(name, value)
    if not 0 <= number <= 1 or (number == 1 and not closed):
        raise PhaseError(f"`{name}` (={shown(value)}) must be in [0, 1{']' if closed else ')'}")
    return number


def check_whole(name: str, value: Any, *, least: int = 1) -> int:
    """Return ``value`` as an int of at least ``least`` (and below 2**53, exact in a double)."""
    not_numbers = bool | np.bool_ | np.timedelta64  # the last is a np.integer
    if isinstance(value, not_numbers) or not isinstance(value, int | np.integer):
        raise TypeError(f"`{name}` must be an int, got {shown(value)}")
    if not least <= value < 2**53:
        raise PhaseError(f"`{name}` (={shown(value)}) must be >= {least} and < 2**53")
    return int(value)


def shown(value: Any) -> str:
    """Return a short ``repr`` for a message, whatever the value's own ``repr`` does."""
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}..."
