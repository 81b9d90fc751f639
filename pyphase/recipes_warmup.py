"""Recipes with a warm-up, counted in steps: the schedules that transformers knows by name.

The file is long because each of the five has its formula, ranges and conventions beside it.
"""

from __future__ import annotations

import math

from pyphase.curves import (
    Constant,
    Cosine,
    Curve,
    Exponential,
    InverseSqrt,
    Linear,
    OneMinusSqrt,
    Polynomial,
)
from pyphase.errors import PhaseError, check_fraction, check_positive, check_whole, shown
from pyphase.opt_fn import OptFn
from pyphase.phase import TrainingPhase
from pyphase.recipe_parts import (
    Piece,
    Values,
    check_below,
    check_choice,
    check_rate,
    check_warmup,
    make_curve,
    make_phases,
    per_group,
    warm_up,
)

__all__ = ["inverse_sqrt", "polynomial_decay", "warmup_cosine", "warmup_linear", "wsd"]


def warmup_cosine(
    lr: Values,
    num_warmup_steps: int,
    num_training_steps: int,
    *,
    min_lr: Values = 0.0,
    opt_fn: OptFn | None = None,
) -> list[TrainingPhase]:
    """Rise in a straight line, then fall along half a cosine wave.

    With W = num_warmup_steps and T = num_training_steps, step t trains with

    t < W: lr * t/W
    else:  min_lr + (lr - min_lr)/2 * (1 + cos(pi (t - W)/(T - W)))

    Args:
        lr: peak rate, >= 0; a list or array has one per parameter group.
        num_warmup_steps: steps of the warm-up, >= 0.
        num_training_steps: steps of the whole run, >= 1 and >= num_warmup_steps.
        min_lr: where the fall ends, in [0, lr]; a list or array has one per parameter group.
        opt_fn: the optimizer of all phases; None is the one in use.

    Raises:
        PhaseError: a value is out of its range.
        TypeError: an argument has the wrong type.

    Equivalent to: transformers' ``get_cosine_schedule_with_warmup`` (``"cosine"``) and
    ``"cosine_with_min_lr"``, and without a warm-up ``CosineAnnealingLR(T_max=T, eta_min=min_lr)``,
    step by step for t <= T: all are half-open. After step T all of these rise again; here min_lr
    holds.

    Example:
        >>> from pyphase import Plan
        >>> plan = Plan(warmup_cosine(1.0, num_warmup_steps=2, num_training_steps=6))
        >>> [round(lr, 3) for lr in plan.table("lr")[:, 0].tolist()]
        [0.0, 0.5, 1.0, 0.854, 0.5, 0.146]

    Source: Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017;
    warm-up: Goyal et al., "Accurate, Large Minibatch SGD", 2017.
    """
    warmup, rest = check_warmup(num_warmup_steps, num_training_steps)
    peak, low = check_rate("lr", lr), check_rate("min_lr", min_lr)
    check_below("min_lr", low, "lr", peak)
    pieces = [warm_up(peak, warmup), Piece("cosine", rest, Cosine(peak, low))]
    return make_phases(pieces, "steps", opt_fn)


def warmup_linear(
    lr: Values,
    num_warmup_steps: int,
    num_training_steps: int,
    *,
    min_lr: Values = 0.0,
    opt_fn: OptFn | None = None,
) -> list[TrainingPhase]:
    """Rise and fall in straight lines.

    With W = num_warmup_steps and T = num_training_steps, step t trains with

    t < W: lr * t/W
    else:  lr + (min_lr - lr) * (t - W)/(T - W)

    Args:
        lr: peak rate, >= 0; a list or array has one per parameter group.
        num_warmup_steps: steps of the warm-up, >= 0.
        num_training_steps: steps of the whole run, >= 1 and >= num_warmup_steps.
        min_lr: where the fall ends, in [0, lr]; a list or array has one per parameter group.
        opt_fn: the optimizer of all phases; None is the one in use.

    Raises:
        PhaseError: a value is out of its range.
        TypeError: an argument has the wrong type.

    Equivalent to: transformers' ``get_linear_schedule_with_warmup`` (``"linear"``), and without a
    warm-up torch's ``LinearLR(start_factor=1, end_factor=min_lr/lr, total_iters=T)``, step by step,
    past the end of the fall too: both are half-open and hold the last value. Without a fall
    (W = T) lr holds here, while transformers drops to 0.

    Example:
        >>> from pyphase import Plan
        >>> plan = Plan(warmup_linear(1.0, num_warmup_steps=2, num_training_steps=6))
        >>> [round(lr, 3) for lr in plan.table("lr")[:, 0].tolist()]
        [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]

    Source: Devlin et al., "BERT", 2019; to zero: Bergsma et al., "Straight to Zero", 2025.
    """
    warmup, rest = check_warmup(num_warmup_steps, num_training_steps)
    peak, low = check_rate("lr", lr), check_rate("min_lr", min_lr)
    check_below("min_lr", low, "lr", peak)
    pieces = [warm_up(peak, warmup), Piece("linear", rest, Linear(peak, low))]
    return make_phases(pieces, "steps", opt_fn)


