"""Build the optimizer of a phase, and carry state over from the one before."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import SGD, Optimizer

from pyphase.errors import PhaseError, shown
from pyphase.opt_fn import OptFn, bound, is_sgd, name_of

__all__ = ["build_optimizer", "carry_state", "check_carry", "needs_closure", "set_mode"]

_MOMENTUM = 0.9  # of an SGD that pyphase builds, unless its opt_fn or the phase says otherwise


def build_optimizer(
    opt_fn: OptFn | None, groups: Sequence[Sequence[torch.nn.Parameter]], lrs: Sequence[float]
) -> Optimizer:
    """Return ``opt_fn(params, lr=...)`` with one parameter group per entry of ``groups``."""
    make: OptFn = SGD if opt_fn is None else opt_fn
    params = [
        {"params": list(group), "lr": lr} for group, lr in zip(groups, lrs, strict=True) if group
    ]
    if len(params) != len(groups) or not params:
        raise PhaseError(f"`groups` must each hold a parameter, got sizes {[*map(len, groups)]}")
    extra = {"momentum": _MOMENTUM} if is_sgd(make) and "momentum" not in bound(make)[2] else {}
    optimizer: Any = make(params, lr=lrs[0], **extra)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"`opt_fn` must return a torch optimizer, got {shown(optimizer)}")
    if len(optimizer.param_groups) != len(groups):
        raise PhaseError(
            f"`opt_fn` {name_of(make)} made {len(optimizer.param_groups)} parameter groups of "
            f"{len(groups)}"
        )
    return optimizer


def needs_closure(optimizer: Optimizer) -> bool:
    """Tell whether a step evaluates the loss several times."""
    return isinstance(optimizer, torch.optim.LBFGS)


def set_mode(optimizer: Optimizer, training: bool) -> None:
    """Call the optimizer's own ``train()`` or ``eval()``, as schedule-free ones have them.

    In eval mode the model holds the averaged weights, which are to be measured and kept; in train
    mode those at which gradients are taken.
    """
    mode = getattr(optimizer, "train" if training else "eval", None)
    if callable(mode):
        mode()


def check_carry(policy: str, before: type[Optimizer], after: type[Optimizer]) -> None:
    """Raise PhaseError where ``opt_state`` can't go from one optimizer class to the other."""
    pair = f"{before.__name__} -> {after.__name__}"
    if policy == "keep" and before is not after:
        raise PhaseError(f"`opt_state` (='keep') needs the same class, got {pair}")
    if policy == "map" and not all(issubclass(kind, (SGD, *_ADAMS)) for kind in (before, after)):
        raise PhaseError(f"`opt_state` (='map') knows SGD, Adam and AdamW, got {pair}")


_ADAMS = (torch.optim.Adam, torch.optim.AdamW)
_OPTIONAL = {"amsgrad": "max_exp_avg_sq", "centered": "grad_avg"}  # of Adam, of RMSprop


def carry_state(policy: str, before: Optimizer, after: Optimizer) -> None:
    """Give ``after`` the state of ``before``: nothing (fresh), all of it (keep), or mapped.

    ``map`` goes by the mean gradient m that both kinds of optimizer estimate:

    - SGD's buffer b is the sum of momentum^j times past gradients, so m = (1 - momentum) * b;
    - Adam's exp_avg e after t steps is biased, so m = e / (1 - beta1^t).

    An SGD gets the buffer of that m. An Adam gets the state that it has after one step whose
    gradient is m: step 1, exp_avg = (1 - beta1) * m, exp_avg_sq = (1 - beta2) * m^2; between two
    Adams everything is kept, the step count included. What only the new keywords ask for (the
    maximum of ``amsgrad``, RMSprop's ``centered`` mean) begins at zero.
    """
    if policy == "fresh":
        return
    if policy == "keep":
        _carry_counters(before, after)
    old_groups = {param: group for group in before.param_groups for param in group["params"]}
    for new_group in after.param_groups:
        for param in new_group["params"]:
            state = before.state.get(param)
            if not state:
                continue
            if policy == "keep" or (isinstance(before, _ADAMS) and isinstance(after, _ADAMS)):
                after.state[param] = dict(state) | _added(param, state, new_group)
                _place_step(after.state[param], param, new_group)
                continue
            mean = _mean_gradient(state, old_groups[param])
            if mean is not None:
                if bool(old_groups[param].get("maximize")) != bool(new_group.get("maximize")):
                    mean = -mean
                after.state[param] = _state_of_mean(after, param, mean, new_group)


def _carry_counters(before: Optimizer, after: Optimizer) -> None:
    """Copy what a group counts: the entries that no keyword of the class or its bases sets.

    Schedule-free optimizers have their step count and the sum of their weights there.
    """
    classes = [base for base in type(after).__mro__ if issubclass(base, Optimizer)]
    keywords = {"params", "initial_lr"}.union(*(inspect.signature(c).parameters for c in classes))
    for old, new in zip(before.param_groups, after.param_groups, strict=False):
        new.update({name: old[name] for name in new.keys() - keywords if name in old})


def _on_device(group: dict[str, Any]) -> bool:
    return bool(group.get("capturable") or group.get("fused"))


def _place_step(state: dict[str, Any], param: torch.Tensor, group: dict[str, Any]) -> None:
    """Put the step count where the group's implementation has it: on the host or the device."""
    step = state.get("step")
    if isinstance(step, torch.Tensor):
        state["step"] = step.to(param.device if _on_device(group) else "cpu")


def _added(
    param: torch.Tensor, state: dict[str, Any], group: dict[str, Any]
) -> dict[str, torch.Tensor]:
    """Return the entries that the group's options need and the state hasn't got."""
    needed = [name for option, name in _OPTIONAL.items() if group.get(option)]
    if "alpha" in group and group.get("momentum"):  # RMSprop
        needed.append("momentum_buffer")
    return {name: torch.zeros_like(param) for name in needed if name not in state}


def _mean_gradient(state: dict[str, Any], group: dict[str, Any]) -> torch.Tensor | None:
    if state.get("exp_avg") is not None:
        beta, step = float(group["betas"][0]), float(state["step"])
        if step == 0:
            return None
        mean: torch.Tensor = state["exp_avg"] / (1.0 - beta**step)
        return mean
    buffer = state.get("momentum_buffer")
    if buffer is None:
        return None
    scale = (1.0 - float(group["momentum"])) / (1.0 - float(group["dampening"]))
    return torch.as_tensor(buffer * scale)


def _state_of_mean(
    after: Optimizer, param: torch.Tensor, mean: torch.Tensor, group: dict[str, Any]
) -> dict[str, Any]:
    if not isinstance(after, _ADAMS):
        if float(group["momentum"]) == 0.0:
            return {}
        scale = (1.0 - float(group["dampening"])) / (1.0 - float(group["momentum"]))
        return {"momentum_buffer": mean * scale}
    beta1, beta2 = (float(beta) for beta in group["betas"])
    state = {
        "step": torch.ones((), device=param.device if _on_device(group) else None),
        "exp_avg": mean * (1.0 - beta1),
        "exp_avg_sq": mean.square() * (1.0 - beta2),
    }
    if group.get("amsgrad"):
        state["max_exp_avg_sq"] = torch.zeros_like(mean)
    return state
