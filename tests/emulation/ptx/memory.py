"""Loads and stores."""

from __future__ import annotations

from functools import cache

import numpy as np

from emulation.machine import Fault

from .lanes import PARAMETER_WINDOW, SHARED_WINDOW, vector
from .opcodes import opcode
from .parse import Instruction, Unsupported
from .values import UNSIGNED, Array, width

HINTS = (
    {"nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "relaxed", "weak"}
    | {f"L1_{hint}" for hint in ("no_allocate", "evict_first", "evict_last", "evict_normal")}
    | {"L2_128B", "L2_64B", "L2_256B"}
)


@cache
def _named_space(parts: tuple[str, ...]) -> str:
    """The space that an opcode names; none for generic addresses."""
    known = HINTS | {"v2", "v4", "global", "shared", "shared_cta", "param", "local", parts[-1]}
    if set(parts[1:]) - known:
        raise Unsupported(".".join(parts))
    spaces = ("global", "shared", "param", "local")
    return next((s for s in spaces if s in parts or f"{s}_cta" in parts), "")


def _space(machine, ins: Instruction, address: Array, mask: Array) -> tuple[str, Array]:
    if space := _named_space(ins.parts):
        return space, address
    if (address[mask] >= PARAMETER_WINDOW).any():
        raise Unsupported(f"a generic address of arguments or local memory: {ins.text}")
    inside = address[mask] >= SHARED_WINDOW  # a generic address
    if inside.all():
        return "shared", address - SHARED_WINDOW
    if inside.any():
        raise Unsupported(f"one access to two spaces: {ins.text}")
    return "global", address


@opcode("ld", "st")
def access(machine, ins: Instruction, mask: Array) -> None:
    is_load = ins.name == "ld"
    place, values = ins.operands[::-1] if is_load else ins.operands
    registers = vector(values)
    space, address = _space(machine, ins, machine.lanes.address(place), mask)
    size = width(ins.type) // 8
    whole = size * len(registers)
    who = machine.chosen(mask)
    at = address[who]
    if space == "param":
        if not is_load:
            raise Unsupported(ins.text)
        numbers = [machine.parameter(at + i * size, size) for i in range(len(registers))]
        _fill(machine, ins, registers, numbers, who)
        return
    if np.bitwise_or.reduce(at) & (whole - 1):
        raise Fault(f"misaligned access to {space} memory: {ins.text}")
    if machine.counts and space != "local":
        count = machine.counts.count_global if space == "global" else machine.counts.count_shared
        count("load" if is_load else "store", address, whole, mask)
    if is_load:
        numbers = _load(machine, space, who, at, size, len(registers), ins.text)
        _fill(machine, ins, registers, numbers, who)
        return
    numbers = []
    for register in registers:
        value = machine.lanes.read(register, f"b{8 * size}")
        numbers.append(value[who] if value.ndim else np.full(len(who), value))
    if space == "local":
        for i, value in enumerate(numbers):
            machine.local(
                who, at + i * size, size, np.ascontiguousarray(value)[:, None].view(np.uint8)
            )
    elif space == "global":
        machine.tensors.store(at, numbers, machine.grid_thread[who], ins.text)
    else:
        machine.shared.store(who, at, numbers, ins.text)


def _load(machine, space: str, who: Array, at: Array, size: int, count: int, text: str):
    if space == "local":
        every = [machine.local(who, at + i * size, size) for i in range(count)]
        return [one.view(UNSIGNED[8 * size])[:, 0] for one in every]
    if space == "global":
        return machine.tensors.load(at, size, count, machine.grid_thread[who], text)
    return machine.shared.load(who, at, size, count, text)


def _fill(machine, ins: Instruction, registers, numbers, who: Array) -> None:
    for register, got in zip(registers, numbers, strict=True):
        signed = got.view(f"i{got.dtype.itemsize}") if ins.type[0] == "s" else got
        machine.lanes.scatter(register, signed, who)
