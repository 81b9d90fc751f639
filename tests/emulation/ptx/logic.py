"""Bits, comparisons, and choices."""

from __future__ import annotations

import numpy as np

from .arithmetic import FLOATS, read_float
from .opcodes import opcode, require_parts
from .parse import Instruction, Unsupported
from .values import Array, dtype_of, width

BITS = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}
PREDICATES = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


@opcode("and", "or", "xor", "not", "cnot")
def bitwise(machine, ins: Instruction, mask: Array) -> None:
    if len(ins.parts) != 2:
        raise Unsupported(ins.text)
    values = [np.asarray(machine.lanes.read(o, ins.type)) for o in ins.operands[1:]]
    if ins.name == "not":
        result = ~values[0]
    elif ins.name == "cnot":
        result = (values[0] == 0).astype(values[0].dtype)
    else:
        result = BITS[ins.name](*values)
    machine.lanes.write(ins.operands[0], result, mask)


@opcode("lop3")
def lop3(machine, ins: Instruction, mask: Array) -> None:
    """Any function of three bits: bit 4 a + 2 b + c of the table."""
    a, b, c = (np.asarray(machine.lanes.read(o, "b32")) for o in ins.operands[1:4])
    table = int(ins.operands[4], 0)
    result = np.zeros(machine.lanes.count, np.uint32)
    for row in range(8):
        if table >> row & 1:
            term = (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
            result |= term
    machine.lanes.write(ins.operands[0], result, mask)


@opcode("shl", "shr")
def shift(machine, ins: Instruction, mask: Array) -> None:
    """Shifts by the width or more give zero, or the sign."""
    bits = width(ins.type)
    value = np.asarray(machine.lanes.read(ins.operands[1], ins.type))
    by = np.asarray(machine.lanes.read(ins.operands[2], "u32"))
    some = np.minimum(by, bits - 1).astype(value.dtype)
    result = value << some if ins.name == "shl" else value >> some
    if ins.name == "shl" or ins.type[0] != "s":
        result = np.where(by >= bits, np.zeros_like(result), result)
    machine.lanes.write(ins.operands[0], result, mask)


@opcode("shf")
def funnel_shift(machine, ins: Instruction, mask: Array) -> None:
    """32 bits out of the 64 of (high, low)."""
    require_parts(ins, frozenset({"l", "r", "wrap", "clamp", "b32"}))
    low, high = (
        np.asarray(machine.lanes.read(o, "b32")).astype(np.uint64) for o in ins.operands[1:3]
    )
    by = np.asarray(machine.lanes.read(ins.operands[3], "u32")).astype(np.uint64)
    by = by & np.uint64(31) if "wrap" in ins.parts else np.minimum(by, np.uint64(32))
    both = high << np.uint64(32) | low
    result = both << by >> np.uint64(32) if "l" in ins.parts else both >> by
    machine.lanes.write(ins.operands[0], (result & np.uint64(0xFFFFFFFF)).astype(np.uint32), mask)


@opcode("bfe")
def extract(machine, ins: Instruction, mask: Array) -> None:
    if ins.type not in ("u32", "s32"):
        raise Unsupported(ins.text)
    value = np.asarray(machine.lanes.read(ins.operands[1], ins.type)).astype(np.int64)
    start, length = (
        np.asarray(machine.lanes.read(o, "u32")).astype(np.int64) & 255 for o in ins.operands[2:4]
    )
    field = (value >> np.minimum(start, 63)) & ((1 << np.minimum(length, 32)) - 1)
    if ins.type == "s32":
        top = np.clip(length, 1, 32) - 1
        field = np.where((field >> top) & 1, field - (1 << (top + 1)), field)
        field = np.where(length == 0, 0, field)
    machine.lanes.write(ins.operands[0], (field & 0xFFFFFFFF).astype(np.uint32), mask)


@opcode("bfi")
def insert(machine, ins: Instruction, mask: Array) -> None:
    dtype = dtype_of(ins.type)
    value, base = (np.asarray(machine.lanes.read(o, ins.type)) for o in ins.operands[1:3])
    start, length = (
        np.asarray(machine.lanes.read(o, "u32")).astype(np.uint64) for o in ins.operands[3:5]
    )
    ones = ((np.uint64(1) << length) - np.uint64(1)) << start
    hole = ones.astype(dtype)
    result = (base & ~hole) | (value << start.astype(dtype) & hole)
    machine.lanes.write(ins.operands[0], result, mask)


@opcode("prmt")
def permute_bytes(machine, ins: Instruction, mask: Array) -> None:
    if ins.parts != ("prmt", "b32"):
        raise Unsupported(ins.text)
    a, b, selector = (
        np.asarray(machine.lanes.read(o, "u32")).astype(np.uint64) for o in ins.operands[1:4]
    )
    both = b << np.uint64(32) | a
    result = np.zeros(machine.lanes.count, np.uint64)
    for byte in range(4):
        nibble = selector >> np.uint64(4 * byte)
        value = both >> (np.uint64(8) * (nibble & np.uint64(7))) & np.uint64(255)
        sign = np.where(value & np.uint64(128), np.uint64(255), np.uint64(0))
        value = np.where(nibble & np.uint64(8), sign, value)
        result |= value << np.uint64(8 * byte)
    machine.lanes.write(ins.operands[0], result.astype(np.uint32), mask)


@opcode("popc", "clz")
def count_bits(machine, ins: Instruction, mask: Array) -> None:
    if ins.type != "b32":
        raise Unsupported(ins.text)
    value = np.broadcast_to(machine.lanes.read(ins.operands[1], "b32"), (machine.lanes.count,))
    bits = np.unpackbits(np.ascontiguousarray(value)[:, None].view(np.uint8)[:, ::-1], axis=1)
    result = bits.sum(1) if ins.name == "popc" else np.where(bits.any(1), bits.argmax(1), 32)
    machine.lanes.write(ins.operands[0], result.astype(np.uint32), mask)


COMPARE = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
UNSIGNED_NAMES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}


