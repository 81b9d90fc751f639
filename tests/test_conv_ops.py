"""The registered ops: torch's own checks, what compiles and exports, both ways to a gradient.

Long, since four ops go through each of torch's machines.
"""

from __future__ import annotations

import copy

import conv_reference as reference
import numpy as np
import pytest
import torch
from conv_reference import PROBLEMS, Problem
from torch._subclasses.fake_tensor import FakeTensorMode

from pyphase import conv
from pyphase.conv.ops import pair_backward_op, pair_op, strips_backward_op, strips_op

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),  # torch's own imports
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),  # its opcheck
]

DEPTHWISE = PROBLEMS["depthwise, column first"]
SAMPLES = [  # the op and its formula are the same for both backends: either has its share
    ("dense, strides", False, "torch"),
    ("depthwise, column first", False, "native"),
    ("depthwise, strides", True, "native"),
    ("grouped", True, "torch"),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small tensors: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["native", "torch"])
def backend(request):
    with conv.backend(request.param):
        yield request.param


def op_options(problem):
    stride, _, dilation, groups, activation = problem.options.values()
    return (stride, problem.sides, dilation, groups, activation)


def pair_args(problem, channels_last=False, grad=True, dtype=torch.float32):
    tensors = reference.tensors(problem, dtype, channels_last, grad)
    return (*tensors, *op_options(problem))


def backward_args(problem, channels_last=False, grad=True, mask=(True,) * 5):
    args = pair_args(problem, channels_last, grad)
    grad_output = torch.randn_like(pair_op(*args)).requires_grad_(grad)
    return (grad_output, *args[:4], *args[5:], list(mask))


def strips_args(channels_last=False, grad=True, biases=True, dtype=torch.float32):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 5, dtype=dtype)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    weights, vectors = [], []
    for k in (3, 4):
        weights += [torch.randn(3, 1, 1, k, dtype=dtype), torch.randn(3, 1, k, 1, dtype=dtype)]
        vectors += [torch.randn(3, dtype=dtype) if biases else None, None]
    for tensor in (x, *weights, *vectors):
        if tensor is not None:
            tensor.requires_grad_(grad)
    return (x, weights, vectors, True)


def strips_backward_args(channels_last=False, grad=True, biases=True):
    args = strips_args(channels_last, grad, biases)
    grad_output = torch.randn_like(args[0]).requires_grad_(grad)
    mask = [True] * 5 + [bias is not None for bias in args[2]]
    return (grad_output, *args, mask)


# Torch's own checks


@pytest.mark.parametrize(("name", "channels_last", "setting"), SAMPLES)
def test_opcheck_pair(name, channels_last, setting):
    with conv.backend(setting):
        torch.library.opcheck(pair_op, pair_args(PROBLEMS[name], channels_last))
        torch.library.opcheck(pair_backward_op, backward_args(PROBLEMS[name], channels_last))


def test_opcheck_masked_gradients(backend):
    mask = (False, True, False, True, True)
    torch.library.opcheck(pair_backward_op, backward_args(DEPTHWISE, mask=mask))


@pytest.mark.parametrize(("channels_last", "setting"), [(False, "torch"), (True, "native")])
def test_opcheck_strips(channels_last, setting):
    with conv.backend(setting):
        torch.library.opcheck(strips_op, strips_args(channels_last))
        torch.library.opcheck(strips_backward_op, strips_backward_args(channels_last))


def test_opcheck_empty_batch_and_half(backend):
    torch.library.opcheck(pair_op, pair_args(DEPTHWISE._replace(batch=0)))
    torch.library.opcheck(pair_op, pair_args(DEPTHWISE, dtype=torch.bfloat16))


# Values and gradients of the ops themselves


