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
    who = np.flatnonzero(mask)
    if space == "param":
        if not is_load:
            raise Unsupported(ins.text)
        for i, register in enumerate(registers):
            machine.lanes.write(register, machine.parameter(address + i * size, size, mask), mask)
        return
    if (address[who] % whole).any():
        raise Fault(f"misaligned access to {space} memory: {ins.text}")
    if machine.counts and space != "local":
        count = machine.counts.count_global if space == "global" else machine.counts.count_shared
        count("load" if is_load else "store", address, whole, mask)
    for i, register in enumerate(registers):
        at = address[who] + i * size
        if is_load:
            if space == "local":
                got = machine.local(who, at, size).view(UNSIGNED[8 * size])[:, 0]
            elif space == "global":
                got = machine.tensors.load(at, size, machine.grid_thread[who], ins.text)
            else:
                got = machine.shared.load(who, at, size, ins.text)
            full = np.zeros(machine.lanes.count, UNSIGNED[8 * size])
            full[who] = got
            if ins.type[0] == "s":
                full = full.view(f"i{size}")
            machine.lanes.write(register, full, mask)
        else:
            value = bits_of(np.asarray(machine.lanes.read(register, f"b{8 * size}")), 8 * size)
            value = np.broadcast_to(value, (machine.lanes.count,))[who]
            if space == "local":
                machine.local(who, at, size, np.ascontiguousarray(value)[:, None].view(np.uint8))
            elif space == "global":
                machine.tensors.store(at, value, machine.grid_thread[who], ins.text)
            else:
                machine.shared.store(who, at, value, ins.text)
