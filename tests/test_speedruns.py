"""Two speed-runs as phases, held at every step against the formulas of their own code."""

import itertools
import math

import numpy as np
import pytest
import torch
from digits import accuracy_of, loader, loss_of
from scripts import load
from torch import nn

from pyphase import PhaseLoop, Plan


@pytest.fixture(scope="module")
def runs():
    return load("bench/speedruns.py")


def close(found, expected):
    np.testing.assert_allclose(np.squeeze(found), expected, rtol=1e-12, atol=1e-15)


# --- airbench -------------------------------------------------------------------------------------

LONGER = 1 + 1 / (1 - 0.85)
RATE = 11.5 / 1024 / LONGER


def airbench_factor(step, total):
    up = int(total * 0.23)
    if step < up:
        return 0.2 + 0.8 * step / up
    return 1 - 0.93 * (step - up) / (total - up)


def test_airbench94(runs):
    lookahead, frozen = runs.Setting("lookahead"), []
    plan = Plan(runs.airbench94(48, lookahead, frozen.append))
    total = math.ceil(48 * 9.9)
    assert plan.total_steps == total == 476
    factors = np.array([airbench_factor(step, total) for step in range(total)])
    close(plan.table("lr"), factors[:, None] * [64 * RATE, RATE])
    close(plan.table(lookahead)[:, 0], [0.95**5 * (step / total) ** 3 for step in range(total)])
    decay = 0.0153 / LONGER
    close(plan.table("weight_decay"), [[decay / (64 * RATE), decay / RATE]] * total)
    assert set(plan.table("momentum").flat) == {0.85}
    starts = [begin for phase, (begin, _) in zip(plan.phases, plan.spans, strict=True)
              if phase.on_enter is not None]  # fmt: skip
    assert starts == [3 * 48]


def test_airbench94_muon_has_a_horizon_per_group(runs):
    plan = Plan(runs.airbench94_muon())
    steps = np.arange(plan.total_steps)
    assert len(steps) == 8 * 25
    factors = [np.maximum(1 - steps / horizon, 0) for horizon in (75, 200, 200, 200)]
    close(plan.table("lr"), np.stack(factors, 1) * [0.053, 0.053, 0.67, 0.24])


def test_airbench94_trains(runs):
    """The loop on real digits: each step sees its values; the first layer's bias is frozen."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48), nn.BatchNorm1d(48), nn.GELU(), nn.Linear(48, 10))
    averaged = {name: value.clone() for name, value in model.state_dict().items()}
    lookahead = runs.Setting("lookahead")
    others = [model[0].weight, model[0].bias, model[1].weight, *model[3].parameters()]
    phases = runs.airbench94(8, lookahead, lambda run: model[0].bias.requires_grad_(False))
    loop = PhaseLoop(model, phases, loader(), groups=[[model[1].bias], others])
    biases = []
    for step, batch in enumerate(loop):
        total = loop.plan.total_steps
        factor = airbench_factor(step, total)
        close([g["lr"] for g in loop.optimizer.param_groups], [64 * RATE * factor, RATE * factor])
        close(lookahead.value, 0.95**5 * (step / total) ** 3)
        loss = loss_of(model, batch) * len(batch[0])  # a sum, as its rates are per example
        loss.backward()
        loop.step(loss)
        biases.append(model[0].bias.detach().clone())
        if loop.position % 5 == 0:
            for name, value in model.state_dict().items():
                if value.is_floating_point():
                    value.copy_(averaged[name].lerp_(value, 1 - lookahead.value))
    assert len(biases) == total == 80
    assert not torch.equal(biases[22], biases[23])
    assert accuracy_of(model) > 0.8


# --- modded-nanogpt -------------------------------------------------------------------------------


def nanogpt(step, stages, cooldown, floor, warmup):
    """Return a step's values as the run's code computes them, stage by stage."""
    edges = list(itertools.accumulate((s.steps for s in stages), initial=0))
    index = next(i for i in range(len(stages)) if step < edges[i + 1])
    stage, through = stages[index], (step - edges[index]) / stages[index].steps
    scheduled, total = edges[-2], edges[-1]
    lr, begin = stage.lr_mul, int(scheduled * (1 - cooldown))
    if step >= begin:
        t = min(1.0, (step - begin) / (scheduled - begin))
        lr = (1 - t) * lr + t * floor
    momentum = 0.95
    if step < warmup:
        momentum = 0.85 + 0.1 * step / warmup
    elif step > total - 50:
        momentum = 0.95 - 0.1 * (step - (total - 50)) / 50
    count = len(stage.prefix)
    return {
        "lr": lr,
        "batch": stage.batch,
        "sequence": stage.sequence,
        "short": stage.windows[0],
        "long": stage.windows[1],
        "ahead_2": stage.ahead[0][0] + (stage.ahead[0][1] - stage.ahead[0][0]) * through,
        "ahead_3": stage.ahead[1][0] + (stage.ahead[1][1] - stage.ahead[1][0]) * through,
        "prefix": stage.prefix[min(count - 1, int(through * count))],
        "muon_momentum": momentum,
    }


@pytest.mark.parametrize(
    ("name", "total", "arguments"),
    [
        ("RECORD", 1300, {"cooldown": 0.6, "floor": 0.15, "warmup": 300}),
        ("TAPER", 1194, {"cooldown": 0.8, "floor": 0.3, "warmup": 240}),
    ],
)
def test_modded_nanogpt(runs, name, total, arguments):
    stages = getattr(runs, name)
    settings = {setting: runs.Setting(setting) for setting in runs.NAMES}
    lrs = [0.023, 0.008, 0.6, 8e-5]
    plan = Plan(runs.modded_nanogpt(stages, settings, lrs=lrs, **arguments))
    assert plan.total_steps == total
    expected = [nanogpt(step, stages, **arguments) for step in range(total)]
    close(plan.table("lr"), np.array([row["lr"] for row in expected])[:, None] * lrs)
    for key, setting in settings.items():
        close(plan.table(setting)[:, 0], [row[key] for row in expected])
    borders = [begin for begin, _ in plan.spans]
    assert set(itertools.accumulate(s.steps for s in stages[:-1])) <= set(borders)


def test_the_stages_are_those_of_the_runs(runs):
    """Thirds of 1285 steps and 15 more; the variant's shares of 1122, with 52 more in its third."""
    edges = [round(1285 * part / 3) for part in range(4)]
    assert [s.steps for s in runs.RECORD] == [*np.diff(edges), 15]
    shares = np.array([0.2854, 0.3209, 0.3931]) / (0.2854 + 0.3209 + 0.3931)
    shares = [shares[0], shares[1], shares[2] - 0.06, 0.06]
    edges = [round(share * 1122) for share in np.cumsum([0, *shares])]
    lengths = np.add(np.diff(edges), [0, 0, 52, 0])
    assert [s.steps for s in runs.TAPER] == [*lengths, 20]
    assert runs.TAPER[3].lr_mul == 1.73 * math.sqrt(20 / 24)


def test_the_command_prints_the_plans(runs, capsys):
    runs.main()
    assert capsys.readouterr().out.count("Plan:") == 4
