"""A run that is saved and loaded, at any step, ends as the uninterrupted one: bit for bit."""

import functools
import io

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW
from training import loader, net, same_tensors, seed_all, train_step

from pyphase import DecayType, PhaseError, PhaseLoop, TrainingPhase


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
            same_tensors(list(batch), list(batches[step]))
            train_step(again, other, batch)
        same_tensors(state_of(other), end)


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
    same_tensors(other.model.state_dict(), model.state_dict())


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
