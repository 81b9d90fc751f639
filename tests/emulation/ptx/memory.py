"""Loads and stores."""

from __future__ import annotations

import numpy as np

from emulation.machine import Fault

from .lanes import PARAMETER_WINDOW, SHARED_WINDOW, vector
from .opcodes import opcode
from .parse import Instruction, Unsupported
from .values import UNSIGNED, Array, bits_of, width

HINTS = (
    {"nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "relaxed", "weak"}
    | {f"L1_{hint}" for hint in ("no_allocate", "evict_first", "evict_last", "evict_normal")}
    | {"L2_128B", "L2_64B", "L2_256B"}
)


def _space(machine, ins: Instruction, address: Array, mask: Array) -> tuple[str, Array]:
    known = HINTS | {"v2", "v4", "global", "shared", "shared_cta", "param", "local", ins.type}
    if set(ins.parts[1:]) - known:
        raise Unsupported(ins.text)
    for space in ("global", "shared", "param", "local"):
        if space in ins.parts or f"{space}_cta" in ins.parts:
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
        _fill(machine, ins, registers, numbers, who, mask)
        return
    if (at % whole).any():
        raise Fault(f"misaligned access to {space} memory: {ins.text}")
    if machine.counts and space != "local":
        count = machine.counts.count_global if space == "global" else machine.counts.count_shared
        count("load" if is_load else "store", address, whole, mask)
    if is_load:
        numbers = _load(machine, space, who, at, size, len(registers), ins.text)
        _fill(machine, ins, registers, numbers, who, mask)
        return
    numbers = []
    for register in registers:
        value = bits_of(np.asarray(machine.lanes.read(register, f"b{8 * size}")), 8 * size)
        numbers.append(np.broadcast_to(value, (machine.lanes.count,))[who])
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


def _fill(machine, ins: Instruction, registers, numbers, who: Array, mask: Array) -> None:
    for register, got in zip(registers, numbers, strict=True):
        full = got
        if mask is not machine.lanes.every:
            full = np.zeros(machine.lanes.count, got.dtype)
            full[who] = got
        if ins.type[0] == "s":
            full = full.view(f"i{got.dtype.itemsize}")
        machine.lanes.write(register, full, mask)
