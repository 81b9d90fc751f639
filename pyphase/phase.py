"""A training phase: how long, which optimizer, which values, which data.

A quarter of the file is the table of fields, the reference of the package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypeAlias

from pyphase.curves import (
    Constant,
    Cosine,
    Curve,
    Exponential,
    Linear,
    Part,
    Polynomial,
    Table,
    check_numbers,
)
from pyphase.errors import PhaseError, check_flags, check_positive, check_whole, shown
from pyphase.opt_fn import OptFn, bound, check_opt_fn

__all__ = ["DecayType", "Key", "TrainingPhase"]

# What a track sets: an entry of the parameter groups, or a function that takes the value.
Key: TypeAlias = str | Callable[[float], Any]


class DecayType(IntEnum):
    """How a value of a phase moves from its start to its end, numbered as in fastai 0.7."""

    NO = 1
    LINEAR = 2
    COSINE = 3
    EXPONENTIAL = 4
    POLYNOMIAL = 5


class _Default(float):
    """A default number, told apart from the same number that somebody wrote."""


_ONE_EPOCH = _Default(1)
_DEFAULT_LR = _Default(1e-2)

# Entries of parameter groups that mean the same in every torch optimizer: betas in [0, 1), the
# others >= 0. An optimizer checks them in its constructor only.
_RANGED = ("betas", "weight_decay", "eps")

OPT_STATES = ("fresh", "keep", "map")


@dataclass(frozen=True, eq=False)
class TrainingPhase:
    """Declare one phase of a training run.

    Step k of the n steps of the phase uses each value at the fraction k/n:

    ======================= =====================================================
    ``DecayType.NO``        start
    ``LINEAR``              start + (end - start) * k/n
    ``COSINE``              end + (start - end)/2 * (1 + cos(pi * k/n))
    ``EXPONENTIAL``         start * (end/start)^(k/n)
    ``(POLYNOMIAL, power)`` end + (start - end) * (1 - k/n)^power
    ======================= =====================================================

    A value is a number; a tuple ``(start, end)``; a list or array with one number per parameter
    group (discriminative values); a tuple of two such; or a curve of :mod:`pyphase.curves`. With a
    decay and no end, the value goes to 0.

    Args:
        epochs: length in epochs of the phase's data, > 0; may be a fraction. Phases end at the
            cumulative length in steps, rounded up.
        opt_fn: ``opt_fn(params, lr=...) -> Optimizer``. None is the optimizer in use; where there
            is none yet, ``torch.optim.SGD``. Two are the same optimizer if their class and their
            bound keywords are the same.
        lr: learning rate, >= 0.
        lr_decay: a :class:`DecayType`, or ``(DecayType.POLYNOMIAL, power)``.
        momentum: in [0, 1). It goes to ``momentum``, or to ``betas[0]`` where the optimizer has
            betas. None leaves the optimizer's own (0.9 for an SGD that pyphase builds).
        momentum_decay: as ``lr_decay``.
        beta: in [0, 1). It goes to ``betas[1]``, or to RMSprop's ``alpha``. None leaves the
            optimizer's own.
        wds: weight decay, >= 0, constant over the phase; a list has one per group. None leaves the
            optimizer's own.
        wd_loss: True hands ``wds`` to the optimizer as its ``weight_decay``. False decouples it,
            for any optimizer: p <- p - lr * wd * p before the step (Loshchilov & Hutter, 2019).
        steps: length in optimizer steps, in place of ``epochs``.
        samples: length in samples, in place of ``epochs``; the plan needs a ``batch_size``.
        values: further values: ``{key: curve}``. A key is an entry of the parameter groups
            (``"eps"``, ``"betas.1"``), or a function that is called with each step's value
            (dropout, label smoothing, fade-in, image size).
        data: a loader, or a function without arguments that makes one when the phase is entered.
        opt_state: what happens to the optimizer's state where this phase changes the optimizer:
            ``"fresh"``, ``"keep"`` (same class, other keywords) or ``"map"`` (momentum buffers and
            step counts translated).
        name: shown in tables, plots and messages.
        on_enter: called once with the running loop when the phase starts.

    Raises:
        PhaseError: a value is out of its range, an exponential has no end, a polynomial has no
            power, an end is given without a decay, or more than one length is given.
        TypeError: an argument has the wrong type.

    Example:
        >>> warm = TrainingPhase(epochs=1, lr=(1e-3, 1e-2), lr_decay=DecayType.LINEAR)
        >>> cool = TrainingPhase(epochs=2.5, lr=1e-2, lr_decay=DecayType.COSINE, momentum=0.9)
        >>> cool.tracks["lr"]
        Cosine(start=0.01, end=0.0)

    Source: fastai 0.7's training phases (Gugger, 2018).
    """

    epochs: float | None = _ONE_EPOCH
    opt_fn: OptFn | None = None
    lr: Any = _DEFAULT_LR
    lr_decay: Any = DecayType.NO
    momentum: Any = None
    momentum_decay: Any = DecayType.NO
    beta: Any = None
    wds: Any = None
    wd_loss: bool = True
    steps: int | None = field(default=None, kw_only=True)
    samples: int | None = field(default=None, kw_only=True)
    values: Mapping[Key, Any] | None = field(default=None, kw_only=True)
    data: Any = field(default=None, kw_only=True)
    opt_state: str = field(default="fresh", kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    on_enter: Callable[[Any], Any] | None = field(default=None, kw_only=True)
    tracks: dict[Key, Curve] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.name is not None and not isinstance(self.name, str):
            raise TypeError(f"TrainingPhase: `name` must be a str, got {shown(self.name)}")
        try:
            self._check_length()
            self._check_objects()
            object.__setattr__(self, "tracks", self._make_tracks())
        except (PhaseError, TypeError) as error:
            label = "TrainingPhase" if self.name is None else f"phase {self.name!r}"
            raise type(error)(f"{label}: {error}") from None

    def _check_length(self) -> None:
        if self.epochs is _ONE_EPOCH and (self.steps is not None or self.samples is not None):
            object.__setattr__(self, "epochs", None)
        lengths = {"epochs": self.epochs, "steps": self.steps, "samples": self.samples}
        given = {name: value for name, value in lengths.items() if value is not None}
        if len(given) != 1:
            raise PhaseError(f"give one of `epochs`, `steps` and `samples`, got {shown(given)}")
        if self.epochs is not None:
            epochs = check_positive("epochs", self.epochs)
            if self.epochs is not _ONE_EPOCH:
                object.__setattr__(self, "epochs", epochs)
        for unit in ("steps", "samples"):
            if given.get(unit) is not None:
                object.__setattr__(self, unit, check_whole(unit, given[unit]))

    def _check_objects(self) -> None:
        check_opt_fn(self.opt_fn)
        if self.opt_fn is not None and "lr" in bound(self.opt_fn)[2]:
            raise PhaseError("`opt_fn` binds `lr`; give it as the phase's `lr`")
        check_flags(wd_loss=self.wd_loss)
        if not isinstance(self.opt_state, str) or self.opt_state not in OPT_STATES:
            raise PhaseError(f"`opt_state` (={shown(self.opt_state)}) must be one of {OPT_STATES}")
        if self.on_enter is not None and not callable(self.on_enter):
            raise TypeError(f"`on_enter` must be callable, got {shown(self.on_enter)}")
        check_data(self.data)

    def _make_tracks(self) -> dict[Key, Curve]:
        tracks: dict[Key, Curve] = {"lr": parse_value("lr", self.lr, self.lr_decay)}
        if self.momentum is not None:
            tracks["momentum"] = parse_value("momentum", self.momentum, self.momentum_decay)
        elif _parse_decay("momentum", self.momentum_decay)[0] is not DecayType.NO:
            raise PhaseError("`momentum_decay` is given, but `momentum` is None")
        if self.beta is not None:
            tracks["beta"] = _parse_constant("beta", self.beta)
        if self.wds is not None:
            tracks["weight_decay"] = _parse_constant("wds", self.wds)
        for key, curve in tracks.items():
            _check_range(str(key), curve)
        if self.wds is not None and not self.wd_loss:
            tracks["decoupled_weight_decay"] = tracks["weight_decay"]
            tracks["weight_decay"] = Constant(0.0)
        return tracks | self._parse_values(tracks)

    def _parse_values(self, taken: Mapping[Key, Curve]) -> dict[Key, Curve]:
        if self.values is None:
            return {}
        try:
            items = list(self.values.items()) if isinstance(self.values, Mapping) else None
        except Exception:  # somebody's mapping
            items = None
        if items is None:
            raise TypeError(f"`values` must be a dict of key: curve, got {shown(self.values)}")
        parsed: dict[Key, Curve] = {}
        for key, value in items:
            _check_key(key, taken)
            curve = parse_value(f"values[{shown(key)}]", value, DecayType.NO)
            if callable(key) and curve.width > 1:
                raise PhaseError(f"values[{shown(key)}]: a function takes one value, not a list")
            if isinstance(key, str) and key.partition(".")[0] in _RANGED:
                _check_range(key, curve, f"values[{key!r}]")
            parsed[key] = curve
        return parsed


def check_data(data: Any) -> None:
    """Raise TypeError unless ``data`` is None, a loader, a pair of loaders, or makes one."""
    is_loader = hasattr(data, "__iter__") or hasattr(data, "trn_dl")
    if isinstance(data, str | bytes) or not (data is None or callable(data) or is_loader):
        raise TypeError(
            "`data` must be a loader, a (training, validation) pair of loaders, an object with "
            f"trn_dl and val_dl, or a function that makes one of these, got {shown(data)}"
        )


def parse_value(name: str, value: Any, decay: Any) -> Curve:
    """Return the curve that a value and its decay declare."""
    kind, power = _parse_decay(name, decay)
    if isinstance(value, Curve):
        if kind is not DecayType.NO:
            raise PhaseError(f"`{name}` is a curve already; leave `{name}_decay` at DecayType.NO")
        value.forms()  # a bare Curve, or a foreign subclass, raises here
        return value
    has_end = isinstance(value, tuple)
    if has_end and len(value) != 2:
        raise PhaseError(
            f"`{name}` (={shown(value)}) must be (start, end); "
            "one value per parameter group is a list or an array"
        )
    start, end = value if has_end else (value, 0.0)
    start, end = check_numbers(name, start), check_numbers(name, end)
    if kind is DecayType.NO:
        if has_end:
            raise PhaseError(
                f"`{name}` (={shown(value)}) has an end, but no decay leads to it: "
                "give a DecayType other than NO, or a curve such as Linear(start, end)"
            )
        return Constant(start)
    if kind is DecayType.EXPONENTIAL and not has_end:
        raise PhaseError(f"`{name}` (={shown(value)}): an exponential needs (start, end)")
    if kind is DecayType.POLYNOMIAL:
        return Polynomial(start, end, power)
    shapes: dict[DecayType, Callable[[Any, Any], Curve]] = {
        DecayType.LINEAR: Linear,
        DecayType.COSINE: Cosine,
        DecayType.EXPONENTIAL: Exponential,
    }
    try:
        return shapes[kind](start, end)
    except PhaseError as error:
        raise PhaseError(f"`{name}` (={shown(value)}): {error}") from None


def _parse_constant(name: str, value: Any) -> Curve:
    if isinstance(value, tuple):
        raise PhaseError(
            f"`{name}` (={shown(value)}) is constant over a phase: give a number, or a list with "
            "one per parameter group"
        )
    return Constant(check_numbers(name, value))


def _parse_decay(name: str, decay: Any) -> tuple[DecayType, float]:
    power: Any = None
    if isinstance(decay, tuple) and len(decay) == 2:
        decay, power = decay
        if decay is not DecayType.POLYNOMIAL:
            raise PhaseError(f"`{name}_decay`: only DecayType.POLYNOMIAL takes a power")
    if not isinstance(decay, DecayType):
        raise TypeError(
            f"`{name}_decay` must be a DecayType or (DecayType.POLYNOMIAL, power), "
            f"got {shown(decay)}"
        )
    if decay is not DecayType.POLYNOMIAL:
        return decay, 1.0
    if power is None:
        raise PhaseError(f"`{name}_decay`: give (DecayType.POLYNOMIAL, power)")
    return decay, check_positive(f"{name}_decay[1]", power)


def _check_range(name: str, curve: Curve, called: str | None = None) -> None:
    below_one = name in ("momentum", "beta") or name.startswith("betas.")
    limit = 1.0 if below_one else float("inf")
    curve = curve.curve if isinstance(curve, Part) else curve
    numbers = curve.values if isinstance(curve, Table) else curve.ends
    for number in numbers:
        for item in number if isinstance(number, tuple) else (number,):
            if not 0 <= item < limit:
                field_name = called or ("wds" if name == "weight_decay" else name)
                expected = "in [0, 1)" if limit == 1 else ">= 0"
                raise PhaseError(f"`{field_name}` (={item}) must be {expected}")


def _check_key(key: Any, taken: Mapping[Key, Curve]) -> None:
    own = {"lr": "lr", "momentum": "momentum", "betas.0": "momentum", "beta": "beta"}
    if callable(key):
        return
    if not isinstance(key, str):
        raise TypeError(f"`values`: a key is a str or a function, got {shown(key)}")
    name, _, element = key.partition(".")
    if key in own:
        raise PhaseError(f"`values`: {key!r} has an argument of its own, `{own[key]}`")
    if key in taken or (key == "betas.1" and "beta" in taken):
        raise PhaseError(f"`values`: {key!r} is set by `wds` or `beta` already")
    if name in ("params", "") or ("." in key and not _is_index(element)):
        raise PhaseError(f"`values`: {key!r} must be 'key' or 'key.index', such as 'betas.1'")


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdecimal() and (text == "0" or text[0] != "0")
