"""Other libraries' models, where they can be imported: factorized, undone, and with new stems."""

import copy
import importlib

import pytest
import torch
from torch import nn

from pyphase import nets
from pyphase.conv import FactorizedConv2d, factorize


def library(name):
    """Import a library, or skip: one that is built for another torch raises RuntimeError."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name}: {error}")


def densenet():
    models = library("torchvision").models
    return models.DenseNet(growth_rate=8, block_config=(2, 2), num_init_features=16, num_classes=5)


def resnet():
    models = library("torchvision").models
    return models.resnet.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5)


def of_timm(name):
    return lambda: library("timm").create_model(name, num_classes=5)


MODELS = {
    "torchvision densenet": densenet,
    "torchvision squeezenet": lambda: library("torchvision").models.squeezenet1_1(num_classes=5),
    "timm resnet": of_timm("test_resnet"),
    "timm byobnet": of_timm("test_byobnet"),
    "timm convnext": of_timm("test_convnext"),
    "timm efficientnet": of_timm("test_efficientnet"),
}


def lively(model):
    """Give norms scales that are not zero, as the last one of a branch may begin with."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_full_rank_is_the_same_model_and_less_is_loaded_again(name):
    torch.manual_seed(0)
    model, x = lively(MODELS[name]()), torch.randn(2, 3, 64, 64)
    modules, expected = dict(model.named_modules()), model(x)
    plan = factorize(model, x, ratio=0.5, order="row_col", measure=False)
    assert plan.ranks
    full = {}
    for place in plan.ranks:
        out, into, high, wide = modules[place].weight.shape
        full[place] = "row_col", min(into * wide, out * high)
    whole = factorize(model, x, rank=full, fold_batch_norm=True, measure=False)
    whole.apply()
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    whole.undo()
    assert dict(model.named_modules()) == modules
    assert torch.equal(model(x), expected)
    plan.apply()
    assert not torch.equal(model(x), expected)
    slim, again = copy.deepcopy(model), lively(MODELS[name]())
    factorize(again, x, rank=plan.ranks, measure=False).apply()
    again.load_state_dict(slim.state_dict())
    assert torch.equal(again(x), slim(x))


@pytest.mark.parametrize("make", [resnet, densenet])
def test_stems(make):
    torch.manual_seed(0)
    model, x = lively(make()), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        factorized = nets.replace_stem(copy.deepcopy(model), "factorized", rank=21)
        torch.testing.assert_close(factorized(x), expected, rtol=1e-4, atol=1e-4)
    assert sum(isinstance(module, FactorizedConv2d) for module in factorized.modules()) == 1
    assert nets.replace_stem(model, "inception").train()(x).shape == expected.shape


def test_dense_block_has_torchvisions_weights():
    model = lively(densenet())
    block = nets.DenseBlock(2, 16, 8).eval()
    nets.load_published(block, model.state_dict(), prefix="features.denseblock1.")
    x = torch.randn(1, 16, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(block(x), model.features.denseblock1(x))
