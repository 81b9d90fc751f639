"""The state of a PhaseLoop: what it is made of, how it is read off and set back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from pyphase.apply.before import Before
from pyphase.apply.optimizers import set_mode
from pyphase.apply.state import get_rng_state, set_rng_state
from pyphase.errors import PhaseError

if TYPE_CHECKING:
    from pyphase.apply.loop import PhaseLoop

__all__ = ["check_state", "check_step_options", "read_state", "write_state"]

ReadShards: TypeAlias = "Callable[[PhaseLoop], tuple[dict[str, Any], dict[str, Any]]]"

_FORM = "loop 1"
_OPTIONAL = {"stopped": str, "scaler": dict, "feed": dict, "next": list}
_PARTS = {"plan": str, "position": int, "entered": int, "model": dict, "optimizer": dict}
_PARTS |= {"optimizer_class": str, "own": dict, "check": dict, "sources": dict, "rng": dict}
_PARTS |= {"step_options": dict}


def read_state(loop: PhaseLoop, before: Before | None) -> dict[str, Any]:
    """Return the state of a loop; ``before``: what a batch that is under way has changed since."""
    if loop._optimizers.cut_off or loop._data.cut_off:
        label = loop.plan.label(loop._entered + loop._optimizers.cut_off)
        raise PhaseError(f"{label}: its start was cut off: model or data may be half changed")
    if loop.updating:
        raise PhaseError("the optimizer's step was cut off: weights may be half updated")
    begun = loop.position < loop.plan.total_steps and loop.phase_index == loop._entered
    state: dict[str, Any] = {
        "pyphase": _FORM,
        "plan": loop.plan.to_json(),
        "position": loop.position,
        "entered": loop.position if begun else loop.position - 1,
        "stopped": loop.stopped,
        "step_options": loop._stepper.options,
        "model": loop.model.state_dict(),
        "scaler": None if loop.scaler is None else loop.scaler.state_dict(),
        "check": loop.check.state_dict(),
        **loop._optimizers.state_dict(),
        **loop._data.state_dict(),
        "rng": get_rng_state(),
    }
    if before is not None:
        model = state["model"]
        model.update({name: kept for name, kept in before.named.items() if name in model})
        state |= {"check": before.check, "feed": before.feed, "rng": before.rng}
    return state


def check_state(state: Any) -> None:
    """Raise PhaseError where a part of the state is missing or of another type."""
    if not isinstance(state, dict) or state.get("pyphase") != _FORM:
        raise PhaseError("not a state of a PhaseLoop")
    wrong = [name for name, kind in _PARTS.items() if not isinstance(state.get(name), kind)]
    wrong += [
        name
        for name, kind in _OPTIONAL.items()
        if name not in state or not isinstance(state[name], kind | None)
    ]
    if wrong:
        raise PhaseError(f"not a state of a PhaseLoop: `{wrong[0]}` is missing or wrong")


def check_step_options(saved: dict[str, Any], own: dict[str, Any]) -> None:
    """Raise PhaseError where a step would be made of other things than in the saved run."""
    for name, value in own.items():
        if saved.get(name) != value:
            raise PhaseError(
                f"the state was saved with `{name}` (={saved.get(name)}), this run has {value}; "
                "`accept_other_plan` takes it all the same"
            )


def write_state(
    loop: PhaseLoop, state: dict[str, Any], *, keep_plan: bool, read: ReadShards | None
) -> None:
    """Set a state back in a loop that stands in its phase.

    ``keep_plan``: the optimizer's options are those of the loop's plan, not the saved ones.
    """
    if type(loop.optimizer).__name__ != state["optimizer_class"]:
        raise PhaseError(
            f"the state is of {state['optimizer_class']}, but step {loop.position} of this "
            f"plan has {type(loop.optimizer).__name__}"
        )
    try:
        if read is not None:
            model, optimizer = read(loop)
            state = state | {"model": model, "optimizer": optimizer}
        _write(loop, state, keep_plan)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if isinstance(error, PhaseError):
            raise
        raise PhaseError(f"the state doesn't fit this run: {error}") from error


def _write(loop: PhaseLoop, state: dict[str, Any], keep_plan: bool) -> None:
    loop.stopped = state["stopped"]
    loop.model.load_state_dict(state["model"])
    loop._optimizers.load_state_dict(state, keep_options=keep_plan)
    if loop.scaler is not None and state["scaler"] is not None:
        loop.scaler.load_state_dict(state["scaler"])
    loop.check.load_state_dict(state["check"])
    phase = max(loop._entered, 0)
    loop._data.load_state_dict(state, phase, take_next=not keep_plan)
    if loop.phase_index == phase:
        loop._optimizers.write(loop.position)
    set_mode(loop.optimizer, training=True)  # a state may be of the end of a fit
    set_rng_state(state["rng"])
