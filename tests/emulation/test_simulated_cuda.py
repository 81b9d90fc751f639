"""The bodies of tests/test_conv_cuda.py on the simulated GPU, and what only it can show."""

from __future__ import annotations

import ctypes
import itertools

import pytest
import test_conv_cuda as bodies
import torch

from emulation.simulated import simulated
from pyphase import conv
from pyphase.conv import choice, cuda, native

pytestmark = pytest.mark.emulation


@pytest.fixture
def gpu():
    with simulated() as device:
        yield device


@pytest.fixture(autouse=True)
def few_calls(monkeypatch):
    """What is timed on fibers means nothing, and takes its time."""
    monkeypatch.setattr(choice, "_ROUNDS", 1)
    monkeypatch.setattr(choice, "_CALLS", 1)


quiet = bodies.quiet
REST = [name for name in vars(bodies) if name.startswith("test_")]
REST = [name for name in REST if name not in ("test_output_and_gradients", "test_strips")]


def calls(name: str):
    """Yield the arguments of each call of a body, which has one list of parameters or none."""
    marks = getattr(getattr(bodies, name), "pytestmark", [])
    if not marks:
        yield {}
    for mark in marks:
        argument, values = mark.args
        for value in values:
            yield {argument: value}


CALLS = [(name, arguments) for name in REST for arguments in calls(name)]
SHORT = ["depthwise, k 7", "depthwise, strides", "dense, low rank", "grouped"]


@pytest.mark.parametrize(("name", "arguments"), CALLS)
def test_body(gpu, name, arguments):
    getattr(bodies, name)(gpu, **arguments)


@pytest.mark.parametrize("name", SHORT)
def test_pairs(gpu, name):
    for dtype, channels_last in itertools.product(bodies.DTYPES, (False, True)):
        bodies.test_output_and_gradients(gpu, name, dtype, channels_last)


@pytest.mark.parametrize("name", ["7, 11, 21", "4, 5"])
def test_strips(gpu, name):
    for dtype, channels_last in ((torch.bfloat16, False), (torch.float32, True)):
        bodies.test_strips(gpu, name, True, dtype, channels_last)


def test_choices_outlive_the_process(gpu, monkeypatch, tmp_path):
    monkeypatch.setenv("PYPHASE_CACHE", str(tmp_path))
    problem, tensors = bodies.small(gpu)
    with conv.backend("auto"):
        conv.factorized_conv2d(*tensors, **problem.options)
    found = conv.choices()
    assert len(found) == 1
    monkeypatch.setattr(choice, "_memory", {})
    monkeypatch.setattr(choice, "_is_read", False)
    assert conv.choices() == found
    conv.clear_choices()
    assert conv.choices() == []
    assert list(tmp_path.iterdir()) == []


def test_a_missing_workspace_is_an_error(gpu):
    tensors = bodies.small(gpu, dtype=torch.float16)[1]
    kernels = bodies.kernels_of(bodies.MORE["depthwise, k 7"], tensors)
    assert kernels.planned.workspace(True) > 0
    with pytest.raises(ValueError, match="workspace is a null address, but"):
        kernels.planned.backward(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, None, 0)


def test_no_such_device(gpu):
    with pytest.raises(RuntimeError, match="CUDA device 7"):
        cuda.load().query_device(7)


def test_a_refused_launch_names_its_kernel(gpu):
    problem = bodies.MORE["depthwise, k 63"]
    tensors = bodies.put(bodies.reference.tensors(problem, torch.float32), gpu)
    library = ctypes.CDLL(cuda.load().__file__)
    library.emulation_shared_limit(48 << 10)
    try:
        with conv.backend("native"), pytest.raises(RuntimeError, match="depthwise_general: error"):
            conv.factorized_conv2d(*tensors, **problem.options)
    finally:
        library.emulation_shared_limit(227 << 10)


def test_missing_module_is_one_warning(gpu, monkeypatch):
    why = ModuleNotFoundError("No module named 'pyphase._cuda'", name="pyphase._cuda")
    monkeypatch.setattr(cuda, "load", lambda: why)
    problem, tensors = bodies.small(gpu)
    with pytest.warns(RuntimeWarning, match="built without them: no nvcc") as seen:
        conv.factorized_conv2d(*tensors, **problem.options)
    conv.factorized_conv2d(tensors[0][:1], *tensors[1:], **problem.options)  # warnings are errors
    assert len(seen) == 1
    assert native.make_pair(gpu, {}) is None
