"""PhaseLoop: values, optimizers, data and divergence in a hand-written loop.

One behaviour a test; they share the small loops at the top.
"""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam, AdamW
from training import net, plain

from pyphase import DecayType, Linear, PhaseError, PhaseLoop, Plan, TrainingPhase, overlay


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(1, 1)


def run(loop, model):
    """Train to the end; return the first sample of each batch, and each step's phase and rate."""
    seen, phases, rates = [], [], []
    for x, y in loop:
        seen.append(float(x[0]))
        phases.append(loop.phase_index)
        rates.append(loop.optimizer.param_groups[0]["lr"])
        loss = 1e-6 * nn.functional.mse_loss(model(x), y)
        loss.backward()
        assert loop.step(loss)
    return seen, phases, rates


def test_values_of_each_step_are_the_plans():
    model = linear()
    phases = [
        TrainingPhase(1, SGD, (0.1, 1.0), DecayType.LINEAR, 0.8),
        TrainingPhase(0.5, Adam, 0.01, DecayType.COSINE, 0.7),
    ]
    loop = PhaseLoop(model, phases, plain())
    seen, index, rates = run(loop, model)
    assert rates == [loop.plan.values_at(step)["lr"] for step in range(9)]
    assert index == [0] * 6 + [1] * 3
    assert seen == [0, 2, 4, 6, 8, 10, 0, 2, 4]
    assert (loop.position, loop.done, loop.stopped) == (9, True, None)
    assert isinstance(loop.optimizer, Adam)
    assert loop.optimizer.param_groups[0]["lr"] == 0.0  # held at the end
    assert list(loop) == []


def test_sgd_that_pyphase_builds_has_momentum():
    loop = PhaseLoop(linear(), [TrainingPhase(1)], plain())
    assert isinstance(loop.optimizer, SGD)
    assert loop.optimizer.param_groups[0]["momentum"] == 0.9
    given_ = SGD(linear().parameters(), lr=0.3)
    assert PhaseLoop(linear(), [TrainingPhase(1)], plain(), optimizer=given_).optimizer is given_


def test_fault_fractional_epochs_with_a_data_change_lose_batches():
    model = linear()
    a, b = plain(100, 1), plain(100, 1, start=1000.0)
    loop = PhaseLoop(model, [TrainingPhase(0.5), TrainingPhase(1.5)], [a, b])
    seen, index, _ = run(loop, model)
    assert [index.count(0), index.count(1)] == [50, 150]
    assert seen == [*range(50), *range(1000, 1100), *range(1000, 1050)]
    c = plain(100, 1, start=2000.0)
    loop = PhaseLoop(model, [TrainingPhase(e) for e in (0.25, 0.25, 0.5)], [a, b, c])
    seen, _, _ = run(loop, model)
    assert seen == [*range(25), *range(1000, 1025), *range(2000, 2050)]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.3, 0.5, 1.0, 1.7]), st.integers(0, 2)), min_size=1, max_size=5
    )
)
def test_no_batch_is_lost_or_repeated(parts):
    loaders = [plain(n, 1, start=100.0 * i) for i, n in enumerate((7, 10, 13))]
    model = linear()
    loop = PhaseLoop(model, [TrainingPhase(e) for e, _ in parts], [loaders[d] for _, d in parts])
    seen, index, _ = run(loop, model)
    assert [index.count(p) for p in range(len(parts))] == [e - b for b, e in loop.plan.spans]
    position, last = 0, None
    for step, phase in enumerate(index):
        data = parts[phase][1]
        position = position + 1 if data == last else 0
        last = data
        assert seen[step] == 100 * data + position % (7, 10, 13)[data]


def test_fault_data_list_too_short():
    with pytest.raises(PhaseError, match="one per phase: got 1 for 2 phases"):
        PhaseLoop(linear(), [TrainingPhase(1), TrainingPhase(1)], [plain()])
    with pytest.raises(PhaseError, match="phase 0: neither the phase nor the loop has `data`"):
        PhaseLoop(linear(), [TrainingPhase(steps=1)])


