"""Recipes against the implementations that users know, step by step, run for real.

Where an implementation cannot be installed (fastai 0.7 and 2, REX), its rules are written out here.

Thirteen recipes, each beside the implementation that it is compared with.
"""

import inspect
import math

import numpy as np
import pytest
import torch
import transformers
from torch.optim import lr_scheduler

from pyphase import PhaseError, Plan, TrainingPhase, recipes
from pyphase.curves import Constant, Cosine, Linear, Table
from pyphase.recipes import (
    cyclical,
    flat_cosine,
    inverse_sqrt,
    lr_range_test,
    one_cycle,
    phases_1cycle,
    phases_sgdr,
    polynomial_decay,
    rex,
    step_decay,
    warmup_cosine,
    warmup_linear,
    wsd,
)

RTOL = 1e-12


def assert_same(ours, theirs, *, rtol=RTOL):
    """Compare to a relative error; a few ulp of the largest value where theirs cancels to 0."""
    theirs = np.asarray(theirs, dtype=np.float64)
    ours = np.asarray(ours).reshape(theirs.shape)
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=4e-16 * np.abs(theirs).max())


def train(make_scheduler, num_steps, lrs=(1.0,), optimizer=torch.optim.SGD):
    """Return what the optimizer trains each step with: rates and momenta, (steps, groups)."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs]
    extra = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    opt = optimizer(groups, lr=lrs[0], **extra)
    scheduler = make_scheduler(opt)
    rates, momenta = [], []
    for step in range(num_steps):
        rates.append([float(group["lr"]) for group in opt.param_groups])
        momenta.append([g["momentum"] if extra else g["betas"][0] for g in opt.param_groups])
        opt.step()
        if step < num_steps - 1:
            scheduler.step()
    return np.array(rates), np.array(momenta)


def table(phases, key="lr", *, past=0, steps_per_epoch=None):
    """Return the values of every step and of ``past`` steps after the end."""
    plan = Plan(phases, steps_per_epoch=steps_per_epoch)
    return plan.table(key, steps=np.arange(plan.total_steps + past))


# --- one_cycle ------------------------------------------------------------------------------------

ONE_CYCLES = [
    {"total_steps": 50},
    {"total_steps": 50, "anneal_strategy": "linear"},
    {"total_steps": 40, "pct_start": 0.25, "div_factor": 10.0, "final_div_factor": 3.0},
    {"total_steps": 100, "pct_start": 0.45, "three_phase": True},
    {"total_steps": 20, "pct_start": 0.5, "three_phase": True, "anneal_strategy": "linear"},
    {"total_steps": 1000, "pct_start": 0.01, "base_momentum": 0.6, "max_momentum": 0.99},
]


def closed(total_steps, pct_start=0.3, **arguments):
    """Return the arguments with which ours has the borders of torch's closed intervals.

    torch's warm-up covers the steps 0 .. pct * T - 1 and its run 0 .. T - 1, both ends included:
    pct * T - 1 of T - 1 intervals.
    """
    warmup = pct_start * total_steps
    assert warmup == round(warmup)
    share = (warmup - 1) / (total_steps - 1)
    return {"total_steps": total_steps - 1, "pct_start": share} | arguments


@pytest.mark.parametrize("arguments", ONE_CYCLES)
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_one_cycle_is_torchs_with_closed_intervals(arguments, optimizer):
    max_lr = [0.3, 2.0]
    rates, momenta = train(
        lambda opt: lr_scheduler.OneCycleLR(opt, max_lr, **arguments),
        arguments["total_steps"],
        lrs=max_lr,
        optimizer=optimizer,
    )
    phases = one_cycle(max_lr, **closed(**arguments))
    assert_same(table(phases, past=1), rates)
    assert_same(table(phases, "momentum", past=1), momenta)


def test_one_cycle_trains_its_last_step_short_of_the_end_and_torch_at_it():
    rates, _ = train(lambda opt: lr_scheduler.OneCycleLR(opt, 1.0, total_steps=10), 11)
    final = 1 / 25 / 1e4
    assert rates[9, 0] == pytest.approx(final, rel=1e-12)
    assert rates[10, 0] > 1e4 * final  # torch extrapolates
    ours = table(one_cycle(1.0, 10), past=3)[:, 0]
    assert ours[0] == 1 / 25
    assert ours[3] == 1.0
    assert ours[9] > 1e4 * final
    assert ours[10:].tolist() == [final] * 3  # pyphase holds
    with pytest.raises(ValueError, match="Tried to step 11 times"):
        train(lambda opt: lr_scheduler.OneCycleLR(opt, 1.0, total_steps=10), 12)


def test_one_cycle_leaves_the_momentum_alone():
    for three_phase in (False, True):
        phases = one_cycle(1.0, 50, cycle_momentum=False, three_phase=three_phase)
        assert all(phase.momentum is None for phase in phases)


def combined_cos(pct, start, middle, end, pos):
    """Two of fastai 2's SchedCos, joined as in its combine_scheds."""

    def sched_cos(start, end, pos):
        return start + (1 + math.cos(math.pi * (1 - pos))) * (end - start) / 2

    if pos < pct:
        return sched_cos(start, middle, pos / pct)
    return sched_cos(middle, end, (pos - pct) / (1 - pct))


