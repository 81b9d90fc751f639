"""Numbers of PTX's types as numpy's: unsigned bits, seen as the type that an opcode names."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np

from .parse import Unsupported

Array = np.ndarray[Any, Any]
UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
SIGNED = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
FLOAT = {16: np.float16, 32: np.float32, 64: np.float64}


@cache
def width(kind: str) -> int:
    """Bits of a type: `f16x2` has 32."""
    match = re.fullmatch(r"[a-z]+(\d+)(?:x(\d))?", kind)
    if not match:
        raise Unsupported(f"type {kind}")
    return int(match[1]) * int(match[2] or 1)


@cache
def dtype_of(kind: str) -> Any:
    """Numpy's type for PTX's; bits and bf16 are unsigned."""
    if kind == "pred":
        return np.bool_
    family = {"u": UNSIGNED, "b": UNSIGNED, "s": SIGNED, "f": FLOAT}[kind[0]]
    return (UNSIGNED if "x" in kind or kind[0] == "b" else family)[width(kind)]


def from_bfloat16(bits: Array) -> Array:
    return (np.asarray(bits).astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bfloat16(value: Array) -> Array:
    """Round to nearest, ties to even; NaN becomes 0x7fff, as on the device."""
    value = np.ascontiguousarray(value, np.float32)
    bits = value.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    result = (rounded >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(value), np.uint16(0x7FFF), result)


def to_tf32(value: Array) -> Array:
    """Round to 10 bits of mantissa, ties away from zero; bits of float32."""
    bits = np.ascontiguousarray(value, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(value), rounded, bits)


def bits_of(value: Array, bits: int) -> Array:
    """The bits of an array, as unsigned numbers of that width; integers are cut or extended."""
    size, kind = 8 * value.dtype.itemsize, value.dtype.kind
    if size == bits:
        return value.view(UNSIGNED[bits])
    if kind == "f":
        value = value.view(UNSIGNED[size])
    elif kind == "i":
        return value.astype(SIGNED[bits]).view(UNSIGNED[bits])
    return value.astype(UNSIGNED[bits])
