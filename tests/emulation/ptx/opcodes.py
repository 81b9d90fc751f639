"""The table of opcodes: each group's file adds its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from .parse import Instruction, Unsupported

if TYPE_CHECKING:
    from .machine import Machine
    from .values import Array

Opcode = Callable[["Machine", Instruction, "Array"], None]
TABLE: dict[str, Opcode] = {}


def opcode(*names: str) -> Callable[[Opcode], Opcode]:
    """Enter a function as what executes opcodes of these first parts."""

    def enter(function: Opcode) -> Opcode:
        for name in names:
            TABLE[name] = function
        return function

    return enter


@cache
def unknown_parts(parts: tuple[str, ...], known: frozenset[str]) -> set[str]:
    return set(parts[1:]) - known


def require_parts(instruction: Instruction, known: frozenset[str]) -> None:
    """Raise Unsupported where an opcode has a part that its function doesn't know."""
    unknown = unknown_parts(instruction.parts, known)
    if unknown:
        raise Unsupported(f"{'.'.join(sorted(unknown))} in {instruction.text}")
