"""The floor under a problem's time: what the machine's multiply-adds and memory allow.

    floor = max(flops / peak, bytes / bandwidth)

peak: multiply-adds of independent chains in float32. bandwidth: of a copy, read and written bytes
counted; of one in the last cache where the problem's bytes fit there, else of one from memory.

    python bench/roofline.py        # measured on this machine's CPU
    python bench/roofline.py cuda   # on paper, for the CUDA kernels: roofline_cuda.py
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch  # before the loops: they then share torch's OpenMP and its threads
from timing import interleave_quiet

__all__ = ["Roofline", "measure_roofline"]

ROUNDS = 500_000  # about 1 ms
FLAGS = ["-std=c++17", "-O3", "-ffp-contract=fast", "-shared", "-fPIC"]
# The most that the machine or the compiler can; with less, where that is refused.
EXTRA = [["-march=native", "-fopenmp"], ["-mcpu=native", "-fopenmp"], ["-fopenmp"], []]


class Roofline(NamedTuple):
    """Flops and bytes a second at a number of threads."""

    threads: int
    peak: float
    cache_bandwidth: float
    memory_bandwidth: float
    cache: int  # bytes of the last cache
    star: str  # "*" where the machine was too busy

    def floor(self, flops: float, moved: float) -> float:
        """Return the least seconds for flops and moved bytes."""
        # A copy of 7/8 of the cache still runs at its speed; the rest holds everything else.
        inside = moved <= self.cache * 7 / 8
        bandwidth = self.cache_bandwidth if inside else self.memory_bandwidth
        return max(flops / self.peak, moved / bandwidth)

    def __str__(self) -> str:
        return (
            f"{self.threads} threads: {self.peak / 1e9:.0f} GF/s; copy "
            f"{self.cache_bandwidth / 1e9:.1f} GB/s in the cache ({self.cache >> 20} MiB), "
            f"{self.memory_bandwidth / 1e9:.1f} GB/s in memory"
            f"{' (* busy machine: not to be trusted)' * bool(self.star)}"
        )


def measure_roofline(threads: int) -> Roofline | None:
    """Compile the loops, take the best of their runs; None, saying why, where that fails."""
    with tempfile.TemporaryDirectory() as folder:
        library = build(Path(folder))
        if library is None:
            return None
        cache = last_cache()
        sizes = {"inside": min(4 << 20, cache // 8), "outside": max(64 << 20, 2 * cache)}
        calls: dict[str, Callable[[], object]] = {}
        calls["peak"] = lambda: library.multiply_add(ctypes.c_long(ROUNDS), threads)
        for where, size in sizes.items():
            for name, call in copies(library, size, threads).items():
                calls[f"{where} {name}"] = call
        found = interleave_quiet(calls, repeats=1, rounds=25, limit=5)
    seconds = {name: result.best for name, result in found.items()}
    rate = library.flops_a_round() * ROUNDS * threads / seconds["peak"]

    def bandwidth(where: str) -> float:
        best = min(value for name, value in seconds.items() if name.startswith(where))
        return 2 * sizes[where] / best

    star = max(result.star for result in found.values())
    return Roofline(threads, rate, bandwidth("inside"), bandwidth("outside"), cache, star)


def build(folder: Path) -> ctypes.CDLL | None:
    source = Path(__file__).with_suffix(".cpp")
    compiler = os.environ.get("CXX", "c++")
    built = folder / "roofline.so"
    said = ""
    for extra in EXTRA:
        command = [compiler, *FLAGS, *extra, str(source), "-o", str(built)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            said = str(getattr(error, "stderr", "") or error).strip().splitlines()[-1]
            continue
        library = ctypes.CDLL(str(built))
        library.multiply_add.restype = ctypes.c_float
        return library
    print(f"no roofline: {compiler} failed: {said}")
    return None


def copies(library: ctypes.CDLL, size: int, threads: int) -> dict[str, Callable[[], object]]:
    """Return two ways to copy size bytes between two buffers."""
    buffers = [torch.zeros(size + 64, dtype=torch.uint8) for _ in range(2)]

    def run(streaming: int) -> None:
        ends = [ctypes.c_void_p((buffer.data_ptr() + 63) // 64 * 64) for buffer in buffers]
        library.copy(*ends, ctypes.c_size_t(size), threads, streaming)

    return {"memcpy": lambda: run(0), "streaming": lambda: run(1)}


def last_cache() -> int:
    """Return the bytes of the last cache, as Linux tells them; 16 MiB where it does not."""
    found = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    text = found.read_text().strip() if found.exists() else "16384K"
    return int(text.rstrip("K")) << 10 if text.endswith("K") else 16 << 20


if __name__ == "__main__":
    if sys.argv[1:2] == ["cuda"]:
        import roofline_cuda

        roofline_cuda.main(sys.argv[2:])
        sys.exit()
    for count in sorted({1, torch.get_num_threads()}):
        print(measure_roofline(count))
