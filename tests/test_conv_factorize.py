"""A whole model's convolutions as pairs: plan, apply, undo, and what is left alone.

Long, since each rule, each kind of layer and each way to misuse a plan is a case of its own.
"""

import copy
import json
import sys

import numpy as np
import pytest
import torch
from factor_models import Odd, ResNet, plain_svd, smooth_images, train_mode_statistics
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pyphase import conv
from pyphase.conv import FactorizedConv2d, factorize


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    return train_mode_statistics(ResNet((8, 12), blocks=1), smooth_images(8))


@pytest.fixture
def model(trained):
    return copy.deepcopy(trained)


IMAGES = smooth_images(4, seed=3)


def plan_of(model, **options):
    return factorize(model, IMAGES, **{"measure": False, **options})


def macs_of(model):
    with conv.backend("torch"), FlopCounterMode(display=False) as counter:
        model(IMAGES)
    return counter.get_total_flops() // 2


def test_nothing_changes_before_apply_and_after_undo(model):
    before = {name: (id(m), m.training) for name, m in model.named_modules()}
    model.bn1.train()
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    plan = plan_of(model, ratio=0.5)
    assert torch.equal(torch.get_rng_state(), random)
    model.bn1.eval()
    assert {name: (id(m), m.training) for name, m in model.named_modules()} == before
    plan.apply()
    assert type(model.conv1) is type(model.layer2[0].conv2) is FactorizedConv2d
    assert len(plan.ranks) == 5
    with torch.no_grad():
        model.conv1.weight1.zero_()  # as fine-tuning would
    plan.undo()
    assert {name: (id(m), m.training) for name, m in model.named_modules()} == before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    plan.apply()
    assert plan.applied


def test_table_counts_what_the_model_does(model):
    plan = plan_of(model, ratio=0.5)
    before, parameters = macs_of(model), sum(p.numel() for p in model.parameters())
    plan.apply()
    assert plan.macs == (before, macs_of(model))
    assert plan.params == (parameters, sum(p.numel() for p in model.parameters()))
    for layer in plan.layers:
        if not layer.reason:
            assert 0 < layer.macs[1] <= layer.macs[0] / 2
            pair = model.get_submodule(layer.name)
            assert layer.params[1] == sum(p.numel() for p in pair.parameters())
            assert (layer.order, layer.rank) == (pair.order, pair.mid_channels)
    text = repr(plan)
    assert "5 of 6 convolutions, MACs" in text
    assert "left alone: 1x1: there is nothing to split" in text
    assert all(layer.name in text and layer.kind in text for layer in plan.layers)


