"""The LR range test: its rates, its end, its suggestions, and that it leaves no trace."""

import copy

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from toys import same
from training import loader, net, plain, seed_all

from pyphase import PhaseError, lr_find
from pyphase.apply.state import get_rng_state

mse = nn.functional.mse_loss


def everything(model, optimizer, own):
    rng = get_rng_state()
    return copy.deepcopy(
        [
            dict(model.named_parameters()),
            dict(model.named_buffers()),
            [p.grad for p in model.parameters()],
            [m.training for m in model.modules()],
            optimizer.state_dict(),
            [rng["torch"], rng["numpy"], rng["python"], own.get_state()],
        ]
    )


@pytest.mark.parametrize(("mode", "formula"), [
    ("exp", lambda k: 1e-4 * (1e4) ** (k / 20)),
    ("linear", lambda k: 1e-4 + (1 - 1e-4) * k / 20),
])  # fmt: skip
def test_rates(mode, formula):
    result = lr_find(
        nn.Linear(1, 1), plain(), mse, start_lr=1e-4, end_lr=1.0, num_it=20, mode=mode,
        stop_div=False,
    )  # fmt: skip
    np.testing.assert_allclose(result.lrs, formula(np.arange(20)), rtol=1e-13)
    assert len(result.losses) == 20
    assert isinstance(result.plot(), Figure)
    assert isinstance(result.plot(linear=True), Figure)


@pytest.mark.parametrize("end", ["whole", "raises", "interrupted"])
def test_leaves_no_trace(end):
    seed_all(2)
    model, own = net(), torch.Generator().manual_seed(4)
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.5), foreach=False)
    data = loader(12, generator=own)
    x, y = next(iter(data))
    mse(model(x), y).backward()
    optimizer.step()
    model[1].eval()
    before, tensor_lr = everything(model, optimizer, own), optimizer.param_groups[0]["lr"]
    calls = []

    def loss_fn(output, target):
        calls.append(1)
        if end != "whole" and len(calls) == 7:
            raise KeyboardInterrupt if end == "interrupted" else RuntimeError("boom")
        return mse(output, target)

    arguments = {"optimizer": optimizer, "num_it": 15, "start_lr": 1e-3, "stop_div": False}
    if end == "whole":
        assert len(lr_find(model, data, loss_fn, **arguments).losses) > 5
    else:
        error = KeyboardInterrupt if end == "interrupted" else RuntimeError
        with pytest.raises(error):
            lr_find(model, data, loss_fn, **arguments)
    same(everything(model, optimizer, own), before)
    assert optimizer.param_groups[0]["lr"] is tensor_lr


def test_stops_when_the_loss_diverges():
    result = lr_find(nn.Linear(1, 1), plain(), mse, start_lr=1e-4, end_lr=1e4)
    assert len(result.losses) < 100
    assert result.stopped
    assert np.isfinite(result.losses).all()


def test_negative_losses_do_not_stop_it():
    model = nn.Linear(1, 1)
    result = lr_find(model, plain(), lambda o, t: mse(o, t) - 1000, end_lr=1e-3, start_lr=1e-6)
    assert len(result.losses) == 100


def test_accumulated_batches_equal_a_large_one():
    def run(batch_size, accumulate):
        torch.manual_seed(0)
        return lr_find(
            nn.Linear(1, 1).double(), [(x.double(), y.double()) for x, y in plain(12, batch_size)],
            mse, start_lr=1e-4, end_lr=1e-2, num_it=9, accumulate=accumulate,
        )  # fmt: skip

    np.testing.assert_allclose(run(2, 3).losses, run(6, 1).losses, rtol=1e-12)


def test_a_range_per_group():
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    result = lr_find(
        model, plain(), mse, start_lr=[1e-9, 1e-8], end_lr=[1e-5, 1e-4], groups=list(model)
    )
    assert result.lrs.shape == (len(result.losses), 2)
    np.testing.assert_allclose(result.lrs[:, 1], 10 * result.lrs[:, 0])
    one, two = result.group_lrs("valley")
    assert two == pytest.approx(10 * one) == pytest.approx(result.suggestion["valley"])
    with pytest.raises(PhaseError, match="rule"):
        result.group_lrs("best")


