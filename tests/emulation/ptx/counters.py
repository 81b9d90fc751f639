"""Exact counts of a run: instructions, bytes, sectors of global and wavefronts of shared memory.

A request is one instruction of one warp. Global memory serves it in sectors of 32 bytes; shared
memory in wavefronts, each of which serves any number of words if no two different ones lie in one
of the 32 banks. Accesses of 8 and 16 bytes go by half and quarter warps; the ideal is one each.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from .values import Array


@dataclass
class Traffic:
    requests: int = 0
    bytes: int = 0
    units: int = 0  # sectors, or wavefronts
    ideal: int = 0  # wavefronts without a conflict; sectors if all bytes lay together

    def add(self, other: Traffic) -> None:
        self.requests += other.requests
        self.bytes += other.bytes
        self.units += other.units
        self.ideal += other.ideal


@dataclass
class Counts:
    """Of one or more launches."""

    instructions: Counter[str] = field(default_factory=Counter)  # executed by threads, by opcode
    traffic: dict[str, Traffic] = field(default_factory=dict)  # by space and kind of access
    threads: int = 32  # of a block of the launch that is being counted

    def add(self, other: Counts) -> None:
        self.instructions.update(other.instructions)
        for kind, traffic in other.traffic.items():
            self.traffic.setdefault(kind, Traffic()).add(traffic)

    @property
    def total(self) -> int:
        return sum(self.instructions.values())

    @property
    def fma(self) -> int:
        """Fused multiply-adds of float32, each by one thread."""
        return sum(
            n for op, n in self.instructions.items() if op.startswith("fma.") and "f32" in op
        )

    @property
    def mma(self) -> int:
        """Tensor core instructions, each by one warp."""
        return sum(n for op, n in self.instructions.items() if op.startswith("mma.")) // 32

    def space(self, name: str) -> Traffic:
        """All traffic of `global` or `shared`."""
        total = Traffic()
        for kind, traffic in self.traffic.items():
            if kind.startswith(name):
                total.add(traffic)
        return total

    def count_global(self, kind: str, address: Array, size: int, mask: Array) -> None:
        """Add a request of each warp: lanes' addresses, bytes of each, who takes part."""
        address, mask = self._by_warp(address, 0), self._by_warp(mask, False)
        busy = mask.any(1)
        address, mask = address[busy], mask[busy]
        sectors = np.where(mask, address >> 5, -1)
        last = np.where(mask, (address + size - 1) >> 5, -1)
        traffic = self.traffic.setdefault(f"global {kind}", Traffic())
        traffic.requests += len(address)
        traffic.bytes += size * int(mask.sum())
        traffic.units += int(_distinct(np.concatenate([sectors, last], 1)).sum())
        traffic.ideal += int((-(-size * mask.sum(1) // 32)).sum())

    def count_shared(self, kind: str, address: Array, size: int, mask: Array) -> None:
        address, mask = self._by_warp(address, 0), self._by_warp(mask, False)
        traffic = self.traffic.setdefault(f"shared {kind}", Traffic())
        traffic.requests += int(mask.any(1).sum())
        words = max(size // 4, 1)
        at_once = 32 // words  # lanes that are served together
        address, mask = address.reshape(-1, at_once), mask.reshape(-1, at_once)
        busy = mask.any(1)
        address, mask = address[busy], mask[busy]
        word = (address[:, :, None] >> 2) + np.arange(words)
        word = np.where(mask[:, :, None], word, -1).reshape(len(address), -1)
        traffic.bytes += size * int(mask.sum())
        traffic.units += int(_wavefronts(word).sum())
        traffic.ideal += len(address)

    def _by_warp(self, lanes: Array, rest: object) -> Array:
        if self.threads % 32 == 0:
            return lanes.reshape(-1, 32)
        blocks = lanes.reshape(-1, self.threads)
        missing = np.full((len(blocks), -self.threads % 32), rest, lanes.dtype)
        return np.concatenate([blocks, missing], 1).reshape(-1, 32)


def _fresh(sorted_rows: Array) -> Array:
    """Where a row's next different number begins; numbers below zero don't count."""
    first = np.ones((len(sorted_rows), 1), bool)
    different = np.concatenate([first, sorted_rows[:, 1:] != sorted_rows[:, :-1]], 1)
    return different & (sorted_rows >= 0)


def _distinct(rows: Array) -> Array:
    return _fresh(np.sort(rows, 1)).sum(1)


def _wavefronts(words: Array) -> Array:
    """The largest number of different words in one bank, for each row."""
    words = np.sort(words, 1)
    fresh = _fresh(words)
    row = np.broadcast_to(np.arange(len(words))[:, None], words.shape)
    bins = np.bincount((row * 32 + words % 32)[fresh], minlength=32 * len(words))
    return bins.reshape(-1, 32).max(1, initial=0)
