"""Recipes that rise and fall, with momentum the other way round: one_cycle and cyclical."""

from __future__ import annotations

from collections.abc import Iterator

from pyphase.curves import Constant, Cosine, Curve, Linear, Number, Table
from pyphase.errors import PhaseError, check_flags, check_fraction, check_positive, check_whole
from pyphase.opt_fn import OptFn
from pyphase.phase import TrainingPhase
from pyphase.recipe_parts import (
    MAX_PHASES,
    Piece,
    Values,
    check_below,
    check_choice,
    check_groups,
    check_length,
    check_momentum,
    check_rate,
    make_phases,
    per_group,
)

__all__ = ["cyclical", "one_cycle"]

# exp_range keeps one number per step, 8 bytes each.
_MAX_TABLE_STEPS = 10_000_000


def one_cycle(
    max_lr: Values,
    total_steps: int | None = None,
    *,
    epochs: float | None = None,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    cycle_momentum: bool = True,
    base_momentum: Values = 0.85,
    max_momentum: Values = 0.95,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
    opt_fn: OptFn | None = None,
) -> list[TrainingPhase]:
    """Rise to a high rate and fall far below the start, with momentum the other way round.

    initial = max_lr / div_factor, final = initial / final_div_factor, p = pct_start:

    ========= ===== ================= =============================
    phase     share lr                momentum
    ========= ===== ================= =============================
    warm-up   p     initial -> max_lr max_momentum -> base_momentum
    cool-down 1 - p max_lr -> final   base_momentum -> max_momentum
    ========= ===== ================= =============================

    With ``three_phase`` the cool-down takes p and ends at initial, and an annihilation of 1 - 2p
    goes from there to final at max_momentum.

    Args:
        max_lr: peak rate, >= 0; a list or array has one per parameter group.
        total_steps: length in steps, >= 1. The borders between the phases are rounded up to whole
            steps.
        epochs: length in epochs, > 0, in place of ``total_steps``; may be a fraction.
        pct_start: share of the warm-up, in [0, 1]; with ``three_phase`` in [0, 0.5].
        anneal_strategy: ``"cos"`` or ``"linear"``.
        cycle_momentum: False leaves the optimizer's momentum alone.
        base_momentum: momentum at the highest rate, in [0, 1); a list or array has one per
            parameter group.
        max_momentum: momentum at the lowest rate, likewise.
        div_factor: > 0; the run starts at max_lr / div_factor.
        final_div_factor: > 0; it ends at max_lr / div_factor / final_div_factor.
        three_phase: fall as long as rise, then fade out.
        opt_fn: the optimizer of all phases; None is the one in use.

    Raises:
        PhaseError: a value is out of its range, or not one of ``total_steps`` and ``epochs`` is
            given.
        TypeError: an argument has the wrong type.

    Equivalent to: ``torch.optim.lr_scheduler.OneCycleLR`` with another step convention. torch is
    closed: its warm-up takes pct_start * T - 1 intervals, and step T - 1 of T trains with final.
    Here step k of n uses k/n, and final is where the run would go on after step T - 1. torch's
    run of T steps is ``one_cycle(max_lr, T - 1, pct_start=(pct_start * T - 1) / (T - 1))`` and one
    more step at the end's value (where pct_start * T is a whole number). torch extrapolates in step
    T and raises in the next; here values hold. fastai 2's ``fit_one_cycle(n, lr)`` has the step
    convention of this one: ``one_cycle(lr, epochs=n, pct_start=0.25, final_div_factor=4000)``,
    equal where the border comes out whole in steps (fastai does not round it, and finds its
    position in float32).

    Example:
        >>> from pyphase import Plan
        >>> plan = Plan(one_cycle(1.0, total_steps=10, anneal_strategy="linear"))
        >>> [round(lr, 3) for lr in plan.table("lr")[:, 0].tolist()]
        [0.04, 0.36, 0.68, 1.0, 0.857, 0.714, 0.571, 0.429, 0.286, 0.143]

    Source: Smith & Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large
    Learning Rates", 2017.
    """
    length = check_length(total_steps, epochs)
    share = check_fraction("pct_start", pct_start)
    check_flags(three_phase=three_phase, cycle_momentum=cycle_momentum)
    if three_phase and share > 0.5:
        raise PhaseError(f"`pct_start` (={pct_start}) must be <= 0.5 with `three_phase`")
    curve = check_choice("anneal_strategy", anneal_strategy, {"cos": Cosine, "linear": Linear})
    peak = check_rate("max_lr", max_lr)
    factors = {
        "div_factor": check_positive("div_factor", div_factor),
        "final_div_factor": check_positive("final_div_factor", final_div_factor),
    }
    start = per_group(lambda lr, div, _: lr / div, max_lr=peak, **factors)
    final = per_group(lambda lr, div, final_div: lr / div / final_div, max_lr=peak, **factors)
    low = check_momentum("base_momentum", base_momentum)
    high = check_momentum("max_momentum", max_momentum)
    check_groups(max_lr=peak, base_momentum=low, max_momentum=high)
    down, up, top = (
        (curve(high, low), curve(low, high), Constant(high))
        if cycle_momentum
        else (None, None, None)
    )
    if not three_phase:
        first, second = length.split(share, 1.0)
        pieces = [
            Piece("warm-up", first, curve(start, peak), down),
            Piece("cool-down", second, curve(peak, final), up),
        ]
    else:
        first, second, third = length.split(share, 2 * share, 1.0)
        pieces = [
            Piece("warm-up", first, curve(start, peak), down),
            Piece("cool-down", second, curve(peak, start), up),
            Piece("annihilation", third, curve(start, final), top),
        ]
    return make_phases(pieces, length.unit, opt_fn)


