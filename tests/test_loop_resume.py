"""A run that is saved and loaded, at any step, ends as the uninterrupted one: bit for bit.

One run, saved and loaded in every way; the cases share its set-up.
"""

import functools
import io
import itertools

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW
from toys import same
from training import loader, net, seed_all, train_step

from pyphase import DecayType, Linear, PhaseError, PhaseLoop, TrainingPhase


def grow(run):
    run.model.append(nn.Linear(1, 1))


def phases(data):
    return [
        TrainingPhase(0.5, SGD, (0.01, 0.1), DecayType.LINEAR, data=data[0]),
        TrainingPhase(1, functools.partial(SGD, nesterov=True), 0.05, opt_state="keep"),
        TrainingPhase(0.5, AdamW, 1e-3, DecayType.COSINE, opt_state="map", data=data[1]),
        TrainingPhase(0.5, Adam, 1e-3, on_enter=grow),
    ]


def start(own_generator, workers):
    seed_all(3)
    arguments = {"num_workers": workers}
    if own_generator:
        arguments["generator"] = torch.Generator().manual_seed(5)
    data = [loader(12, 2, **arguments), loader(16, 2, offset=50, **arguments)]
    model = net()
    return model, PhaseLoop(model, phases(data))


def state_of(loop):
    file = io.BytesIO()
    torch.save(loop.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(("own_generator", "workers"), [(False, 0), (True, 0)])
def test_at_every_step(own_generator, workers):
    model, loop = start(own_generator, workers)
    states, batches = [state_of(loop)], []
    for batch in loop:
        batches.append(batch)
        train_step(model, loop, batch)
        states.append(state_of(loop))
    end = states[-1]
    assert len(states) == loop.plan.total_steps + 1
    for cut, state in enumerate(states):
        again, other = start(own_generator, workers)
        seed_all(99)
        other.load_state_dict(state)
        for step, batch in enumerate(other, start=cut):
            same(list(batch), list(batches[step]))
            train_step(again, other, batch)
        same(state_of(other), end)


def test_with_workers():
    model, loop = start(False, 2)
    middle = None
    for batch in loop:
        train_step(model, loop, batch)
        middle = state_of(loop) if loop.position == 5 else middle
    again, other = start(False, 2)
    other.load_state_dict(middle)
    for batch in other:
        train_step(again, other, batch)
    same(other.model.state_dict(), model.state_dict())


def test_a_batch_that_was_not_stepped_is_given_again():
    model, loop = start(False, 0)
    batches = iter(loop)
    train_step(model, loop, next(batches))
    pending = next(batches)
    again, other = start(False, 0)
    other.load_state_dict(state_of(loop))
    assert torch.equal(next(iter(other))[0][:, 0], pending[0][:, 0])
    assert again is other.model


def test_another_plan_is_refused_with_the_differences():
    def make(lr):
        return PhaseLoop(net(), [TrainingPhase(1, lr=lr), TrainingPhase(1)], loader())

    state = make(0.1).state_dict()
    with pytest.raises(PhaseError, match=r"phase 0: lr: 0.2 != 0.1"):
        make(0.2).load_state_dict(state)
    changed = make(0.2)
    changed.load_state_dict(state, accept_other_plan=True)
    assert changed.optimizer.param_groups[0]["lr"] == 0.2


@pytest.mark.parametrize(
    ("name", "saved", "own"), [("accumulate", 2, 1), ("clip_grad_norm", None, 0.5)]
)
def test_another_way_to_make_a_step_is_refused(name, saved, own):
    def make(value):
        return PhaseLoop(net(), [TrainingPhase(steps=4, lr=0.1)], loader(), **{name: value})

    state = make(saved).state_dict()
    with pytest.raises(PhaseError, match=rf"saved with `{name}` \(={saved}\), this run has {own}"):
        make(own).load_state_dict(state)
    make(own).load_state_dict(state, accept_other_plan=True)
    make(saved).load_state_dict(state)


def test_a_state_with_a_scaler_is_refused_without_one():
    def make(**options):
        return PhaseLoop(net(), [TrainingPhase(steps=4, lr=0.1)], loader(), **options)

    scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(PhaseError, match=r"`scaler` \(=True\), this run has False"):
        make().load_state_dict(make(scaler=scaler).state_dict())
    with pytest.raises(PhaseError, match=r"`scaler` \(=False\), this run has True"):
        make(scaler=scaler).load_state_dict(make().state_dict())


@pytest.mark.parametrize("bad", [None, 3, {}, {"pyphase": "loop 1"}, {"pyphase": "learner 1"}, []])
def test_foreign_states_are_refused(bad):
    with pytest.raises((PhaseError, TypeError)):
        PhaseLoop(net(), [TrainingPhase(1)], loader()).load_state_dict(bad)


def test_a_used_loop_does_not_load():
    model, loop = start(False, 0)
    state = state_of(loop)
    for batch in loop:
        train_step(model, loop, batch)
        break
    with pytest.raises(PhaseError, match="into a new loop"):
        loop.load_state_dict(state)


def resumed(make, cut, seed=99):
    """Return the states of two loops at their end: one uninterrupted, one loaded after ``cut``."""
    ends = []
    for loaded in (False, True):
        seed_all(3)
        loop = make()
        if loaded:
            for batch in itertools.islice(loop, cut):
                train_step(loop.model, loop, batch)
            state = state_of(loop)
            seed_all(3)
            loop = make()
            seed_all(seed)
            loop.load_state_dict(state)
        for batch in loop:
            train_step(loop.model, loop, batch)
        ends.append(state_of(loop))
    return ends


@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize("cut", [1, 3, 5, 6, 8])
def test_data_that_comes_back_later_has_its_own_order(cut, made):
    """The generator of a loader that isn't in use now is part of the state."""

    def make():
        generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
        a, b = (loader(8, 2, generator=generator) for generator in generators)
        first = (lambda: a) if made else a
        parts = [TrainingPhase(steps=3, data=data, lr=0.01) for data in (first, b, first)]
        return PhaseLoop(net(), parts)

    same(*resumed(make, cut))


@pytest.mark.parametrize("cut", [2, 3, 5])
def test_functions_keep_their_last_value(cut):
    """Phase 1 says nothing about dropout: it stays where phase 0 has left it."""

    def make():
        model = net()

        def set_dropout(value):
            model[2].p = value

        parts = [TrainingPhase(steps=3, values={set_dropout: Linear(0.1, 0.8)})]
        return PhaseLoop(model, [*parts, TrainingPhase(steps=4)], loader())

    same(*resumed(make, cut))


@pytest.mark.parametrize("cut", [1, 4, 6])
def test_a_scaler_and_the_divergence_check_go_on(cut):
    def make():
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        parts = [TrainingPhase(steps=4, lr=0.01), TrainingPhase(steps=4, opt_fn=Adam)]
        return PhaseLoop(net(), parts, loader(), scaler=scaler, stop_div=True)

    def step(model, loop, batch):
        return loop.step(nn.functional.mse_loss(model(batch[0]), batch[1]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "train_step", step)
        one, two = resumed(make, cut)
    same(one, two)
    assert one["scaler"]["scale"] > 8.0
    assert one["check"]["count"] == 4


def test_on_enter_sees_its_own_phase_when_it_is_called_again():
    seen = []

    def enter(run):
        seen.append((run.phase_index, run.position))
        grow(run)

    def make():
        return PhaseLoop(net(), [TrainingPhase(steps=2, on_enter=enter)] * 3, loader())

    same(*resumed(make, 5))
    whole = [(0, 0), (1, 2), (2, 4)]
    assert seen == whole * 3


def test_a_stopped_run_stays_stopped():
    loop = PhaseLoop(net(), [TrainingPhase(steps=5)], loader(), stop_div=True)
    next(iter(loop))
    loop.step(float("nan"))
    other = PhaseLoop(net(), [TrainingPhase(steps=5)], loader(), stop_div=True)
    other.load_state_dict(state_of(loop))
    assert other.done
    assert other.stopped == "stopped before step 0: the loss is nan"


def test_a_run_is_extended():
    """Half of a constant phase, then a longer plan with a cooldown: as if planned so at first."""
    short = [TrainingPhase(steps=6, opt_fn=Adam, lr=0.01)]
    longer = [*short, TrainingPhase(steps=4, lr=0.01, lr_decay=DecayType.LINEAR, momentum=0.8)]
    seed_all(3)
    whole = PhaseLoop(net(), longer, loader())
    for batch in whole:
        train_step(whole.model, whole, batch)
    for cut in (2, 6):
        seed_all(3)
        loop = PhaseLoop(net(), short, loader())
        for batch in itertools.islice(loop, cut):
            train_step(loop.model, loop, batch)
        state = state_of(loop)
        other = PhaseLoop(net(), longer, loader())
        with pytest.raises(PhaseError, match="number of phases: 2 != 1"):
            other.load_state_dict(state)
        other.load_state_dict(state, accept_other_plan=True)
        for batch in other:
            train_step(other.model, other, batch)
        same(state_of(other), state_of(whole))


def test_an_accepted_plan_decides_values_and_keywords():
    def make(*parts):
        return PhaseLoop(net(), list(parts), loader())

    old = make(TrainingPhase(steps=8, lr=0.1, momentum=0.5))
    for batch in itertools.islice(old, 4):
        train_step(old.model, old, batch)
    ramp = TrainingPhase(steps=8, opt_fn=functools.partial(SGD, nesterov=True), lr=Linear(0.0, 0.8))
    new = make(TrainingPhase(steps=1), ramp)  # its border lies before the saved step
    new.load_state_dict(state_of(old), accept_other_plan=True)
    group = new.optimizer.param_groups[0]
    assert (group["momentum"], group["nesterov"]) == (0.9, True)
    assert group["lr"] == pytest.approx(0.3)
    assert len(new.optimizer.state) == 6
    shorter = make(TrainingPhase(steps=2, momentum=0.5))
    shorter.load_state_dict(state_of(old), accept_other_plan=True)
    assert shorter.done
    with pytest.raises(PhaseError, match="the state is of SGD, but step 4 of this plan has Adam"):
        make(TrainingPhase(steps=8, opt_fn=Adam)).load_state_dict(
            state_of(old), accept_other_plan=True
        )


def test_states_that_dont_fit_say_so():
    def make(model=None, **arguments):
        data = loader(**arguments)
        return PhaseLoop(net() if model is None else model, [TrainingPhase(steps=9)], data)

    loop = make(generator=torch.Generator())
    for batch in itertools.islice(loop, 6):
        train_step(loop.model, loop, batch)
    state = state_of(loop)
    with pytest.raises(PhaseError, match="doesn't fit this run: Error"):
        make(nn.Linear(3, 1)).load_state_dict(state)
    with pytest.raises(PhaseError, match="doesn't fit this run"):
        make().load_state_dict(state)  # this loader has no generator of its own
    with pytest.raises(PhaseError, match="ended after 4 batches"):
        make(count=8, generator=torch.Generator()).load_state_dict(state)
    for part in state.keys() - {"pyphase"}:
        cut = {name: value for name, value in state.items() if name != part}
        with pytest.raises(PhaseError, match=f"`{part}` is missing or wrong"):
            make(generator=torch.Generator()).load_state_dict(cut)
    for part in ("check", "feed", "rng", "optimizer", "model"):
        with pytest.raises(PhaseError, match="doesn't fit this run"):
            make(generator=torch.Generator()).load_state_dict(state | {part: {"x": [1]}})


@pytest.mark.parametrize("first", [True, False])
def test_a_pending_batch_is_the_same_with_a_global_shuffle(first):
    """Also the first of an epoch, whose order is drawn with it."""

    def make():
        return PhaseLoop(nn.Linear(1, 1), [TrainingPhase(steps=9)], shuffled)

    shuffled = torch.utils.data.DataLoader(torch.arange(8.0).reshape(8, 1), 2, shuffle=True)
    seed_all(3)
    loop, rest = make(), []
    for _ in range(4 if first else 5):
        loop.step(loop.model(next(iter(loop))).sum())
    pending = next(iter(loop))
    state = state_of(loop)
    for loaded in (False, True):
        ours = make() if loaded else loop
        if loaded:
            ours.load_state_dict(state)
            assert torch.equal(next(iter(ours)), pending)
        ours.step(ours.model(pending).sum())
        rest.append([])
        for batch in ours:
            rest[-1].append(batch)
            ours.step(ours.model(batch).sum())
    same(*rest)


def test_a_module_under_two_names_is_as_before_the_batch():
    norm = torch.nn.BatchNorm1d(3)

    def start():
        model = torch.nn.Sequential(norm, torch.nn.Linear(3, 3), norm)
        data = torch.utils.data.DataLoader(torch.randn(8, 3), 4)
        return PhaseLoop(model, [TrainingPhase(steps=2)], data)

    loop = start()
    loop.model(next(iter(loop)))
    assert norm.num_batches_tracked == 2
    state = loop.state_dict()["model"]
    assert {int(state[f"{i}.num_batches_tracked"]) for i in (0, 2)} == {0}
