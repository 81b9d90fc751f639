"""The tools of test_static.py, on kernels whose numbers are known."""

import pytest

from emulation.static.occupancy import SMS, resident_threads
from emulation.static.resources import Resources, read_log

pytestmark = pytest.mark.emulation


def test_occupancy_of_known_kernels():
    # 65536 registers hold 65536 / (32 * 8) = 256 * 8 threads of 32 registers, all that there are
    assert resident_threads(80, 32, 256, 0) == SMS[80].threads
    assert resident_threads(90, 128, 256, 0) == 512
    assert resident_threads(80, 32, 128, 80 << 10) == 256  # two blocks' shared memory in 164 KiB
    assert resident_threads(120, 32, 128, 99 << 10) == 128


def test_log_of_ptxas_is_read():
    log = """ptxas info    : Compiling entry function 'k' for 'sm_80'
ptxas info    : Function properties for k
    48 bytes stack frame, 44 bytes spill stores, 40 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 32 bytes smem, 888 bytes cmem[0]"""
    assert read_log(log) == {"k": Resources(128, 48, 84, 32)}
