"""The factorized convolutions against the numpy oracle, and as functions of torch.

Long, since every option and every way into torch is held for pairs and for sums of strips.
"""

from __future__ import annotations

import conv_reference as reference
import numpy as np
import pytest
import torch
from conv_errors import without_onednn
from conv_reference import PROBLEMS, Problem
from hypothesis import given, settings
from hypothesis import strategies as st

from pyphase import conv

BACKENDS = ("native", "torch")
DEPTHWISE = Problem(channels=(4, 4, 4), groups=(4, 4), activation="gelu")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small tensors: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=BACKENDS)
def backend(request):
    with conv.backend(request.param):
        yield request.param


def call(problem, tensors):
    return conv.factorized_conv2d(*tensors, **problem.options)


def present(tensors):
    return [tensor for tensor in tensors if tensor is not None]


def assert_near(value, expected, rtol=1e-10):
    """Hold a tensor to the oracle, by the largest entry."""
    scale = max(np.abs(expected).max(initial=0.0), 1e-30)
    assert tuple(value.shape) == expected.shape
    error = np.abs(value.detach().double().numpy() - expected).max(initial=0.0)
    assert error <= rtol * scale, f"off by {error / scale:.2e} of the largest entry"


# Values


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", PROBLEMS)
def test_pair_is_the_oracles(name, channels_last, backend):
    problem = PROBLEMS[name]
    for dtype, rtol in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        tensors = reference.tensors(problem, dtype, channels_last, grad=True)
        arrays = reference.draw(problem)
        output = call(problem, tensors)
        assert_near(output, reference.pair(problem, arrays), rtol)
        grad_output = np.random.default_rng(1).standard_normal(tuple(output.shape))
        grads = torch.autograd.grad(
            output, present(tensors), torch.tensor(grad_output, dtype=dtype)
        )
        expected = present(reference.pair_grads(problem, arrays, grad_output))
        for grad, wanted in zip(grads, expected, strict=True):
            assert_near(grad, wanted, rtol)


@st.composite
def problems(draw):
    kernel = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    row_first = kernel == (1, 1) or draw(st.booleans())  # of two 1x1 the first is the row
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    channels = draw(st.tuples(*[st.integers(1, 5)] * 3))
    groups = (1, 1)
    if draw(st.booleans()):
        channels, groups = channels[:1] * 3, channels[:1] * 2
    padding = draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    least = [
        max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)
    ]
    size = draw(st.tuples(*[st.integers(n, n + 8) for n in least]))
    stride = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    activation = draw(st.sampled_from(["none", "relu", "gelu", "silu"]))
    biases = draw(st.tuples(st.booleans(), st.booleans()))
    batch = draw(st.integers(1, 3))
    return Problem(
        channels,
        size,
        kernel,
        row_first,
        batch,
        stride,
        padding,
        dilation,
        groups,
        activation,
        biases,
    )


@settings(max_examples=60, deadline=None)
@given(problem=problems(), channels_last=st.booleans(), name=st.sampled_from(BACKENDS))
def test_any_problem_is_the_oracles(problem, channels_last, name):
    tensors = reference.tensors(problem, torch.float64, channels_last, grad=True)
    arrays = reference.draw(problem)
    with conv.backend(name):
        output = call(problem, tensors)
        assert_near(output, reference.pair(problem, arrays), 1e-12)
        grads = torch.autograd.grad(output.square().sum() / 2, present(tensors))
    expected = reference.pair_grads(problem, arrays, output.detach().numpy())
    for grad, wanted in zip(grads, present(expected), strict=True):
        assert_near(grad, wanted, 1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["depthwise", "depthwise, strides", "depthwise, long", "dense"])
def test_half_types_err_at_most_twice_as_much_as_torch(name, dtype, backend):
    problem = PROBLEMS[name]
    tensors = reference.tensors(problem, dtype, grad=True)
    exact = [None if t is None else t.detach().double().requires_grad_() for t in tensors]
    with without_onednn():
        wanted = reference.torch_pair(problem, *exact)
        torchs = reference.torch_pair(problem, *tensors)
        ours = call(problem, tensors)
        assert ours.dtype == dtype
        grad_output = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(0)).to(
            dtype
        )
        wanted_grads, torch_grads, our_grads = (
            torch.autograd.grad(output, present(inputs), grad_output.to(output.dtype))
            for output, inputs in ((wanted, exact), (torchs, tensors), (ours, tensors))
        )
    rounding = torch.finfo(dtype).eps
    for value, theirs, exactly in zip(
        (ours, *our_grads), (torchs, *torch_grads), (wanted, *wanted_grads), strict=True
    ):
        error = (value.double() - exactly).abs().max()
        their_error = (theirs.double() - exactly).abs().max()
        assert error <= 2 * their_error + rounding * exactly.abs().max()


