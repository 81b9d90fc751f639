"""Arithmetic on integers and floats."""

from __future__ import annotations

import numpy as np

from .opcodes import opcode, require_parts
from .parse import ROUNDING, Instruction, Unsupported
from .values import SIGNED, UNSIGNED, Array, from_bfloat16, to_bfloat16, width

INTEGERS = {f"{kind}{bits}" for kind in "us" for bits in (16, 32, 64)}
FLOATS = {"f32", "f64", "f16", "bf16"}
FLOAT_PARTS = frozenset(FLOATS | ROUNDING | {"ftz", "sat", "approx", "full", "NaN"})
INTEGER_PARTS = frozenset(INTEGERS | {"lo", "hi", "wide"})


def round_to(value: Array, rounding: str) -> Array:
    """float64 to float32, rounded as told."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        nearest = value.astype(np.float32)
        if rounding == "rn":
            return nearest
        exact = nearest.astype(np.float64)
        up, down = np.float32(np.inf), np.float32(-np.inf)
        if rounding == "rm":
            return np.where(exact > value, np.nextafter(nearest, down), nearest)
        if rounding == "rp":
            return np.where(exact < value, np.nextafter(nearest, up), nearest)
        away = np.abs(exact) > np.abs(value)
        return np.where(away, np.nextafter(nearest, np.float32(0)), nearest)


def read_float(machine, operand: str, kind: str) -> Array:
    """A float operand in float64, in which sums and products of float32 round once."""
    if kind == "bf16":
        return from_bfloat16(np.asarray(machine.lanes.read(operand, "b16"))).astype(np.float64)
    return np.asarray(machine.lanes.read(operand, kind)).astype(np.float64)


def write_float(machine, operand: str, value: Array, ins: Instruction, mask: Array) -> None:
    if "sat" in ins.parts:
        value = np.where(np.isnan(value), 0.0, np.clip(value, 0.0, 1.0))
    if ins.type == "f64":
        result = value
    elif ins.type == "bf16":
        result = to_bfloat16(value.astype(np.float32))
    elif ins.type == "f16":
        result = value.astype(np.float16)
    else:
        result = round_to(value, ins.rounding)
    if "ftz" in ins.parts and ins.type == "f32":
        tiny = np.abs(result) < np.finfo(np.float32).tiny
        result = np.where(tiny, np.copysign(np.float32(0), result), result)
    machine.lanes.write(operand, result, mask)


BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "min": np.fmin,
    "max": np.fmax,
}


@opcode("add", "sub", "mul", "min", "max", "div", "fma", "mad", "rem")
def arithmetic(machine, ins: Instruction, mask: Array) -> None:
    if ins.type in FLOATS:
        _float(machine, ins, mask)
    elif ins.type in INTEGERS:
        _integer(machine, ins, mask)
    else:
        raise Unsupported(ins.text)


def _float(machine, ins: Instruction, mask: Array) -> None:
    require_parts(ins, FLOAT_PARTS)
    if ins.type == "f32" and NEAREST.issuperset(ins.parts):
        _nearest(machine, ins, mask)
        return
    a, b = (read_float(machine, operand, ins.type) for operand in ins.operands[1:3])
    if ins.name in ("fma", "mad"):
        value = a * b + read_float(machine, ins.operands[3], ins.type)
    elif "NaN" in ins.parts:
        value = {"min": np.minimum, "max": np.maximum}[ins.name](a, b)
    elif ins.name in BINARY:
        value = BINARY[ins.name](a, b)
    else:
        raise Unsupported(ins.text)
    write_float(machine, ins.operands[0], value, ins, mask)


# Of float32, rounded to nearest: what has no other part.
NEAREST = frozenset({*BINARY, "fma", "rn", "f32"})


def _nearest(machine, ins: Instruction, mask: Array) -> None:
    """The bits of _float, in less time: but for fma, float32 itself rounds once."""
    read = machine.lanes.read
    a, b = read(ins.operands[1], "f32"), read(ins.operands[2], "f32")
    if ins.name == "fma":
        value = np.multiply(a, b, dtype=np.float64) + read(ins.operands[3], "f32")
        value = value.astype(np.float32)
    else:
        value = BINARY[ins.name](a, b)
    machine.lanes.write(ins.operands[0], value, mask)


def divide(a: Array, b: Array) -> Array:
    """Whole numbers' quotient, rounded towards zero; anything where b is 0."""
    safe = np.where(b == 0, np.ones_like(b), b)
    quotient = a // safe
    inexact = quotient * safe != a
    return (quotient + (inexact & ((a < 0) != (safe < 0)))).astype(a.dtype)


INTEGER = {"add": np.add, "sub": np.subtract, "mul": np.multiply}
INTEGER |= {"min": np.minimum, "max": np.maximum}


def _integer(machine, ins: Instruction, mask: Array) -> None:
    require_parts(ins, INTEGER_PARTS)
    bits, families = width(ins.type), SIGNED if ins.type[0] == "s" else UNSIGNED
    a, b = (np.asarray(machine.lanes.read(o, ins.type)) for o in ins.operands[1:3])
    kind = ins.type
    if "wide" in ins.parts:
        kind = f"{ins.type[0]}{2 * bits}"
        a, b = a.astype(families[2 * bits]), b.astype(families[2 * bits])
    if "hi" in ins.parts:
        if bits == 64:
            raise Unsupported(ins.text)
        wide = a.astype(families[2 * bits]) * b.astype(families[2 * bits])
        value = (wide >> np.array(bits, wide.dtype)).astype(families[bits])
        if ins.name == "mad":
            value = value + np.asarray(machine.lanes.read(ins.operands[3], ins.type))
    elif ins.name == "mad":
        value = a * b + np.asarray(machine.lanes.read(ins.operands[3], kind))
    elif ins.name == "div":
        value = divide(a, b)
    elif ins.name == "rem":
        value = a - divide(a, b) * b
    elif ins.name in INTEGER:
        value = INTEGER[ins.name](a, b)
    else:
        raise Unsupported(ins.text)
    machine.lanes.write(ins.operands[0], value, mask)


UNARY_PARTS = frozenset(FLOATS | ROUNDING | {"ftz", "approx"})
UNARY = {
    "neg": np.negative,
    "abs": np.abs,
    "rcp": np.reciprocal,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "ex2": np.exp2,
    "lg2": np.log2,
    "tanh": np.tanh,
}


@opcode(*UNARY)
def unary(machine, ins: Instruction, mask: Array) -> None:
    if ins.type in FLOATS:
        require_parts(ins, UNARY_PARTS)
        value = UNARY[ins.name](read_float(machine, ins.operands[1], ins.type))
        write_float(machine, ins.operands[0], value, ins, mask)
    elif ins.type in INTEGERS and ins.name in ("neg", "abs"):
        value = UNARY[ins.name](np.asarray(machine.lanes.read(ins.operands[1], ins.type)))
        machine.lanes.write(ins.operands[0], value, mask)
    else:
        raise Unsupported(ins.text)


@opcode("copysign")
def copysign(machine, ins: Instruction, mask: Array) -> None:
    sign, value = (read_float(machine, o, ins.type) for o in ins.operands[1:3])
    write_float(machine, ins.operands[0], np.copysign(value, sign), ins, mask)
