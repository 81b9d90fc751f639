"""Interleaved timing: A B A B ..., medians and quartiles, with the machine beside them."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

__all__ = ["Quiet", "Timing", "interleave", "interleave_quiet", "keep_freed_memory", "machine"]

# glibc gives the memory of freed tensors back to the kernel, and the next call faults its pages in
# again: a call with temporaries comes out two to three times slower than it is. Read at its start.
KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}
SECONDS_A_SWITCH = 0.012  # a quiet machine switches a process out less often than once in these
ENOUGH = 3  # clean samples that a median needs


class Timing(NamedTuple):
    """Seconds per call: quartiles over the rounds."""

    low: float
    median: float
    high: float


class Quiet(NamedTuple):
    """A timing of the clean samples; with fewer than three of them, of the best sample alone."""

    timing: Timing
    clean: int
    best: float  # of all samples

    @property
    def star(self) -> str:
        """Return "*" where the machine was too busy for a median."""
        return "*" if self.clean < ENOUGH else ""


class Sample(NamedTuple):
    """Seconds per call, and whether the process kept its processors meanwhile."""

    seconds: float
    clean: bool


def interleave(
    calls: dict[str, Callable[[], object]], *, repeats: dict[str, int] | int, rounds: int
) -> dict[str, Timing]:
    """Time every call once a round, in turn, after one round to warm up.

    Args:
        calls: what to time, by name.
        repeats: calls per measurement, for all or by name.
        rounds: measurements of each.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            sample = measure(call, of_name(repeats, name))
            if round_:
                found[name].append(sample.seconds)
    return {name: quartiles(seconds) for name, seconds in found.items()}


def interleave_quiet(
    calls: dict[str, Callable[[], object]],
    *,
    repeats: dict[str, int] | int,
    rounds: dict[str, int] | int,
    limit: float,
    around: Mapping[str, Callable[[], AbstractContextManager[object]]] | None = None,
) -> dict[str, Quiet]:
    """Time the calls in turn until each has enough clean samples, warm calls before each sample.

    What the others left in the caches is not a call's own to pay for, hence the warm calls. A
    sample in which the process was switched out against its will is not clean.

    Args:
        calls: what to time, by name.
        repeats: calls per measurement, for all or by name.
        rounds: clean measurements wanted, for all or by name.
        limit: seconds after which no new round begins.
        around: by name, the context that a measurement runs in; entering it is not timed.
    """
    found: dict[str, list[Sample]] = {name: [] for name in calls}
    began = time.perf_counter()
    waiting = list(calls)
    round_ = 0
    while waiting and (not round_ or time.perf_counter() - began < limit):
        first = round_ % len(waiting)  # each comes first in its turn: nobody has one predecessor
        round_ += 1
        for name in waiting[first:] + waiting[:first]:
            with (around or {}).get(name, nullcontext)():
                calls[name]()
                found[name].append(measure(calls[name], of_name(repeats, name)))
        waiting = [name for name in waiting if len(clean(found[name])) < of_name(rounds, name)]
    return {name: quiet(samples) for name, samples in found.items()}


def measure(call: Callable[[], object], count: int) -> Sample:
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    began = time.perf_counter()
    for _ in range(count):
        call()
    took = time.perf_counter() - began
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches
    return Sample(took / count, switches <= took / SECONDS_A_SWITCH)


def of_name(value: dict[str, int] | int, name: str) -> int:
    return value if isinstance(value, int) else value[name]


def clean(samples: list[Sample]) -> list[float]:
    return [sample.seconds for sample in samples if sample.clean]


def quartiles(seconds: list[float]) -> Timing:
    return Timing(*(float(value) for value in np.percentile(seconds, [25, 50, 75])))


def quiet(samples: list[Sample]) -> Quiet:
    good, best = clean(samples), min(sample.seconds for sample in samples)
    return Quiet(quartiles(good if len(good) >= ENOUGH else [best]), len(good), best)


def keep_freed_memory() -> None:
    """Start this process again with a glibc that keeps freed memory, unless it does already."""
    if sys.platform == "linux" and any(
        os.environ.get(key) != value for key, value in KEEP_FREED_MEMORY.items()
    ):
        sys.stdout.flush()
        command = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **KEEP_FREED_MEMORY})


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