def test_ways_to_give_data():
    calls = []

    def make(size):
        calls.append(size)
        return plain(size)

    class Fastai:
        trn_dl, val_dl = plain(4), "valid"

    model = linear()
    phases = [
        TrainingPhase(1, data=functools.partial(make, 6)),  # made at once: its length is needed
        TrainingPhase(steps=2, data=functools.partial(make, 8)),
        TrainingPhase(1, data=(plain(2), "pair")),
        TrainingPhase(1, data=Fastai()),
        TrainingPhase(steps=3, data=(batch for batch in list(plain(6)))),
    ]
    loop = PhaseLoop(model, phases)
    assert calls == [6]
    valid = []
    for batch in loop:
        valid.append(loop.valid_data)
        loop.step(1e-6 * model(batch[0]).square().mean())
    assert calls == [6, 8]
    assert valid == [None] * 5 + ["pair"] + ["valid"] * 2 + [None] * 3


def test_a_generator_can_be_read_once():
    model = linear()
    loop = PhaseLoop(model, [TrainingPhase(steps=4)], (batch for batch in list(plain(6))))
    with pytest.raises(PhaseError, match="gave no batch in epoch 1"):
        run(loop, model)
    assert loop.position == 3


def test_made_data_must_have_the_planned_length():
    phase = TrainingPhase(1, data=lambda: plain(8))
    loop = PhaseLoop(linear(), [phase], steps_per_epoch=3)
    with pytest.raises(PhaseError, match="a loader of 4 batches, but the plan"):
        next(iter(loop))


@pytest.mark.parametrize("way", ["data_list", "phase", "overlay"])
def test_growing_images(way):
    def images(size):
        return torch.utils.data.DataLoader(torch.ones(8, 1, size, size), batch_size=4)

    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 1))
    small, large = images(14), images(28)
    data = None
    if way == "data_list":
        phases, data = [TrainingPhase(1), TrainingPhase(2)], [small, large]
    elif way == "phase":
        phases = [TrainingPhase(1, data=small), TrainingPhase(2, data=lambda: large)]
    else:
        rates = [TrainingPhase(1.5, lr=Linear(0, 1)), TrainingPhase(1.5, lr=0.1)]
        phases = overlay(rates, [TrainingPhase(1, data=small), TrainingPhase(2, data=large)])
    loop = PhaseLoop(model, phases, data)
    sizes = []
    for batch in loop:
        sizes.append(batch.shape[-1])
        loop.step(model(batch).square().mean())
    assert sizes == [14, 14, 28, 28, 28, 28]


def test_fault_an_optimizers_keywords_are_ignored():
    a, b = functools.partial(Adam, amsgrad=True), functools.partial(Adam, amsgrad=False)
    loop = PhaseLoop(
        linear(), [TrainingPhase(1, a), TrainingPhase(1, a), TrainingPhase(1, b)], plain()
    )
    used = []
    for x, _ in loop:
        used.append(loop.optimizer)
        loop.step(loop.model(x).square().mean())
    assert used[0] is used[11] is not used[12]
    assert [o.param_groups[0]["amsgrad"] for o in (used[0], used[-1])] == [True, False]


def test_a_later_optimizer_that_cannot_take_a_value_is_an_error_at_once():
    phases = [TrainingPhase(1), TrainingPhase(1, torch.optim.Adagrad, momentum=0.9, name="tail")]
    with pytest.raises(PhaseError, match=r"phase 1 \('tail'\): Adagrad has nothing for `momentum`"):
        PhaseLoop(linear(), phases, plain())
    phases = [TrainingPhase(1), TrainingPhase(1, Adam, opt_state="keep")]
    with pytest.raises(PhaseError, match=r"phase 1: `opt_state` \(='keep'\) needs the same class"):
        PhaseLoop(linear(), phases, plain())


