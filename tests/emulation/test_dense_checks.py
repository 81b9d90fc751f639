"""Every dense kernel with all checks on: as host code on fibers, and as the PTX of nvcc.

Freedom from races, uninitialised reads, accesses out of bounds, divergence and missing waits is
shown for these shapes and launches; every output is written exactly once. The PTX is executed
functionally on a CPU interpreter; it has never run on a GPU. Tensor cores sum in another order than
either machine, so that tolerances are held, never bits. The cases reach every kernel of the PTX,
in every dtype and layout; float32 by multiply-adds and as TF32. Kernels that are the same text for
two targets run for the first.
"""

from __future__ import annotations

import itertools
import re
from functools import partial

import pytest
import torch
from conv_errors import pair_bound
from conv_reference import Problem

from emulation import build, dense
from emulation.machine import Fault, Launches, mutate, turns
from emulation.ptx.launch import PtxLibrary
from emulation.ptx.targets import is_new, module
from emulation.test_dense_numerics import LAYOUTS, PASSES, draw, hold_tf32
from emulation.test_depthwise_checks import case_id

pytestmark = pytest.mark.emulation
SMALL = dense.Gpu(sms=4)  # few blocks, each with much to do
BFLOAT16 = build.KERNELS / "dense_bfloat16.cu"
CASES = {
    "ragged": Problem((5, 9, 6), (7, 11), (3, 5), batch=1, activation="relu"),
    "whole units": Problem((16, 16, 24), (6, 9), (3, 3), batch=1),
    "column first": Problem(
        (8, 20, 8), (9, 6), (5, 3), row_first=False, batch=1, activation="silu"
    ),
    "strides": Problem((8, 8, 8), (9, 10), (3, 3), stride=(2, 2), padding=(1, 1), batch=1),
    "more channels than a pass": Problem(
        (20, 40, 72), (5, 6), (3, 3), batch=1, activation="gelu", biases=(True, False)
    ),
}
# What products are made of.
MATHS = {
    "float32": (torch.float32, False),
    "TF32": (torch.float32, True),
    "bfloat16": (torch.bfloat16, False),
    "float16": (torch.float16, False),
}
# Each reaches every kernel, its warps with 32 and with 64 columns.
ENOUGH = ("ragged", "more channels than a pass")
TARGETS = [(80, name) for name in CASES]
TARGETS += [(target, name) for target in build.PTX_TARGETS[1:] for name in ENOUGH]
EACH_MATH = pytest.mark.parametrize("math", MATHS)


def hold(library, name, math, channels_last, backward):
    """Run a pass of a case and hold its results against float64."""
    problem, (dtype, tf32) = CASES[name], MATHS[math]
    tensors, grad = draw(problem, dtype, channels_last)
    if tf32:  # whose bound knows of no activation
        hold_tf32(library, problem._replace(activation="none"), tensors, grad, backward, SMALL)
        return
    exact = pair_bound(problem, tensors, grad)
    found = dense.run(library, problem, tensors, grad, backward=backward, gpu=SMALL)
    exact.of(range(1, len(exact.exact)) if backward else [0]).hold(found, problem)


@pytest.fixture(scope="module", name="checked")
def checked_library():
    return dense.library(checked=True, mutable=BFLOAT16)


@PASSES
@LAYOUTS
@EACH_MATH
@pytest.mark.parametrize("name", CASES)
def test_host_code_passes_all_checks(checked, name, math, channels_last, backward):
    hold(checked, name, math, channels_last, backward)


@pytest.mark.parametrize("order", ["backward", "shuffled"])
@PASSES
def test_the_order_of_threads_changes_nothing(checked, backward, order):
    turns(checked, order, seed=11)
    hold(checked, "ragged", "bfloat16", True, backward)


@pytest.fixture(scope="module", name="interpreted")
def interpreted_library(request):
    texts = [partial(build.ptx_text, unit, request.param) for unit in dense.UNITS]
    build.ahead(*texts)
    return request.param, PtxLibrary(dense.library(), [text() for text in texts])


