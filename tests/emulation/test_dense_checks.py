"""Every dense kernel with all checks on: as host code on fibers, and as the PTX of nvcc.

Freedom from races, uninitialised reads, accesses out of bounds, divergence and missing waits is
shown for these shapes and launches; every output is written exactly once. The PTX is executed
functionally on a CPU interpreter; it has never run on a GPU. Tensor cores sum in another order than
either machine, so that tolerances are held, never bits.
"""

from __future__ import annotations

import re
from functools import partial

import conv_reference as reference
import pytest
import torch
from conv_errors import pair_bound
from conv_reference import Problem

from emulation import build, dense
from emulation.machine import Fault, mutate, turns
from emulation.ptx.launch import PtxLibrary

pytestmark = pytest.mark.emulation
BFLOAT16 = build.KERNELS / "dense_bfloat16.cu"
CASES = {
    "ragged": Problem((5, 9, 6), (7, 11), (3, 5), batch=1, activation="relu"),
    "whole units": Problem((16, 16, 24), (6, 9), (3, 3), batch=1),
    "column first": Problem(
        (8, 20, 8), (9, 6), (5, 3), row_first=False, batch=1, activation="silu"
    ),
    "strides": Problem((8, 8, 8), (9, 10), (3, 3), stride=(2, 2), padding=(1, 1), batch=1),
}
LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
PASSES = pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])


def hold(library, problem, dtype, channels_last, backward):
    """Run a pass and hold its results against float64."""
    tensors = reference.tensors(problem, dtype, channels_last)
    output = reference.torch_pair(problem, *tensors)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(5)).to(dtype)
    if channels_last:
        grad = grad.contiguous(memory_format=torch.channels_last)
    exact = pair_bound(problem, tensors, grad)
    found = dense.run(library, problem, tensors, grad, backward=backward)
    exact.of(range(1, len(exact.exact)) if backward else [0]).hold(found, problem)


@pytest.fixture(scope="module", name="checked")
def checked_library():
    return dense.library(checked=True)


@PASSES
@LAYOUTS
@pytest.mark.parametrize("dtype", dense.DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_host_code_passes_all_checks(checked, name, dtype, channels_last, backward):
    hold(checked, CASES[name], dtype, channels_last, backward)


@pytest.mark.parametrize("order", ["backward", "shuffled"])
@PASSES
def test_the_order_of_threads_changes_nothing(checked, backward, order):
    turns(checked, order, seed=11)
    hold(checked, CASES["ragged"], torch.bfloat16, True, backward)


@pytest.fixture(scope="module", name="interpreted", params=build.ARCHITECTURES, ids="sm_{}".format)
def interpreted_library(request):
    texts = [partial(build.ptx_text, unit, request.param) for unit in dense.UNITS]
    build.ahead(*texts)
    return PtxLibrary(dense.library(), [text() for text in texts])


@PASSES
@LAYOUTS
@pytest.mark.parametrize("dtype", dense.DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_ptx_passes_all_checks(interpreted, name, dtype, channels_last, backward):
    hold(interpreted, CASES[name], dtype, channels_last, backward)


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
    for problem in CASES.values():
        try:
            hold(library, problem, torch.bfloat16, True, backward)
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
    on_host = dense.library(checked=True, mutable=BFLOAT16)
    as_ptx = PtxLibrary(dense.library(), [build.mutant_text(BFLOAT16, 80, 0)])
    for library in (on_host, as_ptx):
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
