"""Stems of ResNets and DenseNets of torchvision's layout, replaced."""

import copy

import published_networks as published
import pytest
import torch
from torch import nn

from pyphase import nets
from pyphase.conv import FactorizedConv2d


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small images: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


MODELS = {"ResNet": published.ResNet, "DenseNet": published.DenseNet}
STEMS = {
    "ResNet": ("conv1", "bn1", "relu", "maxpool"),
    "DenseNet": ("features.conv0", "features.norm0", "features.relu0", "features.pool0"),
}


def parts(model, name):
    return [model.get_submodule(part) for part in STEMS[name]]


def stem(model, name, x):
    return nn.Sequential(*parts(model, name))(x)


@pytest.mark.parametrize("name", MODELS)
def test_factorized_is_exact_at_full_rank(name):
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    before = copy.deepcopy(model)
    assert nets.replace_stem(model, "factorized", rank=21) is model
    layer = parts(model, name)[0]
    assert isinstance(layer, FactorizedConv2d)
    assert (layer.mid_channels, layer.stride, layer.padding) == (21, (2, 2), (3, 3))
    assert layer.bias2 is None
    assert not layer.training
    x = torch.randn(2, 3, 33, 40, dtype=torch.float64)
    torch.testing.assert_close(model(x), before(x), rtol=1e-11, atol=1e-11)


def test_factorized_halves_the_products_and_is_the_nearest_pair():
    """A pair of rank r has r * (3 * 7 * 2 + 64 * 7) products for 3 * 64 * 7 * 7: r <= 9.6."""
    torch.manual_seed(0)
    model = published.ResNet()
    conv = model.conv1
    layer = nets.replace_stem(model, "factorized").conv1
    assert layer.mid_channels == 9
    unfolded = conv.weight.detach().permute(1, 3, 0, 2).reshape(3 * 7, 64 * 7).double()
    left = torch.linalg.svdvals(unfolded)[9:].norm()
    off = (layer.to_dense().weight - conv.weight).detach().double().norm()
    assert float(off) == pytest.approx(float(left), rel=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_inception_stem_is_the_published_one_with_padding(name):
    torch.manual_seed(0)
    model = MODELS[name](width=24)
    rest = {key: value.clone() for key, value in model.state_dict().items()}
    assert nets.replace_stem(model, "inception") is model
    new, *others = parts(model, name)
    assert all(isinstance(other, nn.Identity) for other in others)
    theirs = published.inception_v4_stem(padding=1)[:5].append(published.Unit(192, 24, 1))
    theirs.load_state_dict(new.state_dict())
    x = torch.randn(2, 3, 33, 40, dtype=torch.float64)
    model, theirs = model.double(), theirs.double()
    torch.testing.assert_close(stem(model, name, x), theirs(x), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(
        stem(model.eval(), name, x), theirs.eval()(x), rtol=1e-11, atol=1e-11
    )
    assert len(new[4].branch1.pairs()) == 1
    kept = {key: value for key, value in model.state_dict().items() if key in rest}
    kept = {key: value for key, value in kept.items() if not key.startswith(STEMS[name][0])}
    assert len(kept) >= 4  # the rest of the network is as it was
    assert all(torch.equal(value.to(rest[key].dtype), rest[key]) for key, value in kept.items())


@pytest.mark.parametrize("kind", ["inception", "factorized"])
@pytest.mark.parametrize("size", [(32, 32), (33, 45), (31, 34), (224, 30)])
def test_the_output_keeps_its_shape(kind, size):
    model = published.ResNet(width=8).eval()
    x = torch.zeros(1, 3, *size)
    shape = model.stem(x).shape
    assert nets.replace_stem(model, kind).stem(x).shape == shape


@pytest.mark.parametrize("kind", ["inception", "factorized"])
@pytest.mark.parametrize("name", MODELS)
def test_it_trains_and_goes_where_the_model_was(name, kind):
    torch.manual_seed(0)
    model = nets.replace_stem(MODELS[name](width=8).bfloat16().eval(), kind)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not any(module.training for module in model.modules())
    model.float().train()
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in parts(model, name)[0].parameters())
    other = nets.replace_stem(MODELS[name](width=8), kind)
    other.load_state_dict(model.state_dict())


def small(conv, pool=None):
    """Return a ResNet with another convolution or pool."""
    model = published.ResNet(width=8)
    model.conv1 = conv
    model.maxpool = pool or model.maxpool
    return model


def conv7(**options):
    return nn.Conv2d(3, 8, **{"kernel_size": 7, "stride": 2, "padding": 3, **options})


WRONG = [
    (
        lambda: nn.ReLU(),
        "factorized",
        {},
        ValueError,
        r"\(ReLU\) must have the stem of torchvision",
    ),
    (lambda: None, "factorized", {}, TypeError, r"`model` must be a torch.nn.Module, got None"),
    (lambda: small(conv7()), "dense", {}, ValueError, r"`kind` \(='dense'\) must be one of"),
    (lambda: small(conv7()), "factorized", {"rank": 22}, ValueError, r"`rank` \(=22\) .* 1 ... 21"),
    (lambda: small(conv7()), "factorized", {"rank": 2.0}, TypeError, r"`rank` must be a whole"),
    (lambda: small(conv7()), "inception", {"rank": 3}, ValueError, r"for kind='factorized' only"),
    (
        lambda: small(nn.Conv2d(3, 8, 1)),
        "factorized",
        {},
        ValueError,
        r"its stem, conv1, must be a",
    ),
    (lambda: small(nn.ReLU()), "inception", {}, ValueError, r"its stem, conv1, must be a Conv2d"),
    (lambda: small(conv7(stride=1)), "inception", {}, ValueError, r"that halve the size"),
    (lambda: small(conv7(padding=2)), "inception", {}, ValueError, r"that halve the size"),
    (lambda: small(conv7(dilation=2)), "inception", {}, ValueError, r"that halve the size"),
    (lambda: small(conv7(), nn.Identity()), "inception", {}, ValueError, r"and Identity\(\)"),
    (lambda: small(conv7(), nn.MaxPool2d(3, 2)), "inception", {}, ValueError, r"and MaxPool2d"),
    (
        lambda: small(conv7(padding_mode="circular")),
        "factorized",
        {},
        ValueError,
        r"`conv` must pad with zeros",
    ),
]


@pytest.mark.parametrize(("make", "kind", "options", "error", "match"), WRONG)
def test_wrong_arguments_leave_the_model_as_it_was(make, kind, options, error, match):
    model = make()
    before = repr(model)
    with pytest.raises(error, match=match):
        nets.replace_stem(model, kind, **options)
    assert repr(model) == before
