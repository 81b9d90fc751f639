"""Blocks and networks against the published layouts in plain torch.

Each block takes the published one's weights by its names. In float64, output, gradients and running
statistics are then the same to 1e-12 of the largest entry, in training and in eval mode, where the
pairs run as one. In float32 the error against float64 is at most twice that of the published
layout's own modules plus one rounding, both as root mean squares.
"""

import copy

import published_networks as published
import pytest
import torch
from torch import nn

from pyphase import conv, nets
from pyphase.conv import functional


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small tensors: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def lively(net):
    """Give batch norms statistics and scales as after training; return the net."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
    return net


# ours, the published one, its input
BLOCKS = {
    "block35": (lambda: nets.Block35(20), lambda: published.block35(20), (2, 20, 7, 9)),
    "block17": (lambda: nets.Block17(34), lambda: published.block17(34), (2, 34, 8, 9)),
    "block8": (lambda: nets.Block8(26), lambda: published.block8(26), (2, 26, 5, 4)),
    "last block8": (
        lambda: nets.Block8(26, scale=1.0, relu=False),
        lambda: published.block8(26, 1.0, relu=False),
        (2, 26, 5, 4),
    ),
    "stem": (nets.InceptionV4Stem, published.inception_v4_stem, (2, 3, 43, 47)),
    "MSCA": (lambda: nets.MSCA(12), lambda: published.AttentionModule(12), (2, 12, 13, 11)),
    "attention": (
        lambda: nets.SpatialAttention(12),
        lambda: published.SpatialAttention(12),
        (2, 12, 13, 11),
    ),
    "dense": (
        lambda: nets.DenseBlock(3, 10, 4, bn_size=2),
        lambda: published.DenseBlock(3, 10, 4, bn_size=2),
        (2, 10, 6, 7),
    ),
}
FUSED = {"block17": 1, "block8": 1, "last block8": 1, "stem": 1}  # how many pairs run as one


def build(name, training):
    """Return ours and the published block with the same weights, in float64, and an input."""
    ours, theirs, shape = BLOCKS[name]
    torch.manual_seed(0)
    theirs = lively(theirs()).float().double().train(training)  # values that float32 has, too
    ours = ours().double().train(training)
    if isinstance(ours, nets.MSCA | nets.SpatialAttention):
        nets.load_published(ours, theirs.state_dict())
    else:
        ours.load_state_dict(theirs.state_dict())  # the names are the published ones
    return ours, theirs, torch.randn(shape).double()


def run(net, x, dtype=torch.float64):
    """Return output, gradients of input and parameters, and buffers, all in float64."""
    net = copy.deepcopy(net).to(dtype)
    x = x.to(dtype).requires_grad_()
    output = net(x)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    grads = torch.autograd.grad(output, [x, *net.parameters()], grad)
    buffers = [buffer for buffer in net.buffers() if buffer.is_floating_point()]
    return [tensor.detach().double() for tensor in (output, *grads, *buffers)]


def ordered(values, net, like):
    """Return values of ``net`` (output, input's gradient, parameters', ...) in the other's order.

    The parameters of SegNeXt's attention have names of their own, and so an order.
    """
    names = [name for name, _ in net.named_parameters()]
    renamed = [name.replace("strips.strips.", "conv") for name in names]
    other = []
    for name, _ in like.named_parameters():
        start, _, half_kind = name.rpartition("_")
        is_strip = start.split(".")[-1] in ("conv0", "conv1", "conv2") and half_kind[1:2] == "."
        other.append(f"{start}.{half_kind[2:]}{half_kind[0]}" if is_strip else name)
    assert sorted(renamed) == sorted(other)
    at = {name: i for i, name in enumerate(renamed)}
    parameters = values[2 : 2 + len(names)]
    return [*values[:2], *(parameters[at[name]] for name in other), *values[2 + len(names) :]]


def worst(values, exact):
    """Return the worst error, each tensor's relative to its largest entry, or to 1e-9 of all's.

    The gradient of a bias in front of a norm that trains, for one, is 0 but for rounding.
    """
    largest = max(float(wanted.abs().max()) for wanted in exact)
    return max(
        float((value - wanted).abs().max()) / max(float(wanted.abs().max()), 1e-9 * largest)
        for value, wanted in zip(values, exact, strict=True)
    )


def hold(found, torchs, exact):
    """Assert an error of at most twice torch's own plus one rounding, in root mean squares."""
    assert found.dtype == torchs.dtype
    size = exact.norm()
    errors = [(value.detach() - exact).norm() / size for value in (found, torchs)]
    assert errors[0] <= 2 * errors[1] + torch.finfo(found.dtype).eps


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", BLOCKS)
def test_in_float64_it_is_the_published_block(name, training):
    ours, theirs, x = build(name, training)
    expected = run(theirs, x)
    assert worst(ordered(run(ours, x), ours, theirs), expected) <= 1e-12


