"""Machine code for each target, looked at and not run: spills, registers, occupancy, instructions.

Occupancy says how many threads a multiprocessor holds, never how fast they are. The budgets are
those of nvcc 13.0.
"""

from __future__ import annotations

import re
import sys
from functools import partial

import pytest

from emulation import build, dense, depthwise
from emulation.binding import emulated
from emulation.ptx.parse import parse
from emulation.static.occupancy import resident_threads
from emulation.static.resources import Resources, read_log
from emulation.static.sass import instructions

sys.path.insert(0, str(build.ROOT / "bench"))

import roofline_cuda
from conv_cuda_shapes import PROBLEMS
from conv_shapes import depthwise as depthwise_problem

pytestmark = pytest.mark.emulation
UNITS = (*depthwise.UNITS, *dense.UNITS)
DEVICES = {80: "A100 SXM 80GB", 90: "H100 SXM", 100: "B200", 120: "RTX 5090"}
TYPES = {"float32": "f", "float16": "6__half", "bfloat16": "13__nv_bfloat16"}
# Registers of a thread at most, and warps that a multiprocessor holds at least in the launches of
# the benchmark's problems. The marches by their largest kernel: K x 4 sums, or values of a window,
# are in registers.
BUDGETS = {
    "depthwise_march 3": (128, 14),
    "depthwise_march 5": (128, 14),
    "depthwise_march 7": (176, 14),
    "depthwise_march 11": (216, 7),
    "depthwise_march 19": (255, 6),
    "depthwise_march 21": (255, 8),
    "depthwise_march_backward 3": (112, 14),
    "depthwise_march_backward 5": (128, 14),
    "depthwise_march_backward 7": (128, 12),
    "depthwise_march_backward 11": (168, 7),
    "depthwise_march_backward 21": (255, 6),
    "depthwise_march_backward sum": (168, 3),  # the least on sm_120, in float32: a ring in memory
    "depthwise_general": (64, 16),
    "depthwise_gradient": (104, 16),
    "depthwise_sum": (40, 32),
    "dense_pair": (128, 8),
    "dense_gradient": (128, 8),
    "dense_weight": (128, 8),
    "dense_pack": (40, 32),
    "dense_reduce": (40, 32),
}
# By tensor cores, from matrices that ldmatrix or (TF32's gradient of weights) loads of words bring.
NEEDED = ("HMMA", "LDGSTS", "LDGDEPBAR", "LDSM")
TARGETS = pytest.mark.parametrize("target", build.ARCHITECTURES, ids="sm_{}".format)
PTX_TARGETS = pytest.mark.parametrize("target", build.PTX_TARGETS, ids="sm_{}".format)
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


def family(name: str) -> str:
    """Return a kernel's key in BUDGETS."""
    kernel, largest = re.findall(r"cuda\d+([a-z]+(?:_[a-z]+)+)I.*?(?:Li(\d+)E|Ev)", name)[0]
    if kernel == "depthwise_march_backward" and "JLi11E" in name:
        return f"{kernel} sum"
    return f"{kernel} {largest}".strip()


@TARGETS
@EACH
def test_registers_stay_within_their_budgets(unit, target):
    module = parse(build.ptx_text(unit, 80))
    for name, r in kernels(unit, target).items():
        assert r.registers <= BUDGETS[family(name)][0], (name, r)
        bound = module.max_threads(name)
        assert resident_threads(target, r.registers, bound, 0) >= bound, name


def entry(launch, dtype: str, channels_last: bool) -> str:
    """Return the mangled begin of the kernel of a launch."""
    kernel, *_, choice = launch
    text = f"cuda{len(kernel)}{kernel}I{TYPES[dtype]}"
    if kernel.startswith("depthwise_march"):
        sizes = "Li21EJLi11ELi7EE" if choice[10] < 0 else f"Li{choice[10]}EJE"
        active = f"Lb{choice[8]}E" if kernel == "depthwise_march" else ""
        return f"{text}Lb{channels_last:d}E{active}{sizes}"
    if kernel in ("dense_pair", "dense_gradient", "dense_weight"):
        return f"{text}Lb{choice[0] == 3:d}E"
    return f"{text}E"


@TARGETS
def test_occupancy_is_above_its_floors(target):
    module, limits = emulated(), roofline_cuda.DEVICES[DEVICES[target]]
    device = module.Device(**limits)
    every = {name: r for unit in UNITS for name, r in kernels(unit, target).items()}
    seen = set()
    for problem in [*PROBLEMS, depthwise_problem("longest", 8, 64, 64, 63, dtypes=TYPES)]:
        for dtype in problem.dtypes:
            for last, backward in ((False, False), (False, True), (True, False), (True, True)):
                planned = roofline_cuda.plan(module, problem, dtype, last, device)
                for launch in planned.launches(backward):
                    (name,) = (n for n in every if entry(launch, dtype, last) in n)
                    threads, shared = launch[2][0], launch[3]
                    held = resident_threads(target, every[name].registers, threads, shared)
                    warps = held // threads * ((threads + 31) // 32)
                    assert warps >= BUDGETS[family(name)][1], (problem.label, dtype, last, launch)
                    seen.add(family(name))
    assert seen == BUDGETS.keys()


@PTX_TARGETS
@EACH
def test_no_local_memory_in_ptx(unit, target):
    text = build.ptx_text(unit, target)
    assert ".local" not in text
    assert "call" not in text.replace("callseq", "")


# The depthwise units, which ask for no instruction, take long to disassemble: one target each.
CODE = [(unit, target) for unit in dense.UNITS for target in build.ARCHITECTURES]
CODE += zip(depthwise.UNITS, build.ARCHITECTURES[1:], strict=True)


@pytest.mark.parametrize(
    ("unit", "target"), CODE, ids=lambda value: getattr(value, "stem", f"sm_{value}")
)
def test_instructions_of_the_machine_code(unit, target):
    for name, codes in instructions(build.cubin(unit, target)[0]).items():
        assert not codes["LDL"], name
        assert not codes["STL"], name
        if re.match("dense_(pair|gradient|weight)", family(name)) and "IfLb1E" not in name:
            scalar = "dense_weightIfLb0E" in name  # TF32: ldmatrix does not transpose floats
            for needed in NEEDED[: 3 if scalar else 4]:
                assert codes[needed], f"{needed} in {name}"
