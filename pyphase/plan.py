"""A compiled plan: every value of a run as a pure function of the integer step.

A quarter of the file is the documentation of one class.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyphase import _core, plan_json, plan_text
from pyphase.device import DeviceSchedule
from pyphase.errors import PhaseError, check_whole, shown
from pyphase.lengths import batch_sizes, epoch_sizes, phase_lengths
from pyphase.opt_fn import OptFn, same
from pyphase.phase import Key, TrainingPhase

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Plan", "check_phases"]


class Plan:
    """Compile phases to integer steps; ask for any value at any step.

    Phase p covers the steps [begin_p, begin_p + n_p). Its boundaries are the cumulative lengths of
    the phases in steps, rounded up once. Step k has the value of the phase's curve at
    (k - begin_p)/n_p; after the last step, values hold at the end of the last curve.

    A plan is immutable. Its memory grows with the number of phases, not of steps, and a look-up
    takes logarithmic time: plans of 10^9 steps or of 10^5 phases are no special case.

    Args:
        phases: a sequence of :class:`TrainingPhase`.
        steps_per_epoch: an int, or a sequence with one per phase (or one per data set, in order of
            first use). Not needed for phases with a length in steps or samples, or whose ``data``
            is a loader with a length; a given number comes before a loader's.
        batch_size: as ``steps_per_epoch``; only for phases with a length in ``samples``.
        accumulate: batches per step, >= 1. A loader of n batches has ceil(n / accumulate) steps,
            the last of them with fewer batches; a given ``steps_per_epoch`` counts steps already.

    Raises:
        PhaseError: a length is unknown, a phase comes out with no step, or two values name
            different numbers of parameter groups.

    Example:
        >>> from pyphase import DecayType, TrainingPhase
        >>> plan = Plan(
        ...     [
        ...         TrainingPhase(epochs=0.5, lr=(0.0, 1.0), lr_decay=DecayType.LINEAR),
        ...         TrainingPhase(epochs=1, lr=1.0, lr_decay=DecayType.COSINE),
        ...     ],
        ...     steps_per_epoch=4,
        ... )
        >>> plan.total_steps, plan.phase_at(2)
        (6, 1)
        >>> [round(plan.values_at(step)["lr"], 4) for step in range(7)]
        [0.0, 0.5, 1.0, 0.8536, 0.5, 0.1464, 0.0]
    """

    def __init__(
        self,
        phases: Sequence[TrainingPhase],
        steps_per_epoch: int | Sequence[int] | None = None,
        batch_size: int | Sequence[int] | None = None,
        *,
        accumulate: int = 1,
    ) -> None:
        self.phases = check_phases(phases)
        self.accumulate = check_whole("accumulate", accumulate)
        self.steps_per_epoch = epoch_sizes(self.phases, steps_per_epoch, self.accumulate)
        self.batch_sizes = batch_sizes(self.phases, batch_size)
        samples = [None if size is None else size * self.accumulate for size in self.batch_sizes]
        lengths = phase_lengths(self.phases, self.steps_per_epoch, samples)
        if not sum(lengths) < 2**53:
            raise PhaseError(
                f"the plan has {sum(lengths):.6g} steps; it must have fewer than 2**53"
            )
        ends = _core.phase_ends(lengths)
        self.spans = tuple(zip([0, *ends[:-1]], ends, strict=True))
        for index, (begin, end) in enumerate(self.spans):
            if begin == end:
                raise PhaseError(
                    f"{self.label(index)}: its length of {lengths[index]:.6g} steps has no step of "
                    f"its own after rounding up (begin {begin}, end {end}); make it longer"
                )
        self.groups = _count_groups(self)
        self.keys = _label_keys(self.phases)
        self.opt_fns = _resolve_opt_fns(self.phases)
        self._compiled: dict[int, _core.Plan] = {}
        self._core = self.compile(self.groups)

    @property
    def total_steps(self) -> int:
        """Number of optimizer steps of the whole plan."""
        return self.spans[-1][1]

    @property
    def digest(self) -> str:
        """Hash of everything that decides a run: steps, curves, optimizers, data names."""
        return plan_json.digest(self)

    def label(self, index: int) -> str:
        """Return how messages call a phase: ``phase 2 ('cool')``."""
        name = self.phases[index].name
        return f"phase {index}" if name is None else f"phase {index} ({name!r})"

    def changes_optimizer(self, index: int) -> bool:
        """Tell whether another optimizer takes over at the start of phase ``index``."""
        before, now = self.opt_fns[index - 1], self.opt_fns[index]
        if index == 0 or now is None:
            return False
        return before is None or not same(before, now)

    def change_at(self, index: int) -> str | None:
        """Say what phase ``index`` changes besides values: optimizer, data or model; else None."""
        phase = self.phases[index]
        if self.changes_optimizer(index) and self.opt_fns[index - 1] is not None:
            return "changes the optimizer"
        if index and phase.data is not None and phase.data is not self.phases[index - 1].data:
            return "changes the data"
        return None if phase.on_enter is None else "has `on_enter`"

    def phase_at(self, step: int) -> int:
        """Return the index of the phase that holds ``step``; past the end, the last one."""
        return int(self._core.phase_at(check_whole("step", step, least=0)))

    def values_at(self, step: int) -> dict[Key, float | tuple[float, ...]]:
        """Return the values of ``step``: a float each, or a tuple with one per parameter group.

        Keys are ``"lr"``, ``"momentum"``, ``"beta"``, ``"weight_decay"``,
        ``"decoupled_weight_decay"`` and those of ``values``. A key that the step's phase does not
        set is left out.
        """
        check_whole("step", step, least=0)
        values: dict[Key, float | tuple[float, ...]] = {}
        for track, key in enumerate(self.keys):
            found = self._core.values(track, step)
            if found:
                values[key] = found[0] if len(found) == 1 else tuple(found)
        return values

    def table(self, key: Key, steps: Any = None) -> NDArray[np.float64]:
        """Return the values of one key: float64 of shape (total_steps, groups).

        Args:
            key: one of ``plan.keys``, or the name of a function key.
            steps: 1-d ints >= 0: only these steps, in this order. A table of a very long plan is
                large; a few thousand steps are enough for a plot.

        The bits are those of :meth:`values_at`; NaN where a phase does not set the key.
        """
        track = self._track(key)
        if steps is None:
            return np.asarray(self._core.table(track, 0, self.total_steps))
        try:
            wanted = np.asarray(steps)
        except Exception as error:  # ragged lists, a tensor without data, somebody's array
            raise TypeError(f"`steps` must be a 1-d array of ints, got {shown(steps)}") from error
        if wanted.ndim != 1 or (wanted.size and not np.issubdtype(wanted.dtype, np.integer)):
            raise TypeError(f"`steps` must be a 1-d array of ints, got {shown(steps)}")
        if wanted.size and not 0 <= int(wanted.min()) <= int(wanted.max()) < 2**53:
            raise PhaseError(f"`steps` (={shown(steps)}) must be >= 0 and < 2**53")
        return np.asarray(self._core.gather(track, wanted.astype(np.int64)))

    def to(self, device: Any, dtype: Any = None) -> DeviceSchedule:
        """Return the plan as tensors on a device, indexed by a step counter that lives there.

        For steps that are compiled or captured in a CUDA graph: see
        :class:`pyphase.device.DeviceSchedule`.

        Args:
            device: as for ``torch.Tensor.to``.
            dtype: floating type of the values; None is float64, with the bits of
                :meth:`values_at`.

        Raises:
            PhaseError: the plan calls functions, or changes optimizer, data or model: that takes
                the host.
        """
        return DeviceSchedule(self, device, dtype)

    def plot(self, *, show_text: bool = True, show_moms: bool = True) -> Figure:
        """Draw every scheduled value over the steps, before any training."""
        from pyphase.plot import plot_plan

        return plot_plan(self, show_text=show_text, show_moms=show_moms)

    def to_json(self) -> str:
        """Return the plan as JSON text. Functions and loaders are kept by name only."""
        return plan_json.dump(self)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan that :meth:`to_json` wrote.

        Functions and loaders come back as names: such a plan can be looked up, plotted and
        compared, and trained where it needs none of them.
        """
        arguments, spans = plan_json.load(text)
        try:
            plan = cls(**arguments)
        except TypeError as error:
            raise PhaseError(f"not a plan: {error}") from None
        if list(plan.spans) != spans:
            raise PhaseError("not a plan: `begin`, `end` or `total_steps` differ from the lengths")
        return plan

    def diff(self, other: Plan) -> list[str]:
        """Return one line per difference that changes the run; empty for equal plans."""
        if not isinstance(other, Plan):
            raise TypeError(f"`other` must be a Plan, got {shown(other)}")
        return plan_json.diff(self, other)

    def check_same(self, saved: str, *, accept: bool = False) -> bool:
        """Tell whether ``saved`` (JSON) is this plan; raise PhaseError with the differences if it
        isn't, unless ``accept``.
        """
        other = Plan.from_json(saved)
        is_same = other.digest == self.digest
        if not accept and not is_same:
            lines = self.diff(other)
            shown_lines = "\n  ".join(lines[:12] + ["..."] * (len(lines) > 12))
            raise PhaseError(
                f"the state is of another plan (this plan != saved plan):\n  {shown_lines}"
            )
        return is_same

    def compile(self, groups: int) -> _core.Plan:
        """Return the C++ plan for ``groups`` parameter groups."""
        check_whole("groups", groups)
        if self.groups not in (1, groups):
            raise PhaseError(
                f"the plan names {self.groups} parameter groups, the optimizer has {groups}"
            )
        if groups not in self._compiled:
            tracks = [
                [[] if key not in p.tracks else p.tracks[key].forms() for p in self.phases]
                for key in self.keys
            ]
            ends = [end for _, end in self.spans]
            self._compiled[groups] = _core.Plan(ends, groups, tracks)
        return self._compiled[groups]

    def _track(self, key: Key) -> int:
        labels = list(self.keys.values())
        try:
            label = self.keys.get(key, key)
        except Exception:  # not hashable
            label = None
        if not isinstance(label, str) or label not in labels:
            raise PhaseError(f"`key` (={shown(key)}) must be one of {labels}")
        return labels.index(label)

    def __repr__(self) -> str:
        return plan_text.render(self)

    def __reduce__(self) -> tuple[Any, ...]:
        make = functools.partial(Plan, accumulate=self.accumulate)
        return make, (self.phases, self.steps_per_epoch, self.batch_sizes)

    def __deepcopy__(self, memo: dict[int, Any]) -> Plan:
        return self


