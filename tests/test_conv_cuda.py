"""The CUDA kernels through the real operators, on a real GPU.

    pytest -m cuda                                      # all of it; skipped where there is no GPU
    compute-sanitizer --tool memcheck python -m pytest -m cuda -k "gradients or strips"
    compute-sanitizer --tool racecheck python -m pytest -m cuda -k "gradients or strips"
    compute-sanitizer --tool initcheck python -m pytest -m cuda -k "gradients or strips"
    compute-sanitizer --tool synccheck python -m pytest -m cuda -k "gradients or strips"

PYTORCH_NO_CUDA_MEMORY_CACHING=1 before the first of them gives each tensor its own allocation, so
that memcheck sees its ends. The bodies run under the simulated GPU of tests/emulation as well.
"""

from __future__ import annotations

import conv_reference as reference
import pytest
import torch
from conv_reference import PROBLEMS, Problem

from pyphase import conv
from pyphase.conv import cuda
from pyphase.conv.options import make_options
from pyphase.conv.problem import PairProblem

pytestmark = pytest.mark.cuda

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MORE = {
    f"depthwise, k {k}": Problem(
        channels=(c, c, c), groups=(c, c), kernel=(k, k), size=size, row_first=k != 7
    )
    for k, c, size in (
        (3, 8, (9, 33)),
        (5, 9, (31, 17)),
        (7, 16, (20, 40)),
        (11, 3, (33, 35)),
        (19, 8, (24, 70)),
        (21, 5, (40, 21)),
        (63, 2, (70, 66)),
    )
}
MORE |= {
    "dense, low rank": Problem(channels=(32, 8, 48), size=(14, 18), kernel=(3, 3)),
    "dense, relu, 16": Problem(
        channels=(16, 16, 16), size=(12, 40), kernel=(3, 3), row_first=False, activation="relu"
    ),
    "dense, stem": Problem(
        channels=(3, 16, 24), size=(30, 34), kernel=(7, 7), stride=(2, 2), padding=(3, 3)
    ),
    "dense, 7": Problem(channels=(40, 24, 56), size=(17, 17), kernel=(7, 7)),
}
EVERY = {**PROBLEMS, **MORE}
STRIPS = {"7, 11, 21": (7, 11, 21), "3": (3,), "4, 5": (4, 5), "7, 11, 21, 41": (7, 11, 21, 41)}


@pytest.fixture
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    if cuda.why_not(cuda.load()):
        pytest.skip(f"no CUDA kernels: {cuda.why_not(cuda.load())}")
    return torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """No TF32, so that float32 is held to float32; no choices of other runs."""
    monkeypatch.setenv("PYPHASE_CACHE", "")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    conv.clear_choices()
    yield
    conv.clear_choices()


def put(tensors, device):
    """Return leaves on a device."""
    return [
        None if t is None else t.detach().to(device).requires_grad_(t.requires_grad)
        for t in tensors
    ]


def doubles(tensors):
    """Return leaves of the same values, in float64 on the CPU."""
    return [None if t is None else t.detach().cpu().double().requires_grad_() for t in tensors]


def both_ways(function, tensors, grad=None):
    """Return the output and the gradients of all tensors that are there."""
    wanted = [t for t in tensors if t is not None]
    output = function(*tensors)
    grad = torch.ones_like(output) if grad is None else grad
    return [output.detach(), *torch.autograd.grad(output, wanted, grad)]


def pair_function(problem):
    return lambda *tensors: conv.factorized_conv2d(*tensors, **problem.options)


def hold(found, other, exact, dtype):
    """Assert an error of at most twice the other's, or a few roundings, against float64.

    Few: one of a half type, whose sums are in float32; four of float32, in whatever order.
    """
    roundings = torch.finfo(dtype).eps * (4 if dtype == torch.float32 else 1)
    assert len(found) == len(other) == len(exact)
    for ours, theirs, want in zip(found, other, exact, strict=True):
        assert ours.dtype == dtype
        assert ours.shape == want.shape
        scale = float(want.norm()) or 1.0
        error, allowed = (float((got.cpu().double() - want).norm()) for got in (ours, theirs))
        assert error <= max(2 * allowed, roundings * scale), (error, allowed)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", EVERY)
def test_output_and_gradients(gpu, name, dtype, channels_last):
    problem = EVERY[name]
    tensors = put(reference.tensors(problem, dtype, channels_last, grad=True), gpu)
    exact = both_ways(pair_function(problem), doubles(tensors))
    with conv.backend("torch"):
        torchs = both_ways(pair_function(problem), tensors)
    with conv.backend("native"):
        found = both_ways(pair_function(problem), tensors)
        again = both_ways(pair_function(problem), tensors)
    hold(found, torchs, exact, dtype)
    assert found[0].stride() == torchs[0].stride()
    kernels = kernels_of(problem, tensors)
    if kernels is not None and all(kernels.covered):
        assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True)), "not the same"


