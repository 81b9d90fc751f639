"""The layers: parameters, options, to and from a dense convolution, and a module's usual life.

Long, since both layers go through all of it.
"""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn

from pyphase import conv
from pyphase.conv import FactorizedConv2d, MultiStripConv2d


def double(module):
    return module.double().requires_grad_(False)


def randomize(module):
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


# What it computes


@pytest.mark.parametrize("order", ["row_col", "col_row"])
@pytest.mark.parametrize("activation", [None, "relu", "gelu", "silu"])
def test_is_two_convolutions(order, activation):
    torch.manual_seed(0)
    layer = FactorizedConv2d(
        3,
        6,
        (3, 5),
        mid_channels=4,
        stride=(2, 1),
        padding=(1, 2),
        mid_bias=True,
        activation=activation,
        order=order,
    )
    torch.manual_seed(0)
    row, column = ((1, 5), (1, 1), (0, 2)), ((3, 1), (2, 1), (1, 0))
    first, second = (row, column) if order == "row_col" else (column, row)
    acts = {None: nn.Identity, "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
    twin = nn.Sequential(
        nn.Conv2d(3, 4, first[0], first[1], first[2]),
        acts[activation](),
        nn.Conv2d(4, 6, second[0], second[1], second[2]),
    )
    x = torch.randn(2, 3, 7, 8)
    # the same draws in the same order, so even the start is that of two Conv2d
    for mine, theirs in zip(
        (layer.weight1, layer.bias1, layer.weight2, layer.bias2), twin.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)
    torch.testing.assert_close(layer(x), twin(x))
    torch.testing.assert_close(layer(x[0]), twin(x)[0])


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_padding_divides_the_size_by_the_stride(stride, kernel, dilation):
    layer = FactorizedConv2d(1, 1, kernel, stride=stride, dilation=dilation)
    for size in (5, 8):
        expected = math.ceil(size / stride)
        assert layer(torch.zeros(1, 1, size, size)).shape[2:] == (expected, expected)


def test_a_resnet_stem():
    layer = FactorizedConv2d(3, 64, 7, stride=2)
    assert (
        layer(torch.zeros(1, 3, 33, 32)).shape
        == nn.Conv2d(3, 64, 7, 2, 3)(torch.zeros(1, 3, 33, 32)).shape
    )
    assert layer.options.padding == (3, 3, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "mid"),
    [
        ({"in_channels": 4, "out_channels": 8}, 8),
        ({"in_channels": 4, "out_channels": 8, "groups": 4}, 4),
        ({"in_channels": 4, "out_channels": 8, "groups": (4, 1)}, 4),
        ({"in_channels": 4, "out_channels": 8, "groups": 2}, 8),
        ({"in_channels": 1, "out_channels": 8}, 8),
        ({"in_channels": 4, "out_channels": 8, "mid_channels": 3}, 3),
    ],
)
def test_channels_between(arguments, mid):
    layer = FactorizedConv2d(**arguments, kernel_size=3)
    assert layer.mid_channels == layer.weight1.shape[0] == mid
    assert layer(torch.zeros(1, 4 if arguments["in_channels"] == 4 else 1, 5, 5)).shape[1] == 8


def test_start_keeps_the_variance_of_two_convolutions():
    torch.manual_seed(0)
    layer = FactorizedConv2d(64, 64, 5)
    for weight in (layer.weight1, layer.weight2):
        bound = 1 / math.sqrt(64 * 5)
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert layer.bias2.abs().max() <= 1 / math.sqrt(64 * 5)
    before = layer.weight1.clone()
    layer.reset_parameters()
    assert not torch.equal(layer.weight1, before)


# Dense