def test_full_rank_is_the_same_model(model):
    model = model.double()
    x = IMAGES.double()
    expected = model(x)
    full = {"conv1": 21, "layer1.0.conv1": ("col_row", 24), "layer2.0.conv1": 24}
    plan = factorize(model, x, rank=full, measure=False)
    assert max(layer.error for layer in plan.layers) < 1e-7
    assert [layer.reason for layer in plan.layers][2] == "not named in `rank`"
    plan.apply()
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 5, "stride": (2, 1), "padding": (2, 1), "dilation": (1, 2)},
        {"kernel_size": (2, 3), "padding": "same", "dilation": 2, "bias": False},
        {"kernel_size": 3, "padding": "valid", "groups": 2},
    ],
)
@pytest.mark.parametrize("order", ["row_col", "col_row"])
def test_options_of_the_convolution(options, order):
    """The error that the plan states is that of the outputs on the calibration."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 6, **options)).double()
    x = torch.randn(3, 4, 11, 12, dtype=torch.float64)
    linear = copy.deepcopy(net)
    bias = net[0].bias
    if bias is not None:
        nn.init.zeros_(linear[0].bias)
    plan = factorize(net, x, rank={"0": 2}, calibration=x, order=order, grouped=True, measure=False)
    assert not plan.layers[0].reason
    expected, without_bias = net(x), linear(x)
    plan.apply()
    error = (net(x) - expected).norm() / without_bias.norm()
    assert plan.layers[0].error == pytest.approx(error.item(), rel=0.02)  # by the damping
    plan.undo()
    torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize("calibrated", [False, True])
def test_macs_budget(model, calibrated):
    options = {"calibration": IMAGES} if calibrated else {}
    plan = plan_of(model, macs=0.5, **options)
    left = 0.5 * plan.macs[0] - plan.macs[1]
    assert left >= 0
    for layer in plan.layers:  # no layer could have another channel
        if not layer.reason:
            a_rank = layer.macs[1] // layer.rank
            assert a_rank > left or layer.macs[1] + a_rank >= layer.macs[0]
    energies = plan_of(model, ratio=0.5, **options)
    tighter = plan_of(model, macs=energies.macs[1] / energies.macs[0], **options)
    products = [
        torch.tensor([layer.energy for layer in found.layers]).log().sum()
        for found in (tighter, energies)
    ]
    assert products[0] > products[1]  # the same ratio everywhere keeps less
    with pytest.raises(ValueError, match=r"`macs` \(=0.01\) is out of reach: .* has 0\.\d+ of"):
        plan_of(model, macs=0.01, **options)


def test_energy_takes_the_least_rank_that_keeps_it(model):
    plan = plan_of(model, energy=0.6, order="row_col")
    for layer in plan.layers:
        if layer.reason:
            continue
        assert layer.energy >= 0.6
        less = plan_of(model, rank={layer.name: layer.rank - 1}, order="row_col")
        assert next(own for own in less.layers if own.name == layer.name).energy < 0.6
    reasons = {layer.reason for layer in plan_of(model, energy=0.999).layers}
    assert any("energy 0.999 needs its break-even rank" in reason for reason in reasons)


def test_rank_and_multiple(model):
    plan = plan_of(model, rank=6)
    assert {rank for _, rank in plan.ranks.values()} == {6}
    plan = plan_of(model, rank=50)
    assert plan.ranks == {}
    assert plan.layers[0].reason.startswith("no gain: its break-even rank is ")
    plan = plan_of(model, ratio=0.8, multiple=4)
    assert all(rank % 4 == 0 for _, rank in plan.ranks.values())


def test_score_falls_no_more_than_allowed(model):
    expected = model(IMAGES)
    seen = []

    def evaluate(net):
        assert not net.training
        seen.append(-(net(IMAGES) - expected).norm().item() / expected.norm().item())
        return seen[-1]

    plan = plan_of(model, max_drop=0.4, evaluate=evaluate)
    assert plan.scores[0] == 0
    assert -0.4 <= plan.scores[1] < 0
    assert plan.macs[1] < plan.macs[0]
    assert min(seen) < -0.4  # the next steps were tried
    plan.apply()
    assert evaluate(model) == pytest.approx(plan.scores[1], rel=1e-4)
    assert f"-> {plan.scores[1]:.6g}" in repr(plan)


def test_latency_is_measured(monkeypatch):
    """By a clock that takes a second for each parameter."""

    def seconds(models):
        return [float(sum(p.numel() for p in model.parameters())) for model in models]

    for place in ("pyphase.conv.factorize", "pyphase.conv.rules"):
        module = sys.modules[place]  # the package's attribute is the function
        monkeypatch.setattr(module, "time_layers", lambda site, layers: seconds(layers))
        monkeypatch.setattr(module, "time_models", lambda models, inputs: seconds(models))
    net = nn.Sequential(nn.Conv2d(8, 8, 15, padding=7), nn.Conv2d(8, 2, 1))
    x = torch.randn(1, 8, 48, 48)
    plan = factorize(net, x, latency=0.9)
    assert plan.ranks["0"][1] >= 1
    assert all(ms > 0 for ms in (*plan.ms, *plan.layers[0].ms))
    with pytest.raises(ValueError, match=r"`latency` \(=1e-06\) is out of reach: the fastest"):
        factorize(net, x, latency=1e-6)


def test_lower_output_error_than_plain_svd_at_equal_macs(trained):
    """Layer by layer and through the model, on images that the calibration has not seen."""
    unseen = smooth_images(8, seed=9)
    model, plain, trained = (copy.deepcopy(trained) for _ in range(3))
    plan = plan_of(model, ratio=0.4, calibration=smooth_images(16, seed=4), order="col_row")
    inputs = {}
    for name in plan.ranks:
        hook = lambda module, args, name=name: inputs.update({name: args[0]})  # noqa: E731
        trained.get_submodule(name).register_forward_pre_hook(hook)
    expected = trained(unseen)
    plan.apply()
    for name, (_, rank) in plan.ranks.items():
        dense, theirs = trained.get_submodule(name), plain_svd(trained.get_submodule(name), rank)
        ours, x = model.get_submodule(name), inputs[name]
        assert sum(p.numel() for p in ours.parameters()) == sum(
            p.numel() for p in theirs.parameters()
        )
        same = FactorizedConv2d.from_dense(dense, rank, order="col_row")
        torch.testing.assert_close(same(x), theirs(x), rtol=1e-4, atol=1e-5)
        errors = [(pair(x) - dense(x)).norm() for pair in (ours, theirs)]
        assert errors[0] < 0.8 * errors[1], name
        parent, _, leaf = name.rpartition(".")
        setattr(plain.get_submodule(parent), leaf, theirs)
    assert (model(unseen) - expected).norm() < 0.8 * (plain(unseen) - expected).norm()


def test_batch_norms_are_folded(model):
    expected = model.double()(IMAGES.double())
    full = {"conv1": 21, "layer1.0.conv1": 24, "layer2.0.conv2": 36}
    options = {"rank": full, "fold_batch_norm": True, "measure": False}
    plan = factorize(model, IMAGES.double(), **options)
    assert [layer.norm for layer in plan.layers][:2] == ["bn1", "layer1.0.bn1"]
    old = model.bn1
    plan.apply()
    assert type(model.bn1) is nn.Identity
    assert type(model.layer1[0].bn2) is nn.BatchNorm2d
    assert model.conv1.bias2 is not None
    torch.testing.assert_close(model(IMAGES.double()), expected)
    plan.undo()
    assert model.bn1 is old
    old.train()
    with pytest.raises(ValueError, match=r"`fold_batch_norm` is for inference, but 'bn1' is in tr"):
        factorize(model, IMAGES.double(), **options)


def test_a_norm_that_is_not_alone_is_kept():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.bn = nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            return self.bn(y) + y

    net = Net().eval()
    plan = factorize(net, IMAGES, rank={"conv": 2}, fold_batch_norm=True, measure=False)
    assert plan.layers[0].norm == ""


@pytest.mark.parametrize("scale", [0.0, float("nan")])
def test_a_norm_that_makes_the_weight_zero_or_nan(scale):
    """As the last norm of a residual branch begins, or a layer that died."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    nn.init.constant_(net[1].weight, scale)
    for options in ({"ratio": 0.5}, {"energy": 0.5}, {"rank": 2, "calibration": IMAGES}):
        plan = plan_of(net, fold_batch_norm=True, **options)
        assert plan.layers[0].reason == "with '1' its weight is zero or not finite"


