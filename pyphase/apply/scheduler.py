"""Phases as a drop-in scheduler of a hand-written loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from pyphase.apply.groups import Groups, skipped_inside, unwrapped
from pyphase.errors import PhaseError, check_flags, check_number, check_whole, shown
from pyphase.opt_fn import bound, name_of
from pyphase.phase import TrainingPhase
from pyphase.plan import Plan

__all__ = ["PhaseScheduler"]


class PhaseScheduler(LRScheduler):
    """Move an optimizer's values along a plan, one :meth:`step` after each optimizer step.

    It is a ``torch.optim.lr_scheduler.LRScheduler`` by type and by its methods, so that Lightning
    and Accelerate take it, but it is a function of its step counter alone: nothing is multiplied
    or accumulated. The constructor writes the values of step 0 into the parameter groups; it adds
    no key such as ``initial_lr`` and doesn't wrap ``optimizer.step``. A float that somebody kept
    stays as it was; tensors (``lr=torch.tensor(...)``) are filled in place. After the last step
    values hold at the end of the last curve. Groups that are added later follow, where the plan
    has one value for all.

    Args:
        optimizer: the optimizer of the loop.
        phases: a :class:`Plan`, or phases to compile.
        steps_per_epoch: optimizer steps per epoch; not for a Plan, nor for phases in steps.
        follow_optimizer: count the steps that the optimizer takes, instead of the calls of
            :meth:`step`, which then does nothing. A loop may call it once for each process, as
            Accelerate does, or for batches that only accumulate, or for steps that a GradScaler
            skips. The optimizer's values move right after its step, by a hook on it.

    Raises:
        PhaseError: the plan changes the optimizer or the data or has ``on_enter`` (that takes a
            :class:`PhaseLoop`), asks for another optimizer than the given one, for a value that it
            doesn't have, or for another number of groups.
        TypeError: ``optimizer`` is not an optimizer.

    Equivalent to: ``OneCycleLR``, ``SequentialLR([LinearLR, CosineAnnealingLR])`` and the like,
    stepped once per batch; :mod:`pyphase.recipes` names the recipe and the step convention.

    Example:
        >>> import torch
        >>> from pyphase import DecayType, PhaseScheduler, TrainingPhase
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> phases = [
        ...     TrainingPhase(steps=2, lr=(0.0, 1.0), lr_decay=DecayType.LINEAR),
        ...     TrainingPhase(steps=2, lr=1.0, lr_decay=DecayType.COSINE),
        ... ]
        >>> scheduler = PhaseScheduler(optimizer, phases)
        >>> for _ in range(scheduler.total_steps):
        ...     model(torch.ones(1, 2)).sum().backward()
        ...     optimizer.step()
        ...     scheduler.step()
        ...     print(round(scheduler.get_last_lr()[0], 3))
        0.5
        1.0
        0.5
        0.0
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        phases: Plan | Sequence[TrainingPhase],
        steps_per_epoch: int | Sequence[int] | None = None,
        *,
        follow_optimizer: bool = False,
    ) -> None:
        # LRScheduler's constructor is left out on purpose: it wraps optimizer.step, adds keys to
        # the groups and takes a step.
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"`optimizer` must be a torch optimizer, got {shown(optimizer)}")
        if isinstance(phases, Plan) and steps_per_epoch is not None:
            raise PhaseError("`steps_per_epoch` is part of the Plan already")
        check_flags(follow_optimizer=follow_optimizer)
        self.plan = phases if isinstance(phases, Plan) else Plan(phases, steps_per_epoch)
        _refuse_changes(self.plan)
        _check_optimizer(self.plan, optimizer)
        self.optimizer = optimizer
        self.last_epoch = 0
        self._groups = Groups(self.plan, optimizer, range(len(self.plan.phases)))
        self.base_lrs = self.get_last_lr()
        self._set(0)
        self._follows = follow_optimizer
        self._hook()

    @property
    def total_steps(self) -> int:
        """Number of steps of the plan."""
        return self.plan.total_steps

    def step(self, epoch: int | None = None) -> None:
        """Set the values of the next step, or of step ``epoch`` where that is given.

        The name of the argument is LRScheduler's; it counts steps. With ``follow_optimizer`` only a
        call with a step does anything.
        """
        if self._follows and epoch is None:
            return
        step = self.last_epoch + 1 if epoch is None else check_whole("epoch", epoch, least=0)
        try:
            self._write(self.optimizer.param_groups, step)
        except ValueError:
            if len(self.optimizer.param_groups) == self._groups.count:
                raise
            self._set(step)  # groups were added since the last step
        self.last_epoch = step

    @property
    def _step_count(self) -> int:
        """The count of calls that LRScheduler keeps, here a function of the step.

        Accelerate stops to call a scheduler whose count is past ``total_steps``, and adds to the
        count for each batch that only accumulates: with 4 of them, a quarter of a plan would run.
        """
        return self.last_epoch + 1

    @_step_count.setter
    def _step_count(self, count: int) -> None:
        pass

    def _hook(self) -> None:
        if self._follows:
            unwrapped(self.optimizer).register_step_post_hook(self._after_step)

    def _after_step(self, optimizer: Any, *_: Any) -> None:
        if not skipped_inside(optimizer):
            self.step(self.last_epoch + 1)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_write"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._write = self._groups.fast_write
        self._hook()  # torch drops the hooks of an optimizer that is copied

    def _set(self, step: int) -> None:
        self._groups.write(self.optimizer.param_groups, step)
        self._write = self._groups.fast_write

    def get_last_lr(self) -> list[float | torch.Tensor]:
        """Return the learning rate of the current step for each group, as floats."""
        return list(self._groups.values("lr", self.last_epoch))

    get_lr = get_last_lr

    @property
    def _last_lr(self) -> list[float | torch.Tensor]:  # type: ignore[override]
        return self.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        """Return the step counter, the plan as JSON, and the optimizer's own values."""
        return {
            "last_epoch": self.last_epoch,
            "plan": self.plan.to_json(),
            "own": {name: list(own) for name, own in self._groups.own.items()},
        }

    def load_state_dict(
        self, state_dict: dict[str, Any], *, accept_other_plan: bool = False
    ) -> None:
        """Go on at the saved step and write its values into the groups.

        Load it before or after the optimizer's state: the outcome is the same.

        Raises:
            PhaseError: the state is of another plan (the message shows the differences), unless
                ``accept_other_plan``.
        """
        try:
            step = check_whole("last_epoch", state_dict["last_epoch"], least=0)
            saved, own = state_dict["plan"], state_dict["own"]
        except (KeyError, TypeError) as error:
            raise PhaseError(f"not a state of a PhaseScheduler: {error!r}") from None
        if not isinstance(own, dict) or not all(isinstance(v, list) for v in own.values()):
            raise PhaseError(f"not a state of a PhaseScheduler: `own` (={shown(own)})")
        self.plan.check_same(saved, accept=accept_other_plan)
        phases = range(len(self.plan.phases))
        if own.keys() == self._groups.own.keys():
            own = {name: check_own(name, v, self._groups.count) for name, v in own.items()}
            self._groups = Groups(self.plan, self.optimizer, phases, own)
        self._set(step)
        self.last_epoch = step


