"""The checks of the host build: each fires on the smallest kernel that should set it off."""

import numpy as np
import pytest

from emulation.build import host_library
from emulation.detectors import FAULTS, GOOD, SOURCE, run_detector
from emulation.machine import Fault, turns

pytestmark = pytest.mark.emulation
ORDERS = ["forward", "backward", "shuffled"]


@pytest.fixture(scope="module", name="checked")
def checked_library():
    return host_library((SOURCE,), checked=True)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", GOOD)
def test_good_kernel_is_clean(checked, name, order):
    turns(checked, order, seed=3)
    got = run_detector(checked, name)
    np.testing.assert_array_equal(got, got if GOOD[name] is None else GOOD[name])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found(checked, name, order):
    turns(checked, order, seed=3)
    with pytest.raises(Fault, match=FAULTS[name]):
        run_detector(checked, name)


@pytest.mark.parametrize(("name", "error"), [("too_much_shared", 1), ("too_many_threads", 9)])
def test_a_launch_that_a_gpu_refuses_is_refused(checked, name, error):
    with pytest.raises(Fault, match=f"launch error {error}$"):
        run_detector(checked, name)