def check_phases(phases: Any) -> tuple[TrainingPhase, ...]:
    """Return a sequence of phases as a tuple, or say what it is instead."""
    if isinstance(phases, TrainingPhase):
        raise TypeError("`phases` must be a sequence of TrainingPhase, got a single one")
    try:
        given = None if isinstance(phases, str) else tuple(phases)
    except Exception:
        given = None
    if given is None or not isinstance(phases, Sequence):
        raise TypeError(f"`phases` must be a sequence of TrainingPhase, got {shown(phases)}")
    if not given:
        raise PhaseError("`phases` (=[]) must hold at least one phase")
    for index, phase in enumerate(given):
        if not isinstance(phase, TrainingPhase):
            raise TypeError(f"phases[{index}] must be a TrainingPhase, got {shown(phase)}")
    return given


def _count_groups(plan: Plan) -> int:
    groups, first = 1, ""
    for index, phase in enumerate(plan.phases):
        for key, curve in phase.tracks.items():
            if curve.width == 1 or curve.width == groups:
                continue
            where = f"{plan.label(index)}: `{plan_text.key_name(key)}`"
            if groups > 1:
                raise PhaseError(
                    f"{where} names {curve.width} parameter groups, but {first} names {groups}"
                )
            groups, first = curve.width, where
    return groups


def _label_keys(phases: Sequence[TrainingPhase]) -> dict[Key, str]:
    keys = {key: None for phase in phases for key in phase.tracks}
    taken = {key for key in keys if isinstance(key, str)}  # a key is its own label
    labels: dict[Key, str] = {}
    for key in keys:
        label = name = plan_text.key_name(key)
        number = 1
        while not isinstance(key, str) and label in taken:
            number += 1
            label = f"{name} #{number}"
        taken.add(label)
        labels[key] = label
    return labels


def _resolve_opt_fns(phases: Sequence[TrainingPhase]) -> tuple[OptFn | None, ...]:
    resolved: list[OptFn | None] = []
    for phase in phases:
        current = resolved[-1] if resolved else None
        resolved.append(current if phase.opt_fn is None else phase.opt_fn)
    return tuple(resolved)