def test_a_norm_with_hooks_is_kept():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    plan = plan_of(net, ratio=0.5, fold_batch_norm=True)
    seen = []
    hook = net[1].register_forward_hook(lambda *_: seen.append(1))
    with pytest.raises(RuntimeError, match="'0' has changed since the plan was made"):
        plan.apply()
    plan = plan_of(net, ratio=0.5, fold_batch_norm=True)
    hook.remove()
    assert plan.layers[0].norm == ""
    plan.apply()
    assert type(net[1]) is nn.BatchNorm2d


def test_state_dict_of_a_factorized_model(model, tmp_path):
    plan = plan_of(model, macs=0.6)
    saved = json.loads(json.dumps(plan.ranks))
    fresh = copy.deepcopy(model)
    plan.apply()
    with torch.no_grad():
        model.conv1.weight1.mul_(2)
    torch.save(model.state_dict(), tmp_path / "slim.pt")
    plan_of(fresh, rank=saved).apply()
    fresh.load_state_dict(torch.load(tmp_path / "slim.pt", weights_only=True), strict=True)
    assert torch.equal(fresh(IMAGES), model(IMAGES))


def test_what_is_left_alone():
    net = Odd()
    plan = factorize(net, torch.randn(1, 4, 12, 12), ratio=0.5, ignore=["ignored"], measure=False)
    reasons = {layer.name: layer.reason for layer in plan.layers}
    assert reasons == {
        "plain": "",
        "point": "1x1: there is nothing to split",
        "strip": "1x7: it is a row or a column already",
        "grouped": "grouped (8): `grouped` is False",
        "circular": "pads with 'circular', not with zeros",
        "other": "Subclass may compute something else than Conv2d",
        "hooked": "has hooks or a forward of its own, which would be lost",
        "tied": "shares a parameter with another module",
        "tie": "shares a parameter with another module",
        "zero": "its weight is zero or not finite",
        "unused": "not called with `inputs`",
        "single": "no gain: its lowest rank, 1, has 52% of its MACs",
        "ignored": "ignored",
    }
    plan = factorize(net, torch.randn(1, 4, 12, 12), ratio=0.5, grouped=True, measure=False)
    assert plan.ranks["grouped"][1] == 1
    plan.apply()
    assert net.grouped.groups == (8, 8)


class Reading(nn.Module):
    """A model that reads what a pair doesn't have."""

    def __init__(self, name):
        super().__init__()
        self.conv, self.name = nn.Conv2d(3, 4, 3), name

    def forward(self, x):
        if self.name == "bias":
            return self.conv(x) if self.conv.bias is not None else x
        if self.name == "functional":
            return nn.functional.conv2d(x, self.conv.weight)
        return self.conv(x.to(self.conv.weight.dtype))


