"""Recipes that fall from a peak, and the rising one of the range test."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from pyphase.curves import Constant, Cosine, Exponential, Linear, Rex, check_numbers
from pyphase.errors import (
    PhaseError,
    check_fraction,
    check_number,
    check_positive,
    check_whole,
    shown,
)
from pyphase.opt_fn import OptFn
from pyphase.phase import TrainingPhase
from pyphase.recipe_parts import (
    MAX_PHASES,
    Length,
    Piece,
    Values,
    check_below,
    check_choice,
    check_length,
    check_rate,
    make_curve,
    make_phases,
    per_group,
)

__all__ = ["flat_cosine", "lr_range_test", "rex", "step_decay"]


def flat_cosine(
    lr: Values,
    total_steps: int | None = None,
    *,
    epochs: float | None = None,
    pct_start: float = 0.75,
    div_final: float = 1e5,
    opt_fn: OptFn | None = None,
) -> list[TrainingPhase]:
    """Stay, then fall along half a cosine wave.

    The rate is lr for pct_start of the run; then, with f the fraction of the rest that is over,
    end + (lr - end)/2 * (1 + cos(pi f)) where end = lr / div_final.

    Args:
        lr: peak rate, >= 0; a list or array has one per parameter group.
        total_steps: length in steps, >= 1. The border between the phases is rounded up to a whole
            step.
        epochs: length in epochs, > 0, in place of ``total_steps``; may be a fraction.
        pct_start: share of the flat phase, in [0, 1].
        div_final: > 0.
        opt_fn: the optimizer of all phases; None is the one in use.

    Raises:
        PhaseError: a value is out of its range, or not one of ``total_steps`` and ``epochs`` is
            given.
        TypeError: an argument has the wrong type.

    Equivalent to: fastai 2's ``fit_flat_cos(epochs, lr)``, step by step where the border comes out
    whole in steps (fastai does not round it, and finds its position in float32): both are
    half-open.

    Example:
        >>> from pyphase import Plan
        >>> plan = Plan(flat_cosine(1.0, total_steps=8, pct_start=0.5))
        >>> [round(lr, 3) for lr in plan.table("lr")[:, 0].tolist()]
        [1.0, 1.0, 1.0, 1.0, 1.0, 0.854, 0.5, 0.146]

    Source: fastai 2 (Howard & Gugger, 2020).
    """
    length = check_length(total_steps, epochs)
    share, factor = check_fraction("pct_start", pct_start), check_positive("div_final", div_final)
    peak = check_rate("lr", lr)
    end = per_group(lambda lr, div: lr / div, lr=peak, div_final=factor)
    flat, rest = length.split(share, 1.0)
    pieces = [Piece("flat", flat, Constant(peak)), Piece("cosine", rest, Cosine(peak, end))]
    return make_phases(pieces, length.unit, opt_fn)


def rex(
    lr: Values,
    total_steps: int | None = None,
    *,
    epochs: float | None = None,
    min_lr: Values = 0.0,
    beta: float = 0.5,
    opt_fn: OptFn | None = None,
) -> list[TrainingPhase]:
    """Fall slowly at first, steeply at the end (reflected exponential).

    Step k of n trains with min_lr + (lr - min_lr) * g / ((1 - beta) + beta g), g = 1 - k/n.

    Args:
        lr: peak rate, >= 0; a list or array has one per parameter group.
        total_steps: length in steps, >= 1.
        epochs: length in epochs, > 0, in place of ``total_steps``; may be a fraction.
        min_lr: where the fall ends, in [0, lr]; a list or array has one per parameter group.
        beta: in [0, 1); 0 is a straight line, 0.5 the paper's choice, 0.9 that of axolotl's RexLR.
        opt_fn: the optimizer of the phase; None is the one in use.

    Raises:
        PhaseError: a value is out of its range, or not one of ``total_steps`` and ``epochs`` is
            given.
        TypeError: an argument has the wrong type.

    Equivalent to: the paper's profile (1 - p)/(1/2 + (1 - p)/2) at p = k/n, and with
    ``beta=0.9`` axolotl's ``RexLR`` without a warm-up: both are half-open and hold min_lr.

    Example:
        >>> from pyphase import Plan
        >>> [round(lr, 3) for lr in Plan(rex(1.0, total_steps=4)).table("lr")[:, 0].tolist()]
        [1.0, 0.857, 0.667, 0.4]

    Source: Chen et al., "REX: Revisiting Budgeted Training with an Improved Schedule", 2022.
    """
    length = check_length(total_steps, epochs)
    peak, low = check_rate("lr", lr), check_rate("min_lr", min_lr)
    check_below("min_lr", low, "lr", peak)
    return make_phases([Piece("rex", length.total, Rex(peak, low, beta))], length.unit, opt_fn)


def step_decay(
    lr: Values,
    *,
    step_size: float | None = None,
    milestones: Sequence[float] | None = None,
    gamma: float = 0.1,
    total_steps: int | None = None,
    epochs: float | None = None,
    opt_fn: OptFn | None = None,
) -> list[TrainingPhase]:
    """Multiply the rate by ``gamma`` every ``step_size``, or at each of ``milestones``.

    At time t the rate is lr * gamma^floor(t / step_size), or lr * gamma^m for m milestones <= t.

    Args:
        lr: first rate, >= 0; a list or array has one per parameter group.
        step_size: time between two decays, > 0. Its unit is that of the length: an int with
            ``total_steps``; with ``epochs`` it may be a fraction.
        milestones: increasing times inside the run, > 0, in place of ``step_size``.
        gamma: >= 0.
        total_steps: length in steps, >= 1.
        epochs: length in epochs, > 0, in place of ``total_steps``; may be a fraction.
        opt_fn: the optimizer of all phases; None is the one in use.

    Raises:
        PhaseError: a value is out of its range, not one of a pair is given, or there would be more
            than 10^5 phases.
        TypeError: an argument has the wrong type.

    Equivalent to: ``torch.optim.lr_scheduler.StepLR`` and ``MultiStepLR``, stepped once per step
    (``total_steps``) or once per epoch (``epochs``): step ``step_size`` is the first with
    lr * gamma. They have no end; here the last rate holds. They multiply the last rate once more,
    pyphase takes the power: the same to rounding.

    Example:
        >>> phases = step_decay(1.0, milestones=[3, 5], gamma=0.5, total_steps=8)
        >>> [(phase.steps, phase.lr.value) for phase in phases]
        [(3, 1.0), (2, 0.5), (3, 0.25)]
        >>> [phase.epochs for phase in step_decay(1.0, step_size=30, epochs=90)]
        [30.0, 30.0, 30.0]

    Source: He et al., "Deep Residual Learning for Image Recognition", 2016.
    """
    length = check_length(total_steps, epochs)
    peak, factor = check_rate("lr", lr), check_number("gamma", gamma)
    if factor < 0:
        raise PhaseError(f"`gamma` (={gamma}) must be >= 0")
    if (step_size is None) == (milestones is None):
        raise PhaseError(
            f"give one of `step_size` (={shown(step_size)}) and `milestones` (={shown(milestones)})"
        )
    inner = (
        _milestones(milestones, length)
        if step_size is None
        else _multiples(_check_time("step_size", step_size, length), length)
    )
    borders = [0.0, *inner, length.total]
    pieces = []
    for i, (begin, end) in enumerate(itertools.pairwise(borders)):
        rate = per_group(lambda lr, gamma, i=i: lr * gamma**i, lr=peak, gamma=factor)
        pieces.append(Piece(f"stage {i}", end - begin, Constant(rate)))
    return make_phases(pieces, length.unit, opt_fn)


def lr_range_test(
    start_lr: Values = 1e-7,
    end_lr: Values = 10.0,
    num_iter: int = 100,
    *,
    mode: str = "exp",
    opt_fn: OptFn | None = None,
) -> list[TrainingPhase]:
    """Raise the rate from far too low to far too high, to see where the loss falls fastest.

    Step k of n = num_iter trains with

    exp:    start_lr * (end_lr/start_lr)^(k/n)
    linear: start_lr + (end_lr - start_lr) * k/n

    Args:
        start_lr: first rate, >= 0 (> 0 for ``"exp"``); a list or array has one per parameter group.
        end_lr: rate at the end, >= start_lr; a list or array has one per parameter group.
        num_iter: length in steps, >= 1.
        mode: ``"exp"`` or ``"linear"``.
        opt_fn: the optimizer of the phase; None is the one in use.

    Raises:
        PhaseError: a value is out of its range.
        TypeError: an argument has the wrong type.

    Equivalent to: the rates of fastai 2's ``lr_find(start_lr, end_lr, num_it)``, step by step: it
    is half-open. pytorch-lr-finder is closed (k/(n - 1)) and trains its last step with end_lr: its
    run of n steps is ``num_iter=n - 1`` and one more step at the end's value.

    Example:
        >>> from pyphase import Plan
        >>> plan = Plan(lr_range_test(1e-4, 1.0, num_iter=4))
        >>> [round(lr, 5) for lr in plan.table("lr")[:, 0].tolist()]
        [0.0001, 0.001, 0.01, 0.1]

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks", 2017.
    """
    shapes: dict[str, type[Exponential] | type[Linear]] = {"exp": Exponential, "linear": Linear}
    shape = check_choice("mode", mode, shapes)
    low = check_rate("start_lr", start_lr, positive=mode == "exp")
    high = check_rate("end_lr", end_lr, positive=mode == "exp")
    check_below("start_lr", low, "end_lr", high)
    steps = check_whole("num_iter", num_iter)
    curve = make_curve(shape, low, high, "start_lr", "end_lr")
    return make_phases([Piece("range test", steps, curve)], "steps", opt_fn)


def _check_time(name: str, value: Any, length: Length) -> float:
    return check_whole(name, value) if length.unit == "steps" else check_positive(name, value)


def _multiples(step_size: float, length: Length) -> list[float]:
    if length.total > MAX_PHASES * step_size:
        raise PhaseError(
            f"`step_size` (={step_size}) is too short for {length.label}: "
            f"more than {MAX_PHASES} phases"
        )
    multiples = (i * step_size for i in range(1, MAX_PHASES + 1))
    # 3 * 0.1 epochs is not below 0.3: a sliver that rounding leaves is no phase.
    return [time for time in multiples if time < length.total * (1 - 1e-12)]


def _milestones(milestones: Any, length: Length) -> list[float]:
    if isinstance(check_numbers("milestones", milestones), float):
        raise TypeError(f"`milestones` must be a list of times, got {shown(milestones)}")
    if len(milestones) >= MAX_PHASES:
        raise PhaseError(f"`milestones` must be fewer than {MAX_PHASES}, got {len(milestones)}")
    times = [_check_time(f"milestones[{i}]", t, length) for i, t in enumerate(milestones)]
    if any(b <= a for a, b in zip(times, [*times[1:], length.total], strict=True)):
        raise PhaseError(
            f"`milestones` (={shown(milestones)}) must increase and be < {length.label}"
        )
    return times