@pytest.mark.parametrize("name", PROBLEMS)
def test_op_is_the_oracles(name, backend):
    problem = PROBLEMS[name]
    args = pair_args(problem, dtype=torch.float64)
    arrays = reference.draw(problem)
    output = pair_op(*args)
    np.testing.assert_allclose(output.detach(), reference.pair(problem, arrays), atol=1e-11)
    leaves = [tensor for tensor in args[:5] if tensor is not None]
    grads = torch.autograd.grad(output.square().sum() / 2, leaves)
    expected = reference.pair_grads(problem, arrays, output.detach().numpy())
    expected = [array for array in expected if array is not None]
    for grad, wanted in zip(grads, expected, strict=True):
        np.testing.assert_allclose(grad, wanted, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize(
    "problem",
    [
        Problem((2, 3, 2), (4, 5), (3, 2), batch=1, activation="gelu"),
        Problem((2, 2, 2), (4, 4), (2, 3), False, 1, groups=(2, 2), activation="silu"),
        Problem((2, 2, 2), (5, 4), (3, 3), groups=(2, 2), stride=(2, 1), padding=(1, 1)),
        Problem((2, 4, 2), (4, 4), (2, 3), groups=(2, 1), activation="relu", biases=(True, False)),
    ],
)
def test_op_gradcheck_twice(problem, backend):
    *tensors, stride, sides, dilation, groups, activation = pair_args(problem, dtype=torch.float64)

    def function(*tensors):
        return pair_op(*tensors, stride, sides, dilation, groups, activation)

    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


def test_strips_op_gradcheck_twice(backend):
    x, weights, vectors, residual = strips_args(dtype=torch.float64)

    def function(x, bias, *weights):
        return strips_op(x, list(weights), [bias, None, None, bias], residual)

    leaves = (x[:1, :, :3, :4].detach().requires_grad_(), vectors[0], *weights)
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


def test_backward_op_gives_what_is_asked_for(backend):
    args = backward_args(DEPTHWISE, grad=False)
    whole = pair_backward_op(*args)
    for index in range(5):
        mask = [i == index for i in range(5)]
        parts = pair_backward_op(*args[:-1], mask)
        torch.testing.assert_close(parts[index], whole[index])
        assert [part.numel() for i, part in enumerate(parts) if i != index] == [0] * 4
    assert all(grad.numel() for grad in whole)


def call(x, args):
    output = conv.factorized_conv2d(x, *args[1:5], **DEPTHWISE.options)
    return output.square().sum()


def test_op_under_func_transforms(backend):
    args = pair_args(DEPTHWISE, grad=False, dtype=torch.float64)

    def loss(x):
        return pair_op(x, *args[1:]).square().sum()

    leaf = args[0].clone().requires_grad_()
    expected = torch.autograd.grad(loss(leaf), leaf)[0]
    torch.testing.assert_close(torch.func.grad(loss)(args[0]), expected)
    compiled = torch.compile(torch.func.grad(lambda x: call(x, args)), backend="aot_eager")
    torch.testing.assert_close(compiled(args[0]), expected)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_op_is_cast_by_autocast_on_every_device(kind):
    key = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}[kind]
    for op in ("factorized_conv2d", "multi_strip_conv2d_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"pyphase::{op}", key)


# Fake tensors, compile, export


def test_meta_and_fake_tensors():
    args = pair_args(DEPTHWISE, channels_last=True, grad=False)
    real = pair_op(*args)
    meta = [tensor.to("meta") for tensor in args[:5]]
    output = conv.factorized_conv2d(*meta, **DEPTHWISE.options)
    assert (output.shape, output.stride(), output.device.type) == (
        real.shape,
        real.stride(),
        "meta",
    )
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(tensor) for tensor in args[:5]]
        fake = conv.factorized_conv2d(*fakes, **DEPTHWISE.options)
        assert (fake.shape, fake.stride()) == (real.shape, real.stride())
    with pytest.raises(ValueError, match="groups=6 takes 6 channels"):
        conv.factorized_conv2d(meta[0][:, :5], *meta[1:], **DEPTHWISE.options)


class Net(torch.nn.Module):
    """Both layers, with something of torch before, between and after."""

    def __init__(self):
        super().__init__()
        self.stem = conv.FactorizedConv2d(2, 4, 3, stride=2, activation="gelu")
        self.strips = conv.MultiStripConv2d(4, (3, 5))

    def forward(self, x):
        return self.strips(self.stem(x * 2).relu()).mean((2, 3))


def outputs_and_grads(model, x):
    model.zero_grad()
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    output = model(leaf)
    output.square().sum().backward()
    return [output, leaf.grad, *[p.grad.clone() for p in model.parameters()]]


def test_compiles_whole_with_dynamic_shapes(backend):
    torch.manual_seed(0)
    channels_last = backend == "native"
    torch.compiler.reset()
    model = Net()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((2, 2, 9, 8), (3, 2, 12, 7), (4, 2, 5, 13)):
        x = torch.randn(shape)
        if channels_last:
            x = x.to(memory_format=torch.channels_last)
        got = outputs_and_grads(compiled, x)
        torch.testing.assert_close(got, outputs_and_grads(model, x), rtol=1e-4, atol=1e-5)