def cyclical(
    base_lr: Values,
    max_lr: Values,
    *,
    total_steps: int,
    step_size_up: int = 2000,
    step_size_down: int | None = None,
    mode: str = "triangular",
    gamma: float = 1.0,
    cycle_momentum: bool = True,
    base_momentum: Values = 0.8,
    max_momentum: Values = 0.9,
    opt_fn: OptFn | None = None,
) -> list[TrainingPhase]:
    """Go up and down between two rates in triangles, with momentum the other way round.

    At step t, in cycle c = 0, 1, ... of step_size_up + step_size_down steps, with x(t) the height
    of the triangle (0 at the start of a cycle, 1 after step_size_up steps):

    lr = base_lr + (max_lr - base_lr) * x(t) * s
    momentum = max_momentum - (max_momentum - base_momentum) * x(t) * s

    where s is 1 for ``"triangular"``, 2^-c for ``"triangular2"``, gamma^t for ``"exp_range"``.

    Args:
        base_lr: lowest rate, >= 0; a list or array has one per parameter group (not with
            ``"exp_range"``).
        max_lr: highest rate, >= base_lr, likewise.
        total_steps: length in steps, >= 1; the last triangle is cut where it ends.
        step_size_up: steps of the rise, >= 1.
        step_size_down: steps of the fall, >= 1; None is as long as the rise.
        mode: ``"triangular"``, ``"triangular2"`` or ``"exp_range"``.
        gamma: in [0, 1], for ``"exp_range"``.
        cycle_momentum: False leaves the optimizer's momentum alone.
        base_momentum: momentum at the highest rate, in [0, 1); a list or array has one per
            parameter group (not with ``"exp_range"``).
        max_momentum: momentum at the lowest rate, likewise.
        opt_fn: the optimizer of all phases; None is the one in use.

    Each rise and each fall is a phase. ``"exp_range"`` is no closed form of a curve: its phases
    hold the value of every step in a :class:`pyphase.curves.Table`, exact at each step (to
    rounding) as long as the phases keep their lengths; at most 10^7 steps.

    Raises:
        PhaseError: a value is out of its range, ``gamma`` is given for another mode, or there
            would be more than 10^5 phases.
        TypeError: an argument has the wrong type.

    Equivalent to: ``torch.optim.lr_scheduler.CyclicLR``, step by step: it is half-open as well
    (step 0 trains with base_lr, step step_size_up with max_lr). It has no end; here the values hold
    after ``total_steps``.

    Example:
        >>> from pyphase import Plan
        >>> phases = cyclical(0.1, 0.5, total_steps=8, step_size_up=2, mode="triangular2")
        >>> [round(lr, 3) for lr in Plan(phases).table("lr")[:, 0].tolist()]
        [0.1, 0.3, 0.5, 0.3, 0.1, 0.2, 0.3, 0.2]

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks", 2017.
    """
    low, high = check_rate("base_lr", base_lr), check_rate("max_lr", max_lr)
    check_below("base_lr", low, "max_lr", high)
    slow = check_momentum("base_momentum", base_momentum)
    fast = check_momentum("max_momentum", max_momentum)
    check_flags(cycle_momentum=cycle_momentum)
    total = check_whole("total_steps", total_steps)
    up = check_whole("step_size_up", step_size_up)
    down = up if step_size_down is None else check_whole("step_size_down", step_size_down)
    if 2 * total > MAX_PHASES * (up + down):
        raise PhaseError(
            f"`step_size_up` (={up}) and `step_size_down` (={down}) are too short for "
            f"`total_steps` (={total}): more than {MAX_PHASES} phases"
        )
    scale = check_choice("mode", mode, {"triangular": 1.0, "triangular2": 0.5, "exp_range": 1.0})
    decay = check_fraction("gamma", gamma)
    if mode != "exp_range" and decay != 1:
        raise PhaseError(f"`gamma` (={gamma}) is for the mode 'exp_range', got {mode!r}")
    pairs = {"base_lr": low, "max_lr": high, "base_momentum": slow, "max_momentum": fast}
    check_groups(**pairs)
    if mode == "exp_range":
        _check_table(total, pairs)

    def curve(start: Number, end: Number, heights: list[float]) -> Curve:
        if isinstance(start, float) and isinstance(end, float) and mode == "exp_range":
            return Table(tuple(start * (1 - height) + end * height for height in heights))
        ends = (_between(start, end, height) for height in (heights[0], heights[-1]))
        return Linear(*ends)

    pieces = []
    for name, begin, steps, heights in _triangles(total, up, down, every=mode == "exp_range"):
        cycle = begin // (up + down)
        scaled = [h * scale**cycle * decay ** (begin + i) for i, h in enumerate(heights)]
        momentum = curve(fast, slow, scaled) if cycle_momentum else None
        pieces.append(Piece(f"{name} {cycle}", steps, curve(low, high, scaled), momentum))
    return make_phases(pieces, "steps", opt_fn)


def _triangles(
    total: int, up: int, down: int, *, every: bool
) -> Iterator[tuple[str, int, int, list[float]]]:
    """Yield (name, begin, steps, heights) of each rise and fall.

    The heights are those of every step and of the end, or of the two ends alone.
    """
    begin = 0
    while begin < total:
        rises = begin % (up + down) == 0
        full = up if rises else down
        steps = min(full, total - begin)
        at = range(steps + 1) if every else (0, steps)
        heights = [i / full if rises else (full - i) / full for i in at]
        yield "up" if rises else "down", begin, steps, heights
        begin += steps


def _between(start: Number, end: Number, height: float) -> Number:
    return per_group(lambda a, b: a * (1 - height) + b * height, start=start, end=end)


def _check_table(total_steps: int, values: dict[str, Number]) -> None:
    if total_steps > _MAX_TABLE_STEPS:
        raise PhaseError(
            f"`total_steps` (={total_steps}) must be <= {_MAX_TABLE_STEPS} in the mode 'exp_range'"
        )
    for name, value in values.items():
        if isinstance(value, tuple):
            raise PhaseError(
                f"`{name}` (={list(value)}) must be one number for all parameter groups in the "
                "mode 'exp_range'"
            )
