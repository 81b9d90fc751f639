"""Every depthwise kernel with all checks on: as host code on fibers, and as the PTX of nvcc.

Freedom from races, uninitialised reads, accesses out of bounds, divergence and missing waits is
shown for these shapes and launches; every output is written exactly once. The PTX is executed
functionally on a CPU interpreter; it has never run on a GPU. The cases reach every kernel of the
PTX, in every dtype and layout. Where PYPHASE_PTX_TARGETS names further targets, the kernels whose
text is another run for them, too.
"""

from __future__ import annotations

import itertools
from functools import partial

import conv_reference as reference
import pytest
import torch
from conv_errors import pair_bound
from conv_reference import Problem

from emulation import build
from emulation.depthwise import DTYPES, SOURCES, UNITS, Sum, plan, run
from emulation.machine import Fault, Launches, mutate, turns
from emulation.ptx.launch import PtxLibrary
from emulation.ptx.targets import is_new, module
from emulation.test_strips import SEGNEXT, Strips
from emulation.test_strips import hold as hold_sum

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
    "march, sum": Strips(SEGNEXT, 3, (5, 10), 1),
    "general, sum": Strips(((3, 3), (5, 1), (9, 7), (3, 5)), 2, (6, 7), 1, row_first=False),
}
# The other sizes that depthwise_march is compiled for, without and with an activation.
FORWARD = {
    f"march, {k}, {activation}": depthwise(3, (4, 10), (k, k), activation=activation)
    for activation, sizes in (("none", (5, 19, 21)), ("relu", (3, 5, 7, 11, 19)))
    for k in sizes
}
LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
PASSES = pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
EACH = [(name, backward) for name in CASES for backward in (False, True)]
EACH += [(name, False) for name in FORWARD]
EACH += [("march, 5, none", True)]  # the size that backward has besides those of CASES
REPEATED = {"general, column first", "general, sum"}  # kernels of other cases
ENOUGH = [(name, backward) for name, backward in EACH if not backward or name not in REPEATED]
TARGETS = [(80, *case) for case in EACH]
TARGETS += [(target, *case) for target in build.PTX_TARGETS[1:] for case in ENOUGH]


def case_id(value) -> str:
    if isinstance(value, bool):
        return "backward" if value else "forward"
    return f"sm_{value}" if isinstance(value, int) else value


def unit_of(dtype):
    return UNITS[(torch.float32, torch.float16, torch.bfloat16).index(dtype)]


def hold(library, name, dtype, channels_last, backward):
    """Run a pass of a case and hold its results against float64."""
    problem = (CASES | FORWARD)[name]
    if isinstance(problem, Strips):
        hold_sum(problem, dtype, channels_last, backward, library=library)
        return
    x, *weights = reference.tensors(problem, dtype)
    case = Sum((problem,), dtype, channels_last)
    grad = torch.randn(case.output_shape, generator=torch.Generator().manual_seed(5)).to(dtype)
    exact = pair_bound(problem, [x, *weights], grad)
    found = run(case, x, weights, grad if backward else None, library=library)
    exact.of(range(1, len(exact.exact)) if backward else [0]).hold(found, case)


@pytest.fixture(scope="module", name="checked")
def checked_library():
    return build.host_library(SOURCES, checked=True, mutable=UNITS[0])


@pytest.mark.parametrize(("name", "backward"), EACH, ids=case_id)
@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_host_code_passes_all_checks(checked, name, dtype, channels_last, backward):
    hold(checked, name, dtype, channels_last, backward)


@pytest.mark.parametrize("order", ["backward", "shuffled"])
@PASSES
@pytest.mark.parametrize("name", ["march, planes", "general, strides"])
def test_the_order_of_threads_changes_nothing(checked, name, backward, order):
    turns(checked, order, seed=11)
    hold(checked, name, torch.bfloat16, False, backward)


@pytest.fixture(scope="module", name="interpreted")
def interpreted_library(request):
    texts = [partial(build.ptx_text, unit, request.param) for unit in UNITS]
    build.ahead(*texts)
    library = PtxLibrary(build.host_library(SOURCES), [text() for text in texts])
    return request.param, library


@pytest.mark.parametrize(
    ("interpreted", "name", "backward"), TARGETS, indirect=["interpreted"], ids=case_id
)
@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ptx_passes_all_checks(interpreted, name, dtype, channels_last, backward):
    target, library = interpreted
    names = launched(name, dtype, channels_last, backward)
    if is_new(unit_of(dtype), names, target):
        hold(library, name, dtype, channels_last, backward)


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
    9: ("a barrier less before rows of x and of a gradient are read", True, "march, planes"),
    10: ("the gradient of this row for that of the row before", True, "march, planes"),
    11: ("a column too many of the output's gradient", True, "march"),
    12: ("a barrier less before sums are added up", True, "march, planes"),
}


@pytest.mark.parametrize("number", MUTANTS)
def test_fault_in_a_kernel_is_found_on_the_host(number):
    _, backward, name = MUTANTS[number]
    library = build.host_library(SOURCES, checked=True, mutable=UNITS[0])
    hold(library, name, torch.float32, False, backward)
    mutate(library, number)
    with pytest.raises((Fault, AssertionError)):
        hold(library, name, torch.float32, False, backward)


@pytest.mark.parametrize("number", MUTANTS)
def test_fault_in_a_kernel_is_found_in_ptx(number):
    _, backward, name = MUTANTS[number]
    good, faulty = (
        PtxLibrary(build.host_library(SOURCES), [build.mutant_text(UNITS[0], 80, n)])
        for n in (0, number)
    )
    hold(good, name, torch.float32, False, backward)
    with pytest.raises((Fault, AssertionError)):
        hold(faulty, name, torch.float32, False, backward)


def as_sum(name, dtype=torch.float32, channels_last=False):
    problem = (CASES | FORWARD)[name]
    if isinstance(problem, Strips):
        return Sum(problem.pairs(), dtype, channels_last, problem.residual)
    return Sum((problem,), dtype, channels_last)


@pytest.mark.parametrize("name", [*CASES, *FORWARD])
def test_plans_of_the_cases_take_the_kernels_that_they_name(name):
    for backward in (False, True):
        assert plan(as_sum(name), backward).is_march == name.startswith("march")


def launched(name, dtype, channels_last, backward) -> set[str]:
    """The kernels that a pass of a case launches."""
    case, launches = as_sum(name, dtype, channels_last), Launches(build.host_library(SOURCES))
    drawn = [reference.tensors(pair, case.dtype) for pair in case.pairs]
    weights = [tensor for _, *rest in drawn for tensor in rest]
    grad = torch.zeros(case.output_shape, dtype=case.dtype) if backward else None
    run(case, drawn[0][0], weights, grad, library=launches)
    return launches.names


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_cases_reach_every_kernel(dtype):
    """So the tests above run each kernel, in each layout, as host code and as PTX."""
    each = itertools.product(ENOUGH, (False, True))
    names = {n for (name, back), last in each for n in launched(name, dtype, last, back)}
    for target in build.PTX_TARGETS:
        assert set(module(unit_of(dtype), target)) == names, target
