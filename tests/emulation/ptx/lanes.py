"""The registers of all lanes, and operands read and written by name."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np

from .parse import Kernel, Unsupported, split_operands
from .values import UNSIGNED, Array, bits_of, dtype_of, width

SHARED_WINDOW = 1 << 56  # where generic addresses mean shared memory; the host's are below 2^47
PARAMETER_WINDOW = 1 << 57
LOCAL_WINDOW = 1 << 58


class Lanes:
    """Lane i is thread i % threads of block blocks[i // threads]."""

    def __init__(
        self, kernel: Kernel, grid: tuple[int, ...], block: tuple[int, ...], blocks: Array
    ) -> None:
        self.kernel = kernel
        self.threads = int(np.prod(block))
        self.blocks = len(blocks)
        self.count = self.threads * self.blocks
        self.thread = np.tile(np.arange(self.threads, dtype=np.int64), self.blocks)
        self.every = np.ones(self.count, bool)  # the mask where no lane is left out
        self._warps = np.flatnonzero(self.thread % 32 == 0)  # their first lanes
        self._warp_sizes = np.diff(self._warps, append=self.count)
        self._registers: dict[str, Array] = {}
        self._special = self._specials(grid, block, blocks)
        self._parameters = {name: offset for name, offset, _ in kernel.parameters}
        # Operands as numbers of a type: registers of that width, and constants.
        self._views: dict[tuple[str, str], Any] = {}

    def _specials(self, grid, block, blocks) -> dict[str, Array]:
        number = np.repeat(np.asarray(blocks, np.int64), self.threads)
        thread = self.thread
        values = {
            "%tid.x": thread % block[0],
            "%tid.y": thread // block[0] % block[1],
            "%tid.z": thread // (block[0] * block[1]),
            "%ctaid.x": number % grid[0],
            "%ctaid.y": number // grid[0] % grid[1],
            "%ctaid.z": number // (grid[0] * grid[1]),
            "%laneid": thread % 32,
            "WARP_SZ": np.full(self.count, 32),
        }
        for axis, name in enumerate("xyz"):
            values[f"%ntid.{name}"] = np.full(self.count, block[axis])
            values[f"%nctaid.{name}"] = np.full(self.count, grid[axis])
        return {name: value.astype(np.uint32) for name, value in values.items()}

    def in_whole_warps(self, mask: Array) -> Array:
        """The lanes of a mask whose warps are in it with every lane."""
        return np.repeat(np.logical_and.reduceat(mask, self._warps), self._warp_sizes)

    def register(self, name: str) -> Array:
        """The bits of a register; one never written holds zeros."""
        if name not in self._registers:
            kind = self.kernel.registers[name]
            dtype = np.bool_ if kind == "pred" else UNSIGNED[width(kind)]
            self._registers[name] = np.zeros(self.count, dtype)
        return self._registers[name]

    def read(self, operand: str, kind: str) -> Array:
        """An operand as numbers of a type; constants are single numbers, which broadcast."""
        if (known := self._views.get((operand, kind))) is not None:
            return known
        if operand in self.kernel.registers:
            value = self.register(operand)
        elif operand in self._special:
            value = self._special[operand]
        else:
            self._views[operand, kind] = constant = self._constant(operand, kind)
            return constant
        numbers = value if kind == "pred" else bits_of(value, width(kind)).view(dtype_of(kind))
        if np.may_share_memory(numbers, value):
            self._views[operand, kind] = numbers
        return numbers

    def _constant(self, operand: str, kind: str) -> Any:
        bits = 64 if kind == "pred" else width(kind)
        if match := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", operand):
            number, from_bits = int(match[1], 16), 32
        elif match := re.fullmatch(r"0[dD]([0-9a-fA-F]{16})", operand):
            number, from_bits = int(match[1], 16), 64
        elif re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", operand):
            number, from_bits = int(operand.rstrip("U"), 0), bits
        elif operand in (self.kernel.shared, self.kernel.local):
            number, from_bits = 0, bits
        elif operand in self._parameters:
            number, from_bits = self._parameters[operand], bits
        else:
            raise Unsupported(f"operand {operand}")
        if kind == "pred":
            return np.bool_(number)
        if from_bits != bits:
            raise Unsupported(f"constant {operand} as {kind}")
        return np.array([number & ((1 << bits) - 1)], UNSIGNED[bits]).view(dtype_of(kind))[0]

    def write(self, operand: str, value: Array, mask: Array) -> None:
        """Write the lanes of a mask; narrow integers are extended by their sign."""
        if operand == "_":
            return
        target = self._registers.get(operand)
        if target is None:
            target = self.register(operand)
        if value.dtype != target.dtype and target.dtype != np.bool_:
            value = bits_of(value, target.dtype.itemsize * 8)
        if mask is self.every:
            target[...] = value
        else:
            np.copyto(target, value, where=mask)

    def scatter(self, operand: str, value: Array, lanes: Array) -> None:
        """Write a number for each of some lanes."""
        if operand != "_":
            target = self.register(operand)
            target[lanes] = bits_of(value, target.dtype.itemsize * 8)

    def address(self, operand: str) -> Array:
        """[register + offset] or [symbol + offset], in int64."""
        base, offset = base_and_offset(operand)
        bits = width(self.kernel.registers.get(base, "u64"))
        value = self.read(base, f"u{bits}")
        if np.ndim(value) == 0:
            return np.full(self.count, int(value) + offset, np.int64)
        address = value.astype(np.int64) + offset
        return address & 0xFFFFFFFF if bits == 32 else address


@cache
def base_and_offset(operand: str) -> tuple[str, int]:
    match = re.fullmatch(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\d+))?\s*\]", operand)
    if not match:
        raise Unsupported(f"address {operand}")
    return match[1], int(match[2] or 0)


@cache
def vector(operand: str) -> list[str]:
    """The registers of {a, b, ...}, or of a single one."""
    return split_operands(operand[1:-1]) if operand.startswith("{") else [operand]