@pytest.mark.parametrize(("epochs", "steps_per_epoch"), [(1, 8), (5, 20), (2.5, 40), (1, 4)])
def test_one_cycle_is_fastai_2s(epochs, steps_per_epoch):
    n = round(epochs * steps_per_epoch)
    expected = [combined_cos(0.25, 0.1 / 25, 0.1, 0.1 / 1e5, k / n) for k in range(n)]
    momenta = [combined_cos(0.25, 0.95, 0.85, 0.95, k / n) for k in range(n)]
    phases = one_cycle(0.1, epochs=epochs, pct_start=0.25, final_div_factor=1e5 / 25)
    assert_same(table(phases, steps_per_epoch=steps_per_epoch), expected)
    assert_same(table(phases, "momentum", steps_per_epoch=steps_per_epoch), momenta)


@pytest.mark.parametrize(("epochs", "steps_per_epoch"), [(1, 8), (5, 20), (0.5, 40)])
def test_flat_cosine_is_fastai_2s(epochs, steps_per_epoch):
    n = round(epochs * steps_per_epoch)
    expected = [combined_cos(0.75, 0.1, 0.1, 0.1 / 1e5, k / n) for k in range(n)]
    phases = flat_cosine(0.1, epochs=epochs)
    assert_same(table(phases, steps_per_epoch=steps_per_epoch), expected)


@pytest.mark.parametrize("pct_start", [0.0, 0.1, 0.3, 1 / 3, 0.77, 1.0])
@pytest.mark.parametrize("total", [1, 2, 7, 30, 100])
def test_a_total_in_steps_and_in_epochs_is_the_same_plan(total, pct_start):
    recipe = {"pct_start": pct_start, "anneal_strategy": "linear"}
    in_steps = Plan(one_cycle([0.1, 0.2], total, **recipe))
    assert in_steps.total_steps == total
    if 0 < pct_start < 1 and math.ceil(pct_start * total - 1e-6) == total:
        assert [phase.name for phase in in_steps.phases] == ["warm-up"]
        return  # in epochs, the phase with no step of its own is an error of the plan
    in_epochs = Plan(one_cycle([0.1, 0.2], epochs=total / 10, **recipe), steps_per_epoch=10)
    assert in_steps.spans == in_epochs.spans
    np.testing.assert_array_equal(in_steps.table("lr"), in_epochs.table("lr"))


# --- fastai 0.7 -----------------------------------------------------------------------------------


def fastai07(phases, batches_per_epoch):
    """Train by 0.7's rules: (rate, momentum) of each batch.

    Each phase is (epochs, rate, momentum); a value is (start, end, kind) or a number. The length n
    in batches is a float; the counter goes up before the value is computed, after each batch; the
    phase changes after the first batch at or past its cumulative length.
    """

    def at(value, counter, n):
        if not isinstance(value, tuple):
            return value
        start, end, kind = value
        if kind == "linear":
            return start + (end - start) * counter / n
        return end + (start - end) / 2 * (1 + np.cos(np.pi * counter / n))

    bounds = np.cumsum([epochs * batches_per_epoch for epochs, _, _ in phases])
    history, batch = [], 0
    for (epochs, rate, momentum), bound in zip(phases, bounds, strict=True):
        n, counter = epochs * batches_per_epoch, 0
        while True:
            history.append((at(rate, counter, n), at(momentum, counter, n)))
            counter, batch = counter + 1, batch + 1
            if batch >= bound:
                break
    return tuple(np.array(column) for column in zip(*history, strict=True))


@pytest.mark.parametrize(("cycle_len", "pct", "batches"), [(10, 10, 20), (4, 20, 50), (2.5, 60, 8)])
@pytest.mark.parametrize("lr", [0.4, [0.1, 0.2, 0.4]])
def test_phases_1cycle_is_fastai_07s(cycle_len, pct, batches, lr):
    div, high, low = 10, 0.95, 0.85
    peak = np.array(lr)
    tri = (1 - pct / 100) * cycle_len
    rates, momenta = fastai07(
        [
            (tri / 2, (peak / div, peak, "linear"), (high, low, "linear")),
            (tri / 2, (peak, peak / div, "linear"), (low, high, "linear")),
            (cycle_len - tri, (peak / div, peak / (100 * div), "linear"), high),
        ],
        batches,
    )
    phases = phases_1cycle(cycle_len, lr, div, pct, high, low)
    assert_same(table(phases, steps_per_epoch=batches), rates)
    ours = table(phases, "momentum", steps_per_epoch=batches)
    assert_same(ours, np.broadcast_to(momenta[:, None], ours.shape))


def test_a_border_is_not_put_off_by_a_rounding_error_as_in_07():
    tri = (1 - 20 / 100) * 3  # 2.4000000000000004
    rates, _ = fastai07([(tri / 2, 0, 0.9), (tri / 2, 1, 0.9), (3 - tri, 2, 0.9)], 50)
    assert np.bincount(rates).tolist() == [61, 60, 29]
    plan = Plan(phases_1cycle(3, 0.4, 10, 20, 0.95, 0.85), steps_per_epoch=50)
    assert plan.spans == ((0, 60), (60, 120), (120, 150))


