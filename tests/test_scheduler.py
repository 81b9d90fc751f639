"""PhaseScheduler in a hand-written loop.

One behaviour a test; they share the small optimizers at the top.
"""

import copy
import functools
import io
import pickle

import pytest
import torch
from torch.optim.lr_scheduler import LRScheduler

from pyphase import DecayType, Linear, PhaseError, PhaseScheduler, Plan, TrainingPhase, one_cycle

COSINE, LINEAR = DecayType.COSINE, DecayType.LINEAR


def make(groups=1, make_optimizer=torch.optim.SGD, **arguments):
    params = [torch.nn.Parameter(torch.full((2,), 1.0 + g)) for g in range(groups)]
    return make_optimizer([{"params": [p]} for p in params], lr=0.5, **arguments)


def phases():
    return [
        TrainingPhase(steps=3, lr=(0.1, 1.0), lr_decay=LINEAR, momentum=(0.9, 0.8),
                      momentum_decay=LINEAR),
        TrainingPhase(steps=4, lr=1.0, lr_decay=COSINE, momentum=0.85, wds=0.1),
    ]  # fmt: skip


def train(optimizer, scheduler, steps):
    """Take steps whose gradient depends on the parameters; return the values of each."""
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        sum(p.square().sum() for g in optimizer.param_groups for p in g["params"]).backward()
        seen.append([{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return seen


def weights(optimizer):
    return [p.detach().clone() for g in optimizer.param_groups for p in g["params"]]


def test_is_a_scheduler_of_torch():
    optimizer = make(momentum=0.9)
    scheduler = PhaseScheduler(optimizer, phases())
    assert isinstance(scheduler, LRScheduler)
    assert scheduler.optimizer is optimizer
    assert (scheduler.total_steps, scheduler.last_epoch, scheduler._step_count) == (7, 0, 1)


@pytest.mark.parametrize(
    ("make_optimizer", "read"),
    [
        (functools.partial(torch.optim.SGD, momentum=0.3), lambda g: g["momentum"]),
        (torch.optim.AdamW, lambda g: g["betas"][0]),
        (torch.optim.RMSprop, lambda g: g["momentum"]),
    ],
)
def test_values_are_the_plans(make_optimizer, read):
    optimizer = make(2, make_optimizer)
    scheduler = PhaseScheduler(optimizer, phases())
    seen = train(optimizer, scheduler, 9)
    for step, groups in enumerate(seen):
        expected = scheduler.plan.values_at(step)
        for group in groups:
            assert group["lr"] == expected["lr"]
            assert read(group) == expected["momentum"]
    assert scheduler.get_last_lr() == [0.0, 0.0]


def test_beta_and_other_keys_reach_their_places():
    optimizer = make(1, torch.optim.Adam)
    phase = TrainingPhase(steps=2, lr=0.1, momentum=0.8, beta=0.95, values={"eps": Linear(1.0, 0)})
    PhaseScheduler(optimizer, [phase]).step()
    group = optimizer.param_groups[0]
    assert group["betas"] == (0.8, 0.95)
    assert group["eps"] == 0.5
    rms = make(1, torch.optim.RMSprop)
    PhaseScheduler(rms, [TrainingPhase(steps=2, beta=0.7)])
    assert rms.param_groups[0]["alpha"] == 0.7


def test_rates_per_group_and_group_zero_rate():
    optimizer = make(3)
    scheduler = PhaseScheduler(optimizer, one_cycle([0.0, 0.1, 1.0], total_steps=10))
    for step in range(12):
        assert scheduler.get_last_lr() == list(scheduler.plan.table("lr", [step])[0])
        assert [g["lr"] for g in optimizer.param_groups] == scheduler.get_last_lr()
        optimizer.step()
        scheduler.step()


def test_construction_writes_the_values_of_step_0_and_nothing_else():
    optimizer = make(momentum=0.3)
    before, step = dict(optimizer.param_groups[0]), optimizer.step
    rng = torch.get_rng_state()
    PhaseScheduler(optimizer, [TrainingPhase(steps=2, lr=0.1)])
    assert optimizer.step == step
    assert "step" not in vars(optimizer)
    assert dict(optimizer.param_groups[0]) == before | {"lr": 0.1}
    assert torch.equal(rng, torch.get_rng_state())
    assert not optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize("optimizer_first", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_state_round_trip_at_every_step(groups, optimizer_first):
    whole = make(groups, momentum=0.9)
    train(whole, PhaseScheduler(whole, phases()), 9)
    for cut in range(10):
        first = make(groups, momentum=0.9)
        scheduler = PhaseScheduler(first, phases())
        train(first, scheduler, cut)
        file = io.BytesIO()
        torch.save([scheduler.state_dict(), first.state_dict(), weights(first)], file)
        file.seek(0)
        state, optimizer_state, values = torch.load(file, weights_only=True)
        second = make(groups, momentum=0.9)
        for param, value in zip(weights_in(second), values, strict=True):
            param.data.copy_(value)
        if optimizer_first:
            second.load_state_dict(optimizer_state)
        again = PhaseScheduler(second, phases())
        again.load_state_dict(state)
        if not optimizer_first:
            second.load_state_dict(optimizer_state)
        assert again.get_last_lr() == scheduler.get_last_lr()
        train(second, again, 9 - cut)
        assert all(map(torch.equal, weights(second), weights(whole)))


def weights_in(optimizer):
    return [p for g in optimizer.param_groups for p in g["params"]]


def test_state_of_another_plan_shows_the_differences():
    state = PhaseScheduler(make(momentum=0.9), phases()).state_dict()
    other = PhaseScheduler(make(momentum=0.9), [*phases(), TrainingPhase(steps=2, lr=0.1)])
    with pytest.raises(PhaseError, match="number of phases: 3 != 2"):
        other.load_state_dict(state)
    other.load_state_dict(state, accept_other_plan=True)
    with pytest.raises(PhaseError, match="not a state of a PhaseScheduler"):
        other.load_state_dict({"last_epoch": 3})


def test_tensors_are_filled_in_place():
    lr = torch.tensor(0.5)
    betas = (torch.tensor(0.9), torch.tensor(0.99))
    params = [torch.nn.Parameter(torch.ones(2))]
    optimizer = torch.optim.Adam(params, lr=lr, betas=betas, foreach=False, capturable=False)
    scheduler = PhaseScheduler(optimizer, phases())
    lr = optimizer.param_groups[0]["lr"]
    for step in range(8):
        group = optimizer.param_groups[0]
        assert group["lr"] is lr
        assert group["betas"][0] is betas[0]
        assert float(lr) == pytest.approx(scheduler.plan.values_at(step)["lr"], rel=1e-6, abs=1e-9)
        assert float(betas[0]) == pytest.approx(scheduler.plan.values_at(step)["momentum"])
        scheduler.step()
    assert all(isinstance(value, float) for value in scheduler.get_last_lr())


def test_floats_that_somebody_kept_do_not_change():
    optimizer = make(2, torch.optim.Adam)
    scheduler = PhaseScheduler(optimizer, phases())
    kept = []
    for step in range(7):
        kept.append([(g["lr"], g["betas"]) for g in optimizer.param_groups])
        assert scheduler.last_epoch == step
        scheduler.step()
    for step, groups in enumerate(kept):
        values = scheduler.plan.values_at(step)
        assert groups == [(values["lr"], (values["momentum"], 0.999))] * 2


def test_a_value_replaced_by_hand_is_set_at_the_next_step():
    optimizer = make(2, momentum=0.9)
    scheduler = PhaseScheduler(optimizer, phases())
    scheduler.step()
    optimizer.param_groups[1]["lr"] = 123.0
    scheduler.step()
    assert [g["lr"] for g in optimizer.param_groups] == scheduler.get_last_lr()


def test_a_group_added_later_follows():
    optimizer = make(1, momentum=0.9)
    scheduler = PhaseScheduler(optimizer, phases())
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "momentum": 0.2})
    scheduler.step()
    expected = scheduler.plan.values_at(1)["lr"]
    assert [g["lr"] for g in optimizer.param_groups] == [expected] * 2
    named = make(2)
    scheduler = PhaseScheduler(named, one_cycle([0.1, 1.0], total_steps=9))
    named.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    with pytest.raises(PhaseError, match="names 2 parameter groups"):
        scheduler.step()


def test_step_takes_a_step_to_go_to():
    optimizer = make(momentum=0.9)
    scheduler = PhaseScheduler(optimizer, phases())
    scheduler.step(5)
    assert scheduler.last_epoch == 5
    assert optimizer.param_groups[0]["lr"] == scheduler.plan.values_at(5)["lr"]
    with pytest.raises(PhaseError, match="epoch"):
        scheduler.step(-1)


def test_following_counts_the_optimizers_steps_not_the_calls():
    whole, optimizer = make(2, momentum=0.9), make(2, momentum=0.9)
    plain = PhaseScheduler(whole, phases())
    follows = PhaseScheduler(optimizer, phases(), follow_optimizer=True)
    for call_step in (0, 1, 3, 0, 2, 1, 1, 0, 5):
        expected = train(whole, plain, 1)
        groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
        assert groups == expected[0]
        optimizer.zero_grad()
        sum(p.square().sum() for g in optimizer.param_groups for p in g["params"]).backward()
        optimizer.step()
        for _ in range(call_step):
            follows.step()
        assert (follows.last_epoch, follows.get_last_lr()) == (
            plain.last_epoch, plain.get_last_lr()
        )  # fmt: skip
    follows.step(2)
    assert [g["lr"] for g in optimizer.param_groups] == list(plain.plan.table("lr", [2])[0]) * 2
    with pytest.raises(TypeError, match="`follow_optimizer` must be a bool"):
        PhaseScheduler(optimizer, phases(), follow_optimizer=1)


@pytest.mark.parametrize("fused", [False, True])
def test_following_leaves_out_the_steps_that_a_scaler_skips(fused):
    optimizer = make(1, torch.optim.AdamW, fused=fused)
    scheduler = PhaseScheduler(optimizer, phases(), follow_optimizer=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    (param,) = weights_in(optimizer)
    for count, bad in enumerate([False, True, False], start=1):
        loss = param.sum() * (float("inf") if bad else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        optimizer.zero_grad()
        assert scheduler.last_epoch == count - (count > 1)


def test_a_copy_follows_its_own_optimizer():
    optimizer = make()
    scheduler = PhaseScheduler(optimizer, phases()[:1], follow_optimizer=True)
    other, other_scheduler = copy.deepcopy((optimizer, scheduler))
    other.step()
    assert (scheduler.last_epoch, other_scheduler.last_epoch) == (0, 1)


def test_the_count_that_accelerate_keeps_does_not_end_a_plan_early():
    scheduler = PhaseScheduler(make(momentum=0.9), phases())
    scheduler._step_count += 100
    assert scheduler._step_count == scheduler.last_epoch + 1


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_go_on_by_themselves(clone):
    optimizer = make(momentum=0.9)
    scheduler = PhaseScheduler(optimizer, phases())
    train(optimizer, scheduler, 3)
    other, other_scheduler = clone((optimizer, scheduler))
    assert other_scheduler.optimizer is other
    train(optimizer, scheduler, 4)
    train(other, other_scheduler, 4)
    assert all(map(torch.equal, weights(optimizer), weights(other)))


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ([TrainingPhase(steps=1, opt_fn=torch.optim.SGD),
          TrainingPhase(steps=1, opt_fn=torch.optim.Adam, name="tail")],
         r"phase 1 \('tail'\) changes the optimizer.*PhaseLoop"),
        ([TrainingPhase(steps=1), TrainingPhase(steps=1, data=[1])], "changes the data.*PhaseLoop"),
        ([TrainingPhase(steps=1, on_enter=print)], "phase 0 has `on_enter`.*PhaseLoop"),
        ([TrainingPhase(steps=1, opt_fn=torch.optim.Adam)], "asks for Adam"),
        ([TrainingPhase(steps=1, opt_fn=functools.partial(torch.optim.SGD, nesterov=True))],
         "asks for SGD.nesterov=True"),
        ([TrainingPhase(steps=1, lr=[0.1, 0.2, 0.3])], "names 3 parameter groups, but SGD has 1"),
        ([TrainingPhase(steps=1, beta=0.9)], "phase 0: SGD has nothing for `beta`"),
        ([TrainingPhase(steps=1, values={"betas.1": 0.9})], "nothing for `betas.1`"),
    ],
)  # fmt: skip
def test_what_it_refuses(bad, match):
    with pytest.raises(PhaseError, match=match):
        PhaseScheduler(make(), bad)


def test_wrong_types():
    with pytest.raises(TypeError, match="`optimizer` must be a torch optimizer"):
        PhaseScheduler(torch.nn.Linear(1, 1), phases())
    with pytest.raises(PhaseError, match="part of the Plan already"):
        PhaseScheduler(make(), Plan(phases()), steps_per_epoch=3)


def test_fault_momentum_on_an_optimizer_without_it():
    with pytest.raises(PhaseError, match="Adagrad has nothing for `momentum`"):
        PhaseScheduler(make(1, torch.optim.Adagrad), phases())


def test_fault_weight_decay_leaks_into_the_next_phase():
    optimizer = make(weight_decay=0.01)
    scheduler = PhaseScheduler(
        optimizer, [TrainingPhase(steps=1, wds=0.5), TrainingPhase(steps=1), TrainingPhase(steps=1)]
    )
    assert optimizer.param_groups[0]["weight_decay"] == 0.5
    scheduler.step()
    assert optimizer.param_groups[0]["weight_decay"] == 0.01


def test_fault_weight_decay_flips_its_mode():
    """A decoupled phase decays as AdamW does, and only that phase."""
    optimizer = make(2)
    decoupled = TrainingPhase(steps=2, lr=0.1, wds=[0.0, 0.5], wd_loss=False)
    scheduler = PhaseScheduler(optimizer, [decoupled, TrainingPhase(steps=2, lr=0.1)])
    expected = [p.clone() for p in weights(optimizer)]
    for step in range(4):
        train(optimizer, scheduler, 1)
        for group, wd in enumerate([0.0, 0.5]):
            shrink = 1 - 0.1 * wd * (step < 2)
            gradient = 2 * expected[group]
            expected[group] = expected[group] * shrink - 0.1 * gradient
        for found, wanted in zip(weights(optimizer), expected, strict=True):
            torch.testing.assert_close(found, wanted)


def test_decoupled_decay_is_applied_once_for_two_schedulers():
    optimizer = make()
    phase = TrainingPhase(steps=2, lr=0.1, wds=0.5, wd_loss=False)
    PhaseScheduler(optimizer, [phase])
    PhaseScheduler(optimizer, [phase])
    assert len(optimizer._optimizer_step_pre_hooks) == 1


def test_functions_are_called_with_each_steps_value():
    seen = []
    phase = TrainingPhase(steps=4, lr=0.1, values={seen.append: Linear(0, 1)})
    scheduler = PhaseScheduler(make(), [phase, TrainingPhase(steps=1)])
    for _ in range(5):
        scheduler.step()
    assert seen == [0.0, 0.25, 0.5, 0.75]


def test_fault_nothing_extrapolates_past_the_end():
    optimizer = make(momentum=0.9)
    scheduler = PhaseScheduler(optimizer, one_cycle(1.0, total_steps=10, anneal_strategy="linear"))
    for _ in range(30):
        scheduler.step()
    assert scheduler.get_last_lr() == [1.0 / 25 / 1e4]


def test_one_tensor_in_several_groups_cannot_have_a_rate_per_group():
    lr = torch.tensor(0.1)
    params = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [p], "lr": lr} for p in params], lr=lr)
    with pytest.raises(PhaseError, match="share one tensor"):
        PhaseScheduler(optimizer, [TrainingPhase(steps=4, lr=[0.001, 1.0])])


