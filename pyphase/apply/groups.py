"""Where a plan's values go in the parameter groups of a given optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from pyphase.apply.optimizers import needs_closure
from pyphase.errors import PhaseError, shown
from pyphase.phase import Key
from pyphase.plan import Plan
from pyphase.slots import DECAY, DECOUPLED, find_slot

__all__ = ["Groups", "decay_decoupled", "unwrapped"]


class Groups:
    """Write a plan's values into one optimizer's parameter groups, one C++ call a step.

    Args:
        plan: the plan.
        optimizer: whatever has ``param_groups``; a plan for G groups needs G of them.
        phases: the phases that this optimizer serves.
        own: the optimizer's own values, as :attr:`own` gave them; read off the groups by default.

    Raises:
        PhaseError: a value of one of the phases is nothing that this optimizer has.
    """

    def __init__(
        self,
        plan: Plan,
        optimizer: torch.optim.Optimizer,
        phases: Iterable[int],
        own: dict[str, list[Any]] | None = None,
    ) -> None:
        self.plan, self.optimizer = plan, optimizer
        self.phases = tuple(phases)
        self.count = len(optimizer.param_groups)
        if plan.groups not in (1, self.count):
            raise PhaseError(
                f"the plan names {plan.groups} parameter groups, but {_class_name(optimizer)} has "
                f"{self.count}"
            )
        self.slots = _find_slots(plan, optimizer, self.phases)
        self.own = _read_own(self.slots, optimizer) if own is None else own
        self._check_shared()
        self._bind()
        self._hook()

    def _bind(self) -> None:
        tracks = list(self.plan.keys)
        core = self.plan.compile(self.count)
        self._write: Callable[[list[dict[str, Any]], int], None] = core.writer(
            [
                (tracks.index(key), name, element, self.own[self.plan.keys[key]])
                for key, (name, element) in self.slots.items()
            ]
        )
        self._functions = [
            (key, track) for track, key in enumerate(tracks) if callable(key) and self._serves(key)
        ]
        self._core = core
        # Without functions the C++ call does it all, and a step is spared a Python frame.
        self.fast_write = self.write if self._functions else self._write

    def _hook(self) -> None:
        if DECOUPLED in self.slots:
            _hook(self.optimizer, decay_decoupled)
        else:  # an earlier plan of this optimizer may have left its decay
            for group in self.optimizer.param_groups:
                group.pop(DECAY, None)
        if isinstance(unwrapped(self.optimizer), torch.optim.RMSprop) and "momentum" in self.slots:
            _hook(self.optimizer, add_momentum_buffers)

    def _check_shared(self) -> None:
        """Refuse one tensor in several groups where a phase has a value per group."""
        served = [self.plan.phases[index].tracks for index in self.phases]
        for key, (name, element) in self.slots.items():
            if all(tracks[key].width == 1 for tracks in served if key in tracks):
                continue
            found: list[Any] = [group.get(name) for group in self.optimizer.param_groups]
            values = [value if element < 0 else value[element] for value in found]
            tensors = [id(value) for value in values if isinstance(value, torch.Tensor)]
            if len(set(tensors)) < len(tensors):
                raise PhaseError(
                    f"the parameter groups share one tensor as {name!r}, but the plan has a value "
                    "per group: give each group a tensor of its own"
                )

    def _serves(self, key: Key) -> bool:
        return any(key in self.plan.phases[index].tracks for index in self.phases)

    def write(self, groups: list[dict[str, Any]], step: int) -> None:
        """Set every value of ``step``: the entries of ``groups``, then the functions."""
        if len(groups) != self.count:
            self._follow(len(groups))
        self._write(groups, step)
        for key, track in self._functions:
            values = self._core.values(track, step)
            if values and callable(key):
                key(values[0])

    def _follow(self, count: int) -> None:
        """Serve groups that were added since: they get the values of all groups."""
        if self.plan.groups != 1:
            raise PhaseError(
                f"the plan names {self.plan.groups} parameter groups, but the optimizer has "
                f"{count} now"
            )
        fresh = _read_own(self.slots, self.optimizer)
        self.own = {name: (own + fresh[name][len(own) :])[:count] for name, own in self.own.items()}
        self.count = count
        self._bind()

    def values(self, key: Key, step: int) -> list[float]:
        """Return a key's value of ``step`` for each group."""
        found = self._core.values(list(self.plan.keys).index(key), step)
        return found * self.count if len(found) == 1 else found

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_write", "_core", "fast_write")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._bind()
        self._hook()  # torch drops the hooks of an optimizer that is copied


