"""The PTX of several targets. A kernel that is the same text for two of them runs for one."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from emulation import build

from .parse import Module, parse


@cache
def module(unit: Path, target: int) -> Module:
    return parse(build.ptx_text(unit, target))


def is_new(unit: Path, names: Iterable[str], target: int) -> bool:
    """Whether one of a unit's kernels is another text than for every target before this one."""
    before = build.PTX_TARGETS[: build.PTX_TARGETS.index(target)]
    here, there = module(unit, target), [module(unit, each) for each in before]
    return any(all(here.text(name) != each.text(name) for each in there) for name in names)