@pytest.mark.parametrize(
    ("num_cycle", "cycle_len", "cycle_mult", "batches"),
    [(1, 1, 1, 1000), (1, 1, 1, 20), (3, 1, 2, 40), (4, 2, 1, 10), (2, 0.5, 3, 80)],
)
@pytest.mark.parametrize("lr", [0.4, [0.1, 0.2, 0.4]])
def test_phases_sgdr_is_fastai_07s(num_cycle, cycle_len, cycle_mult, batches, lr):
    peak = np.array(lr)
    zero = 0 * peak
    plain = [(cycle_len / 20, peak / 100, 0.9), (cycle_len * 19 / 20, (peak, zero, "cosine"), 0.9)]
    for i in range(1, num_cycle):
        plain.append((cycle_len * cycle_mult**i, (peak, zero, "cosine"), 0.9))
    rates, _ = fastai07(plain, batches)
    phases = phases_sgdr(lr, torch.optim.SGD, num_cycle, cycle_len, cycle_mult)
    assert len(phases) == num_cycle + 1
    assert all(phase.opt_fn is torch.optim.SGD for phase in phases)
    assert_same(table(phases, steps_per_epoch=batches), rates)


@pytest.mark.parametrize("batches", [7, 9, 33, 101])
def test_fractional_phases_have_07s_borders_and_the_fractions_of_their_whole_length(batches):
    cycle_len, lr, div, pct = 1, 1.0, 10, 37
    tri = (1 - pct / 100) * cycle_len
    lengths = [tri / 2, tri / 2, cycle_len - tri]
    marks, _ = fastai07([(length, i, 0.9) for i, length in enumerate(lengths)], batches)
    plan = Plan(phases_1cycle(cycle_len, lr, div, pct, 0.9, 0.9), steps_per_epoch=batches)
    assert [plan.phase_at(step) for step in range(plan.total_steps)] == marks.tolist()
    ends = [(lr / div, lr), (lr, lr / div), (lr / div, lr / div / 100)]
    for (begin, end), (first, last) in zip(plan.spans, ends, strict=True):
        expected = [first + (last - first) * k / (end - begin) for k in range(end - begin)]
        assert_same(plan.table("lr")[begin:end], expected)


@pytest.mark.parametrize(("pct", "names"), [(0, ["warm-up", "cool-down"]), (100, ["tail"])])
def test_phases_1cycle_leaves_empty_phases_out(pct, names):
    phases = phases_1cycle(1, 0.1, 10, pct, 0.95, 0.85)
    assert [phase.name for phase in phases] == names
    assert Plan(phases, steps_per_epoch=10).total_steps == 10
    assert all(phase.opt_fn is None for phase in phases)
    adam = phases_1cycle(1, 0.1, 10, pct, 0.95, 0.85, opt_fn=torch.optim.Adam)
    assert all(phase.opt_fn is torch.optim.Adam for phase in adam)


@pytest.mark.parametrize("cycle_mult", [1, 2, 3])
def test_phases_sgdr_after_the_first_cycle_is_torchs_warm_restarts(cycle_mult):
    cycles = phases_sgdr([0.5, 1.0], None, 4, 1, cycle_mult)[2:]
    ours = table(cycles, steps_per_epoch=10)
    rates, _ = train(
        lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(
            opt, T_0=10 * cycle_mult, T_mult=cycle_mult
        ),
        len(ours),
        lrs=(0.5, 1.0),
    )
    assert_same(ours, rates)


# --- transformers, and torch's schedulers without a warm-up ---------------------------------------

TOTAL, PAST = 60, 20


def hf(name, num_warmup_steps=0, num_training_steps=TOTAL, **arguments):
    return lambda opt: transformers.get_scheduler(
        name, opt, num_warmup_steps, num_training_steps, scheduler_specific_kwargs=arguments
    )


# recipe, implementation, and whether both hold the last value past the end
SAME = {
    "linear": (warmup_linear(1.0, 7, TOTAL), hf("linear", 7), True),
    "cosine": (warmup_cosine(1.0, 7, TOTAL), hf("cosine", 7), False),
    "cosine to min_lr": (
        warmup_cosine(1.0, 7, TOTAL, min_lr=0.1),
        hf("cosine_with_min_lr", 7, min_lr=0.1),
        False,
    ),
    "polynomial": (
        polynomial_decay(1.0, 7, TOTAL, power=2.5, lr_end=0.01),
        hf("polynomial", 7, power=2.5, lr_end=0.01),
        True,
    ),
    "polynomial, transformers' defaults": (
        polynomial_decay(1.0, 7, TOTAL, lr_end=1e-7),
        hf("polynomial", 7),
        True,
    ),
    "inverse_sqrt": (inverse_sqrt(1.0, 7, num_training_steps=TOTAL), hf("inverse_sqrt", 7), False),
    "inverse_sqrt, timescale": (
        inverse_sqrt(1.0, 7, num_training_steps=TOTAL, timescale=40),
        hf("inverse_sqrt", 7, timescale=40),
        False,
    ),
    "inverse_sqrt, no warm-up": (
        inverse_sqrt(1.0, 0, num_training_steps=TOTAL),
        hf("inverse_sqrt"),
        False,
    ),
    "LinearLR": (
        warmup_linear(1.0, 0, TOTAL, min_lr=0.2),
        lambda opt: lr_scheduler.LinearLR(opt, 1.0, 0.2, total_iters=TOTAL),
        True,
    ),
    "CosineAnnealingLR": (
        warmup_cosine(1.0, 0, TOTAL, min_lr=0.05),
        lambda opt: lr_scheduler.CosineAnnealingLR(opt, TOTAL, eta_min=0.05),
        False,
    ),
    "PolynomialLR": (
        polynomial_decay(1.0, 0, TOTAL, power=0.9),
        lambda opt: lr_scheduler.PolynomialLR(opt, TOTAL, power=0.9),
        True,
    ),
    "no warm-up": (warmup_cosine(1.0, 0, TOTAL), hf("cosine"), False),
    "only a warm-up": (warmup_linear(1.0, TOTAL, TOTAL), hf("linear", TOTAL), False),
    "one step": (warmup_cosine(1.0, 0, 1), hf("cosine", 0, 1), False),
    "WSD, by its length": (
        wsd(1.0, 7, 20, num_training_steps=TOTAL),
        hf("warmup_stable_decay", 7, num_decay_steps=20),
        True,
    ),
    "WSD, no decay": (
        wsd(1.0, 7, 0, num_training_steps=TOTAL),
        hf("warmup_stable_decay", 7, num_decay_steps=0),
        False,
    ),
    "WSD, no stable part": (
        wsd(1.0, 7, 53, num_training_steps=TOTAL, min_lr_ratio=0.1),
        hf("warmup_stable_decay", 7, num_decay_steps=53, min_lr_ratio=0.1),
        True,
    ),
}
for rise in ("linear", "cosine", "1-sqrt"):
    for fall in ("linear", "cosine", "1-sqrt"):
        types = {"warmup_type": rise, "decay_type": fall, "min_lr_ratio": 0.1}
        SAME[f"WSD, {rise} and {fall}"] = (
            wsd(1.0, 7, 20, num_stable_steps=33, **types),
            lambda opt, types=types: transformers.get_wsd_schedule(
                opt, 7, 20, num_stable_steps=33, **types
            ),
            True,
        )


