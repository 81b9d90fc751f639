"""Parameter groups of a model, also of one that grows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch

from pyphase.errors import PhaseError, shown

__all__ = ["GroupsArg", "collect_groups", "follow_model"]

GroupsArg: TypeAlias = (
    Sequence[torch.nn.Module | Sequence[torch.nn.Parameter]]
    | Callable[[torch.nn.Module], Any]
    | None
)


def collect_groups(model: torch.nn.Module, groups: GroupsArg) -> list[list[torch.nn.Parameter]]:
    """Return the parameters of each group.

    Args:
        model: the model.
        groups: None for one group; modules, or lists of parameters; or a function of the model
            that returns these (for a model that grows).

    Raises:
        PhaseError: a group is empty, or a parameter is in two groups.
        TypeError: a group is neither a module nor a list of parameters.
    """
    found = groups(model) if callable(groups) else groups
    if found is None:
        found = [model]
    if not isinstance(found, Iterable) or isinstance(found, str):
        raise TypeError(f"`groups` must be a list of modules or of parameters, got {shown(found)}")
    try:
        collected = [_parameters(index, part) for index, part in enumerate(found)]
    except (PhaseError, TypeError):
        raise
    except Exception as error:
        raise TypeError(f"`groups` (={shown(found)}) can't be read: {error!r}") from error
    seen: set[int] = set()
    for index, params in enumerate(collected):
        if not params:
            raise PhaseError(f"groups[{index}] holds no parameter")
        if seen & {id(param) for param in params}:
            raise PhaseError(f"groups[{index}] holds a parameter of an earlier group")
        seen |= {id(param) for param in params}
    if not collected:
        raise PhaseError("`groups` (=[]) must hold at least one group")
    return collected


def _parameters(index: int, part: Any) -> list[torch.nn.Parameter]:
    if isinstance(part, torch.nn.Module):
        return list(part.parameters())
    params = list(part) if isinstance(part, Iterable) else [part]
    if not all(isinstance(param, torch.Tensor) for param in params):
        raise TypeError(f"groups[{index}] must be a module or parameters, got {shown(part)}")
    return params


def follow_model(
    optimizer: torch.optim.Optimizer,
    before: Sequence[Sequence[torch.nn.Parameter]],
    after: Sequence[Sequence[torch.nn.Parameter]],
) -> None:
    """Give an optimizer what a model has gained, take away what it has lost.

    Args:
        optimizer: the optimizer; parameters that were never in ``before`` are left to it.
        before: the parameters of each group until now, as :func:`collect_groups` gave them.
        after: those of now. New ones join the group of their index; groups past the optimizer's
            are added to it.
    """
    known = {id(param) for params in before for param in params}
    lost = known - {id(param) for params in after for param in params}
    for group in optimizer.param_groups:
        for param in group["params"]:
            if id(param) in lost:
                optimizer.state.pop(param, None)
        group["params"] = [param for param in group["params"] if id(param) not in lost]
        known |= {id(param) for param in group["params"]}
    for index, params in enumerate(after):
        gained = [param for param in params if id(param) not in known]
        if index < len(optimizer.param_groups):
            optimizer.param_groups[index]["params"] += gained
        elif gained:
            optimizer.add_param_group({"params": gained})