@pytest.mark.parametrize("backend", ["native", "auto"])
@pytest.mark.parametrize("name", BLOCKS)
def test_in_float32_it_errs_no_more_than_the_published_block(name, backend):
    ours, theirs, x = build(name, training=False)
    with torch.no_grad():
        exact = theirs(x)
        torchs = copy.deepcopy(theirs).float()(x.float())
        with conv.backend(backend):
            found = ours.float()(x.float())
    hold(found, torchs, exact)


@pytest.mark.parametrize("name", BLOCKS)
def test_fused_kernel_serves_in_eval_mode_only(name, monkeypatch):
    """Torch's own pair is taken away: in eval mode nobody misses it."""

    def missing(*args):
        raise AssertionError("torch's convolutions served a pair")

    calls = []
    factorized = nets.basic.factorized_conv2d

    def counted(*args, **kwargs):
        calls.append(kwargs)
        return factorized(*args, **kwargs)

    monkeypatch.setattr(functional, "pair_forward", missing)
    monkeypatch.setattr(functional, "strips_forward", missing)
    monkeypatch.setattr(nets.basic, "factorized_conv2d", counted)
    ours, _, x = build(name, training=False)
    with conv.backend("native"):
        ours.float()(x.float())
        assert len(calls) == FUSED.get(name, 0)
        ours.train()(x.float())
    assert len(calls) == FUSED.get(name, 0)


def test_norms_that_are_frozen_are_folded_in_training():
    ours, theirs, x = build("block17", training=True)
    for net in (ours, theirs):
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    assert len(ours.branch1.pairs()) == 1
    assert worst(run(ours, x), run(theirs, x)) <= 1e-12


def row_and_column(**options):
    row = nets.BasicConv2d(4, 6, (1, 5), stride=(1, 2), padding=(0, 2))
    column = nets.BasicConv2d(6, 8, (3, 1), stride=(3, 1), padding=(1, 0), **options)
    return row, column


def test_strides_and_either_order():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 11, 14, dtype=torch.float64)
    row, column = row_and_column()
    other_way = nets.BasicConv2d(8, 4, (7, 1), padding=(3, 0)), nets.BasicConv2d(4, 5, (1, 3))
    branch = lively(nets.Branch(row, column, nn.AvgPool2d(2), *other_way)).double().eval()
    assert [pair.at for pair in branch.pairs()] == [0, 3]
    torch.testing.assert_close(branch(x), nn.Sequential(*branch)(x), rtol=1e-12, atol=1e-12)