def polynomial_decay(
    lr: Values,
    num_warmup_steps: int,
    num_training_steps: int,
    *,
    power: float = 1.0,
    lr_end: Values = 0.0,
    opt_fn: OptFn | None = None,
) -> list[TrainingPhase]:
    """Rise in a straight line, then fall with a power of what is left.

    With W = num_warmup_steps and T = num_training_steps, step t trains with

    t < W: lr * t/W
    else:  lr_end + (lr - lr_end) * (1 - (t - W)/(T - W))^power

    Args:
        lr: peak rate, >= 0; a list or array has one per parameter group.
        num_warmup_steps: steps of the warm-up, >= 0.
        num_training_steps: steps of the whole run, >= 1 and >= num_warmup_steps.
        power: > 0.
        lr_end: where the fall ends, in [0, lr]; a list or array has one per parameter group.
            transformers' default is 1e-7.
        opt_fn: the optimizer of all phases; None is the one in use.

    Raises:
        PhaseError: a value is out of its range.
        TypeError: an argument has the wrong type.

    Equivalent to: transformers' ``get_polynomial_decay_schedule_with_warmup`` (``"polynomial"``),
    and without a warm-up and ``lr_end`` torch's ``PolynomialLR(total_iters=T, power=power)``, step
    by step, past the end of the fall too: both are half-open and hold the last value.

    Example:
        >>> from pyphase import Plan
        >>> plan = Plan(polynomial_decay(1.0, 1, 5, power=2.0))
        >>> [round(lr, 4) for lr in plan.table("lr")[:, 0].tolist()]
        [0.0, 1.0, 0.5625, 0.25, 0.0625]

    Source: Chen et al., "DeepLab", 2017 (as the "poly" policy).
    """
    warmup, rest = check_warmup(num_warmup_steps, num_training_steps)
    peak, low = check_rate("lr", lr), check_rate("lr_end", lr_end)
    check_below("lr_end", low, "lr", peak)
    curve = Polynomial(peak, low, check_positive("power", power))
    pieces = [warm_up(peak, warmup), Piece("polynomial", rest, curve)]
    return make_phases(pieces, "steps", opt_fn)


def inverse_sqrt(
    lr: Values,
    num_warmup_steps: int,
    *,
    num_training_steps: int,
    timescale: int | None = None,
    opt_fn: OptFn | None = None,
) -> list[TrainingPhase]:
    """Rise in a straight line, then fall with the inverse square root of the step.

    With W = num_warmup_steps, step t trains with

    t < W: lr * t/W
    else:  lr / sqrt(1 + (t - W)/timescale)

    Args:
        lr: peak rate, > 0; a list or array has one per parameter group.
        num_warmup_steps: steps of the warm-up, >= 0.
        num_training_steps: steps of the whole run, >= 1 and >= num_warmup_steps. It sets where the
            phase ends, not how fast the rate falls.
        timescale: steps after which the rate has fallen to lr/sqrt(2), >= 1. None is
            num_warmup_steps, or 10,000 without a warm-up.
        opt_fn: the optimizer of all phases; None is the one in use.

    Raises:
        PhaseError: a value is out of its range.
        TypeError: an argument has the wrong type.

    Equivalent to: transformers' ``get_inverse_sqrt_schedule`` (``"inverse_sqrt"``), step by step.
    It has no end; here the value of step ``num_training_steps`` holds.

    Example:
        >>> from pyphase import Plan
        >>> plan = Plan(inverse_sqrt(1.0, 2, num_training_steps=9))
        >>> [round(lr, 3) for lr in plan.table("lr")[:, 0].tolist()]
        [0.0, 0.5, 1.0, 0.816, 0.707, 0.632, 0.577, 0.535, 0.5]

    Source: Vaswani et al., "Attention Is All You Need", 2017.
    """
    warmup, rest = check_warmup(num_warmup_steps, num_training_steps)
    peak = check_rate("lr", lr, positive=True)
    scale = (warmup or 10_000) if timescale is None else check_whole("timescale", timescale)
    end = per_group(lambda lr: lr / math.sqrt(1 + rest / scale), lr=peak)
    pieces = [
        warm_up(peak, warmup),
        Piece("inverse sqrt", rest, make_curve(InverseSqrt, peak, end, "lr")),
    ]
    return make_phases(pieces, "steps", opt_fn)