def test_weight_decay_stays_with_its_phase_across_optimizers():
    phases = [
        TrainingPhase(1, SGD, 0.1, wds=0.5, wd_loss=False),
        TrainingPhase(1, AdamW, 0.1, wds=0.2),
        TrainingPhase(1, AdamW, 0.1),
    ]
    loop = PhaseLoop(linear(), phases, plain(2))
    decays = []
    for x, _ in loop:
        group = loop.optimizer.param_groups[0]
        decays.append((group["weight_decay"], group.get("wd", 0.0)))
        loop.step(loop.model(x).square().mean())
    assert decays == [(0.0, 0.5), (0.2, 0.0), (0.01, 0.0)]


def test_on_enter_grows_and_freezes():
    model = nn.Sequential(nn.Linear(1, 1))
    entered = []

    def grow(run):
        entered.append(run.position)
        run.model.append(nn.Linear(1, 1))
        run.model[0].requires_grad_(False)

    phases = [TrainingPhase(1), TrainingPhase(1, on_enter=grow), TrainingPhase(1, Adam)]
    loop = PhaseLoop(model, phases, plain(4))
    for x, y in loop:
        frozen = model[0].weight.clone()
        loop.step(1e-3 * nn.functional.mse_loss(model(x), y))
        assert torch.equal(frozen, model[0].weight) == (loop.position > 2)
    assert entered == [2]
    assert len(loop.optimizer.param_groups[0]["params"]) == 4
    assert set(loop.optimizer.state) == set(model[1].parameters())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_on_enter_that_is_cut_off_leaves_no_state_and_can_be_entered_again(error):
    """What the first try has added to the model is trained after the second one."""
    model, tries = nn.Sequential(nn.Linear(1, 1)), []

    def grow(run):
        tries.append(run.position)
        run.model.append(nn.Linear(1, 1))
        if len(tries) == 1:
            raise error

    loop = PhaseLoop(model, [TrainingPhase(1), TrainingPhase(1, on_enter=grow)], plain(4))

    def train():
        for x, y in loop:
            loop.step(1e-3 * nn.functional.mse_loss(model(x), y))

    with pytest.raises(error):
        train()
    assert loop.updating
    with pytest.raises(PhaseError, match="phase 1: its start was cut off: model or data may be"):
        loop.state_dict()
    train()
    assert (tries, loop.position, loop.updating) == ([2, 2], 4, False)
    trained = {id(param) for param in loop.optimizer.param_groups[0]["params"]}
    assert trained == {id(param) for param in model.parameters()}
    assert len(model) == 3


def test_data_that_cannot_be_made_leaves_no_state_and_can_be_made_again():
    tries = []

    def make():
        tries.append(loop.position)
        if len(tries) == 1:
            raise OSError("the folder is gone")
        return plain(4)

    loop = PhaseLoop(linear(), [TrainingPhase(1), TrainingPhase(steps=2, data=make)], plain(4))

    def train():
        for x, y in loop:
            loop.step(1e-3 * nn.functional.mse_loss(loop.model(x), y))

    with pytest.raises(OSError, match="the folder is gone"):
        train()
    assert loop.updating
    with pytest.raises(PhaseError, match="phase 1: its start was cut off: model or data may be"):
        loop.state_dict()
    train()
    assert (tries, loop.position, loop.updating) == ([2, 2], 4, False)
    assert loop.state_dict()["position"] == 4


def test_groups_and_rates_per_group():
    model = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
    phases = [TrainingPhase(1, lr=([0.1, 1.0], [0.0, 0.5]), lr_decay=DecayType.LINEAR)]
    loop = PhaseLoop(model, phases, plain(4), groups=list(model))
    assert [g["lr"] for g in loop.optimizer.param_groups] == [0.1, 1.0]
    with pytest.raises(PhaseError, match="names 2 parameter groups, but `groups` makes 1"):
        PhaseLoop(model, phases, plain(4))