def _find_slots(
    plan: Plan, optimizer: torch.optim.Optimizer, phases: Sequence[int]
) -> dict[Key, tuple[str, int]]:
    slots: dict[Key, tuple[str, int]] = {}
    for index in phases:
        for key, curve in plan.phases[index].tracks.items():
            if callable(key) or key in slots:
                continue
            slot = find_slot(key, optimizer.param_groups)
            if slot is not None:
                slots[key] = slot
            elif not (key == "weight_decay" and curve.ends == (0.0, 0.0)):
                keys = sorted(optimizer.param_groups[0].keys() - {"params"})
                raise PhaseError(
                    f"{plan.label(index)}: {_class_name(optimizer)} has nothing for `{key}` to "
                    f"set; its groups have {keys}"
                )
    taken: dict[tuple[str, int], Key] = {}
    for key, slot in slots.items():
        if slot in taken:
            raise PhaseError(f"`{taken[slot]}` and `{key}` both set {slot[0]!r}")
        taken[slot] = key
    return slots


def _read_own(
    slots: dict[Key, tuple[str, int]], optimizer: torch.optim.Optimizer
) -> dict[str, list[Any]]:
    own: dict[str, list[Any]] = {}
    for key, (name, element) in slots.items():
        found = []
        for group in optimizer.param_groups:
            value = group.get(name, 0.0)
            value = value if element < 0 else value[element]
            if isinstance(value, bool) or not isinstance(value, float | int | torch.Tensor):
                raise PhaseError(
                    f"`{key}` can't be scheduled: {name!r} of {_class_name(optimizer)} is "
                    f"{shown(value)}, not a number"
                )
            found.append(float(value))
        own[str(key)] = found
    return own


def _class_name(optimizer: Any) -> str:
    return type(unwrapped(optimizer)).__name__


def unwrapped(optimizer: Any) -> Any:
    """Return the optimizer itself where Accelerate has wrapped it; the wrapper has no hooks."""
    return getattr(optimizer, "optimizer", optimizer)


def skipped_inside(optimizer: Any) -> bool:
    """Tell, within a step hook, whether a fused optimizer skips the step for its GradScaler.

    Other optimizers are not called at all for a step that is skipped.
    """
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def decay_decoupled(
    optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Decay the weights before a step; where a closure makes the gradients, once it has done so.

    LBFGS compares the gradients and losses of a step's evaluations: all of them must be those of
    decayed weights, so that there the decay comes first.
    """
    closure = args[1] if len(args) > 1 else kwargs.get("closure")
    if closure is None or needs_closure(optimizer):
        if not skipped_inside(optimizer):
            _decay(optimizer)
        return None
    called = False

    def then_decay() -> Any:
        nonlocal called
        loss = closure()
        if not called:
            _decay(optimizer)
        called = True
        return loss

    return args[:1], {**kwargs, "closure": then_decay}


def _decay(optimizer: torch.optim.Optimizer) -> None:
    """Shrink each parameter with a gradient: p <- p - lr * wd * p, wd the group's decoupled one.

    Where the step has yet to make the gradients, those that can have one.
    """
    before = needs_closure(optimizer)
    for group in optimizer.param_groups:
        decay = group.get(DECAY, 0.0)
        params = [p for p in group["params"] if (p.requires_grad if before else p.grad is not None)]
        if decay and params:
            with torch.no_grad():
                torch._foreach_mul_(params, 1.0 - float(group["lr"]) * float(decay))


def add_momentum_buffers(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Give RMSprop the buffers that it makes in its first step only, and not for momentum 0."""
    for group in optimizer.param_groups:
        if group["momentum"] > 0:
            for param in group["params"]:
                state = optimizer.state.get(param)
                if state and "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(param)


def _hook(optimizer: torch.optim.Optimizer, function: Callable[..., Any]) -> None:
    """Call a function before each step of an optimizer, once."""
    inner = unwrapped(optimizer)
    if function not in inner._optimizer_step_pre_hooks.values():
        inner.register_step_pre_hook(function)