@pytest.mark.parametrize("order", ["row_col", "col_row"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": (2, 3), "padding": (1, 0), "dilation": (1, 2)},
        {"groups": 2, "mid_channels": 4},
        {"groups": (2, 4), "mid_channels": 8},
        {"groups": (4, 2), "mid_channels": 4, "bias": False},
        {"groups": 4},
        {"kernel_size": (4, 2)},
        {"padding": 0, "mid_bias": True},
        {"padding": 0, "mid_bias": True, "groups": 2, "bias": False},
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_to_dense_is_the_same_function(options, order):
    arguments = {"in_channels": 4, "out_channels": 8, "kernel_size": (3, 5), "order": order}
    layer = double(randomize(FactorizedConv2d(**{**arguments, **options})))
    dense = layer.to_dense()
    assert type(dense) is nn.Conv2d
    x = torch.randn(2, 4, 9, 11, dtype=torch.float64)
    torch.testing.assert_close(layer(x), dense(x))


def test_to_dense_keeps_groups_dtype_and_mode():
    layer = FactorizedConv2d(6, 6, 3, groups=6, dtype=torch.bfloat16).eval()
    dense = layer.to_dense()
    assert (dense.groups, dense.weight.dtype, dense.training) == (6, torch.bfloat16, False)
    outer = layer.weight2.float() * layer.weight1.float()
    assert torch.equal(dense.weight, outer.to(torch.bfloat16))
    state = torch.get_rng_state()
    layer.to_dense()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "relu"}, r"no Conv2d has an activation inside \('relu'\)"),
        ({"mid_bias": True}, r"`bias1` makes the border differ"),
        ({"kernel_size": (2, 3), "stride": 2}, r"no uneven padding, \(0, 1, 1, 1\)"),
    ],
)
def test_to_dense_says_where_it_cannot(options, message):
    layer = FactorizedConv2d(**{"in_channels": 2, "out_channels": 2, "kernel_size": 3, **options})
    with pytest.raises(ValueError, match=message):
        layer.to_dense()


def test_to_dense_with_a_zero_bias_between():
    layer = FactorizedConv2d(2, 2, 3, mid_bias=True)
    nn.init.zeros_(layer.bias1)
    x = torch.randn(1, 2, 5, 5)
    torch.testing.assert_close(layer.to_dense()(x), layer(x))


@pytest.mark.parametrize("order", ["row_col", "col_row"])
@pytest.mark.parametrize(
    ("conv2d", "full"),
    [
        (nn.Conv2d(4, 6, 3, padding=1), 12),
        (nn.Conv2d(4, 6, (3, 5), stride=2, padding=(1, 2), dilation=(1, 2)), None),
        (nn.Conv2d(4, 6, 3, padding="same", bias=False), 12),
        (nn.Conv2d(4, 6, 3, padding="valid"), 12),
        (nn.Conv2d(4, 8, 3, padding=1, groups=2), 6),
        (nn.Conv2d(4, 4, 5, padding=2, groups=4), 5),
    ],
)
def test_from_dense_at_full_rank_is_the_same_function(conv2d, full, order):
    conv2d = double(copy.deepcopy(conv2d))
    kernel = conv2d.kernel_size if order == "col_row" else conv2d.kernel_size[::-1]
    into, out = conv2d.in_channels // conv2d.groups, conv2d.out_channels // conv2d.groups
    rank = min(into * kernel[0], out * kernel[1])
    assert full in (None, rank)
    layer = FactorizedConv2d.from_dense(conv2d, rank, order=order)
    x = torch.randn(2, 4, 9, 11, dtype=torch.float64)
    torch.testing.assert_close(layer(x), conv2d(x))
    with pytest.raises(ValueError, match=rf"`rank` \(={rank + 1}\) must be in 1 ... {rank}"):
        FactorizedConv2d.from_dense(conv2d, rank + 1, order=order)