def check_own(name: str, values: list[Any], count: int) -> list[float]:
    """Return a saved list of the optimizer's own values, one for each of ``count`` groups."""
    if len(values) != count:
        raise PhaseError(f"the state has {len(values)} values of `{name}` for {count} groups")
    return [check_number(f"own[{name!r}]", value) for value in values]


def _refuse_changes(plan: Plan) -> None:
    for index in range(len(plan.phases)):
        if what := plan.change_at(index):
            raise PhaseError(f"{plan.label(index)} {what}: that takes pyphase.PhaseLoop")


def _check_optimizer(plan: Plan, optimizer: torch.optim.Optimizer) -> None:
    wanted = next((opt_fn for opt_fn in plan.opt_fns if opt_fn is not None), None)
    if wanted is None:
        return
    own = unwrapped(optimizer)
    function, _, keywords = bound(wanted)
    differs = isinstance(function, type) and type(own) is not function
    differs |= any(
        key in own.defaults and not _same_value(own.defaults[key], value)
        for key, value in keywords.items()
    )
    if differs:
        raise PhaseError(
            f"the plan asks for {name_of(wanted)}, but `optimizer` is another one: "
            f"{type(own).__name__}({', '.join(f'{k}={v}' for k, v in own.defaults.items())})"
        )


def _same_value(a: Any, b: Any) -> bool:
    return bool(list(a) == list(b) if isinstance(a, tuple | list) and b else a == b)