def test_bits_do_not_depend_on_threads():
    problem = Problem(channels=(8, 8, 8), groups=(8, 8), size=(33, 40), kernel=(5, 7))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            tensors = reference.tensors(problem, torch.float32, grad=True)
            with conv.backend("native"):
                output = call(problem, tensors)
                results.append([output, *torch.autograd.grad(output.sum(), tensors)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("kernel", [(3, 1), (1, 3), (1, 1)])
def test_a_1x1_kernel_is_whichever_the_other_is_not(kernel, backend):
    image = torch.randn(1, 2, 6, 6, dtype=torch.float64)
    weights = [torch.randn(2, 2, *kernel).double(), torch.randn(2, 2, 1, 1).double()]
    for pair in (weights, weights[::-1]):
        output = conv.factorized_conv2d(image, *pair, stride=(2, 3), padding=(1, 2))
        first_is_row = tuple(pair[0].shape[2:]) == (1, 3) or tuple(pair[1].shape[2:]) != (1, 3)
        first_is_row = first_is_row and pair[0].shape[2] == 1
        expected = image
        for weight, is_row in zip(pair, (first_is_row, not first_is_row), strict=True):
            stride, padding = ((1, 3), (0, 2)) if is_row else ((2, 1), (1, 0))
            expected = torch.conv2d(expected, weight, None, stride, padding)
        torch.testing.assert_close(output, expected)


def test_one_image_without_a_batch(backend):
    x, *rest = reference.tensors(DEPTHWISE, grad=True)
    whole = call(DEPTHWISE, [x, *rest])
    single = call(DEPTHWISE, [x[1], *rest])
    assert single.shape == whole.shape[1:]
    torch.testing.assert_close(single, whole[1])
    (grad,) = torch.autograd.grad(single.sum(), [x])
    assert grad[0].abs().max() == 0
    assert grad[1].abs().max() > 0


def test_an_empty_batch(backend):
    for problem in (DEPTHWISE, Problem()):
        tensors = reference.tensors(problem._replace(batch=0), torch.float32, grad=True)
        output = call(problem, tensors)
        assert output.shape == (0, problem.channels[2], *problem.size)
        grads = torch.autograd.grad(output.sum(), tensors)
        assert grads[0].shape == tensors[0].shape
        for grad, tensor in zip(grads, tensors, strict=True):
            assert grad.shape == tensor.shape
            assert not grad.any()


# Layout


def strided(tensor):
    """Return the same values with strides of neither format."""
    wide = tensor.new_zeros(*[2 * size for size in tensor.shape])
    view = wide.permute(3, 1, 0, 2)[::2, ::2, ::2, ::2].permute(2, 1, 3, 0)
    return view.copy_(tensor)


@pytest.mark.parametrize("problem", [DEPTHWISE, Problem(kernel=(4, 3))])
def test_any_strides(problem, backend):
    tensors = reference.tensors(problem)
    expected = call(problem, tensors)
    x, weight1, weight2, bias1, bias2 = tensors
    views = [
        strided(x).requires_grad_(),
        strided(weight1).requires_grad_(),
        weight2.contiguous(memory_format=torch.channels_last).requires_grad_(),
        bias1.repeat_interleave(3)[::3].requires_grad_(),
        bias2.requires_grad_(),
    ]
    assert not views[0].is_contiguous()
    output = call(problem, views)
    torch.testing.assert_close(output, expected, rtol=1e-13, atol=1e-13)
    assert output.is_contiguous()
    plain = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    grad_output = torch.randn(1, dtype=torch.float64).expand(output.shape)
    got = torch.autograd.grad(output, views, grad_output)
    wanted = torch.autograd.grad(call(problem, plain), plain, grad_output.contiguous())
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_an_expanded_input(backend):
    x, *rest = reference.tensors(DEPTHWISE)
    wide = x[:1, :1].expand(3, 4, *x.shape[2:])
    torch.testing.assert_close(
        call(DEPTHWISE, [wide, *rest]), call(DEPTHWISE, [wide.clone(), *rest])
    )


@pytest.mark.parametrize("shape", [(2, 4, 5, 6), (1, 4, 5, 6), (2, 4, 1, 1), (2, 1, 5, 6)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_format_is_conv2ds(shape, channels_last, backend):
    x = torch.randn(shape)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    channels = shape[1]
    row, column = torch.randn(channels, 1, 1, 3), torch.randn(channels, 1, 3, 1)
    expected = torch.conv2d(x, torch.randn(channels, channels, 1, 3), padding=(0, 1))
    for pair in ((row, column), (row.expand(-1, channels, -1, -1), column)):
        groups = (1 if pair[0].shape[1] == channels else channels, channels)
        output = conv.factorized_conv2d(x, *pair, padding="same", groups=groups)
        assert output.stride() == expected.stride()
    strips = conv.multi_strip_conv2d(x, [(row, column)])
    assert strips.stride() == expected.stride()


def test_gradients_keep_the_format(backend):
    tensors = reference.tensors(DEPTHWISE, channels_last=True, grad=True)
    output = call(DEPTHWISE, tensors)
    grad, *_ = torch.autograd.grad(output, tensors, torch.ones(output.shape).double())
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert grad.is_contiguous(memory_format=torch.channels_last)


# Gradients


@pytest.mark.parametrize(
    "problem",
    [
        Problem((2, 3, 2), (4, 5), (3, 2), batch=1, activation="gelu"),
        Problem((2, 2, 2), (4, 4), (2, 3), False, 1, groups=(2, 2), activation="silu"),
        Problem((2, 2, 2), (5, 4), (3, 3), groups=(2, 2), stride=(2, 1), padding=(1, 1)),
    ],
)
def test_gradcheck_twice(problem, backend):
    tensors = reference.tensors(problem, grad=True)
    assert torch.autograd.gradcheck(lambda *t: call(problem, t), tensors)
    assert torch.autograd.gradgradcheck(lambda *t: call(problem, t), tensors, fast_mode=True)


def test_third_order(backend):
    problem = Problem((1, 1, 1), (3, 3), (2, 2), batch=1, activation="gelu", padding=(0, 0))
    outcomes = []
    for function in (call, lambda p, t: reference.torch_pair(p, *t)):
        tensors = reference.tensors(problem, grad=True)
        value = function(problem, tensors).square().sum()
        for _ in range(3):
            grads = torch.autograd.grad(value, tensors, create_graph=True)
            value = sum(grad.square().sum() for grad in grads)
        outcomes.append(value)
    torch.testing.assert_close(*outcomes, rtol=1e-9, atol=0)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (4,), (0, 4), (1, 2), (2, 3)])
def test_only_what_is_asked_for(wanted, backend):
    problem = DEPTHWISE._replace(activation="none")
    tensors = reference.tensors(problem)
    for index in wanted:
        tensors[index].requires_grad_()
    output = call(problem, tensors)
    grads = torch.autograd.grad(output.sum(), [tensors[index] for index in wanted])
    everything = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    expected = torch.autograd.grad(call(problem, everything).sum(), everything)
    for grad, index in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad, expected[index], rtol=1e-12, atol=1e-12)
    for index, tensor in enumerate(tensors):
        assert tensor.requires_grad == (index in wanted)


def test_no_graph_without_grad(backend):
    tensors = reference.tensors(DEPTHWISE, grad=True)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert not call(DEPTHWISE, tensors).requires_grad
    frozen = reference.tensors(DEPTHWISE)
    assert not call(DEPTHWISE, frozen).requires_grad


def test_a_fused_kernel_saves_nothing_between():
    tensors = reference.tensors(DEPTHWISE, torch.float32, grad=True)
    saved = []
    x, pairs = draw_strips(channels=4, kernels=((3, 3), (5, 5)))
    rows = [tensor.requires_grad_() for pair in pairs for tensor in pair]
    hooks = torch.autograd.graph.saved_tensors_hooks(saved.append, lambda tensor: tensor)
    with conv.backend("native"), hooks:
        kept = [call(DEPTHWISE, tensors), conv.multi_strip_conv2d(x, pairs)]
    addresses = {tensor.data_ptr() for tensor in (*tensors, x, *rows)}
    assert all(output.requires_grad for output in kept)
    assert len(saved) >= 8
    assert all(tensor.data_ptr() in addresses for tensor in saved)


def test_one_tensor_as_two_arguments(backend):
    weight = torch.randn(3, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda w: conv.factorized_conv2d(x, w, w), [weight])
    assert torch.autograd.gradgradcheck(lambda w: conv.factorized_conv2d(x, w, w), [weight])


# torch.func and forward mode


def test_func_grad_and_vjp(backend):
    tensors = reference.tensors(DEPTHWISE, grad=True)
    loss = call(DEPTHWISE, tensors).square().sum()
    expected = torch.autograd.grad(loss, tensors)

    def function(*tensors):
        return call(DEPTHWISE, tensors).square().sum()

    plain = [tensor.detach() for tensor in tensors]
    torch.testing.assert_close(torch.func.grad(function, tuple(range(5)))(*plain), expected)
    _, pull = torch.func.vjp(function, *plain)
    torch.testing.assert_close(pull(torch.tensor(1.0).double()), expected)


def test_vmap_and_gradients_per_sample(backend):
    x, *rest = reference.tensors(DEPTHWISE._replace(batch=3))
    images = x.unsqueeze(1)
    output = torch.func.vmap(lambda image: call(DEPTHWISE, [image, *rest]))(images)
    torch.testing.assert_close(output.squeeze(1), call(DEPTHWISE, [x, *rest]))

    def loss(weight, image):
        return call(DEPTHWISE, [image, weight, *rest[1:]]).square().sum()

    grads = torch.func.vmap(torch.func.grad(loss), (None, 0))(rest[0], images)
    for grad, image in zip(grads, images, strict=True):
        torch.testing.assert_close(grad, torch.func.grad(loss)(rest[0], image))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, on its import
def test_forward_mode(backend):
    tensors = reference.tensors(DEPTHWISE)
    tangents = reference.tensors(DEPTHWISE, seed=1)

    def function(*tensors):
        return call(DEPTHWISE, tensors)

    def twin(*tensors):
        return reference.torch_pair(DEPTHWISE, *tensors)

    got = torch.func.jvp(function, tuple(tensors), tuple(tangents))
    expected = torch.func.jvp(twin, tuple(tensors), tuple(tangents))
    torch.testing.assert_close(got, expected)


# Autocast


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("problem", [DEPTHWISE, Problem()])
def test_autocast_is_as_conv2ds(problem, dtype, backend):
    tensors = reference.tensors(problem, torch.float32, grad=True)
    with torch.autocast("cpu", dtype):
        output = call(problem, tensors)
        expected = reference.torch_pair(problem, *tensors)
    assert output.dtype == expected.dtype == dtype
    tolerance = 8 * torch.finfo(dtype).eps * float(expected.detach().abs().max())
    torch.testing.assert_close(output, expected, rtol=0, atol=tolerance)
    for grad, tensor in zip(torch.autograd.grad(output.sum(), tensors), tensors, strict=True):
        assert grad.dtype == tensor.dtype == torch.float32
    with torch.autocast("cpu", dtype):  # a backward pass inside follows its forward's types
        outside = call(problem, tensors)
        torch.autograd.grad(outside.sum(), tensors)
    with torch.autocast("cpu", dtype):
        half_input = [tensors[0].to(dtype), *tensors[1:]]
        assert call(problem, half_input).dtype == dtype
        assert call(problem, reference.tensors(problem)).dtype == torch.float64
    with torch.autocast("cpu", dtype), torch.autocast("cpu", enabled=False):
        assert call(problem, tensors).dtype == torch.float32


def test_backward_of_float32_inside_autocast(backend):
    tensors = reference.tensors(DEPTHWISE, torch.float32, grad=True)
    output = call(DEPTHWISE, tensors)
    expected = torch.autograd.grad(output.sum(), tensors, create_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        grads = torch.autograd.grad(call_without_autocast(tensors).sum(), tensors)
    torch.testing.assert_close(grads, expected)


def call_without_autocast(tensors):
    with torch.autocast("cpu", enabled=False):
        return call(DEPTHWISE, tensors)


# Strips


def strips_reference(x, pairs, residual):
    total = x if residual else torch.zeros_like(x)
    for w1, b1, w2, b2 in pairs:
        kernel = (max(w1.shape[2], w2.shape[2]), max(w1.shape[3], w2.shape[3]))
        channels = (x.shape[1],) * 3
        problem = Problem(
            channels,
            tuple(x.shape[2:]),
            kernel,
            w2.shape[3] == 1 and w1.shape[2] == 1,
            groups=channels[:2],
        )
        total = total + reference.torch_pair(problem, x, w1, w2, b1, b2)
    return total


def draw_strips(channels=3, kernels=((7, 7), (4, 2), (1, 11)), biases=True, dtype=torch.float64):
    torch.manual_seed(0)
    x = torch.randn(2, channels, 6, 8, dtype=dtype)
    pairs = []
    for i, (vertical, horizontal) in enumerate(kernels):
        row = torch.randn(channels, 1, 1, horizontal, dtype=dtype)
        column = torch.randn(channels, 1, vertical, 1, dtype=dtype)
        first, second = (row, column) if i != 1 else (column, row)
        b1 = torch.randn(channels, dtype=dtype) if biases else None
        b2 = torch.randn(channels, dtype=dtype) if biases and i != 2 else None
        pairs.append((first, b1, second, b2))
    return x, pairs


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("biases", [True, False])
def test_strips_are_torchs(residual, channels_last, biases, backend):
    x, pairs = draw_strips(biases=biases)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    leaves = [x, *[t for pair in pairs for t in pair if t is not None]]
    for leaf in leaves:
        leaf.requires_grad_()
    expected = strips_reference(x, pairs, residual)
    output = conv.multi_strip_conv2d(x, pairs, residual=residual)
    torch.testing.assert_close(output, expected)
    grad_output = torch.randn_like(output)
    torch.testing.assert_close(
        torch.autograd.grad(output, leaves, grad_output),
        torch.autograd.grad(expected, leaves, grad_output),
    )


def test_strips_without_biases_may_be_pairs(backend):
    x, pairs = draw_strips(biases=False)
    short = [(w1, w2) for w1, _, w2, _ in pairs]
    assert torch.equal(conv.multi_strip_conv2d(x, short), conv.multi_strip_conv2d(x, pairs))
    single = conv.multi_strip_conv2d(x[0], short)
    torch.testing.assert_close(single, conv.multi_strip_conv2d(x, short)[0])


def test_strips_gradcheck_twice(backend):
    x, pairs = draw_strips(channels=2, kernels=((3, 3), (2, 2)))
    x = x[:1, :, :3, :4]
    leaves = [x, *[t for pair in pairs for t in pair]]

    def function(x, *rest):
        pairs = [rest[:4], rest[4:]]
        return conv.multi_strip_conv2d(x, pairs)

    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


def test_strips_empty_batch(backend):
    x, pairs = draw_strips()
    weight = pairs[0][0].requires_grad_()
    x = x[:0].requires_grad_()
    output = conv.multi_strip_conv2d(x, pairs)
    assert output.shape == x.shape
    assert not torch.autograd.grad(output.sum(), weight)[0].any()


def test_strips_func_and_autocast(backend):
    x, pairs = draw_strips()

    def loss(x):
        return conv.multi_strip_conv2d(x, pairs).square().sum()

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(x), expected)
    per_sample = torch.func.vmap(torch.func.grad(lambda image: loss(image[None])))(x)
    torch.testing.assert_close(per_sample, expected)
    x, pairs = draw_strips(dtype=torch.float32)
    leaf = x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        output = conv.multi_strip_conv2d(leaf, pairs)
    assert output.dtype == torch.bfloat16
    assert torch.autograd.grad(output.sum(), leaf)[0].dtype == torch.float32


@pytest.mark.parametrize("width", [193, 449, 455, 513, 519, 577])
def test_a_last_tile_is_never_narrower_than_a_vector(width):
    """Wide planes are cut by columns: a narrow rest once overwrote its neighbour's columns."""
    layer = conv.MultiStripConv2d(2)
    image = torch.randn(1, 2, 24, width)
    with torch.no_grad():
        with conv.backend("native"):
            found = layer(image)
        with conv.backend("torch"):
            torch.testing.assert_close(found, layer(image))


@pytest.mark.parametrize("width", [48, 49, 64, 97])
def test_padding_on_the_right_of_one_tap_is_zero(width):
    """A row kernel of one tap once read on into the next row."""
    image, one, column = torch.randn(1, 1, 6, width), torch.ones(1, 1, 1, 1), torch.ones(1, 1, 3, 1)
    call = torch.ops.pyphase.factorized_conv2d
    args = (image, one, column, None, None, [1, 1], [1, 1, 0, 8], [1, 1], [1, 1], "none")
    with conv.backend("native"):
        found = call(*args)
    with conv.backend("torch"):
        torch.testing.assert_close(found, call(*args))