@pytest.mark.parametrize("order", ["row_col", "col_row"])
def test_from_dense_is_the_nearest(order):
    """The error is what the truncated singular values hold (Eckart & Young)."""
    torch.manual_seed(0)
    conv2d = nn.Conv2d(5, 7, 3, padding=1, bias=False)
    kernel = conv2d.weight.detach().double()
    axes = (0, 2, 1, 3) if order == "row_col" else (0, 3, 1, 2)
    values = torch.linalg.svdvals(kernel.permute(axes).reshape(21, 15))
    for rank in (1, 4, 14):
        layer = FactorizedConv2d.from_dense(conv2d, rank, order=order)
        error = (layer.to_dense().weight.double() - kernel).square().sum()
        torch.testing.assert_close(error, values[rank:].square().sum(), rtol=1e-4, atol=1e-6)
        norms = [w.detach().norm().item() for w in (layer.weight1, layer.weight2)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_from_dense_depthwise_stays_depthwise():
    conv2d = nn.Conv2d(6, 6, 7, padding=3, groups=6).half().eval()
    layer = FactorizedConv2d.from_dense(conv2d, rank=1)
    assert (layer.groups, layer.mid_channels, layer.training) == ((6, 6), 6, False)
    assert layer.weight1.dtype == torch.float16
    assert torch.equal(layer.bias2, conv2d.bias)


def with_nan(conv2d):
    nn.init.constant_(conv2d.weight[0], float("nan"))
    return conv2d


@pytest.mark.parametrize(
    ("conv2d", "rank", "error", "message"),
    [
        (
            nn.Linear(2, 2),
            1,
            TypeError,
            "`conv` must be an initialized torch.nn.Conv2d, got Linear",
        ),
        (nn.LazyConv2d(2, 3), 1, TypeError, "initialized"),
        (nn.Conv2d(2, 2, 3, padding_mode="circular"), 1, ValueError, "padding_mode='circular'"),
        (nn.Conv2d(2, 2, 3, device="meta"), 1, ValueError, "finite numbers, but it is on meta"),
        (with_nan(nn.Conv2d(2, 2, 3)), 1, ValueError, "finite numbers, but it is not finite"),
        (nn.Conv2d(2, 2, 3), 0, ValueError, r"`rank` \(=0\) must be in 1 ... 6"),
        (nn.Conv2d(2, 2, 3), 1.0, TypeError, "`rank` must be a whole number, got 1.0"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_from_dense_says_what_is_wrong(conv2d, rank, error, message):
    with pytest.raises(error, match=message):
        FactorizedConv2d.from_dense(conv2d, rank)


# A module's usual life


def layers():
    return [
        FactorizedConv2d(3, 4, 3, stride=2, activation="gelu", mid_bias=True),
        FactorizedConv2d(3, 3, (3, 5), groups=3, order="col_row", bias=False),
        MultiStripConv2d(3, (3, (5, 4))),
    ]


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_and_saved_states(index, copier):
    layer = layers()[index]
    x = torch.randn(2, 3, 7, 7)
    assert torch.equal(copier(layer)(x), layer(x))
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    other = layers()[index]
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    assert torch.equal(other(x), layer(x))


@pytest.mark.parametrize("index", range(3))
def test_meta_device_and_dtypes(index):
    with torch.device("meta"):
        layer = layers()[index]
    assert all(parameter.is_meta for parameter in layer.parameters())
    assert layer(torch.zeros(2, 3, 7, 7, device="meta")).is_meta
    layer = layer.to_empty(device="cpu")
    layer.reset_parameters()
    x = torch.randn(2, 3, 7, 7)
    expected = layer(x)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        output = copy.deepcopy(layer).to(dtype)(x.to(dtype))
        assert output.dtype == dtype
        torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ["native", "torch"])
@pytest.mark.parametrize("index", range(3))
def test_channels_last(index, name):
    layer = layers()[index]
    x = torch.randn(2, 3, 7, 7)
    with conv.backend(name):
        expected = layer(x)
        layer = layer.to(memory_format=torch.channels_last)
        output = layer(x.to(memory_format=torch.channels_last))
        assert output.is_contiguous(memory_format=torch.channels_last)
        assert layer(x).is_contiguous()  # the input's format counts, not the weights'
        output.sum().backward()
    torch.testing.assert_close(output, expected)
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_names_of_parameters():
    assert list(FactorizedConv2d(2, 3, 3, mid_bias=True).state_dict()) == [
        "weight1",
        "bias1",
        "weight2",
        "bias2",
    ]
    layer = MultiStripConv2d(4, (3, 5), bias=False)
    assert list(layer.state_dict()) == [f"strips.{i}.weight{j}" for i in range(2) for j in (1, 2)]


def test_strips_are_a_sum_of_their_layers():
    torch.manual_seed(0)
    layer = MultiStripConv2d(4, (3, (7, 5)))
    bare = MultiStripConv2d(4, (3, (7, 5)), residual=False)
    bare.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, 8, 9)
    total = sum(strip(x) for strip in layer.strips)
    torch.testing.assert_close(bare(x), total)
    torch.testing.assert_close(layer(x), total + x)
    assert [strip.kernel_size for strip in MultiStripConv2d(2).strips] == [
        (7, 7),
        (11, 11),
        (21, 21),
    ]


def test_repr():
    assert repr(FactorizedConv2d(3, 8, 3)) == (
        "FactorizedConv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=same)"
    )
    layer = FactorizedConv2d(
        4, 8, (3, 1), groups=4, padding=1, order="col_row", bias=False, mid_bias=True, dilation=2
    )
    assert repr(layer) == (
        "FactorizedConv2d(4, 8, kernel_size=(3, 1), mid_channels=4, stride=(1, 1), padding=(1, 1), "
        "dilation=(2, 2), groups=(4, 4), order=col_row, bias=False, mid_bias=True)"
    )
    assert "4, residual=True" in repr(MultiStripConv2d(4))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"in_channels": 0}, ValueError, r"`in_channels` \(=0\) must be >= 1"),
        ({"out_channels": 2.0}, TypeError, r"`out_channels` must be a whole number, got 2.0"),
        ({"mid_channels": True}, TypeError, r"`mid_channels` must be a whole number, got True"),
        ({"kernel_size": (3, 0)}, ValueError, r"`kernel_size` \(=\(3, 0\)\) must be >= 1"),
        ({"kernel_size": (3,)}, ValueError, r"`kernel_size` \(=\(3,\)\) must be an int or a pair"),
        ({"groups": 3}, ValueError, r"`in_channels` \(=4\) must divide by groups=3"),
        ({"groups": (1, 4), "mid_channels": 6}, ValueError, r"`mid_channels` \(=6\) must divide"),
        ({"padding": "valid"}, ValueError, r"`padding` \(='valid'\) must be numbers or 'same'"),
        ({"padding": -1}, ValueError, r"`padding` \(=-1\) must be >= 0"),
        ({"activation": "tanh"}, ValueError, r"`activation` \(='tanh'\) must be one of"),
        ({"order": "rows"}, ValueError, r"`order` \(='rows'\) must be one of \('row_col', 'col_r"),
        ({"bias": 1}, TypeError, r"`bias` must be a bool, got 1"),
    ],
)
def test_wrong_arguments(options, error, message):
    arguments = {"in_channels": 4, "out_channels": 8, "kernel_size": 3, **options}
    with pytest.raises(error, match=message):
        FactorizedConv2d(**arguments)


def test_wrong_strips():
    with pytest.raises(ValueError, match="`kernel_sizes` must have at least one strip"):
        MultiStripConv2d(4, ())
    with pytest.raises(TypeError, match="`kernel_sizes` must be a sequence, got 7"):
        MultiStripConv2d(4, 7)
    with pytest.raises(ValueError, match=r"`channels` \(=0\) must be >= 1"):
        MultiStripConv2d(0)
    with pytest.raises(TypeError, match="`residual` must be a bool"):
        MultiStripConv2d(4, residual=None)


@pytest.mark.parametrize("layer", layers())
@pytest.mark.parametrize("value", [None, 3.0, [torch.zeros(1, 3, 7, 7)]])
def test_an_input_that_is_no_tensor(layer, value):
    with pytest.raises(TypeError, match="`input` must be a tensor, got"):
        layer(value)