@pytest.mark.parametrize("name", ["weight", "bias", "functional"])
def test_a_layer_whose_weights_the_model_reads_is_left_alone(name):
    net = Reading(name)
    plan = factorize(net, IMAGES, ratio=0.5)
    read = "bias" if name == "bias" else "weight"
    assert plan.layers[0].reason == f"its {read} is read outside of it"
    plan.apply()
    net(IMAGES)
    assert type(net.conv) is nn.Conv2d


def test_a_named_layer_that_is_left_alone_is_an_error():
    net = Reading("functional")
    for options, reason in (
        ({}, "its weight is read outside of it"),
        ({"ignore": ["conv"]}, "ignored"),
    ):
        with pytest.raises(ValueError, match=rf"`rank`: 'conv' is no convolution .* \({reason}\)"):
            plan_of(net, rank={"conv": 2}, **options)


def test_a_layer_with_a_forward_of_its_own_is_left_alone():
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    forward = net[0].forward
    net[0].forward = lambda x: 2 * forward(x)
    reason = "has hooks or a forward of its own, which would be lost"
    assert plan_of(net, ratio=0.5).layers[0].reason == reason


def test_the_models_own_name_ignores_all(model):
    assert {layer.reason for layer in plan_of(model, ratio=0.5, ignore=[""]).layers} == {"ignored"}


def test_a_module_with_two_names_and_two_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 3, 5, padding=2, bias=False).requires_grad_(False)
            self.b = self.a

        def forward(self, x, scale=1):
            return self.b(self.a(x) * scale)

    net = Twice()
    plan = factorize(net, {"x": IMAGES, "scale": 2}, rank=2, calibration=(IMAGES, 3))
    plan.apply()
    assert net.a is net.b
    assert type(net.a) is FactorizedConv2d
    assert not net.a.weight1.requires_grad
    assert plan.macs[0] == 2 * 4 * 32 * 32 * 9 * 25
    plan.undo()
    assert net.a is net.b


def test_apply_and_undo_refuse_a_model_that_changed(model):
    plan = plan_of(model, ratio=0.5)
    with pytest.raises(RuntimeError, match="the plan is not applied"):
        plan.undo()
    kept = model.layer1[0].conv2
    model.layer1[0].conv2 = nn.Identity()
    with pytest.raises(RuntimeError, match=r"'layer1.0.conv2' is another module than when the pl"):
        plan.apply()
    assert type(model.conv1) is nn.Conv2d
    model.layer1[0].conv2 = kept
    model.bfloat16()  # is no training
    plan.apply()
    assert model.conv1.weight1.dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="the plan is applied already"):
        plan.apply()
    pair, model.conv1 = model.conv1, nn.Identity()
    with pytest.raises(RuntimeError, match="'conv1' is another module than when the plan was app"):
        plan.undo()
    model.conv1 = pair
    plan.undo()
    plan = plan_of(model.float(), ratio=0.5)
    with torch.no_grad():
        model.conv1.weight.add_(1)
    with pytest.raises(RuntimeError, match="'conv1' has changed since the plan was made"):
        plan.apply()


def test_what_would_be_lost_by_apply_is_refused(model):
    plan = plan_of(model.eval(), ratio=0.5, fold_batch_norm=True)
    model.train()  # the norms in it were folded as inference has them
    with pytest.raises(RuntimeError, match="has changed since the plan was made"):
        plan.apply()
    model.eval()
    hook = model.conv1.register_forward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match="'conv1' has changed since the plan was made"):
        plan.apply()
    hook.remove()
    plan.apply()


def test_pairs_train_what_the_model_trains_when_they_are_put_in(model):
    plan = plan_of(model, ratio=0.5)
    model.requires_grad_(False)
    plan.apply()
    assert not any(p.requires_grad for p in model.parameters())


def test_plans_are_not_copied(model):
    plan = plan_of(model, ratio=0.5)
    with pytest.raises(TypeError, match=r"keep `plan\.ranks`"):
        copy.deepcopy((model, plan))


def test_numpys_whole_numbers_are_plain_ones_in_a_plan(model):
    plan = plan_of(model, rank=np.int64(2), multiple=np.int64(1))
    again = plan_of(model, rank={n: (o, np.int64(r)) for n, (o, r) in plan.ranks.items()})
    assert json.loads(json.dumps(again.ranks)) == {n: [o, 2] for n, (o, _) in plan.ranks.items()}
    assert {type(count) for count in (*again.macs, *again.params)} == {int}
    assert plan_of(model, ratio=np.float32(0.5)).ranks == plan_of(model, ratio=0.5).ranks