@pytest.mark.parametrize("name", SAME)
def test_half_open_schedules_are_the_same_step_by_step(name):
    phases, make_scheduler, holds = SAME[name]
    ours = table(phases, past=PAST)
    rates, _ = train(make_scheduler, len(ours))
    total = len(ours) - PAST
    assert_same(ours[:total], rates[:total])
    assert (ours[total:] == ours[total]).all()
    if holds:
        assert_same(ours, rates)
    else:
        assert abs(rates[-1, 0] - ours[-1, 0]) > 1e-6


def test_rates_of_groups_scale_as_lambda_lr_scales_them():
    lrs = [1e-4, 0.03, 2.0]
    rates, _ = train(hf("cosine", 9, 40), 40, lrs=lrs)
    assert_same(table(warmup_cosine(lrs, 9, 40)), rates)
    assert_same(table(warmup_cosine(np.array(lrs), 9, 40)), rates)
    assert_same(table(warmup_cosine(torch.tensor(lrs, dtype=torch.float64), 9, 40)), rates)
    minima = [1e-5, 0.0, 2.0]
    last = table(warmup_linear(lrs, 0, 10, min_lr=minima), past=1)[-1]
    assert last.tolist() == minima


def test_wsd_decays_exponentially():
    ours = table(wsd(2.0, 0, 4, num_stable_steps=1, decay_type="exponential", min_lr_ratio=0.0625))
    assert_same(ours, [2.0, 2.0, 1.0, 0.5, 0.25])


# --- step_decay -----------------------------------------------------------------------------------


@pytest.mark.parametrize("step_size", [1, 7, 20, 50, 51])
def test_step_decay_is_torchs_step_lr(step_size):
    rates, _ = train(lambda opt: lr_scheduler.StepLR(opt, step_size, gamma=0.5), 50, lrs=(1.0, 3.0))
    assert_same(
        table(step_decay([1.0, 3.0], step_size=step_size, gamma=0.5, total_steps=50)), rates
    )


def test_step_decay_is_torchs_multi_step_lr():
    milestones = [1, 20, 49]
    rates, _ = train(lambda opt: lr_scheduler.MultiStepLR(opt, milestones), 60)
    ours = table(step_decay(1.0, milestones=milestones, total_steps=50), past=10)
    assert_same(ours, rates)


def test_step_decay_counts_in_epochs_where_the_length_does():
    rates, _ = train(lambda opt: lr_scheduler.StepLR(opt, 2), 5)
    phases = step_decay(1.0, step_size=2, epochs=5)
    assert_same(table(phases, steps_per_epoch=3), np.repeat(rates, 3, axis=0))
    fractions = step_decay(1.0, milestones=[0.1, 0.2, 0.3], epochs=0.4)
    assert Plan(fractions, steps_per_epoch=10).spans == ((0, 1), (1, 2), (2, 3), (3, 4))


@pytest.mark.parametrize("parts", [1, 3, 7, 10])
def test_step_decay_makes_no_sliver_of_a_rounding_error(parts):
    assert len(step_decay(1.0, step_size=0.1, epochs=parts * 0.1)) == parts


# --- cyclical -------------------------------------------------------------------------------------

CYCLES = [
    {"step_size_up": 5},
    {"step_size_up": 4, "step_size_down": 9},
    {"step_size_up": 1, "step_size_down": 1},
    {"step_size_up": 40},
    {"step_size_up": 3, "step_size_down": 1, "base_momentum": 0.5, "max_momentum": 0.99},
]
MODES = {"triangular": 1.0, "triangular2": 1.0, "exp_range": 0.97}