@PASSES
@LAYOUTS
@EACH_MATH
@pytest.mark.parametrize(("interpreted", "name"), TARGETS, indirect=["interpreted"], ids=case_id)
def test_ptx_passes_all_checks(interpreted, name, math, channels_last, backward):
    target, library = interpreted
    unit = dense.UNITS[dense.DTYPES.index(MATHS[math][0])]
    if is_new(unit, launched(name, math, channels_last, backward), target):
        hold(library, name, math, channels_last, backward)


def launched(name, math, channels_last, backward) -> set[str]:
    """The kernels that a pass of a case launches."""
    problem, (dtype, tf32), launches = CASES[name], MATHS[math], Launches(dense.library())
    tensors, grad = draw(problem, dtype, channels_last)
    dense.run(launches, problem, tensors, grad, backward=backward, tf32=tf32, gpu=SMALL)
    return launches.names


@pytest.mark.parametrize("unit", dense.UNITS, ids=lambda path: path.stem)
def test_the_cases_reach_every_kernel(unit):
    """So the tests above run each kernel, in each layout, as host code and as PTX."""
    maths = [m for m in MATHS if dense.UNITS[dense.DTYPES.index(MATHS[m][0])] == unit]
    each = itertools.product(maths, (False, True), (False, True))
    names = {name for case in each for name in launched(ENOUGH[0], *case)}
    for target in build.PTX_TARGETS:
        assert set(module(unit, target)) == names, target


MUTANTS = {
    20: "waits for a copy less",
    21: "a barrier less at the begin of a pass",
    22: "units of a matrix exchanged",
    23: "the intermediate one line short",
    24: "no zeros beyond the image",
    25: "a barrier less in the ring",
    26: "waits for a copy less in the sums of weights",
    27: "a barrier less in their ring",
}


def found_by_some_case(library, backward: bool = False) -> bool:
    """Whether a pass of one of the cases shows a fault."""
    for name in CASES:
        try:
            hold(library, name, "bfloat16", True, backward)
        except (Fault, AssertionError):
            return True
    return False


@pytest.mark.parametrize("number", MUTANTS)
def test_fault_in_a_kernel_is_found_on_the_host(number):
    library = dense.library(checked=True, mutable=BFLOAT16)
    mutate(library, number)
    assert found_by_some_case(library, backward=number >= 26), MUTANTS[number]


@pytest.mark.parametrize("number", MUTANTS)
def test_fault_in_a_kernel_is_found_in_ptx(number):
    library = PtxLibrary(dense.library(), [build.mutant_text(BFLOAT16, 80, number)])
    assert found_by_some_case(library, backward=number >= 26), MUTANTS[number]


@PASSES
def test_with_no_fault_turned_on_none_is_found(backward):
    """On the host, that is test_host_code_passes_all_checks, of the same library."""
    library = PtxLibrary(dense.library(), [build.mutant_text(BFLOAT16, 80, 0)])
    assert not found_by_some_case(library, backward)


# Faults of the assembly alone, which the host code cannot show. The text without them is that of
# test_ptx_passes_all_checks, on the same cases.
TEXTS = {
    "registers of A exchanged": (
        r"(mma\.sync\S+\s+\{[^}]*\},\s*\{)(%r\d+),\s*(%r\d+),\s*(%r\d+)",
        r"\1\2,\4,\3",
    ),
    "a transposition dropped": (r"\.x([24])\.trans\.", r".x\1."),
    "zeros dropped from copies": (r"(cp\.async\.c\S+ \[[^\]]*\], \[[^\]]*\], \d+), %r\d+;", r"\1;"),
    "a wait dropped": (r"cp\.async\.wait_group\s+\d+;", ""),
    "the barriers dropped": (r"bar(rier)?\.sync\s+0;", ""),
}


@pytest.mark.parametrize("name", TEXTS)
def test_fault_in_the_assembly_is_found(name):
    text = build.ptx_text(BFLOAT16, 80)
    changed = re.sub(*TEXTS[name], text)
    if changed == text:
        pytest.skip("the kernels have no such instruction")
    faulty = PtxLibrary(dense.library(), [changed])
    assert any(found_by_some_case(faulty, backward) for backward in (False, True)), name
