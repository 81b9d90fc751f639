"""Where a plan is cut short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyphase import _core
from pyphase.errors import PhaseError, check_positive, shown
from pyphase.plan import Plan

__all__ = ["cut_position"]


def cut_position(plan: Plan, cut: Any) -> int:
    """Return the step after which the first ``cut`` epochs of a plan are done.

    Args:
        plan: the plan.
        cut: epochs, > 0; a list of epochs counts with its sum; None is the whole plan.

    Raises:
        PhaseError: ``cut`` is not positive, or a phase's length in epochs is unknown.
    """
    if cut is None:
        return plan.total_steps
    if isinstance(cut, Sequence) and not isinstance(cut, str):
        left = sum(check_positive(f"cut[{i}]", epochs) for i, epochs in enumerate(cut))
    else:
        left = check_positive("cut", cut)
    if left <= 0:
        raise PhaseError(f"`cut` (={shown(cut)}) must be > 0")
    lengths = []
    for index, (begin, end) in enumerate(plan.spans):
        per_epoch = plan.steps_per_epoch[index]
        if per_epoch is None:
            raise PhaseError(
                f"{plan.label(index)}: `cut` counts epochs, but the phase's `steps_per_epoch` is "
                "unknown"
            )
        phase = plan.phases[index]
        epochs = float(phase.epochs) if phase.epochs is not None else (end - begin) / per_epoch
        lengths.append(min(left, epochs) * per_epoch)
        left -= epochs
        if left <= 0:
            break
    return min(_core.phase_ends(lengths)[-1], plan.total_steps)