@pytest.mark.parametrize("total_steps", [1, 27, 60])
@pytest.mark.parametrize("sizes", CYCLES)
@pytest.mark.parametrize("mode", MODES)
def test_cyclical_is_torchs(mode, sizes, total_steps):
    one_value = mode == "exp_range"
    lrs = {"base_lr": 0.1, "max_lr": 0.9} if one_value else {"base_lr": [0.1, 1], "max_lr": [2, 3]}
    arguments = lrs | sizes | {"mode": mode, "gamma": MODES[mode]}
    rates, momenta = train(
        lambda opt: lr_scheduler.CyclicLR(opt, **arguments),
        total_steps,
        lrs=[1.0] if one_value else [1.0, 1.0],
    )
    phases = cyclical(**arguments, total_steps=total_steps)
    assert_same(table(phases), rates)
    # momenta that are the same for all groups are one column
    assert_same(table(phases, "momentum") + 0 * rates, momenta)


def test_cyclical_exp_range_holds_the_value_of_every_step():
    phases = cyclical(0.1, 0.9, total_steps=10**5, step_size_up=777, mode="exp_range", gamma=0.9999)
    assert all(isinstance(phase.lr, Table) for phase in phases)
    t = np.arange(10**5)
    within = t % (2 * 777)
    height = np.minimum(within, 2 * 777 - within) / 777
    assert_same(table(phases)[:, 0], 0.1 + 0.8 * height * 0.9999**t, rtol=1e-14)


def test_cyclical_leaves_the_momentum_alone():
    phases = cyclical(0.1, 1.0, total_steps=5, step_size_up=2, cycle_momentum=False)
    assert [phase.name for phase in phases] == ["up 0", "down 0", "up 1"]
    assert all(phase.momentum is None for phase in phases)


# --- rex, lr_range_test ---------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 30])
def test_rex_is_the_papers_profile(n):
    progress = np.arange(n) / n
    ours = table(rex(0.1, n), past=2)[:, 0]
    assert_same(ours[:n], 0.1 * (1 - progress) / (0.5 + 0.5 * (1 - progress)))
    assert ours[n:].tolist() == [0.0, 0.0]
    z = 1 - progress
    ours = table(rex([0.1, 1.0], epochs=n, min_lr=0.01, beta=0.9), steps_per_epoch=1)
    assert_same(ours[:, 0], 0.01 + 0.09 * z / (0.1 + 0.9 * z))  # axolotl's


@pytest.mark.parametrize("num_iter", [1, 2, 100])
def test_lr_range_test_is_fastai_2s(num_iter):
    pos = np.arange(num_iter) / num_iter
    assert_same(table(lr_range_test(num_iter=num_iter)), 1e-7 * (10 / 1e-7) ** pos)
    ours = table(lr_range_test([1e-7, 1e-5], [1.0, 10.0], num_iter, mode="linear"))
    assert_same(ours[:, 1], 1e-5 + (10 - 1e-5) * pos)


def test_lr_range_test_holds_pytorch_lr_finders_closed_run():
    r = np.arange(50) / 49
    assert_same(table(lr_range_test(1e-6, 1.0, 49), past=1), 1e-6 * (1.0 / 1e-6) ** r)


# --- phases ---------------------------------------------------------------------------------------

NAMES = {
    "one_cycle": (one_cycle(1.0, 10), ["warm-up", "cool-down"]),
    "three phases": (
        one_cycle(1.0, 10, three_phase=True),
        ["warm-up", "cool-down", "annihilation"],
    ),
    "three phases, no third": (
        one_cycle(1.0, 10, three_phase=True, pct_start=0.5),
        ["warm-up", "cool-down"],
    ),
    "no warm-up": (one_cycle(1.0, 10, pct_start=0), ["cool-down"]),
    "only a warm-up": (one_cycle(1.0, epochs=1, pct_start=1), ["warm-up"]),
    "three phases, no warm-up": (
        one_cycle(1.0, 10, three_phase=True, pct_start=0),
        ["annihilation"],
    ),
    "one step": (one_cycle(1.0, 1), ["warm-up"]),
    "warmup_cosine": (warmup_cosine(1.0, 1, 5), ["warm-up", "cosine"]),
    "warmup_linear": (warmup_linear(1.0, 0, 5), ["linear"]),
    "polynomial_decay": (polynomial_decay(1.0, 1, 5), ["warm-up", "polynomial"]),
    "inverse_sqrt": (inverse_sqrt(1.0, 1, num_training_steps=5), ["warm-up", "inverse sqrt"]),
    "wsd": (wsd(1.0, 1, 1, num_training_steps=3), ["warm-up", "stable", "decay"]),
    "wsd, no stable part": (wsd(1.0, 1, 2, num_training_steps=3), ["warm-up", "decay"]),
    "wsd, constant with a warm-up": (wsd(1.0, 1, 0, num_stable_steps=2), ["warm-up", "stable"]),
    "flat_cosine": (flat_cosine(1.0, 8), ["flat", "cosine"]),
    "flat_cosine, never flat": (flat_cosine(1.0, 8, pct_start=0.0), ["cosine"]),
    "rex": (rex(1.0, epochs=1.5), ["rex"]),
    "step_decay": (step_decay(1.0, step_size=2, total_steps=5), ["stage 0", "stage 1", "stage 2"]),
    "lr_range_test": (lr_range_test(), ["range test"]),
    "phases_sgdr": (phases_sgdr(1.0, None, 2, 1, 1), ["warm-up", "cycle 0", "cycle 1"]),
}


