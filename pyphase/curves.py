"""Curves: how a value moves from the start of a phase to its end.

A curve is a pure function of the fraction f in [0, 1] of its phase. Step k of a phase of n steps
uses f = k/n: the first step gets ``start`` exactly, ``end`` is where the next phase takes over.
The closed forms are evaluated in double by the C++ core.

``start`` and ``end`` are numbers, or sequences with one number per parameter group.

The file is long because each of the ten curves has its equation, ranges and example beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeAlias

import numpy as np

from pyphase import _core
from pyphase.errors import PhaseError, check_fraction, check_number, check_positive, shown

__all__ = [
    "Constant",
    "Cosine",
    "Curve",
    "Exponential",
    "InverseSqrt",
    "Linear",
    "OneMinusSqrt",
    "Part",
    "Polynomial",
    "Rex",
    "Table",
]

Number: TypeAlias = float | tuple[float, ...]
Form: TypeAlias = tuple[int, float, float, float, list[float], float, float]


@dataclass(frozen=True)
class Curve:
    """Base class of the curves; make one of the subclasses.

    Calling a curve with a fraction in [0, 1] gives its value there: a float, or a tuple with one
    float per parameter group.
    """

    shape: ClassVar[int] = -1

    @property
    def width(self) -> int:
        """Number of parameter groups that the curve distinguishes; 1 serves any number."""
        return max(len(as_tuple(end)) for end in self.ends)

    @property
    def ends(self) -> tuple[Number, Number]:
        """The values at the fractions 0 and 1."""
        raise TypeError("Curve is a base class: use Constant, Linear, Cosine, ...")

    @property
    def param(self) -> float:
        """The one further parameter of the closed form."""
        return 0.0

    @property
    def knots(self) -> list[float]:
        """The samples of a table."""
        return []

    def forms(self) -> list[Form]:
        """Return the curve of each group as the C++ core takes it."""
        if self.shape < 0:
            raise TypeError(f"{type(self).__name__} has no closed form: use Table.sample")
        start, end = (as_tuple(value) for value in self.ends)
        pairs = zip(_spread(start, self.width), _spread(end, self.width), strict=True)
        return [(self.shape, s, e, self.param, self.knots, 0.0, 1.0) for s, e in pairs]

    def __call__(self, fraction: float) -> float | tuple[float, ...]:
        at = check_fraction("fraction", fraction)
        values = tuple(_core.evaluate(form, at) for form in self.forms())
        return values[0] if len(values) == 1 else values


class _Blend(Curve):
    """A curve with a start and an end that may differ from group to group."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name in ("start", "end", "value"):
                numbers = check_numbers(field.name, getattr(self, field.name))
                object.__setattr__(self, field.name, numbers)
        widths = {len(as_tuple(end)) for end in self.ends} - {1}
        if len(widths) > 1:
            raise PhaseError(
                f"`start` and `end` must name the same number of groups, got {sorted(widths)}"
            )

    @property
    def ends(self) -> tuple[Number, Number]:
        return self.start, self.end  # type: ignore[attr-defined]

    def _check_pairs(self, accepts: Callable[[float, float], bool], expected: str) -> None:
        for _, start, end, *_ in self.forms():
            if not accepts(start, end):
                raise PhaseError(f"{type(self).__name__} from {start} to {end}: {expected}")


@dataclass(frozen=True)
class Constant(_Blend):
    """Hold ``value``.

    Example:
        >>> Constant(0.1)(0.5)
        0.1
    """

    shape = 0
    value: Number

    @property
    def ends(self) -> tuple[Number, Number]:
        return self.value, self.value


@dataclass(frozen=True)
class Linear(_Blend):
    """Move in a straight line.

    v(f) = start + (end - start) * f

    Example:
        >>> Linear(1.0, 0.0)(0.25)
        0.75
        >>> Linear([1.0, 2.0])(0.5)
        (0.5, 1.0)
    """

    shape = 1
    start: Number
    end: Number = 0.0


@dataclass(frozen=True)
class Cosine(_Blend):
    """Move along half a cosine wave, flat at both ends.

    v(f) = end + (start - end)/2 * (1 + cos(pi f))

    Example:
        >>> round(Cosine(1.0, 0.0)(0.25), 6)
        0.853553

    Source: Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017.
    """

    shape = 2
    start: Number
    end: Number = 0.0


@dataclass(frozen=True)
class Exponential(_Blend):
    """Multiply by the same factor at every step.

    v(f) = start * (end/start)^f

    Raises:
        PhaseError: an end is 0, the ends differ in sign, or their ratio overflows.

    Example:
        >>> Exponential(1.0, 0.01)(0.5)
        0.1
    """

    shape = 3
    start: Number
    end: Number

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_pairs(_has_ratio, "both must be non-zero, of one sign, and end/start finite")


@dataclass(frozen=True)
class Polynomial(_Blend):
    """Decay with a power of what is left.

    v(f) = end + (start - end) * (1 - f)^power

    Args:
        power: > 0; 1 is a straight line, 0.9 is usual in segmentation.

    Example:
        >>> Polynomial(1.0, 0.0, power=2)(0.5)
        0.25

    Source: Chen et al., "DeepLab", 2017 (as the "poly" policy).
    """

    shape = 4
    start: Number
    end: Number = 0.0
    power: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "power", check_positive("power", self.power))

    @property
    def param(self) -> float:
        return self.power


@dataclass(frozen=True)
class OneMinusSqrt(_Blend):
    """Decay fast at first: the cooldown of warmup-stable-decay.

    v(f) = end + (start - end) * (1 - sqrt(f))

    Example:
        >>> OneMinusSqrt(1.0, 0.0)(0.25)
        0.5

    Source: Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training
    Durations", 2024.
    """

    shape = 5
    start: Number
    end: Number = 0.0


