"""Who looks on sees the registered op, although most calls of a fused kernel leave it out."""

from __future__ import annotations

import conv_reference as reference
import pytest
import torch
from conv_reference import PROBLEMS
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pyphase import conv
from pyphase.conv.registry import is_plain

DEPTHWISE = PROBLEMS["depthwise, column first"]
FORWARD = "pyphase::factorized_conv2d"
BACKWARD = "pyphase::factorized_conv2d_backward"


class Wrapped(torch.Tensor):
    """A subclass that changes nothing."""


class Dispatched(TorchDispatchMode):
    """Keeps the names of the ops that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **kwargs or {})


class Overridden(TorchFunctionMode):
    """The same of the functions."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if isinstance(function, torch._ops.OpOverload):
            self.names.append(function.name())
        return function(*args, **kwargs or {})


@pytest.fixture(autouse=True)
def native():
    with conv.backend("native"):
        yield


def train(tensors):
    output = conv.factorized_conv2d(*tensors, **DEPTHWISE.options)
    return [output, *torch.autograd.grad(output.sum(), tensors)]


def test_a_mode_sees_the_ops():
    tensors = reference.tensors(DEPTHWISE, torch.float32, grad=True)
    with Dispatched() as mode:
        train(tensors)
        with torch.no_grad():
            conv.factorized_conv2d(*tensors, **DEPTHWISE.options)
    assert [n for n in mode.names if n.startswith("pyphase")] == [FORWARD, BACKWARD, FORWARD]
    with Overridden() as mode:
        conv.factorized_conv2d(*tensors, **DEPTHWISE.options)
    assert FORWARD in mode.names


def test_a_mode_that_begins_before_the_backward_pass_sees_it():
    tensors = reference.tensors(DEPTHWISE, torch.float32, grad=True)
    output = conv.factorized_conv2d(*tensors, **DEPTHWISE.options)
    with Dispatched() as mode:
        torch.autograd.grad(output.sum(), tensors)
    assert BACKWARD in mode.names


