"""Machine code for each target, looked at and not run: spills, registers, occupancy, instructions.

Occupancy says how many threads a multiprocessor holds, never how fast they are.
"""

from __future__ import annotations

from functools import partial

import pytest

from emulation import build, dense, depthwise
from emulation.ptx.parse import parse
from emulation.static.occupancy import resident_threads
from emulation.static.resources import Resources, read_log
from emulation.static.sass import instructions

pytestmark = pytest.mark.emulation
UNITS = (*depthwise.UNITS, *dense.UNITS)
TARGETS = pytest.mark.parametrize("target", build.ARCHITECTURES, ids="sm_{}".format)
EACH = pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)


@pytest.fixture(scope="module", autouse=True)
def compiled():
    build.ahead(*(partial(build.cubin, u, t) for t in build.ARCHITECTURES for u in UNITS))


def kernels(unit, target) -> dict[str, Resources]:
    return read_log(build.cubin(unit, target)[1])


@TARGETS
@EACH
def test_nothing_spills(unit, target):
    found = kernels(unit, target)
    assert found
    spilling = {name: r for name, r in found.items() if r.spills or r.stack or r.static_shared}
    assert not spilling


@TARGETS
@EACH
def test_a_block_fits_the_registers(unit, target):
    module = parse(build.ptx_text(unit, target))
    for name, r in kernels(unit, target).items():
        bound = module.max_threads(name)
        assert resident_threads(target, r.registers, bound, 0) >= bound, name


@TARGETS
@EACH
def test_no_local_memory_in_ptx(unit, target):
    text = build.ptx_text(unit, target)
    assert ".local" not in text
    assert "call" not in text.replace("callseq", "")


@TARGETS
@EACH
def test_instructions_of_the_machine_code(unit, target):
    for name, codes in instructions(build.cubin(unit, target)[0]).items():
        assert not codes["LDL"], name
        assert not codes["STL"], name
        if "dense_pair" in name and "IfLb1E" not in name:
            for needed in ("HMMA", "LDGSTS", "LDGDEPBAR"):
                assert codes[needed], f"{needed} in {name}"
