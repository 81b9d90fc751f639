"""The two recipes of fastai 0.7's notebook, with its names and its order of arguments."""

from __future__ import annotations

from pyphase.curves import Constant, Cosine, Linear
from pyphase.errors import PhaseError, check_number, check_positive, check_whole
from pyphase.opt_fn import OptFn
from pyphase.phase import TrainingPhase
from pyphase.recipe_parts import (
    MAX_PHASES,
    Piece,
    Values,
    check_groups,
    check_momentum,
    check_rate,
    make_phases,
    per_group,
)

__all__ = ["phases_1cycle", "phases_sgdr"]


def phases_sgdr(
    lr: Values, opt_fn: OptFn | None, num_cycle: int, cycle_len: float, cycle_mult: float
) -> list[TrainingPhase]:
    """Anneal with cosines and warm restarts, as fastai 0.7's notebook did.

    The first cycle is lr/100 for cycle_len/20 epochs, then a cosine from lr to 0 over
    cycle_len * 19/20 epochs. Cycle i = 1, 2, ... is a cosine from lr to 0 over
    cycle_len * cycle_mult^i epochs.

    Args:
        lr: peak rate, >= 0; a list or array has one per parameter group.
        opt_fn: the optimizer of all phases; None is the one in use.
        num_cycle: number of cycles, >= 1.
        cycle_len: epochs of the first cycle, > 0; may be a fraction.
        cycle_mult: > 0; each cycle is this many times as long as the one before.

    Raises:
        PhaseError: a value is out of its range.
        TypeError: an argument has the wrong type.

    Equivalent to: fastai 0.7's ``phases_sgdr``, batch by batch where each phase comes out whole in
    steps (otherwise as in :func:`phases_1cycle`). 0.7's momentum of 0.9 is also what an SGD gets
    here that pyphase builds; an ``opt_fn`` with a momentum of its own keeps it. Cycles 1, 2, ...
    are torch's ``CosineAnnealingWarmRestarts(T_0, T_mult)`` with the steps of cycle 1 and
    cycle_mult, step by step; torch has no start at lr/100.

    Example:
        >>> [(phase.name, phase.epochs) for phase in phases_sgdr(0.1, None, 3, 1, 2)]
        [('warm-up', 0.05), ('cycle 0', 0.95), ('cycle 1', 2.0), ('cycle 2', 4.0)]

    Source: Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017;
    fastai 0.7 (Gugger, 2018).
    """
    peak = check_rate("lr", lr)
    cycles = check_whole("num_cycle", num_cycle)
    first = check_positive("cycle_len", cycle_len)
    factor = check_positive("cycle_mult", cycle_mult)
    if cycles > MAX_PHASES:
        raise PhaseError(f"`num_cycle` (={cycles}) must be <= {MAX_PHASES}")
    cosine = Cosine(peak, 0.0)
    low = Constant(per_group(lambda lr: lr / 100, lr=peak))
    pieces = [Piece("warm-up", first / 20, low), Piece("cycle 0", first * 19 / 20, cosine)]
    for i in range(1, cycles):
        length = per_group(lambda a, b, i=i: a * b**i, cycle_len=first, cycle_mult=factor)
        assert isinstance(length, float)
        if not length:
            raise PhaseError(f"`cycle_mult` (={factor}): cycle {i} comes out with a length of 0")
        pieces.append(Piece(f"cycle {i}", length, cosine))
    return make_phases(pieces, "epochs", opt_fn)


def phases_1cycle(
    cycle_len: float,
    lr: Values,
    div: float,
    pct: float,
    max_mom: Values,
    min_mom: Values,
    *,
    opt_fn: OptFn | None = None,
) -> list[TrainingPhase]:
    """Rise, fall and fade out in straight lines, as fastai 0.7's notebook did.

    With tri = (1 - pct/100) * cycle_len:

    ========= =============== ======================= ==================
    phase     epochs          lr                      momentum
    ========= =============== ======================= ==================
    warm-up   tri/2           lr/div -> lr            max_mom -> min_mom
    cool-down tri/2           lr -> lr/div            min_mom -> max_mom
    tail      cycle_len - tri lr/div -> lr/(100 div)  max_mom
    ========= =============== ======================= ==================

    Args:
        cycle_len: epochs of the whole cycle, > 0; may be a fraction.
        lr: peak rate, >= 0; a list or array has one per parameter group.
        div: > 0; the cycle starts at lr/div.
        pct: percent of the cycle that the tail takes, in [0, 100].
        max_mom: momentum at the lowest rate, in [0, 1); a list or array has one per parameter
            group.
        min_mom: momentum at the highest rate, likewise.
        opt_fn: the optimizer of all phases. None is the one in use, SGD where there is none;
            0.7 always took SGD.

    Raises:
        PhaseError: a value is out of its range.
        TypeError: an argument has the wrong type.

    Equivalent to: fastai 0.7's ``phases_1cycle``, batch by batch where each phase comes out whole
    in steps. 0.7 divides by the unrounded length of a phase, pyphase by its number of steps; and
    where 0.7 takes a length of 60.00000000000001 batches for 61, pyphase makes it 60.

    Example:
        >>> from pyphase import Plan
        >>> plan = Plan(phases_1cycle(1, 1.0, 10, 20, 0.95, 0.85), steps_per_epoch=10)
        >>> [round(lr, 3) for lr in plan.table("lr")[:, 0].tolist()]
        [0.1, 0.325, 0.55, 0.775, 1.0, 0.775, 0.55, 0.325, 0.1, 0.051]

    Source: Smith, "A Disciplined Approach to Neural Network Hyper-Parameters: Part 1", 2018;
    fastai 0.7 (Gugger, 2018).
    """
    epochs = check_positive("cycle_len", cycle_len)
    peak, factor = check_rate("lr", lr), check_positive("div", div)
    percent = check_number("pct", pct)
    if not 0 <= percent <= 100:
        raise PhaseError(f"`pct` (={pct}) must be in [0, 100]")
    high, low = check_momentum("max_mom", max_mom), check_momentum("min_mom", min_mom)
    check_groups(lr=peak, max_mom=high, min_mom=low)
    start = per_group(lambda lr, div: lr / div, lr=peak, div=factor)
    final = per_group(lambda lr, div: lr / (100 * div), lr=peak, div=factor)
    triangle = (1 - percent / 100) * epochs
    pieces = [
        Piece("warm-up", triangle / 2, Linear(start, peak), Linear(high, low)),
        Piece("cool-down", triangle / 2, Linear(peak, start), Linear(low, high)),
        Piece("tail", epochs - triangle, Linear(start, final), Constant(high)),
    ]
    return make_phases(pieces, "epochs", opt_fn)
