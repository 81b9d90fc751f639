"""Blocks of published networks with the package's layers in them, against torch's own modules.

In float64, outputs and all gradients are the same to 1e-12 of the largest entry. In float32 the
error against float64 is at most twice that of torch's modules plus one rounding: of the output,
and of the gradients of input and parameters, each relative to its largest entry, the worst of
them. (The worst, since one small tensor may be near to exact by chance, and not all of them.)

Images are drawn until no ReLU and no maximum is within 16 roundings of its kink, where float32 may
well decide otherwise than float64.
"""

from __future__ import annotations

import copy

import pytest
import torch
from conv_networks import (
    Block17,
    NonBottleneck1D,
    ResNet,
    SegNeXtAttention,
    factorized,
    in_order,
)
from torch import nn
from torch.nn import functional

from pyphase import conv
from pyphase.conv import FactorizedConv2d, MultiStripConv2d

EPS = torch.finfo(torch.float32).eps
FORMATS = (torch.contiguous_format, torch.channels_last)
BACKENDS = ("native", "auto")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small tensors: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def lively(net):
    """Give batch norms statistics and scales as after training."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return net


NETWORKS = {
    "SegNeXt": (SegNeXtAttention, (2, 12, 26, 23)),
    "block17": (lambda: lively(Block17()).folded(), (2, 34, 17, 17)),
    "ERFNet": (NonBottleneck1D, (1, 16, 18, 30)),
    "ResNet": (ResNet, (2, 3, 64, 56)),
}


def build(name, training):
    """Return the plain network in float64, and an image that is clear of all kinks."""
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    net = lively(make()).train(training).float().double()  # values that float32 has, too
    for _ in range(20):
        x = torch.randn(shape).double()
        if is_clear(net, x):
            return net, x
    pytest.fail("no image that is clear of the kinks was found")


def is_clear(net, x):
    """Return whether rounding decides no ReLU and no maximum."""
    clear = []

    def hook(module, inputs):
        (value,) = inputs
        if isinstance(module, nn.ReLU):
            distance = value.abs()
        elif isinstance(module, nn.MaxPool2d):
            windows = functional.unfold(
                value.flatten(0, 1)[:, None], module.kernel_size, 1, module.padding, module.stride
            )
            first, second = windows.topk(2, dim=1).values.unbind(1)
            distance = (first - second)[first > 0]
        else:
            return
        clear.append(bool(distance.min() > 16 * EPS * value.abs().max()))

    twin = copy.deepcopy(net)  # statistics of training must not move
    for module in twin.modules():
        module.register_forward_pre_hook(hook)
    twin(x)
    return all(clear)


def run(net, x, dtype=torch.float64, memory_format=torch.contiguous_format):
    """Return output, and the gradients of input and parameters, all in float64."""
    net = copy.deepcopy(net).to(dtype).to(memory_format=memory_format)
    x = x.to(dtype).contiguous(memory_format=memory_format).requires_grad_()
    output = net(x)
    assert output.dtype == dtype
    if output.ndim == 4:
        assert output.is_contiguous(memory_format=memory_format)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    grads = torch.autograd.grad(output, [x, *in_order(net)], grad)
    buffers = [b.double() for b in net.buffers() if b.is_floating_point()]
    return output.detach().double(), [grad.double() for grad in grads], buffers


@torch.no_grad()
def relative(values, exact):
    """Return the worst error, each tensor's relative to its largest entry.

    The gradient of a bias in front of a batch norm that trains is 0 but for rounding: it is
    relative to the largest entry of all.
    """
    scales = [float(wanted.abs().max()) for wanted in exact]
    scales = [scale if scale > 1e-12 * max(scales) else max(scales) for scale in scales]
    return max(
        float((value - wanted).abs().max()) / scale
        for value, wanted, scale in zip(values, exact, scales, strict=True)
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_in_float64_it_is_the_plain_network(name, training, memory_format, backend):
    net, x = build(name, training)
    output, grads, buffers = run(net, x)
    with conv.backend(backend):
        found, found_grads, found_buffers = run(factorized(net), x, memory_format=memory_format)
    assert len(found_grads) == len(grads) > 5
    assert relative([found], [output]) <= 1e-12
    assert relative(found_grads, grads) <= 1e-12
    if buffers:
        assert relative(found_buffers, buffers) <= 1e-12


@torch.no_grad()
def distance(values, exact):
    """Return the root of the mean squared error of all tensors, each relative to its own size.

    Unlike the worst element's, it doesn't hang on which of two roundings happened to be lucky.
    """
    errors = [
        (value - wanted).norm() / wanted.norm() for value, wanted in zip(values, exact, strict=True)
    ]
    return float(torch.stack(errors).square().mean().sqrt())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_in_float32_it_errs_no_more_than_torch(name, memory_format, backend):
    net, x = build(name, training=False)
    output, grads, _ = run(net, x)
    torchs, torchs_grads, _ = run(net, x, torch.float32, memory_format)
    with conv.backend(backend):
        found, found_grads, _ = run(factorized(net), x, torch.float32, memory_format)
    assert distance([found], [output]) <= 2 * distance([torchs], [output]) + EPS
    assert distance(found_grads, grads) <= 2 * distance(torchs_grads, grads) + EPS


@pytest.mark.parametrize("name", NETWORKS)
def test_the_package_has_its_layers_in_it(name):
    net, _ = build(name, training=False)
    ours = [m for m in factorized(net).modules() if isinstance(m, FactorizedConv2d)]
    assert len(ours) == {"SegNeXt": 3, "block17": 1, "ERFNet": 2, "ResNet": 1}[name]
    strips = [m for m in factorized(net).modules() if isinstance(m, MultiStripConv2d)]
    assert len(strips) == (name == "SegNeXt")


@pytest.mark.parametrize("backend", BACKENDS)
def test_folding_batch_norm_leaves_block17_what_it_was(backend):
    """The network as it was trained, with its batch norms in eval mode, is the fused one."""
    torch.manual_seed(0)
    block = lively(Block17()).double().eval()
    x = torch.randn(2, 34, 17, 17, dtype=torch.float64, requires_grad=True)
    with conv.backend(backend):
        output = factorized(block.folded())(x)
        (grad,) = torch.autograd.grad(output.square().sum(), x)
    expected = block(x)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    assert relative([output, grad], [expected, wanted]) <= 1e-12