def test_a_layer_is_in_one_pair():
    layers = [
        nets.BasicConv2d(4, 4, kernel, padding=(kernel[0] // 2, kernel[1] // 2))
        for kernel in ((7, 1), (1, 7), (7, 1), (1, 7), (7, 1))
    ]
    branch = lively(nets.Branch(*layers)).double().eval()  # Inception-v4's, and one more
    assert [pair.at for pair in branch.pairs()] == [0, 2]
    x = torch.randn(1, 4, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(branch(x), nn.Sequential(*branch)(x), rtol=1e-12, atol=1e-12)


def with_hook(row, column):
    row.conv.register_forward_hook(lambda *_: None)


def with_own_forward(row, column):
    forward = row.conv.forward
    row.conv.forward = lambda x: 2 * forward(x)


def with_other_activation(row, column):
    row.relu = nn.SiLU()


def without_statistics(row, column):
    row.bn = nn.BatchNorm2d(6, track_running_stats=False)


def without_norm(row, column):
    row.bn = nn.Identity()


def with_circular_padding(row, column):
    row.conv.padding_mode = "circular"
    row.conv._reversed_padding_repeated_twice = [2, 2, 0, 0]


def with_other_convolution(row, column):
    class Standardized(nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(x, self.weight - self.weight.mean(), None)

    column.conv = Standardized(6, 8, (3, 1), bias=False)


def with_padding_across(row, column):
    row.conv.padding = (1, 2)


CHANGES = [value for name, value in list(globals().items()) if name.startswith("with")]


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_or_is_looked_at_runs_layer_by_layer(change):
    row, column = row_and_column()
    branch = nets.Branch(row, column).eval()
    assert len(branch.pairs()) == 1
    change(row, column)
    assert branch.eval().pairs() == []
    x = torch.randn(1, 4, 11, 14)
    assert torch.equal(branch(x), column(row(x)))


@pytest.mark.parametrize("change", ["bias", "affine", "weight_norm"])
def test_folding(change):
    """What a convolution and a norm may have or lack besides."""
    torch.manual_seed(0)
    row, column = row_and_column()
    if change == "bias":
        row.conv.bias = nn.Parameter(torch.randn(6))
    elif change == "affine":
        row.bn = nn.BatchNorm2d(6, affine=False)
    else:
        nn.utils.parametrizations.weight_norm(row.conv)
    branch = lively(nets.Branch(row, column)).double().eval()
    assert len(branch.pairs()) == 1
    x = torch.randn(2, 4, 11, 14, dtype=torch.float64)
    torch.testing.assert_close(branch(x), column(row(x)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("way", ["model", "autocast"])
def test_in_bfloat16_it_errs_no_more_than_the_published_block(way):
    ours, theirs, x = build("block17", training=False)
    with torch.no_grad():
        exact = theirs(x)
        if way == "model":
            found, torchs = (net.bfloat16()(x.bfloat16()) for net in (ours, theirs))
        else:
            with torch.autocast("cpu", torch.bfloat16):
                found, torchs = (net.float()(x.float()) for net in (ours, theirs))
    hold(found, torchs, exact)


def test_export_keeps_the_pair():
    block, _, x = build("block17", training=False)
    exported = torch.export.export(block, (x,))
    assert "pyphase.factorized_conv2d" in str(exported.graph)
    torch.testing.assert_close(exported.module()(x), block(x), rtol=1e-12, atol=1e-12)


WRONG = [
    (lambda: nets.Block17(0), ValueError, r"`in_channels` \(=0\)"),
    (lambda: nets.Block35(8.0), TypeError, r"`in_channels` must be an int, got 8.0"),
    (lambda: nets.Block8(8, scale=float("nan")), ValueError, r"`scale` \(=nan\)"),
    (lambda: nets.Block8(8, relu=1), TypeError, r"`relu` must be a bool, got 1"),
    (lambda: nets.BasicConv2d(3, -1, 3), ValueError, r"`out_channels` \(=-1\)"),
    (lambda: nets.InceptionV4Stem(0), ValueError, r"`in_channels` \(=0\)"),
    (lambda: nets.MSCA(0), ValueError, r"`channels` \(=0\)"),
    (lambda: nets.SpatialAttention(True), TypeError, r"`channels` must be an int, got True"),
    (lambda: nets.DenseBlock(0, 4, 4), ValueError, r"`num_layers` \(=0\)"),
    (lambda: nets.DenseBlock(1, 4, 4, drop_rate=1.0), ValueError, r"`drop_rate` \(=1.0\)"),
    (lambda: nets.inception_resnet_v2(0), ValueError, r"`num_classes` \(=0\)"),
    (lambda: nets.FadeIn(nn.ReLU(), None), TypeError, r"`new` must be a torch.nn.Module, got None"),
    (lambda: nets.FadeIn(nn.ReLU(), nn.ReLU(), 1.5), ValueError, r"`alpha` \(=1.5\)"),
]


@pytest.mark.parametrize(("make", "error", "match"), WRONG)
def test_wrong_arguments(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_dense_block_drops_in_training_only():
    torch.manual_seed(0)
    block = nets.DenseBlock(2, 4, 8, drop_rate=0.5)
    x = torch.rand(2, 4, 6, 6) + 1
    assert float((block(x)[:, 4:] == 0).float().mean()) == pytest.approx(0.5, abs=0.1)
    assert bool((block.eval()(x) != 0).all())


def test_fade_in():
    torch.manual_seed(0)
    old, new = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)
    fade = nets.FadeIn(old, new)
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(fade(x), old(x))
    fade.set_alpha(1)
    assert torch.equal(fade(x), new(x))
    fade.set_alpha(0.25)
    torch.testing.assert_close(fade(x), 0.75 * old(x) + 0.25 * new(x))
    assert fade.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    again = nets.FadeIn(old, new)
    again.load_state_dict(fade.state_dict())
    assert float(again.alpha) == 0.25
    with pytest.raises(ValueError, match=r"`alpha` \(=-0.1\)"):
        fade.set_alpha(-0.1)
    assert float(fade.alpha) == 0.25
    with pytest.raises(ValueError, match=r"same shape, got \(2, 3, 5, 5\) and \(2, 1, 5, 5\)"):
        nets.FadeIn(nn.Identity(), nn.Conv2d(3, 1, 1))(x)
