"""The checks of the PTX interpreter: each fires on the smallest kernel that should set it off."""

import numpy as np
import pytest

from emulation.build import PTX_TARGETS, host_library, ptx_text
from emulation.detectors import FAULTS, GOOD, SOURCE, run_detector
from emulation.machine import Fault
from emulation.ptx.launch import PtxLibrary

pytestmark = pytest.mark.emulation


@pytest.fixture(scope="module", name="library", params=PTX_TARGETS)
def interpreted_library(request):
    text = ptx_text(SOURCE, request.param)
    return PtxLibrary(host_library((SOURCE,)), [text], count=True)


@pytest.mark.parametrize("name", GOOD)
def test_good_kernel_is_clean(library, name):
    got = run_detector(library, name)
    np.testing.assert_array_equal(got, got if GOOD[name] is None else GOOD[name])


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found(library, name):
    with pytest.raises(Fault, match=FAULTS[name]):
        run_detector(library, name)


def test_both_machines_load_the_same_matrix(library):
    want = run_detector(host_library((SOURCE,)), "good_matrix")
    np.testing.assert_array_equal(run_detector(library, "good_matrix"), want)


def test_counts_of_a_copy(library):
    run_detector(library, "good_copy")
    traffic = library.counts.space("global")
    assert traffic.requests == 4
    assert traffic.bytes == 2 * 64 * 4
    assert traffic.units == traffic.ideal == 2 * 8
    run_detector(library, "good_barrier")  # 4 requests of one wavefront, 2 more to write at the end
    shared = library.counts.space("shared")
    assert (shared.requests, shared.units, shared.ideal) == (6, 6, 6)
    run_detector(library, "good_part_warp")  # a block's last warp is not the next one's first
    shared = library.counts.space("shared")
    assert shared.requests == shared.units == shared.ideal


def test_threads_beyond_the_launch_bounds_are_refused(library, monkeypatch):
    kernel = next(k for n, k in library._kernels.items() if "good_barrier" in n)
    monkeypatch.setattr(kernel, "max_threads", 32)
    with pytest.raises(Fault, match="64 threads, but __launch_bounds__"):
        run_detector(library, "good_barrier")