def _compare(a: Array, b: Array, how: str, is_float: bool) -> Array:
    if not is_float:
        return COMPARE[UNSIGNED_NAMES.get(how, how)](a, b)
    unordered = np.isnan(a) | np.isnan(b)
    if how in ("num", "nan"):
        return unordered if how == "nan" else ~unordered
    if how.endswith("u") and how[:-1] in COMPARE:
        return COMPARE[how[:-1]](a, b) | unordered
    return COMPARE[how](a, b) & ~unordered


@opcode("setp")
def set_predicate(machine, ins: Instruction, mask: Array) -> None:
    """setp.compare[.bool][.ftz].type p[|q], a, b[, c]."""
    how, combine = ins.parts[1], next((p for p in ins.parts[2:-1] if p in PREDICATES), None)
    is_float = ins.type in FLOATS
    read = read_float if is_float else lambda m, o, k: np.asarray(m.lanes.read(o, k))
    a, b = (read(machine, o, ins.type) for o in ins.operands[1:3])
    result = _compare(a, b, how, is_float)
    targets = ins.operands[0].split("|")
    for target, value in zip(targets, (result, ~result), strict=False):
        if combine:
            other = ins.operands[3]
            third = machine.lanes.read(other.lstrip("!"), "pred")
            value = PREDICATES[combine](value, ~third if other[0] == "!" else third)
        machine.lanes.write(target, value, mask)


@opcode("selp")
def select(machine, ins: Instruction, mask: Array) -> None:
    kind = "b" + ins.type[1:] if ins.type != "bf16" else "b16"
    a, b = (machine.lanes.read(o, kind) for o in ins.operands[1:3])
    machine.lanes.write(
        ins.operands[0], np.where(machine.lanes.read(ins.operands[3], "pred"), a, b), mask
    )
