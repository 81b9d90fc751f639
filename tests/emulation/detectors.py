"""The smallest kernels for each detector (host/detectors.cu): what is good, and what is found."""

from __future__ import annotations

import ctypes

import numpy as np

from emulation.build import HOST
from emulation.machine import OUTPUT, Tensor, call, require, run_on_fibers

SOURCE = HOST / "detectors.cu"
INDEX = np.arange(64, dtype=np.int32)
GOOD = {
    "good_copy": INDEX,
    "good_barrier": 63 - INDEX,
    "good_warp": INDEX ^ 1,
    "good_part_warp": INDEX ^ 1,
    "good_async": 63 - INDEX,
    "good_matrix": None,
}
FAULTS = {
    "beyond_end": "out of bounds",
    "beyond_shared": "out of bounds",
    "uninitialised": "uninitialised shared memory",
    "part_warp_race": "uninitialised|race with a write",
    "read_race": "uninitialised|race with a write",
    "write_race": "race with a write",
    "late_write": "race with a read|race with a write",
    "late_write_third": "race with a read|race with a write",
    "warp_only": "uninitialised|race with a write",
    "early_wait": "in flight",
    "no_commit": "in flight",
    "reuse_in_flight": "race with a write|in flight",
    "exit_in_flight": "exits with cp.async in flight",
    "misaligned": "misaligned",
    "deadlock": "deadlock|a part of a warp",
    "early_exit": "exited while others wait",
    "divergence": "barrier divergence",
    "two_writers": "written by two threads",
    "written_twice": "written twice",
    "input_written": "write to an input",
    "never_written": "never written",
    "exchange": "another thread wrote",
    "matrix_half": "deadlock|whole warp|a part of a warp",
}


def run_detector(library, name: str) -> np.ndarray:
    """Run a kernel on the numbers 0 to 63; returns what it wrote."""
    library.run_detector.restype = ctypes.c_char_p
    tensors = [Tensor("in", INDEX.copy()), Tensor("out", np.zeros(64, np.int32), OUTPUT)]
    run_on_fibers(library, tensors, lambda at: require(call(library.run_detector, name, *at)))
    return tensors[1].array
