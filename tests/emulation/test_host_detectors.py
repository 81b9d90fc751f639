"""The checks of the host build: each fires on the smallest kernel that should set it off."""

import ctypes

import numpy as np
import pytest

from emulation.build import HOST, host_library
from emulation.machine import OUTPUT, Fault, Tensor, call, require, run_on_fibers, turns

pytestmark = pytest.mark.emulation

GOOD = ["good_copy", "good_barrier", "good_warp", "good_async", "good_matrix"]
FAULTS = {
    "beyond_end": "out of bounds at in",
    "beyond_shared": "out of bounds at shared",
    "uninitialised": "uninitialised shared memory",
    "read_race": "uninitialised|race with a write",
    "write_race": "race with a write",
    "late_write": "race with a read|race with a write",
    "late_write_third": "race with a read",
    "warp_only": "uninitialised|race with a write",
    "early_wait": "in flight",
    "no_commit": "in flight",
    "reuse_in_flight": "race with a write|in flight",
    "exit_in_flight": "exits with cp.async in flight",
    "misaligned": "misaligned vector access",
    "deadlock": "deadlock: .*waits at",
    "early_exit": "exited while others wait",
    "divergence": "barrier divergence",
    "two_writers": "written by two threads",
    "written_twice": "written twice",
    "input_written": "write to an input",
    "never_written": "never written",
    "exchange": "another thread wrote in this launch",
    "matrix_half": "deadlock|whole warp",
}


@pytest.fixture(scope="module", name="checked")
def checked_library():
    return host_library((HOST / "detectors.cu",), checked=True)


def run_detector(library, name):
    """Run a kernel on 64 numbers; returns what it wrote."""
    library.run_detector.restype = ctypes.c_char_p
    tensors = [
        Tensor("in", np.arange(64, dtype=np.int32)),
        Tensor("out", np.zeros(64, np.int32), OUTPUT),
    ]
    run_on_fibers(library, tensors, lambda at: require(call(library.run_detector, name, *at)))
    return tensors[1].array


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
@pytest.mark.parametrize("name", GOOD)
def test_good_kernel_is_clean(checked, name, order):
    turns(checked, order, seed=3)
    got = run_detector(checked, name)
    index = np.arange(64)
    want = {
        "good_copy": index,
        "good_barrier": 63 - index,
        "good_warp": index ^ 1,
        "good_async": 63 - index,
        "good_matrix": got,
    }[name]
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found(checked, name, order):
    turns(checked, order, seed=3)
    with pytest.raises(Fault, match=FAULTS[name]):
        run_detector(checked, name)


@pytest.mark.parametrize(("name", "error"), [("too_much_shared", 1), ("too_many_threads", 9)])
def test_a_launch_that_a_gpu_refuses_is_refused(checked, name, error):
    with pytest.raises(Fault, match=f"launch error {error}$"):
        run_detector(checked, name)