@pytest.mark.parametrize("name", NAMES)
def test_phases_have_names_and_none_is_empty(name):
    phases, names = NAMES[name]
    assert [phase.name for phase in phases] == names
    assert all(type(phase) is TrainingPhase for phase in phases)
    plan = Plan(phases, steps_per_epoch=20)
    assert all(begin < end for begin, end in plan.spans)


def test_every_recipe_hands_its_optimizer_to_every_phase():
    for name in recipes.__all__:
        assert "opt_fn" in inspect.signature(getattr(recipes, name)).parameters
    lists = [
        one_cycle(1.0, 10, opt_fn=torch.optim.Adam),
        wsd(1.0, 1, 1, num_stable_steps=1, opt_fn=torch.optim.Adam),
        step_decay(1.0, step_size=1, total_steps=3, opt_fn=torch.optim.Adam),
        cyclical(0.1, 1.0, total_steps=3, opt_fn=torch.optim.Adam),
    ]
    assert all(phase.opt_fn is torch.optim.Adam for phases in lists for phase in phases)


def test_discriminative_rates_keep_their_ratios():
    lr = [1e-3, 1e-2, 1e-1]
    runs = [
        table(one_cycle(lr, 40)),
        table(phases_1cycle(1, lr, 10, 10, 0.95, 0.85), steps_per_epoch=40),
        table(phases_sgdr(lr, None, 2, 1, 2), steps_per_epoch=20),
        table(flat_cosine(lr, 40)),
        table(step_decay(lr, step_size=10, total_steps=40)),
        table(inverse_sqrt(lr, 5, num_training_steps=40)),
    ]
    for run in runs:
        assert run.shape[1] == 3
        assert_same(run[:, 0] * 100, run[:, 2])
        assert_same(run[:, 1] * 10, run[:, 2])


def test_momenta_may_differ_between_groups():
    phases = one_cycle([0.1, 0.2], 10, pct_start=0.5, base_momentum=[0.8, 0.7])
    assert table(phases, "momentum")[5].tolist() == [0.8, 0.7]


def test_recipes_are_lists_to_work_with():
    phases = warmup_linear(0.1, 2, 4) + wsd(0.1, 0, 2, num_stable_steps=3)
    assert Plan(phases).total_steps == 9
    assert phases[0].lr == Linear(0.0, 0.1)
    assert phases[2].lr == Constant(0.1)
    assert phases[3].lr == Cosine(0.1, 0.0)
    plan = Plan(phases)
    assert Plan.from_json(plan.to_json()).digest == plan.digest


# --- errors ---------------------------------------------------------------------------------------

GOOD = {
    "phases_sgdr": {"lr": 0.1, "opt_fn": None, "num_cycle": 2, "cycle_len": 1, "cycle_mult": 2},
    "phases_1cycle": {
        "cycle_len": 1,
        "lr": 0.1,
        "div": 10,
        "pct": 10,
        "max_mom": 0.95,
        "min_mom": 0.85,
    },
    "one_cycle": {"max_lr": 0.1, "total_steps": 10},
    "warmup_cosine": {"lr": 0.1, "num_warmup_steps": 2, "num_training_steps": 9},
    "warmup_linear": {"lr": 0.1, "num_warmup_steps": 2, "num_training_steps": 9},
    "polynomial_decay": {"lr": 0.1, "num_warmup_steps": 2, "num_training_steps": 9},
    "inverse_sqrt": {"lr": 0.1, "num_warmup_steps": 2, "num_training_steps": 9},
    "wsd": {"lr": 0.1, "num_warmup_steps": 2, "num_decay_steps": 2, "num_training_steps": 9},
    "flat_cosine": {"lr": 0.1, "total_steps": 10},
    "rex": {"lr": 0.1, "total_steps": 10},
    "step_decay": {"lr": 0.1, "step_size": 3, "total_steps": 10},
    "cyclical": {"base_lr": 0.1, "max_lr": 0.9, "total_steps": 10, "step_size_up": 3},
    "lr_range_test": {"start_lr": 0.1, "end_lr": 0.9, "num_iter": 10},
}