def test_decoupled_decay_survives_a_copy_and_ends_with_its_plan():
    optimizer = make()
    phase = TrainingPhase(steps=2, lr=0.1, wds=0.5, wd_loss=False)
    _, scheduler = copy.deepcopy((optimizer, PhaseScheduler(optimizer, [phase])))
    assert len(scheduler.optimizer._optimizer_step_pre_hooks) == 1
    PhaseScheduler(optimizer, [TrainingPhase(steps=2)])
    assert "wd" not in optimizer.param_groups[0]


def test_a_function_that_raises_is_called_once():
    calls = []

    def refuse(value):
        calls.append(value)
        if value:
            raise ValueError("no")

    scheduler = PhaseScheduler(make(), [TrainingPhase(steps=2, values={refuse: Linear(0, 1)})])
    with pytest.raises(ValueError, match="no"):
        scheduler.step()
    assert calls == [0.0, 0.5]


def test_a_group_that_vanishes_while_it_is_written():
    class Vicious(torch.Tensor):
        def fill_(self, value):
            optimizer.param_groups.clear()
            return self

    params = [torch.nn.Parameter(torch.ones(1)) for _ in range(3)]
    optimizer = torch.optim.SGD([{"params": [p]} for p in params], lr=0.1)
    scheduler = PhaseScheduler(optimizer, [TrainingPhase(steps=4, lr=0.5)])
    optimizer.param_groups[0]["lr"] = torch.tensor(0.1).as_subclass(Vicious)
    scheduler.step()
    assert optimizer.param_groups == []