def test_the_profiler_sees_the_ops():
    tensors = reference.tensors(DEPTHWISE, torch.float32, grad=True)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        train(tensors)
    assert {FORWARD, BACKWARD} <= {event.key for event in profiler.key_averages()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_trace_has_the_op_in_it():
    x, *rest = reference.tensors(DEPTHWISE, torch.float32)
    traced = torch.jit.trace(
        lambda image: conv.factorized_conv2d(image, *rest, **DEPTHWISE.options), x
    )
    assert FORWARD in str(traced.graph)
    other = torch.randn_like(x)
    expected = conv.factorized_conv2d(other, *rest, **DEPTHWISE.options)
    torch.testing.assert_close(traced(other), expected)


def test_fault_a_trace_of_the_backward_pass_alone_had_no_op_in_it():
    tensors = reference.tensors(DEPTHWISE, torch.float32, grad=True)
    output = conv.factorized_conv2d(*tensors, **DEPTHWISE.options)

    def backward(grad):
        return torch.autograd.grad(output, tensors, grad, retain_graph=True)

    traced = make_fx(backward, pre_dispatch=True)(torch.ones_like(output))
    assert any(getattr(n.target, "name", str)() == BACKWARD for n in traced.graph.nodes)
    grad = torch.randn_like(output)
    torch.testing.assert_close(tuple(traced(grad)), backward(grad))


@pytest.mark.parametrize("how", ["autograd", "torch.func"])
@pytest.mark.parametrize("strips", [False, True])
def test_fault_a_batch_of_gradients_had_no_memory_to_read(how, strips):
    tensors = reference.tensors(DEPTHWISE, torch.float32, grad=True)
    if strips:
        tensors = tensors[:3]
        output = conv.multi_strip_conv2d(tensors[0], [tensors[1:]], residual=True)
    else:
        output = conv.factorized_conv2d(*tensors, **DEPTHWISE.options)

    def backward(grad, **options):
        return torch.autograd.grad(output, tensors, grad, retain_graph=True, **options)

    batch = torch.randn(3, *output.shape)
    if how == "autograd":
        found = backward(batch, is_grads_batched=True)
    else:
        found = torch.func.vmap(backward)(batch)
    for i, grad in enumerate(batch):
        torch.testing.assert_close(tuple(each[i] for each in found), backward(grad))


def test_fault_the_tangent_of_a_gradient_was_dropped():
    problem = DEPTHWISE._replace(activation="relu")  # torch itself has no tangents of silu's
    tensors = reference.tensors(problem, torch.float32, grad=True)
    output = conv.factorized_conv2d(*tensors, **problem.options)
    grad, tangent = torch.randn_like(output), torch.randn_like(output)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(grad, tangent)
        (found,) = torch.autograd.grad(output, tensors[0], dual, retain_graph=True)
        moved = forward_ad.unpack_dual(found).tangent
    (expected,) = torch.autograd.grad(output, tensors[0], tangent)
    torch.testing.assert_close(moved, expected)


@pytest.mark.parametrize("unpack", [torch.Tensor.bfloat16, lambda t: t[:1]])
def test_fault_what_a_hook_gave_back_was_not_checked(unpack):
    tensors = reference.tensors(DEPTHWISE, torch.float32, grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
        output = conv.factorized_conv2d(*tensors, **DEPTHWISE.options)
    with pytest.raises(ValueError, match=r"grad_output|weight1"):
        output.sum().backward()


@pytest.mark.parametrize("index", range(6))
def test_fault_zeros_without_memory(index):
    def run(fill):
        tensors = reference.tensors(DEPTHWISE, torch.float32)
        tensors.append(torch.ones_like(tensors[0]))
        tensors[index] = fill(tensors[index].shape)
        *tensors, grad = tensors
        with torch.no_grad():
            output = conv.factorized_conv2d(*tensors, **DEPTHWISE.options)
        leaves = reference.tensors(DEPTHWISE, torch.float32, grad=True)
        again = conv.factorized_conv2d(*leaves, **DEPTHWISE.options)
        return [output, *torch.autograd.grad(again, leaves, grad)]

    for found, expected in zip(run(torch._efficientzerotensor), run(torch.zeros), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("index", [0, 1, 4])
def test_a_sign_that_is_yet_to_be_turned(index):
    tensors = reference.tensors(DEPTHWISE, torch.float32)
    real = tensors[index]
    tensors[index] = torch._neg_view(-real)  # as the imaginary part of a conjugate is
    assert tensors[index].is_neg()
    assert not is_plain(tensors)
    expected = reference.torch_pair(DEPTHWISE, *reference.tensors(DEPTHWISE, torch.float32))
    leaves = [tensor.requires_grad_() for tensor in tensors]
    torch.testing.assert_close(train(leaves)[0], expected)
    with torch.no_grad():
        output = conv.factorized_conv2d(*tensors, **DEPTHWISE.options)
    torch.testing.assert_close(output, expected)


def test_a_subclass_stays_one():
    x, *rest = reference.tensors(DEPTHWISE, torch.float32)
    output = conv.factorized_conv2d(x.as_subclass(Wrapped), *rest, **DEPTHWISE.options)
    assert type(output) is Wrapped


def test_what_is_plain():
    tensors = reference.tensors(DEPTHWISE, torch.float32)
    assert is_plain((*tensors, None, torch.nn.Parameter(tensors[1])))
    assert not is_plain([tensors[0].as_subclass(Wrapped)])
    assert not is_plain([tensors[0].to("meta")])
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_plain(tensors)


def test_the_gradient_under_autocast_follows_its_forward():
    tensors = reference.tensors(DEPTHWISE, torch.float32, grad=True)
    output = conv.factorized_conv2d(*tensors, **DEPTHWISE.options)
    expected = torch.autograd.grad(output.sum(), tensors, retain_graph=True)
    for name in ("native", "torch"):
        with conv.backend(name), torch.autocast("cpu", torch.bfloat16):
            found = torch.autograd.grad(output.sum(), tensors, retain_graph=True)
        torch.testing.assert_close(found, expected)
