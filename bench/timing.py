"""Interleaved timing: A B A B ..., medians and quartiles, with the machine beside them."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

__all__ = ["Timing", "interleave", "machine"]


class Timing(NamedTuple):
    """Seconds per call: quartiles over the rounds."""

    low: float
    median: float
    high: float


def interleave(
    calls: dict[str, Callable[[], object]], *, repeats: dict[str, int] | int, rounds: int
) -> dict[str, Timing]:
    """Time every call once a round, in turn, after one round to warm up.

    Args:
        calls: what to time, by name.
        repeats: calls per measurement, for all or by name.
        rounds: measurements of each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            count = repeats if isinstance(repeats, int) else repeats[name]
            began = time.perf_counter()
            for _ in range(count):
                call()
            if round_:
                seconds[name].append((time.perf_counter() - began) / count)
    return {name: Timing(*np.percentile(found, [25, 50, 75])) for name, found in seconds.items()}


def machine() -> str:
    """Return processor, Python, torch and threads in a line."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        cpu = models[0].partition(":")[2].strip() if models else cpu
    return (
        f"{cpu}, {platform.machine()}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