def wsd(
    lr: Values,
    num_warmup_steps: int,
    num_decay_steps: int,
    *,
    num_training_steps: int | None = None,
    num_stable_steps: int | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0.0,
    opt_fn: OptFn | None = None,
) -> list[TrainingPhase]:
    """Warm up, stay, cool down (warmup-stable-decay, a trapezoid).

    With r = min_lr_ratio and f the fraction of a phase that is over, the rate is lr times

    ========= =========================================================================
    warm-up   r + (1 - r) u(f); linear u = f, cosine u = (1 - cos(pi f))/2,
              1-sqrt u = 1 - sqrt(1 - f)
    stable    1
    decay     r + (1 - r) d(f); linear d = 1 - f, cosine d = (1 + cos(pi f))/2,
              1-sqrt d = 1 - sqrt(f); exponential: r^f
    ========= =========================================================================

    Args:
        lr: peak rate, >= 0 (> 0 for an exponential decay); a list or array has one per parameter
            group.
        num_warmup_steps: steps of the warm-up, >= 0.
        num_decay_steps: steps of the decay, >= 0.
        num_training_steps: steps of the whole run, >= 1 and >= num_warmup_steps + num_decay_steps.
        num_stable_steps: steps between warm-up and decay, >= 0, in place of
            ``num_training_steps``.
        warmup_type: ``"linear"``, ``"cosine"`` or ``"1-sqrt"``.
        decay_type: ``"linear"``, ``"cosine"``, ``"1-sqrt"`` or ``"exponential"``.
        min_lr_ratio: in [0, 1] (above 0 for an exponential decay).
        opt_fn: the optimizer of all phases; None is the one in use.

    Raises:
        PhaseError: a value is out of its range, not one of ``num_training_steps`` and
            ``num_stable_steps`` is given, or the run has no step.
        TypeError: an argument has the wrong type.

    Equivalent to: transformers' ``get_wsd_schedule`` (``"warmup_stable_decay"``), step by step,
    past the end of the decay too: both are half-open and hold the last value. Without a decay lr
    holds here, while transformers drops to min_lr_ratio. The exponential decay and the error for
    two lengths are pyphase's.

    Example:
        >>> from pyphase import Plan
        >>> plan = Plan(wsd(1.0, 2, 4, num_training_steps=8, decay_type="1-sqrt"))
        >>> [round(lr, 3) for lr in plan.table("lr")[:, 0].tolist()]
        [0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.293, 0.134]

    Source: Hu et al., "MiniCPM", 2024; Hägele et al., "Scaling Laws and Compute-Optimal Training
    Beyond Fixed Training Durations", 2024.
    """
    peak, ratio = check_rate("lr", lr), check_fraction("min_lr_ratio", min_lr_ratio)
    low = per_group(lambda lr, ratio: lr * ratio, lr=peak, min_lr_ratio=ratio)
    rises: dict[str, Curve] = {
        "linear": Linear(low, peak),
        "cosine": Cosine(low, peak),
        "1-sqrt": Polynomial(low, peak, 0.5),
    }
    falls: dict[str, Curve | None] = {
        "linear": Linear(peak, low),
        "cosine": Cosine(peak, low),
        "1-sqrt": OneMinusSqrt(peak, low),
        "exponential": None,
    }
    rise = check_choice("warmup_type", warmup_type, rises)
    fall = check_choice("decay_type", decay_type, falls)
    if fall is None:
        check_rate("lr", lr, positive=True)
        if not ratio:
            raise PhaseError("`min_lr_ratio` (=0) must be > 0 with the `decay_type` 'exponential'")
        fall = make_curve(Exponential, peak, low, "lr", "min_lr_ratio")
    warmup = check_whole("num_warmup_steps", num_warmup_steps, least=0)
    decay = check_whole("num_decay_steps", num_decay_steps, least=0)
    stable = _stable_steps(warmup, decay, num_training_steps, num_stable_steps)
    pieces = [
        Piece("warm-up", warmup, rise),
        Piece("stable", stable, Constant(peak)),
        Piece("decay", decay, fall),
    ]
    return make_phases(pieces, "steps", opt_fn)


def _stable_steps(
    warmup: int, decay: int, num_training_steps: int | None, num_stable_steps: int | None
) -> int:
    if (num_training_steps is None) == (num_stable_steps is None):
        raise PhaseError(
            f"give one of `num_training_steps` (={shown(num_training_steps)}) and "
            f"`num_stable_steps` (={shown(num_stable_steps)})"
        )
    if num_training_steps is None:
        stable = check_whole("num_stable_steps", num_stable_steps, least=0)
        if not warmup + stable + decay:
            raise PhaseError("one of `num_warmup_steps`, `num_stable_steps`, `num_decay_steps` > 0")
        return stable
    total = check_whole("num_training_steps", num_training_steps)
    if warmup + decay > total:
        raise PhaseError(
            f"`num_warmup_steps` (={warmup}) + `num_decay_steps` (={decay}) must be "
            f"<= `num_training_steps` (={total})"
        )
    return total - warmup - decay