def test_compiles_with_inductor(backend):
    torch.compiler.reset()
    weights = [torch.randn(4, 1, 1, 3), torch.randn(4, 1, 3, 1)]
    x = torch.randn(2, 4, 6, 6).to(memory_format=torch.channels_last)

    @torch.compile(fullgraph=True)
    def function(x):
        return conv.factorized_conv2d(x, *weights, padding="same", groups=4)

    output = function(x)
    expected = conv.factorized_conv2d(x, *weights, padding="same", groups=4)
    torch.testing.assert_close(output, expected)
    assert output.stride() == expected.stride()


def test_compiled_errors_name_shapes():
    torch.compiler.reset()
    function = torch.compile(conv.factorized_conv2d, backend="eager", fullgraph=True)
    x, w1, w2 = torch.randn(1, 3, 4, 4), torch.randn(2, 4, 1, 3), torch.randn(2, 2, 3, 1)
    with pytest.raises(Exception, match="takes 4 channels, but `input` gives 3"):
        function(x, w1, w2)


def test_exports_with_a_dynamic_batch(backend):
    torch.manual_seed(0)
    model = Net()
    batch = torch.export.Dim("batch", min=2)
    x = torch.randn(3, 2, 8, 8)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert "pyphase.factorized_conv2d.default" in names
    assert "pyphase.multi_strip_conv2d.default" in names
    other = torch.randn(5, 2, 8, 8)
    torch.testing.assert_close(program.module()(other), model(other))
    trained = program.module()
    trained(other).sum().backward()  # the op in the graph brings its formula along
    assert all(p.grad is not None for p in trained.parameters())


def test_symbolic_tracing_without_dynamo(backend):
    from torch.fx.experimental.proxy_tensor import make_fx

    args = pair_args(DEPTHWISE, grad=False)

    def function(x):
        return conv.factorized_conv2d(x, *args[1:5], **DEPTHWISE.options)

    graph = make_fx(function, tracing_mode="symbolic", _allow_non_fake_inputs=True)(args[0])
    other = torch.randn(3, *args[0].shape[1:])
    torch.testing.assert_close(graph(other), function(other))


def test_trains_the_same_as_torchs_pair(backend):
    torch.manual_seed(0)
    ours = conv.FactorizedConv2d(2, 4, 3, mid_channels=3, activation="relu")
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, (1, 3), padding=(0, 1), bias=False),
        torch.nn.ReLU(),
        torch.nn.Conv2d(3, 4, (3, 1), padding=(1, 0)),
    )
    with torch.no_grad():
        theirs[0].weight.copy_(ours.weight1)
        theirs[2].weight.copy_(ours.weight2)
        theirs[2].bias.copy_(ours.bias2)
    losses = []
    for model in (copy.deepcopy(ours), theirs):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        torch.manual_seed(1)
        for _ in range(5):
            loss = (model(torch.randn(4, 2, 5, 5)) - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.detach())
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (2, 4, 9, 9), (1, 4, 9)])
def test_a_gradient_of_another_shape_is_refused(shape):
    image, row, column = torch.ones(1, 4, 9, 9), torch.ones(4, 1, 1, 3), torch.ones(4, 1, 3, 1)
    options = ([1, 1], [1, 1, 1, 1], [1, 1], [4, 4], "none")
    with pytest.raises(ValueError, match=r"`grad_output` must have the output's shape, \(1, 4, 9"):
        pair_backward_op(torch.ones(shape), image, row, column, None, *options, [True] * 5)
    with pytest.raises(ValueError, match="`grad_output` must have the output's shape"):
        strips_backward_op(torch.ones(shape), image, [row, column], [None] * 2, True, [True] * 5)


def test_a_gradient_of_another_dtype_and_a_short_mask_are_refused():
    image, row, column = torch.ones(1, 4, 9, 9), torch.ones(4, 1, 1, 3), torch.ones(4, 1, 3, 1)
    with pytest.raises(ValueError, match=r"`grad_output` \(1, 4, 9, 9\) is torch.float64"):
        strips_backward_op(image.double(), image, [row, column], [None] * 2, True, [True] * 5)
    with pytest.raises(ValueError, match="`output_mask` must have 5 entries"):
        strips_backward_op(image, image, [row, column], [None] * 2, True, [True])


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("stride", 0, [0, 1]),
        ("padding", 1, [0, 0]),
        ("dilation", 2, [1, -1]),
        ("groups", 3, [0, 0]),
    ],
)
def test_options_out_of_range_are_refused(name, at, value):
    image, row, column = torch.ones(1, 4, 9, 9), torch.ones(4, 1, 1, 3), torch.ones(4, 1, 3, 1)
    options = [[1, 1], [1, 1, 1, 1], [1, 1], [4, 4], "none"]
    options[at] = value
    with pytest.raises(ValueError, match=f"`{name}` "):
        pair_op(image, row, column, None, None, *options)
