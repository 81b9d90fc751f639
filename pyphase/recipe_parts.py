"""What the recipes share: checks of their arguments, lengths, and pieces that become phases."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from numpy.typing import NDArray

from pyphase import _core
from pyphase.curves import Curve, Exponential, InverseSqrt, Linear, Number, as_tuple, check_numbers
from pyphase.errors import PhaseError, check_fraction, check_positive, check_whole, shown
from pyphase.opt_fn import OptFn
from pyphase.phase import TrainingPhase

__all__ = [
    "MAX_PHASES",
    "Length",
    "Piece",
    "Values",
    "check_below",
    "check_choice",
    "check_groups",
    "check_length",
    "check_momentum",
    "check_rate",
    "check_warmup",
    "make_curve",
    "make_phases",
    "per_group",
    "warm_up",
]

# A number, or a list or array with one number per parameter group.
Values: TypeAlias = float | Sequence[float] | NDArray[Any]
T = TypeVar("T")

# A recipe refuses to make more: a larger number is a mistyped length.
MAX_PHASES = 100_000


@dataclass(frozen=True)
class Piece:
    """One stretch of a recipe; its length is in the recipe's unit and may be 0."""

    name: str
    length: float
    lr: Curve
    momentum: Curve | None = None


@dataclass(frozen=True)
class Length:
    """A total in whole steps, or in epochs (fractions allowed)."""

    total: float
    unit: str

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"`{'total_steps' if self.unit == 'steps' else self.unit}` (={self.total})"

    def split(self, *ends: float) -> list[float]:
        """Return the lengths of parts that end at these fractions of the total.

        Borders in steps are rounded up as a plan rounds them, so that a total in steps and the
        same total in epochs make the same plan.
        """
        borders = [0.0, *(end * self.total for end in ends)]
        if self.unit == "steps":
            borders = [min(float(_core.phase_ends([b])[0]), self.total) for b in borders]
        return [end - begin for begin, end in itertools.pairwise(borders)]


def make_phases(pieces: Iterable[Piece], unit: str, opt_fn: OptFn | None) -> list[TrainingPhase]:
    """Return one phase per piece; pieces without length are left out.

    Raises:
        PhaseError: no piece has a length.
    """
    phases = [
        TrainingPhase(
            epochs=piece.length if unit == "epochs" else None,
            steps=int(piece.length) if unit == "steps" else None,
            opt_fn=opt_fn,
            lr=piece.lr,
            momentum=piece.momentum,
            name=piece.name,
        )
        for piece in pieces
        if piece.length
    ]
    if not phases:
        raise PhaseError("no phase of the recipe has a length > 0")
    return phases


def make_curve(
    shape: type[Exponential] | type[InverseSqrt] | type[Linear],
    start: Number,
    end: Number,
    *names: str,
) -> Curve:
    """Return the curve, or name the arguments that it does not suit."""
    try:
        return shape(start, end)
    except PhaseError as error:
        raise PhaseError(f"{', '.join(f'`{name}`' for name in names)}: {error}") from None


def warm_up(lr: Number, num_warmup_steps: int) -> Piece:
    """Return the rise from 0 to ``lr`` in a straight line."""
    return Piece("warm-up", num_warmup_steps, Linear(0.0, lr))


def check_length(total_steps: Any, epochs: Any) -> Length:
    """Return the length that exactly one of the two arguments gives."""
    if (total_steps is None) == (epochs is None):
        raise PhaseError(
            f"give one of `total_steps` (={shown(total_steps)}) and `epochs` (={shown(epochs)})"
        )
    if epochs is not None:
        return Length(check_positive("epochs", epochs), "epochs")
    return Length(check_whole("total_steps", total_steps), "steps")


def check_warmup(num_warmup_steps: Any, num_training_steps: Any) -> tuple[int, int]:
    """Return the steps of the warm-up and those that follow it."""
    warmup = check_whole("num_warmup_steps", num_warmup_steps, least=0)
    total = check_whole("num_training_steps", num_training_steps)
    if warmup > total:
        raise PhaseError(
            f"`num_warmup_steps` (={warmup}) must be <= `num_training_steps` (={total})"
        )
    return warmup, total - warmup


def check_rate(name: str, value: Any, *, positive: bool = False) -> Number:
    """Return a learning rate, or one per parameter group: >= 0, or > 0 if ``positive``."""
    numbers = _check_values(name, value)
    if min(as_tuple(numbers)) < 0 or (positive and 0 in as_tuple(numbers)):
        raise PhaseError(f"`{name}` (={shown(value)}) must be {'> 0' if positive else '>= 0'}")
    return numbers


def check_momentum(name: str, value: Any) -> Number:
    """Return a momentum in [0, 1), or one per parameter group."""
    numbers = _check_values(name, value)
    for number in as_tuple(numbers):
        check_fraction(name, number, closed=False)
    return numbers


def check_below(name: str, low: Number, other: str, high: Number) -> None:
    """Raise unless ``low`` <= ``high`` in every group."""
    differences = per_group(lambda low, high: high - low, **{name: low, other: high})
    if min(as_tuple(differences)) < 0:
        raise PhaseError(f"`{name}` (={shown(low)}) must be <= `{other}` (={shown(high)})")


def check_choice(name: str, value: Any, choices: Mapping[str, T]) -> T:
    """Return what a word stands for."""
    if not isinstance(value, str):
        raise TypeError(f"`{name}` must be one of {list(choices)}, got {shown(value)}")
    if value not in choices:
        raise PhaseError(f"`{name}` (={shown(value)}) must be one of {list(choices)}")
    return choices[value]


def check_groups(**arguments: Number) -> int:
    """Return the number of parameter groups that the arguments name, one number serving any."""
    widths = {name: len(as_tuple(value)) for name, value in arguments.items()}
    width = max(widths.values())
    if any(own not in (1, width) for own in widths.values()):
        counts = ", ".join(f"`{name}` names {own}" for name, own in widths.items())
        raise PhaseError(f"the number of parameter groups must be the same: {counts}")
    return width


def per_group(function: Callable[..., float], **arguments: Number) -> Number:
    """Return ``function`` of the arguments, in their order, for each parameter group.

    Raises:
        PhaseError: two arguments name different numbers of groups, or a result is not finite.
    """
    width = check_groups(**arguments)
    columns = (as_tuple(value) for value in arguments.values())
    rows = zip(*(c * width if len(c) == 1 else c for c in columns), strict=True)
    results = tuple(_finite(function, row, arguments) for row in rows)
    return results if any(isinstance(v, tuple) for v in arguments.values()) else results[0]


def _finite(
    function: Callable[..., float], row: tuple[float, ...], arguments: Mapping[str, Number]
) -> float:
    try:
        result = function(*row)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        given = ", ".join(f"`{name}` (={shown(value)})" for name, value in arguments.items())
        raise PhaseError(f"{given}: the schedule's values must be finite, got {result}")
    return result


def _check_values(name: str, value: Any) -> Number:
    if isinstance(value, tuple):
        raise TypeError(
            f"`{name}` must be a number, or a list or array with one per parameter group "
            f"(a tuple means (start, end) in a phase), got {shown(value)}"
        )
    return check_numbers(name, value)