def test_step_calls():
    model = linear()
    loop = PhaseLoop(model, [TrainingPhase(steps=3, lr=1e-6)], plain())
    with pytest.raises(PhaseError, match="once for each batch"):
        loop.step()
    batches = iter(loop)
    x, _ = next(batches)
    with pytest.raises(PhaseError, match=r"call loss.backward\(\) before it"):
        loop.step()
    next(batches)
    before = model.weight.clone()
    assert loop.step(model(x).sum())  # backward is called for us
    assert not torch.equal(before, model.weight)
    assert model.weight.grad is None
    with pytest.raises(PhaseError, match="once for each batch"):
        loop.step(model(x).sum())
    del batches
    for x, _ in loop:  # goes on where the first iterator was left
        loop.step(model(x).sum())
    assert loop.position == 3


@pytest.mark.parametrize(("bad", "match"), [(float("nan"), "the loss is nan"), (1e9, "smoothed")])
def test_stop_div_does_not_take_the_bad_step(bad, match):
    model = linear()
    loop = PhaseLoop(model, [TrainingPhase(5, lr=1e-9)], plain(), stop_div=True)
    for x, _ in loop:
        kept = model.weight.clone()
        loss = model(x).square().mean()
        taken = loop.step(loss * 0 + (bad if loop.position == 15 else 1.0))
    assert not taken
    assert loop.position == 15
    assert torch.equal(kept, model.weight)
    assert match in loop.stopped
    assert "before step 15" in loop.stopped


def test_stop_div_starts_anew_in_each_phase():
    """Another phase's data may have a far higher loss."""
    model = linear()
    loop = PhaseLoop(model, [TrainingPhase(3, lr=1e-9)] * 2, plain(), stop_div=True)
    for x, _ in loop:
        loop.step(model(x).sum() * 0 + (100.0 if loop.phase_index else 1.0))
    assert loop.stopped is None
    assert loop.position == 36


def test_a_step_that_the_scaler_skips_does_not_count():
    model = linear()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    loop = PhaseLoop(model, [TrainingPhase(steps=4, lr=1e-6)], plain(), scaler=scaler)
    taken = []
    for x, _ in loop:
        loss = model(x).sum() * (float("inf") if len(taken) == 1 else 1.0)
        taken.append(loop.step(loss))
    assert taken == [True, False, True, True, True]


def test_epochs_are_told_to_the_sampler():
    class Sampler(torch.utils.data.SequentialSampler):
        def set_epoch(self, epoch):
            epochs.append(epoch)

    epochs = []
    first = torch.utils.data.DataLoader(torch.ones(4, 1), sampler=Sampler(range(4)))
    second = torch.utils.data.DataLoader(torch.ones(4, 1), sampler=Sampler(range(4)))
    loop = PhaseLoop(linear(), [TrainingPhase(1.5), TrainingPhase(1)], [first, second])
    for x in loop:
        loop.step(loop.model(x).square().mean())
    assert epochs == [0, 1, 2]


def test_takes_a_plan():
    plan = Plan([TrainingPhase(1)], steps_per_epoch=6)
    assert PhaseLoop(linear(), plan, plain()).plan is plan
    with pytest.raises(PhaseError, match="part of the Plan already"):
        PhaseLoop(linear(), plan, plain(), steps_per_epoch=6)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"model": 3}, "`model` must be"),
        ({"phases": None}, "`phases` must be"),
        ({"data": 3}, "`data` must be a loader"),
        ({"optimizer": 3}, "`optimizer` must be"),
        ({"groups": 3}, "`groups` must be"),
    ],
)
def test_wrong_types(arguments, match):
    good = {"model": net(), "phases": [TrainingPhase(1)], "data": plain()}
    with pytest.raises(TypeError, match=match):
        PhaseLoop(**good | arguments)


def test_a_gradient_left_by_somebody_else_is_not_used():
    weights = []
    for stale in (False, True):
        model = linear()
        if stale:
            (1000 * model(torch.ones(1, 1))).sum().backward()
        loop = PhaseLoop(model, [TrainingPhase(1, lr=1e-3)], plain())
        for x, y in loop:
            loop.step(nn.functional.mse_loss(model(x), y))
        weights.append(model.weight.detach().clone())
    assert torch.equal(*weights)