@dataclass(frozen=True)
class InverseSqrt(_Blend):
    """Decay with the inverse square root of the step.

    v(f) = start / sqrt(1 + f * ((start/end)^2 - 1))

    This is start/sqrt(1 + t/timescale) after t steps, with the last value given in place of the
    timescale: over n steps, end = start/sqrt(1 + n/timescale).

    Raises:
        PhaseError: an end is 0, the ends differ in sign, or (start/end)^2 overflows.

    Example:
        >>> InverseSqrt(1.0, 0.5)(1.0)
        0.5

    Source: Vaswani et al., "Attention Is All You Need", 2017.
    """

    shape = 6
    start: Number
    end: Number

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_pairs(
            lambda s, e: _has_ratio(s, e) and math.isfinite(s / e) and abs(s / e) < 1e150,
            "both must be non-zero, of one sign, and (start/end)^2 finite",
        )


@dataclass(frozen=True)
class Rex(_Blend):
    """Decay slowly at first, steeply at the end (reflected exponential).

    v(f) = end + (start - end) * (1 - f) / ((1 - beta) + beta (1 - f))

    Args:
        beta: in [0, 1); 0 is a straight line, 0.5 the paper's choice.

    Example:
        >>> round(Rex(1.0, 0.0)(0.5), 6)
        0.666667

    Source: Chen et al., "REX: Revisiting Budgeted Training with an Improved Schedule", 2022.
    """

    shape = 7
    start: Number
    end: Number = 0.0
    beta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "beta", check_fraction("beta", self.beta, closed=False))

    @property
    def param(self) -> float:
        return self.beta


@dataclass(frozen=True)
class Table(Curve):
    """Interpolate linearly between samples at equal distances over [0, 1].

    Args:
        values: at least two numbers, the first for f = 0, the last for f = 1.

    Equivalent to: ``numpy.interp(f, numpy.linspace(0, 1, len(values)), values)``.

    Example:
        >>> Table([0.0, 1.0, 0.0])(0.25)
        0.5
        >>> Table.sample(lambda f: f**2, num=5).values
        (0.0, 0.0625, 0.25, 0.5625, 1.0)
    """

    shape = 8
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        numbers = check_numbers("values", self.values)
        if not isinstance(numbers, tuple) or len(numbers) < 2:
            raise PhaseError(f"`values` (={shown(self.values)}) must hold at least 2 numbers")
        object.__setattr__(self, "values", numbers)

    @classmethod
    def sample(cls, function: Callable[[float], float], *, num: int = 1025) -> Table:
        """Return the table of ``function`` at ``num`` fractions from 0 to 1."""
        if not callable(function):
            raise TypeError(f"`function` must be callable, got {shown(function)}")
        if isinstance(num, bool) or not isinstance(num, int):
            raise TypeError(f"`num` must be an int, got {shown(num)}")
        if not 2 <= num <= 10**8:
            raise PhaseError(f"`num` (={num}) must be in [2, 1e8]")
        return cls(tuple(function(i / (num - 1)) for i in range(num)))

    @property
    def ends(self) -> tuple[Number, Number]:
        return self.values[0], self.values[-1]

    @property
    def knots(self) -> list[float]:
        return list(self.values)


@dataclass(frozen=True)
class Part(Curve):
    """Cover a part of another curve, as where a phase is cut in two.

    v(f) = curve(begin + (end - begin) * f)

    Args:
        curve: any other curve.
        begin, end: fractions of it, 0 <= begin < end <= 1.

    Example:
        >>> Part(Linear(0.0, 1.0), 0.5, 0.75)(0.0)
        0.5
    """

    curve: Curve
    begin: float
    end: float

    def __post_init__(self) -> None:
        if not isinstance(self.curve, Curve) or type(self.curve) in (Curve, _Blend, Part):
            raise TypeError(f"`curve` must be a curve other than Part, got {shown(self.curve)}")
        begin, end = check_fraction("begin", self.begin), check_fraction("end", self.end)
        if begin >= end:
            raise PhaseError(f"`begin` (={begin}) must be < `end` (={end})")
        object.__setattr__(self, "begin", begin)
        object.__setattr__(self, "end", end)

    @property
    def width(self) -> int:
        return self.curve.width

    @property
    def ends(self) -> tuple[Number, Number]:
        return self.curve(self.begin), self.curve(self.end)

    def forms(self) -> list[Form]:
        return [(*form[:5], self.begin, self.end) for form in self.curve.forms()]


def check_numbers(name: str, value: Any) -> Number:
    """Return a number as a float, a sequence (list, tuple, 1-d array or tensor) as a tuple."""
    try:
        if hasattr(value, "tolist") and not isinstance(value, np.generic):
            value = value.tolist()  # an array or a tensor
        is_one = not isinstance(value, Sequence) or isinstance(value, str | bytes | range)
        items = [] if is_one else list(value)
    except Exception as error:  # a tensor without data, or somebody's sequence
        raise TypeError(f"`{name}` must be a number or numbers, got {shown(value)}") from error
    if is_one:
        return check_number(name, value)
    if not items:
        raise PhaseError(f"`{name}` (={shown(value)}) must not be empty")
    return tuple(check_number(f"{name}[{i}]", item) for i, item in enumerate(items))


def as_tuple(value: Number) -> tuple[float, ...]:
    """Return one number as a tuple of it, several as they are."""
    return value if isinstance(value, tuple) else (value,)


def _spread(values: tuple[float, ...], width: int) -> tuple[float, ...]:
    return values * width if len(values) == 1 else values


def _has_ratio(start: float, end: float) -> bool:
    if start == 0 or end == 0 or (start > 0) != (end > 0):
        return False
    return math.isfinite(end / start) and math.isfinite(start / end)
