"""Every depthwise kernel with all checks on: as host code on fibers, and as the PTX of nvcc.

Freedom from races, uninitialised reads, accesses out of bounds, divergence and missing waits is
shown for these shapes and launches; every output is written exactly once. The PTX is executed
functionally on a CPU interpreter; it has never run on a GPU.
"""

from __future__ import annotations

from functools import partial

import conv_reference as reference
import pytest
import torch
from conv_errors import pair_bound
from conv_reference import Problem

from emulation import build
from emulation.depthwise import DTYPES, SOURCES, UNITS, Sum, plan, run
from emulation.machine import Fault, mutate, turns
from emulation.ptx.launch import PtxLibrary

pytestmark = pytest.mark.emulation


def depthwise(channels, size, kernel, **more):
    more = {"batch": 1} | more
    return Problem((channels,) * 3, size, kernel, groups=(channels,) * 2, **more)


CASES = {
    "march": depthwise(5, (9, 13), (3, 3), batch=2),
    "march, planes": depthwise(9, (7, 7), (7, 7)),
    "march, wide kernel": depthwise(2, (24, 68), (21, 21), activation="gelu", biases=(True, False)),
    "march, column first": depthwise(4, (14, 12), (11, 5), row_first=False),
    "general, strides": depthwise(5, (11, 14), (5, 7), stride=(2, 3), padding=(1, 3)),
    "general, column first": depthwise(3, (9, 38), (3, 33), row_first=False, activation="silu"),
}
LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
PASSES = pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])


def hold(library, problem, dtype, channels_last, backward):
    """Run a pass and hold its results against float64."""
    x, *weights = reference.tensors(problem, dtype)
    output = reference.torch_pair(problem, x, *weights)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(5)).to(dtype)
    exact = pair_bound(problem, [x, *weights], grad)
    case = Sum((problem,), dtype, channels_last)
    found = run(case, x, weights, grad if backward else None, library=library)
    exact.of(range(1, len(exact.exact)) if backward else [0]).hold(found, case)


@pytest.fixture(scope="module", name="checked")
def checked_library():
    return build.host_library(SOURCES, checked=True)


@PASSES
@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_host_code_passes_all_checks(checked, name, dtype, channels_last, backward):
    hold(checked, CASES[name], dtype, channels_last, backward)


@pytest.mark.parametrize("order", ["backward", "shuffled"])
@PASSES
@pytest.mark.parametrize("name", ["march, planes", "general, strides"])
def test_the_order_of_threads_changes_nothing(checked, name, backward, order):
    turns(checked, order, seed=11)
    hold(checked, CASES[name], torch.bfloat16, False, backward)


@pytest.fixture(scope="module", name="interpreted", params=build.ARCHITECTURES, ids="sm_{}".format)
def interpreted_library(request):
    texts = [partial(build.ptx_text, unit, request.param) for unit in UNITS]
    build.ahead(*texts)
    return PtxLibrary(build.host_library(SOURCES), [text() for text in texts])


@PASSES
@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_ptx_passes_all_checks(interpreted, name, dtype, channels_last, backward):
    hold(interpreted, CASES[name], dtype, channels_last, backward)


# A fault that is compiled into a kernel, the pass and the problem that show it.
MUTANTS = {
    1: ("a barrier less before a row is read", False, "march, planes"),
    2: ("the next row over the one that is read", False, "march, planes"),
    3: ("a column too many", False, "march"),
    4: ("a window one group to the right", False, "march, wide kernel"),
    5: ("a column of the halo taken for the image's", False, "general, strides"),
    6: ("a barrier less after the intermediate", False, "general, strides"),
    7: ("a barrier less after the gradient of the intermediate", True, "general, strides"),
    8: ("a shuffle over one distance", True, "general, strides"),
}


@pytest.mark.parametrize("number", MUTANTS)
def test_fault_in_a_kernel_is_found_on_the_host(number):
    _, backward, name = MUTANTS[number]
    library = build.host_library(SOURCES, checked=True, mutable=UNITS[0])
    hold(library, CASES[name], torch.float32, False, backward)
    mutate(library, number)
    with pytest.raises((Fault, AssertionError)):
        hold(library, CASES[name], torch.float32, False, backward)


@pytest.mark.parametrize("number", MUTANTS)
def test_fault_in_a_kernel_is_found_in_ptx(number):
    _, backward, name = MUTANTS[number]
    good, faulty = (
        PtxLibrary(build.host_library(SOURCES), [build.mutant_text(UNITS[0], 90, n)])
        for n in (0, number)
    )
    hold(good, CASES[name], torch.float32, False, backward)
    with pytest.raises((Fault, AssertionError)):
        hold(faulty, CASES[name], torch.float32, False, backward)


def test_plans_of_the_cases_take_the_kernels_that_they_name():
    for name, problem in CASES.items():
        assert plan(Sum((problem,))).is_march == name.startswith("march"), name
