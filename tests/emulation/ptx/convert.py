"""Moves, packing, and conversions between types."""

from __future__ import annotations

import numpy as np

from .arithmetic import FLOATS, read_float, round_to
from .lanes import LOCAL_WINDOW, PARAMETER_WINDOW, SHARED_WINDOW, vector
from .opcodes import opcode, require_parts
from .parse import ROUNDING, Instruction, Unsupported
from .values import UNSIGNED, Array, dtype_of, to_bfloat16, to_tf32, width


@opcode("mov")
def move(machine, ins: Instruction, mask: Array) -> None:
    target, source = ins.operands
    if ins.type == "pred":
        machine.lanes.write(target, machine.lanes.read(source, "pred"), mask)
        return
    bits = width(ins.type)
    if source.startswith("{"):  # pack, the first element lowest
        parts = vector(source)
        each = bits // len(parts)
        value = np.zeros(machine.lanes.count, UNSIGNED[bits])
        for i, part in enumerate(parts):
            element = np.asarray(machine.lanes.read(part, f"b{each}")).astype(UNSIGNED[bits])
            value |= element << UNSIGNED[bits](i * each)
        machine.lanes.write(target, value, mask)
    elif target.startswith("{"):
        parts = vector(target)
        each = bits // len(parts)
        value = np.asarray(machine.lanes.read(source, f"b{bits}")).copy()
        for i, part in enumerate(parts):
            element = (value >> UNSIGNED[bits](i * each)).astype(UNSIGNED[each])
            machine.lanes.write(part, element, mask)
    else:
        machine.lanes.write(target, np.asarray(machine.lanes.read(source, f"b{bits}")), mask)


@opcode("cvta")
def convert_address(machine, ins: Instruction, mask: Array) -> None:
    """Between generic addresses and those of a space; global ones are the same in both."""
    window = {
        "shared": SHARED_WINDOW,
        "param": PARAMETER_WINDOW,
        "local": LOCAL_WINDOW,
        "global": 0,
    }
    space = next((part for part in ins.parts if part in window), None)
    if space is None:
        raise Unsupported(ins.text)
    value = np.asarray(machine.lanes.read(ins.operands[1], ins.type)).astype(np.uint64)
    offset = np.uint64(window[space])
    machine.lanes.write(
        ins.operands[0], value - offset if "to" in ins.parts else value + offset, mask
    )


PARTS = frozenset(FLOATS | ROUNDING | {"ftz", "sat", "rni", "rzi", "rmi", "rpi", "rna", "tf32"})
PARTS |= {f"{kind}{bits}" for kind in "us" for bits in (8, 16, 32, 64)}


@opcode("cvt")
def convert(machine, ins: Instruction, mask: Array) -> None:
    """cvt[.rounding][.ftz][.sat].to.from."""
    to, source = ins.parts[-2], ins.parts[-1]
    if to in ("f16x2", "bf16x2"):  # the first source becomes the upper half
        high, low = (read_float(machine, o, source) for o in ins.operands[1:3])
        halves = [_float_bits(value, to[:-2]).astype(np.uint32) for value in (low, high)]
        machine.lanes.write(ins.operands[0], halves[0] | halves[1] << np.uint32(16), mask)
        return
    require_parts(ins, PARTS)
    if source in FLOATS:
        value = _from_float(machine, ins, read_float(machine, ins.operands[1], source))
    else:
        value = np.asarray(machine.lanes.read(ins.operands[1], source))
        if to in FLOATS:
            value = _float_bits(value.astype(np.float64), to)
        elif "sat" in ins.parts:
            raise Unsupported(ins.text)
        else:
            value = value.astype(dtype_of(to))
    machine.lanes.write(ins.operands[0], np.asarray(value), mask)


def _float_bits(value: Array, kind: str, rounding: str = "rn") -> Array:
    if kind == "bf16":
        return to_bfloat16(value.astype(np.float32))
    if kind == "f16":
        return value.astype(np.float32).astype(np.float16).view(np.uint16)
    if kind == "f64":
        return value.view(np.uint64)
    return round_to(value, rounding).view(np.uint32)


ROUND = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def _from_float(machine, ins: Instruction, value: Array) -> Array:
    to = ins.parts[-2]
    whole = next((ROUND[part] for part in ins.parts if part in ROUND), None)
    if whole:
        value = whole(value)
    if to == "tf32":
        if "rna" not in ins.parts:
            raise Unsupported(ins.text)
        return to_tf32(value.astype(np.float32))
    if to not in FLOATS:  # to whole numbers, at most the largest one
        if whole is None:
            raise Unsupported(ins.text)
        limits = np.iinfo(dtype_of(to))
        value = np.where(np.isnan(value), 0.0, value)
        inside = np.clip(value, float(limits.min), float(limits.max))
        result = np.where(inside >= float(limits.max), 0, inside).astype(limits.dtype)
        return np.where(inside >= float(limits.max), limits.max, result).astype(limits.dtype)
    if "sat" in ins.parts:
        value = np.where(np.isnan(value), 0.0, np.clip(value, 0.0, 1.0))
    if ins.rounding != "rn" and to != "f32":
        raise Unsupported(ins.text)
    return _float_bits(value, to, ins.rounding)