WRONG = [
    ("phases_sgdr", {"num_cycle": 0}, r"`num_cycle` \(=0\) must be >= 1"),
    ("phases_sgdr", {"num_cycle": 100_001}, r"`num_cycle` \(=100001\) must be <= 100000"),
    ("phases_sgdr", {"cycle_len": 0}, r"`cycle_len` \(=0\) must be > 0"),
    ("phases_sgdr", {"cycle_mult": -1}, r"`cycle_mult` \(=-1\) must be > 0"),
    ("phases_sgdr", {"cycle_mult": 1e200, "num_cycle": 9}, r"`cycle_mult` \(=1e\+200\).*finite"),
    ("phases_sgdr", {"cycle_mult": 1e-200, "num_cycle": 9}, r"cycle 2 .* length of 0"),
    ("phases_sgdr", {"lr": -0.1}, r"`lr` \(=-0.1\) must be >= 0"),
    ("phases_1cycle", {"pct": 101}, r"`pct` \(=101\) must be in \[0, 100\]"),
    ("phases_1cycle", {"div": 0}, r"`div` \(=0\) must be > 0"),
    ("phases_1cycle", {"max_mom": 1.0}, r"`max_mom` \(=1.0\) must be in \[0, 1\)"),
    ("phases_1cycle", {"min_mom": [0.8, -1]}, r"`min_mom` \(=-1.0\) must be in \[0, 1\)"),
    (
        "phases_1cycle",
        {"lr": [0.1, 0.2], "min_mom": [0.8] * 3},
        "`lr` names 2, `max_mom` names 1, `min_mom` names 3",
    ),
    ("phases_1cycle", {"cycle_len": 5e-324}, "length > 0"),
    ("one_cycle", {"total_steps": None}, r"give one of `total_steps` \(=None\) and `epochs`"),
    ("one_cycle", {"epochs": 1}, r"give one of `total_steps` \(=10\) and `epochs` \(=1\)"),
    ("one_cycle", {"total_steps": 0}, r"`total_steps` \(=0\) must be >= 1"),
    ("one_cycle", {"pct_start": 1.5}, r"`pct_start` \(=1.5\) must be in \[0, 1\]"),
    ("one_cycle", {"pct_start": 0.6, "three_phase": True}, r"`pct_start` \(=0.6\) must be <= 0.5"),
    ("one_cycle", {"anneal_strategy": "cosine"}, r"`anneal_strategy` \(='cosine'\) .*'cos'"),
    ("one_cycle", {"max_lr": 1e308, "div_factor": 1e-9}, r"`max_lr` \(=1e\+308\), `div_factor`"),
    ("one_cycle", {"max_lr": math.nan}, r"`max_lr` \(=nan\) must be finite"),
    ("one_cycle", {"max_lr": []}, r"`max_lr` \(=\[\]\) must not be empty"),
    ("one_cycle", {"base_momentum": 1}, r"`base_momentum` \(=1.0\) must be in \[0, 1\)"),
    ("one_cycle", {"final_div_factor": 0}, r"`final_div_factor` \(=0\) must be > 0"),
    ("warmup_cosine", {"num_warmup_steps": 10}, r"`num_warmup_steps` \(=10\) must be <= .*\(=9\)"),
    ("warmup_cosine", {"num_warmup_steps": -1}, r"`num_warmup_steps` \(=-1\) must be >= 0"),
    ("warmup_cosine", {"num_training_steps": 2**53}, r"`num_training_steps` .* < 2\*\*53"),
    ("warmup_cosine", {"min_lr": 0.2}, r"`min_lr` \(=0.2\) must be <= `lr` \(=0.1\)"),
    ("warmup_linear", {"min_lr": [0, 0.2]}, r"`min_lr` \(=\(0.0, 0.2\)\) must be <= `lr`"),
    (
        "warmup_linear",
        {"lr": [1, 1, 1], "min_lr": [0, 0.2]},
        "`min_lr` names 2, `lr` names 3",
    ),
    ("polynomial_decay", {"power": 0}, r"`power` \(=0\) must be > 0"),
    ("polynomial_decay", {"lr_end": 1}, r"`lr_end` \(=1.0\) must be <= `lr` \(=0.1\)"),
    ("inverse_sqrt", {"lr": 0}, r"`lr` \(=0\) must be > 0"),
    ("inverse_sqrt", {"timescale": 0}, r"`timescale` \(=0\) must be >= 1"),
    ("inverse_sqrt", {"lr": 5e-324}, r"`lr`: InverseSqrt"),
    ("wsd", {"num_stable_steps": 3}, r"give one of `num_training_steps` \(=9\) and"),
    ("wsd", {"num_training_steps": None}, r"give one of `num_training_steps` \(=None\) and"),
    ("wsd", {"num_decay_steps": 8}, r"`num_decay_steps` \(=8\) must be <= .*\(=9\)"),
    ("wsd", {"decay_type": "sqrt"}, r"`decay_type` \(='sqrt'\) must be one of"),
    ("wsd", {"warmup_type": "exponential"}, r"`warmup_type` \(='exponential'\) must be one of"),
    ("wsd", {"decay_type": "exponential"}, r"`min_lr_ratio` \(=0\) must be > 0"),
    ("wsd", {"min_lr_ratio": 1.1}, r"`min_lr_ratio` \(=1.1\) must be in \[0, 1\]"),
    (
        "wsd",
        {
            "num_warmup_steps": 0,
            "num_decay_steps": 0,
            "num_training_steps": None,
            "num_stable_steps": 0,
        },
        "`num_stable_steps`.* > 0",
    ),
    ("flat_cosine", {"pct_start": -0.1}, r"`pct_start` \(=-0.1\) must be in \[0, 1\]"),
    ("flat_cosine", {"div_final": -1}, r"`div_final` \(=-1\) must be > 0"),
    ("flat_cosine", {"epochs": 2}, "give one of"),
    ("rex", {"beta": 1}, r"`beta` \(=1\) must be in \[0, 1\)"),
    ("rex", {"min_lr": 1}, r"`min_lr` \(=1.0\) must be <= `lr`"),
    ("rex", {"total_steps": None, "epochs": math.inf}, r"`epochs` \(=inf\) must be finite"),
    ("step_decay", {"step_size": None}, r"give one of `step_size` \(=None\) and `milestones`"),
    ("step_decay", {"milestones": [1]}, r"give one of `step_size` \(=3\) and `milestones`"),
    ("step_decay", {"step_size": 0}, r"`step_size` \(=0\) must be >= 1"),
    ("step_decay", {"total_steps": 10**9}, r"`step_size` \(=3\) is too short for `total_steps`"),
    ("step_decay", {"step_size": None, "milestones": [3, 3]}, r"`milestones` .* must increase"),
    (
        "step_decay",
        {"step_size": None, "milestones": [3, 10]},
        r"`milestones` .* must .* be < `total_steps` \(=10\)",
    ),
    (
        "step_decay",
        {"step_size": None, "milestones": [0]},
        r"`milestones\[0\]` \(=0\) must be >= 1",
    ),
    ("step_decay", {"gamma": -1}, r"`gamma` \(=-1\) must be >= 0"),
    ("step_decay", {"gamma": 1e200, "step_size": 1}, r"`gamma` \(=1e\+200\).*finite"),
    ("cyclical", {"base_lr": 1}, r"`base_lr` \(=1.0\) must be <= `max_lr` \(=0.9\)"),
    ("cyclical", {"mode": "triangle"}, r"`mode` \(='triangle'\) must be one of"),
    ("cyclical", {"gamma": 0.9}, r"`gamma` \(=0.9\) is for the mode 'exp_range'"),
    ("cyclical", {"gamma": 1.1, "mode": "exp_range"}, r"`gamma` \(=1.1\) must be in \[0, 1\]"),
    ("cyclical", {"step_size_down": 0}, r"`step_size_down` \(=0\) must be >= 1"),
    ("cyclical", {"total_steps": 10**9}, r"`total_steps` \(=1000000000\): more than 100000"),
    (
        "cyclical",
        {"total_steps": 10**8, "step_size_up": 10**7, "mode": "exp_range"},
        r"`total_steps` \(=100000000\) must be <= 10000000",
    ),
    (
        "cyclical",
        {"max_lr": [1, 2], "mode": "exp_range"},
        r"`max_lr` \(=\[1.0, 2.0\]\) must be one number",
    ),
    (
        "cyclical",
        {"max_lr": [1, 2], "base_momentum": [0.1] * 3},
        "`max_lr` names 2, `base_momentum` names 3",
    ),
    ("lr_range_test", {"start_lr": 1}, r"`start_lr` \(=1.0\) must be <= `end_lr` \(=0.9\)"),
    ("lr_range_test", {"start_lr": 0}, r"`start_lr` \(=0\) must be > 0"),
    ("lr_range_test", {"mode": "cos"}, r"`mode` \(='cos'\) must be one of"),
    (
        "lr_range_test",
        {"start_lr": 1e-300, "end_lr": 1e300},
        "`start_lr`, `end_lr`: Exponential .* finite",
    ),
]