def test_an_optimizer_whose_zero_grad_leaves_zeros_is_trained():
    """Zeros are no gradients of a backward pass that the caller has made."""

    class Zeros(SGD):
        def zero_grad(self, set_to_none=False):
            super().zero_grad(set_to_none=False)

    weights = []
    for opt_fn in (functools.partial(SGD, momentum=0.0), Zeros):
        model = linear()
        loop = PhaseLoop(model, [TrainingPhase(1, opt_fn, lr=1e-3)], plain())
        for x, y in loop:
            loop.step(nn.functional.mse_loss(model(x), y))
        weights.append(model.weight.detach().clone())
    assert torch.equal(*weights)


def test_a_loop_that_was_left_between_batch_and_step_gives_the_batch_again():
    model = linear()
    loop = PhaseLoop(model, [TrainingPhase(1, lr=1e-6)], plain())
    seen = []
    for x, _ in loop:
        seen.append(float(x[0]))
        if len(seen) == 3:
            break
        loop.step(model(x).sum())
    seen.append(-1.0)
    for x, _ in loop:
        seen.append(float(x[0]))
        loop.step(model(x).sum())
    assert seen == [0, 2, 4, -1, 4, 6, 8, 10]


def test_stop_div_puts_the_buffers_back():
    model = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))
    data = [(torch.ones(2, 1) * k, torch.ones(2, 1)) for k in (1.0, 2.0, float("nan"), 1.0)]
    loop = PhaseLoop(model, [TrainingPhase(1, lr=1e-3)], (data, None), stop_div=True)
    for x, y in loop:
        loop.step(nn.functional.mse_loss(model(x), y))
    assert loop.position == 2
    assert torch.isfinite(model[0].running_mean).all()
    assert int(model[0].num_batches_tracked) == 2


def test_map_and_maximize_and_dampening():
    def momentum_after(first, second):
        model = linear()
        phases = [TrainingPhase(1, first, 1e-3), TrainingPhase(1, second, 1e-3, opt_state="map")]
        loop = PhaseLoop(model, phases, plain(2))
        buffers = []
        for _ in loop:
            loop.step(model.weight.sum())  # a gradient of 1
            buffers.append(float(loop.optimizer.state[model.weight].get("momentum_buffer", 0.0)))
        return buffers[-1]

    sgd = functools.partial(SGD, momentum=0.5)
    assert momentum_after(Adam, sgd) == pytest.approx(0.5 * 2 + 1, rel=1e-5)
    maximizing = functools.partial(Adam, maximize=True)  # keeps the mean of -1: turned round
    assert momentum_after(maximizing, sgd) == pytest.approx(0.5 * 2 + 1, rel=1e-5)
    with pytest.raises(PhaseError, match="dampening 1"):
        momentum_after(functools.partial(SGD, momentum=0.5, dampening=1), Adam)


def test_an_opt_fn_does_not_bind_the_rate():
    with pytest.raises(PhaseError, match="binds `lr`"):
        TrainingPhase(1, functools.partial(SGD, lr=5.0))


def test_a_step_is_tried_again_after_a_backward_pass_that_failed():
    def train(fails):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
        loop = PhaseLoop(model, [TrainingPhase(steps=1, lr=0.1)], [torch.ones(2, 3)])

        def fail(grad):
            raise MemoryError

        for batch in loop:
            hidden = model[0](batch)
            if fails:
                hidden.register_hook(fail)
                with pytest.raises(MemoryError):
                    loop.step(model[1](hidden).sum())
                hidden = model[0](batch)
            loop.step(model[1](hidden).sum())
        return [p.detach() for p in model.parameters()]

    for found, expected in zip(train(True), train(False), strict=True):
        assert torch.equal(found, expected)