def kernels_of(problem, tensors):
    return PairProblem(*tensors, make_options(*problem.options.values(), problem.kernel)).kernels()


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", STRIPS)
def test_strips(gpu, name, residual, dtype, channels_last):
    tensors = strips_tensors(STRIPS[name], dtype, channels_last)
    exact = both_ways(strips_function(residual), doubles(tensors))
    tensors = put(tensors, gpu)
    with conv.backend("torch"):
        torchs = both_ways(strips_function(residual), tensors)
    with conv.backend("native"):
        found = both_ways(strips_function(residual), tensors)
    hold(found, torchs, exact, dtype)


def strips_tensors(kernels, dtype, channels_last, channels=6, size=(24, 26)):
    torch.manual_seed(0)
    tensors = [torch.randn(2, channels, *size)]
    for k in kernels:
        tensors += [torch.randn(channels, 1, 1, k), torch.randn(channels)]
        tensors += [torch.randn(channels, 1, k, 1), torch.randn(channels)]
    if channels_last:
        tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    return [t.to(dtype).requires_grad_() for t in tensors]


def strips_function(residual):
    def run(x, *rest):
        pairs = [rest[i : i + 4] for i in range(0, len(rest), 4)]
        return conv.multi_strip_conv2d(x, pairs, residual=residual)

    return run


def test_what_is_covered(gpu):
    """The families that there are kernels for; a benchmark against oneself must not go unseen."""
    for name, family in (("depthwise, k 7", "depthwise"), ("dense, low rank", "dense")):
        problem = EVERY[name]
        tensors = put(reference.tensors(problem, torch.float16), gpu)
        kernels = kernels_of(problem, tensors)
        assert kernels is not None
        assert kernels.kernel == family
        assert kernels.covered == (True, True)


def small(gpu, grad=False, dtype=torch.float32):
    problem = MORE["depthwise, k 7"]
    return problem, put(reference.tensors(problem, dtype, grad=grad), gpu)


def test_some_gradients_alone(gpu):
    problem, tensors = small(gpu, grad=True)
    with conv.backend("native"):
        whole = both_ways(pair_function(problem), tensors)[1:]
        for i, wanted in enumerate(tensors):
            output = conv.factorized_conv2d(*tensors, **problem.options)
            (grad,) = torch.autograd.grad(output, [wanted], torch.ones_like(output))
            assert torch.equal(grad, whole[i])


def misaligned(tensor):
    """Return a copy whose address is that of an element, but of no vector."""
    memory = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=tensor.device)
    copy = memory[1:].view(tensor.shape).copy_(tensor.detach())
    assert copy.data_ptr() % 16
    return copy.requires_grad_(tensor.requires_grad)


def strided(tensor):
    """Return a copy with gaps between its elements."""
    memory = torch.empty(*tensor.shape, 2, dtype=tensor.dtype, device=tensor.device)
    return memory[..., 0].copy_(tensor.detach()).requires_grad_(tensor.requires_grad)


@pytest.mark.parametrize("name", ["depthwise, k 7", "dense, low rank"])
def test_misaligned_and_strided_tensors(gpu, name):
    problem = MORE[name]
    tensors = put(reference.tensors(problem, torch.float16, grad=True), gpu)
    with conv.backend("native"):
        expected = both_ways(pair_function(problem), tensors)
        grad = torch.ones_like(expected[0])
        for other in (misaligned, strided):
            changed = [other(tensor) for tensor in tensors]
            found = both_ways(pair_function(problem), changed, other(grad))
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        found = both_ways(pair_function(problem), tensors, grad[:1, :1, :1, :1].expand_as(grad))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", ["depthwise, k 7", "dense, low rank"])
def test_empty_batch(gpu, name):
    problem = MORE[name]
    x, *rest = put(reference.tensors(problem, torch.float16, grad=True), gpu)
    with conv.backend("native"):
        output, *grads = both_ways(pair_function(problem), [x[:0], *rest])
    assert output.shape[0] == 0
    assert [grad.shape for grad in grads] == [x[:0].shape, *(t.shape for t in rest)]
    assert not any(grad.any() for grad in grads)


