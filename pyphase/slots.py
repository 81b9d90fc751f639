"""Which entry of an optimizer's parameter groups a key of a plan sets."""

from __future__ import annotations

from typing import Any

__all__ = ["DECAY", "DECOUPLED", "find_slot"]

DECOUPLED = "decoupled_weight_decay"
DECAY = "wd"  # its entry in the groups, as in fastai 0.7; Adam has a flag by the key's name


def find_slot(key: str, groups: list[dict[str, Any]]) -> tuple[str, int] | None:
    """Return the entry for ``key``, and the element in it (-1: all of it); None if it isn't there.

    ``momentum`` is ``betas[0]`` where the groups have betas, ``beta`` is ``betas[1]`` or ``alpha``.
    """
    name, _, element = key.partition(".")
    choices = {
        "lr": [("lr", -1)],
        "momentum": [("betas", 0), ("momentum", -1)],
        "beta": [("betas", 1), ("alpha", -1)],
        DECOUPLED: [(DECAY, -1)],
    }.get(key, [(name, int(element) if element else -1)])
    for choice in choices:
        if choice[0] == DECAY or all(_has(group, *choice) for group in groups):
            return choice
    return None


def _has(group: dict[str, Any], name: str, element: int) -> bool:
    if name not in group:
        return False
    return element < 0 or (isinstance(group[name], tuple) and element < len(group[name]))