def test_few_points():
    result = lr_find(nn.Linear(1, 1), plain(), mse, num_it=2)
    assert set(result.suggestion) <= {"valley", "steep", "minimum", "slide"}


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"num_it": 1}, PhaseError, "num_it"),
        ({"start_lr": 0.0}, PhaseError, "start_lr"),
        ({"mode": "log"}, PhaseError, "mode"),
        ({"accumulate": 0}, PhaseError, "accumulate"),
        ({"optimizer": 3}, TypeError, "optimizer"),
        ({"opt_fn": 3}, TypeError, "opt_fn"),
        ({"start_lr": 0.0, "mode": "linear"}, PhaseError, "`start_lr`.*must be > 0"),
        ({"start_lr": [1e-3, 1e-3], "end_lr": 1.0}, PhaseError, "names 2 parameter groups"),
        ({"data": None}, TypeError, "`data` must be a training loader"),
        ({"data": print}, TypeError, "`data` must be a training loader"),
    ],
)
def test_bad_arguments(arguments, error, match):
    with pytest.raises(error, match=match):
        lr_find(**{"model": nn.Linear(1, 1), "data": plain(), "loss_fn": mse} | arguments)


def test_one_optimizer_is_enough():
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(PhaseError, match="one of `optimizer` and `opt_fn`"):
        lr_find(model, plain(), mse, optimizer=optimizer, opt_fn=torch.optim.SGD)


def test_takes_so_many_batches_a_step():
    taken = []

    def loss_fn(output, target):
        taken.append(len(target))
        return mse(output, target)

    lr_find(nn.Linear(1, 1), plain(), loss_fn, num_it=7, accumulate=4, end_lr=1e-3, stop_div=False)
    assert len(taken) == 28


def test_a_loss_that_is_nan_at_once():
    model = nn.Linear(1, 1)
    before = copy.deepcopy(model.state_dict())
    result = lr_find(model, plain(), lambda o, t: mse(o, t) * float("nan"))
    assert (len(result.losses), result.suggestion) == (0, {})
    assert result.stopped == "the loss is nan"
    same(model.state_dict(), before)
    with pytest.raises(PhaseError, match="lrs"):
        result.plot()


def test_the_optimizer_of_ones_choice():
    made = []

    def opt_fn(params, lr):
        made.append(torch.optim.RMSprop(params, lr=lr))
        return made[-1]

    lr_find(nn.Linear(1, 1), plain(), mse, opt_fn=opt_fn, num_it=5, end_lr=1e-3)
    assert len(made) == 1
    assert made[0].state


def test_suggestions_for_each_group():
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    result = lr_find(
        model, plain(), mse, start_lr=[1e-6, 1e-4], end_lr=[1e-3, 1e-2], groups=list(model)
    )
    for rule, lr in result.suggestion.items():
        rates = result.group_lrs(rule)
        assert rates[1] == pytest.approx(lr)
        nearest = np.abs(result.lrs[:, 1] - lr).argmin()
        assert rates[0] / rates[1] == pytest.approx(result.lrs[nearest, 0] / result.lrs[nearest, 1])


@pytest.mark.parametrize("num_it", [2, 3, 5, 8, 9, 11])
@pytest.mark.parametrize("mode", ["exp", "linear"])
def test_short_tests_suggest_rates_of_their_range(num_it, mode):
    rates = {"start_lr": 1e-4, "end_lr": 1e-3}
    found = lr_find(
        nn.Linear(1, 1), plain(), mse, num_it=num_it, mode=mode, stop_div=False, **rates
    )
    assert len(found.losses) == num_it
    assert found.suggestion
    assert all(1e-5 <= lr <= 1e-3 for lr in found.suggestion.values())


def test_rates_that_stay_suggest_nothing():
    result = lr_find(nn.Linear(1, 1), plain(), mse, start_lr=1e-3, end_lr=1e-3, num_it=20)
    assert len(result.losses) == 20
    assert result.suggestion == {}


def test_a_samplers_epoch_is_put_back():
    data = torch.utils.data.TensorDataset(torch.arange(8.0).reshape(8, 1), torch.zeros(8, 1))
    sampler = torch.utils.data.DistributedSampler(data, num_replicas=2, rank=0)
    sampler.set_epoch(5)
    order = list(sampler)
    batches = torch.utils.data.DataLoader(data, batch_size=2, sampler=sampler)
    lr_find(nn.Linear(1, 1), batches, mse, num_it=7, stop_div=False)
    assert sampler.epoch == 5
    assert list(sampler) == order