@pytest.mark.parametrize("shape", [(66000, 1, 1, 2), (1, 66000, 2, 1)])
def test_more_than_a_grid_has_in_y(gpu, shape):
    problem = Problem((shape[1],) * 3, shape[2:], (3, 3), batch=shape[0], groups=shape[1:2] * 2)
    tensors = put(reference.tensors(problem, torch.float32), gpu)
    exact = pair_function(problem)(*doubles(tensors)).detach()
    with conv.backend("torch"):
        torchs = pair_function(problem)(*tensors)
    with conv.backend("native"):
        hold([pair_function(problem)(*tensors)], [torchs], [exact], torch.float32)


def test_side_stream(gpu):
    problem, tensors = small(gpu)
    with conv.backend("native"):
        expected = conv.factorized_conv2d(*tensors, **problem.options)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            outputs = [conv.factorized_conv2d(*tensors, **problem.options) for _ in range(20)]
        stream.synchronize()
    assert all(torch.equal(output, expected) for output in outputs)


def test_graph(gpu):
    """Capture forward and backward; a replay on other values is what a call gives."""
    problem, tensors = small(gpu, grad=True)
    with conv.backend("native"):
        for _ in range(3):  # as torch's own notes on graphs warm up
            both_ways(pair_function(problem), tensors)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = both_ways(pair_function(problem), tensors)
        with torch.no_grad():
            tensors[0].mul_(2)
        graph.replay()
        torch.cuda.synchronize()
        expected = both_ways(pair_function(problem), tensors)
    if torch.cuda.CUDAGraph.__module__.startswith("torch"):  # the simulated one replays nothing
        assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


def test_auto_measures_once_and_not_in_a_capture(gpu):
    problem, tensors = small(gpu)
    with conv.backend("auto"):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            conv.factorized_conv2d(*tensors, **problem.options)
        assert conv.choices() == []
        for _ in range(2):
            output = conv.factorized_conv2d(*tensors, **problem.options)
        (choice,) = conv.choices()
    assert choice.task == "forward"
    assert choice.backend == ("native" if choice.native < choice.torch else "torch")
    assert min(choice.native, choice.torch) > 0
    assert "(16, 1, 7, 1)" in choice.problem
    with conv.backend("torch"):
        expected = conv.factorized_conv2d(*tensors, **problem.options)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)


def test_auto_measures_strips_and_gradients(gpu):
    tensors = put(strips_tensors((3, 5), torch.float32, False), gpu)
    with conv.backend("auto"):
        both_ways(strips_function(True), tensors)
    tasks = {choice.task for choice in conv.choices() if "strips" in choice.problem}
    assert tasks == {"forward", "backward"}


def test_deterministic_torch_measures_nothing(gpu):
    problem, tensors = small(gpu)
    torch.use_deterministic_algorithms(True)
    try:
        with conv.backend("auto"):
            conv.factorized_conv2d(*tensors, **problem.options)
    finally:
        torch.use_deterministic_algorithms(False)
    assert conv.choices() == []


def test_autocast(gpu):
    problem, tensors = small(gpu, grad=True)
    with conv.backend("native"), torch.autocast(gpu.type, torch.float16):
        output = conv.factorized_conv2d(*tensors, **problem.options)
    if torch.cuda.CUDAGraph.__module__.startswith("torch"):  # the simulated GPU has no autocast
        assert output.dtype == torch.float16
    grads = torch.autograd.grad(output.sum(), tensors)
    assert all(grad.dtype == torch.float32 for grad in grads)


def test_compile(gpu):
    if not torch.cuda.CUDAGraph.__module__.startswith("torch"):
        pytest.skip("the simulated GPU has no compiler")
    problem, tensors = small(gpu, grad=True)
    with conv.backend("native"):
        expected = both_ways(pair_function(problem), tensors)
        for mode in (None, "reduce-overhead"):
            compiled = torch.compile(pair_function(problem), fullgraph=True, mode=mode)
            for _ in range(3):
                found = both_ways(compiled, tensors)
            torch.testing.assert_close(found, expected)


def test_second_device(gpu):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    problem, tensors = small(gpu)
    with conv.backend("native"):
        expected = conv.factorized_conv2d(*tensors, **problem.options)
        moved = put(tensors, torch.device("cuda", 1))
        output = conv.factorized_conv2d(*moved, **problem.options)
        assert torch.cuda.current_device() == 0
    assert output.device == torch.device("cuda", 1)
    assert torch.equal(output.cpu(), expected.cpu())


def test_a_null_address_is_an_error(gpu):
    problem, tensors = small(gpu)
    planned = kernels_of(problem, tensors).planned
    with pytest.raises(ValueError, match="x is a null address"):
        planned.forward(None, 1, 1, None, None, 1, 0, None, 0)
