"""Occupancy by NVIDIA's formula (cuda_occupancy.h), without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from emulation import build


class Sm(NamedTuple):
    """A multiprocessor, from the tables of NVIDIA's CUDA C++ programming guide."""

    major: int
    minor: int
    threads: int
    shared: int  # bytes
    shared_per_block: int


SMS = {
    80: Sm(8, 0, 2048, 164 << 10, 163 << 10),  # A100
    90: Sm(9, 0, 2048, 228 << 10, 227 << 10),  # H100
    100: Sm(10, 0, 2048, 228 << 10, 227 << 10),  # B200
    120: Sm(12, 0, 1536, 100 << 10, 99 << 10),  # RTX 5090
}


def resident_threads(target: int, registers: int, threads: int, shared: int) -> int:
    """Return the threads of a kernel that a multiprocessor holds at once."""
    library = build.host_library((Path(__file__).with_name("occupancy.cpp"),))
    blocks = library.blocks_per_multiprocessor(*SMS[target], registers, threads, shared)
    assert blocks >= 0, "cuda_occupancy.h refuses the kernel"
    return int(blocks) * threads
