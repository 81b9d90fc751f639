"""Which data each phase trains on, and the plan that follows from their lengths."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pyphase.apply.data import loader_state, set_loader_state
from pyphase.errors import PhaseError, shown
from pyphase.lengths import epoch_steps, loader_length, train_part, valid_part
from pyphase.phase import TrainingPhase, check_data
from pyphase.plan import Plan, check_phases

__all__ = ["Sources"]


class Sources:
    """Resolve ``data`` and the phases' own ``data`` to one source per phase.

    A function that makes a loader is called when its phase is entered; if the length of the phase
    depends on the loader and isn't given, it is called at once and its loader kept for the phase.
    """

    def __init__(
        self,
        phases: Plan | Sequence[TrainingPhase],
        data: Any,
        steps_per_epoch: int | Sequence[int] | None,
        batch_size: int | Sequence[int] | None,
        accumulate: int = 1,
    ) -> None:
        self.accumulate = accumulate
        listed = phases.phases if isinstance(phases, Plan) else check_phases(phases)
        defaults = _one_per_phase(data, listed)
        self._made: dict[int, Any] = {}
        self._data: list[Any] = []
        for index, phase in enumerate(listed):
            own = phase.data if phase.data is not None else defaults[index]
            own = self._data[-1] if own is None and self._data else own
            if own is None:
                raise PhaseError(f"phase {index}: neither the phase nor the loop has `data`")
            self._data.append(own)
        if not isinstance(phases, Plan):
            self.plan = self._make_plan(listed, data, steps_per_epoch, batch_size)
        elif steps_per_epoch is None and batch_size is None:
            self.plan = phases
        else:
            raise PhaseError("`steps_per_epoch` and `batch_size` are part of the Plan already")

    def _make_plan(
        self,
        phases: Sequence[TrainingPhase],
        data: Any,
        steps_per_epoch: Any,
        batch_size: Any,
    ) -> Plan:
        if isinstance(data, list):
            phases = [
                dataclasses.replace(phase, data=source) if phase.data is None else phase
                for phase, source in zip(phases, self._data, strict=True)
            ]
        if steps_per_epoch is None:
            batches = [
                loader_length(self.train(index) if phase.epochs is not None else None)
                for index, phase in enumerate(phases)
            ]
            steps_per_epoch = [epoch_steps(count, self.accumulate) for count in batches]
        if batch_size is None:
            batch_size = [
                getattr(self.train(index), "batch_size", None) if phase.samples else None
                for index, phase in enumerate(phases)
            ]
        return Plan(phases, steps_per_epoch, batch_size, accumulate=self.accumulate)

    def same(self, a: int, b: int) -> bool:
        """Tell whether two phases share their data, so that its iterator goes on."""
        if a < 0:
            return False
        one, other = self._data[a], self._data[b]
        return one is other or train_part(one) is train_part(other)

    def last_use(self, index: int) -> bool:
        """Tell whether no phase after ``index`` uses its data."""
        return not any(self.same(index, later) for later in range(index + 1, len(self._data)))

    def is_made(self, index: int) -> bool:
        """Tell whether the data of a phase is a loader, or a function that was called already."""
        return not _makes(self._data[index]) or id(self._data[index]) in self._made

    def train(self, index: int) -> Any:
        """Return the training loader of a phase, made now if it was not made before."""
        return train_part(self._resolve(index))

    def valid(self, index: int) -> Any:
        """Return the validation loader that came with the data of a phase."""
        return valid_part(self._resolve(index)) if index >= 0 else None

    def state_dict(self) -> dict[int, list[Any]]:
        """Return what decides each loader's order, by the first phase of each loader.

        A loader that is left may be used again by a later phase.
        """
        seen: set[int] = set()
        states: dict[int, list[Any]] = {}
        for index, source in enumerate(self._data):
            if self.is_made(index) and id(source) not in seen:
                seen.add(id(source))
                own = loader_state(self.train(index))
                states |= {index: own} if own else {}
        return states

    def load_state_dict(self, states: dict[int, list[Any]]) -> None:
        """Set the loaders' order back; a loader is made again for it."""
        for index, own in states.items():
            if index < len(self._data):
                set_loader_state(self.train(index), own)

    def _resolve(self, index: int) -> Any:
        source = self._data[index]
        if not _makes(source):
            return source
        if id(source) not in self._made:
            made = source()
            if made is None or _makes(made):
                raise TypeError(f"`data` of phase {index} must make a loader, made {shown(made)}")
            check_data(made)
            self._check_length(index, made)
            self._made[id(source)] = made
        return self._made[id(source)]

    def _check_length(self, index: int, made: Any) -> None:
        plan = getattr(self, "plan", None)
        if plan is None or plan.phases[index].epochs is None:
            return
        planned, found = plan.steps_per_epoch[index], loader_length(made)
        if found is None or planned in (None, epoch_steps(found, self.accumulate)):
            return
        raise PhaseError(
            f"{plan.label(index)}: `data` made a loader of {found} batches, but the plan has "
            f"`steps_per_epoch` (={planned})"
        )


def _makes(source: Any) -> bool:
    is_loader = hasattr(source, "__iter__") or hasattr(source, "trn_dl")
    return callable(source) and not is_loader


def _one_per_phase(data: Any, phases: Any) -> list[Any]:
    count = len(phases)
    if not isinstance(data, list):
        check_data(data)
        return [data] * count
    if len(data) != count:
        raise PhaseError(
            f"`data` must be one loader, or a list with one per phase: got {len(data)} for "
            f"{count} phases"
        )
    for item in data:
        check_data(item)
    return data
