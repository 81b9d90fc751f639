"""The optimizer of each phase: built, bound to the plan's values, given the state before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from pyphase.apply.gradients import drop_gradients
from pyphase.apply.groups import Groups
from pyphase.apply.optimizers import build_optimizer, carry_state, check_carry, set_mode
from pyphase.apply.params import follow_model
from pyphase.errors import PhaseError
from pyphase.opt_fn import same
from pyphase.plan import Plan

__all__ = ["PhaseOptimizers"]


class PhaseOptimizers:
    """Hold the optimizer in use; write its values; change it at the borders of a plan.

    Args:
        plan: the plan.
        given: the optimizer of the phases before the first ``opt_fn``, None for an SGD.
        collect: returns the model's parameter groups as they are now.

    Attributes:
        optimizer: the optimizer in use.
        cut_off: whether the start of a phase was cut off: the model may be half changed.

    Raises:
        PhaseError: the plan doesn't fit the optimizers or the model.
    """

    def __init__(
        self,
        plan: Plan,
        given: Optimizer | None,
        collect: Callable[[], list[list[torch.nn.Parameter]]],
    ) -> None:
        self.plan, self._given, self._collect = plan, given, collect
        self.cut_off = False
        self._params: list[list[torch.nn.Parameter]] = []  # before the model was last changed
        if given is not None and plan.opt_fns[0] is not None:
            raise PhaseError(
                "`optimizer` serves the phases before the first `opt_fn`: there is none"
            )
        self.optimizer = self._make(0)
        self._groups = self._bind(0, self.optimizer)
        self._check_changes()
        self.write(0)
        set_mode(self.optimizer, training=True)

    def write(self, step: int) -> None:
        """Set the values of a step."""
        self._groups.write(self.optimizer.param_groups, step)

    def enter(self, index: int, grow: Callable[[], Any] | None) -> None:
        """Start phase ``index``: let the model grow, change the optimizer, set the first values."""
        try:
            if grow is not None:
                if not self.cut_off:
                    self._params = self._collect()
                count = len(self.optimizer.param_groups)
                grow()
                if self._changes(index) and len(self.optimizer.param_groups) > count:
                    raise PhaseError(
                        f"{self.plan.label(index)}: `on_enter` adds a parameter group to an "
                        "optimizer that the phase replaces: the new one has those of `groups`"
                    )
                follow_model(self.optimizer, self._params, self._collect())
            self._start(index)
        except BaseException:
            self.cut_off = True
            raise
        self.cut_off = False

    def _start(self, index: int) -> None:
        before, opt_before = self._groups, self.optimizer
        if self._changes(index):
            set_mode(opt_before, training=False)
            self.optimizer = self._make(index)
            self._groups = self._bind(index, self.optimizer)
        self.write(self.plan.spans[index][0])
        if self._groups is not before:
            carry_state(self.plan.phases[index].opt_state, opt_before, self.optimizer)
            set_mode(self.optimizer, training=True)
        drop_gradients(self.optimizer)  # one left by somebody else would pass for the batch's

    def _changes(self, index: int) -> bool:
        """Tell whether phase ``index`` builds an optimizer.

        A plan can't know whose optimizer its first phases use. Where none was given it is an SGD,
        and a phase that asks for SGD goes on with it.
        """
        before, now = self.plan.opt_fns[index - 1], self.plan.opt_fns[index]
        is_default = before is None and self._given is None
        if is_default and now is not None and same(now, torch.optim.SGD):
            return False
        return self.plan.changes_optimizer(index)

    def _make(self, index: int) -> Optimizer:
        if self.plan.opt_fns[index] is None and self._given is not None:
            return self._given
        params = self._collect()
        starts = [form[1] for form in self.plan.phases[index].tracks["lr"].forms()]
        if len(starts) not in (1, len(params)):
            raise PhaseError(
                f"the plan names {self.plan.groups} parameter groups, but `groups` makes "
                f"{len(params)}"
            )
        lrs = starts * len(params) if len(starts) == 1 else starts
        return build_optimizer(self.plan.opt_fns[index], params, lrs)

    def _bind(
        self, index: int, optimizer: Optimizer, own: dict[str, list[Any]] | None = None
    ) -> Groups:
        last = index + 1
        while last < len(self.plan.phases) and not self._changes(last):
            last += 1
        return Groups(self.plan, optimizer, range(index, last), own)

    def _check_changes(self) -> None:
        """Build each later optimizer once: what can't work is said before any training."""
        before, last_groups = type(self.optimizer), self.optimizer.param_groups
        for index, phase in enumerate(self.plan.phases):
            if not self._changes(index):
                continue
            optimizer = self._make(index)
            self._bind(index, optimizer)
            if phase.opt_state == "map" and any(g.get("dampening") == 1 for g in last_groups):
                raise PhaseError(
                    f"{self.plan.label(index)}: `opt_state` (='map') can't read the mean gradient "
                    "of an SGD with dampening 1"
                )
            try:
                check_carry(phase.opt_state, before, type(optimizer))
            except PhaseError as error:
                raise PhaseError(f"{self.plan.label(index)}: {error}") from None
            before, last_groups = type(optimizer), optimizer.param_groups

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer in use, its class, and its own values."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "optimizer_class": type(self.optimizer).__name__,
            "own": {name: list(own) for name, own in self._groups.own.items()},
        }

    def load_state_dict(self, state: dict[str, Any], *, keep_options: bool) -> None:
        """Set the state back.

        ``keep_options``: the groups' options stay those of this plan, not the saved ones.
        """
        options = [{**group, "params": None} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        if keep_options:
            for group, own_options in zip(self.optimizer.param_groups, options, strict=True):
                group.update(own_options | {"params": group["params"]})
        own = {name: state["own"].get(name, own) for name, own in self._groups.own.items()}
        self._groups = self._bind(self._groups.phases[0], self.optimizer, own)