@pytest.mark.parametrize(("name", "arguments", "words"), WRONG)
def test_wrong_values_say_which(name, arguments, words):
    with pytest.raises(PhaseError, match=words):
        getattr(recipes, name)(**GOOD[name] | arguments)


FLAGS = ("cycle_momentum", "three_phase")
WORDS = ("anneal_strategy", "mode", "warmup_type", "decay_type")
JUNK = [
    object(),
    "x",
    b"x",
    1j,
    {},
    [[0.1]],
    [None],
    ["x"],
    np.ones((2, 2)),
    np.array([1j]),
    np.array(["x"]),
    np.complex128(1),
    torch.optim.SGD,
    range(3),
]


@pytest.mark.parametrize("name", GOOD)
def test_wrong_types_say_which(name):
    recipe = getattr(recipes, name)
    for argument in inspect.signature(recipe).parameters:
        wrong = [*JUNK, True] if argument not in FLAGS else [*JUNK, None, 1, np.True_]
        if argument == "opt_fn":
            wrong = ["SGD", torch.nn.Linear, 1, torch.optim.SGD([torch.zeros(1)])]
        for value in wrong:
            if argument in WORDS and isinstance(value, str):
                continue  # a wrong word is a wrong value
            twin = {"epochs": "total_steps", "milestones": "step_size"}.get(argument)
            twin = "num_training_steps" if argument == "num_stable_steps" else twin
            call = GOOD[name] | ({twin: None} if twin else {}) | {argument: value}
            with pytest.raises(TypeError, match=rf"`{argument}(\[\d+\])?`"):
                recipe(**call)


ODD = [
    *JUNK,
    *[None, True, math.nan, math.inf, -math.inf, -1, 0, 0.0, 1, 0.5, 5e-324, 1.7e308],
    *[10**400, -(10**400), 2**53, 2**53 - 1, [], (), (0.1, 0.2), [0.1, 0.2], np.zeros(0)],
    *[np.float32(1), np.int64(2), np.datetime64("2020-01-01"), np.timedelta64(1, "D")],
    *[np.array(0.5), torch.tensor(0.5), torch.tensor([0.1, 0.2]), torch.tensor(1j), iter([1])],
]


@pytest.mark.parametrize("name", GOOD)
def test_nothing_but_phases_or_the_two_errors_comes_out(name):
    recipe = getattr(recipes, name)
    for argument in inspect.signature(recipe).parameters:
        for value in ODD:
            try:
                phases = recipe(**GOOD[name] | {argument: value})
            except (PhaseError, TypeError) as error:
                assert "`" in str(error) or "length" in str(error)  # noqa: PT017
            else:
                assert phases
                assert all(type(phase) is TrainingPhase for phase in phases)


@pytest.mark.parametrize("name", GOOD)
def test_a_tuple_is_no_rate(name):
    rate = next(argument for argument in GOOD[name] if "lr" in argument)
    with pytest.raises(TypeError, match=rf"`{rate}` must be .*a tuple means \(start, end\)"):
        getattr(recipes, name)(**GOOD[name] | {rate: (0.1, 0.2)})