@pytest.mark.parametrize(
    ("score", "error", "message"),
    [
        (None, TypeError, "`evaluate` must return a number, got None"),
        (float("nan"), ValueError, "`max_drop` needs a finite score of the model, got nan"),
    ],
)
def test_a_score_that_is_none(model, score, error, message):
    with pytest.raises(error, match=message):
        plan_of(model, max_drop=0.1, evaluate=lambda _: score)


def test_empty_inputs(model):
    with pytest.raises(ValueError, match=r"`inputs`: the output of 'conv1' is empty"):
        factorize(model, IMAGES[:0], macs=0.5)
    with pytest.raises(ValueError, match=r"`calibration`: the output of 'conv1' is empty"):
        plan_of(model, macs=0.5, calibration=IMAGES[:0])
    with pytest.raises(ValueError, match="`calibration` is an empty list"):
        plan_of(model, macs=0.5, calibration=[])


@pytest.mark.parametrize("planned", [torch.enable_grad, torch.inference_mode])
def test_a_slim_model_trains(model, planned):
    with planned():
        plan_of(model, macs=0.5).apply()
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.05)
    losses = []
    for _ in range(5):
        loss = nn.functional.cross_entropy(model(IMAGES), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "give exactly one of `rank`, .*; got none"),
        ({"rank": 2, "macs": 0.5}, ValueError, "exactly one of .*; got rank, macs"),
        ({"rank": 0}, ValueError, r"`rank` \(=0\) must be >= 1"),
        ({"rank": 1.5}, TypeError, "`rank` must be a whole number, got 1.5"),
        ({"rank": {"conv9": 3}}, ValueError, "`rank`: 'conv9' is no convolution to factorize"),
        ({"rank": {"conv1": 22}}, ValueError, r"`rank\['conv1'\]` \(=22\) must be in 1 ... 21"),
        ({"rank": {"conv1": ("row", 2)}}, ValueError, r"`rank\['conv1'\]` .* no order 'row'"),
        ({"ratio": 1.0}, ValueError, r"`ratio` \(=1.0\) must be in \(0, 1\)"),
        ({"energy": "most"}, TypeError, "`energy` must be a number, got 'most'"),
        ({"macs": float("nan")}, ValueError, r"`macs` \(=nan\) must be finite"),
        ({"max_drop": 0.1}, ValueError, "`max_drop` needs `evaluate`"),
        ({"max_drop": -1, "evaluate": len}, ValueError, r"`max_drop` \(=-1\) must be >= 0"),
        ({"rank": 2, "evaluate": 3}, TypeError, "`evaluate` must be a function of the model"),
        ({"rank": 2, "order": "rows"}, ValueError, r"`order` \(='rows'\) must be None or one of"),
        ({"rank": 2, "multiple": 0}, ValueError, r"`multiple` \(=0\) must be >= 1"),
        ({"rank": 2, "ignore": "conv1"}, TypeError, "`ignore` must be a collection of names"),
        ({"rank": 2, "ignore": ["conv9"]}, ValueError, "`ignore`: the model has no module 'conv9'"),
        ({"rank": 2, "grouped": 1}, TypeError, "`grouped` must be a bool, got 1"),
    ],
)
def test_wrong_arguments(model, options, error, message):
    with pytest.raises(error, match=message):
        plan_of(model, **options)


def test_wrong_models():
    with pytest.raises(TypeError, match=r"`model` must be a torch.nn.Module, got 3"):
        factorize(3, IMAGES, rank=1)
    with pytest.raises(ValueError, match="`model` is itself a Conv2d: use FactorizedConv2d"):
        factorize(nn.Conv2d(3, 3, 3), IMAGES, rank=1)
    lazy = nn.Sequential(nn.Conv2d(3, 3, 3), nn.LazyConv2d(3, 3))
    with pytest.raises(ValueError, match="`model` has lazy parameters without a shape: call it"):
        factorize(lazy, IMAGES, rank=1)


def test_measuring_draws_nothing_from_the_users_generator(model):
    before = torch.get_rng_state()
    factorize(model, smooth_images(1, seed=2), ratio=0.5)
    assert torch.equal(torch.get_rng_state(), before)


def test_inputs_may_come_by_name():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 5, padding=2), nn.BatchNorm2d(8)

        def forward(self, x):
            return self.norm(input=self.conv(input=x))

    x = torch.randn(2, 3, 12, 12)
    options = {"rank": 4, "calibration": x, "fold_batch_norm": True, "measure": False}
    plan = factorize(Named().eval(), x, **options)
    assert plan.ranks["conv"][1] == 4
    assert plan.layers[0].norm == "norm"
