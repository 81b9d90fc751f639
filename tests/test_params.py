"""Parameter groups, and optimizers that follow a model as it grows."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from toys import advance, make_loop, net

from pyphase import PhaseError, TrainingPhase
from pyphase.apply.params import collect_groups, follow_model


def sizes(groups):
    return [len(group) for group in groups]


def test_what_makes_groups():
    model = net()
    first, second = model
    assert sizes(collect_groups(model, None)) == [4]
    assert sizes(collect_groups(model, list(model))) == [2, 2]
    assert sizes(collect_groups(model, [[first.weight], second, [first.bias]])) == [1, 2, 1]
    assert sizes(collect_groups(model, lambda m: [m[1], m[0].parameters()])) == [2, 2]
    assert collect_groups(model, [first.parameters()])[0][0] is first.weight


@pytest.mark.parametrize(
    ("groups", "error", "words"),
    [
        ([], PhaseError, "at least one group"),
        (lambda m: [m, []], PhaseError, r"groups\[1\] holds no parameter"),
        (lambda m: [m, [m[0].weight]], PhaseError, r"groups\[1\] holds a parameter of an earlier"),
        (lambda m: [nn.ReLU()], PhaseError, r"groups\[0\] holds no parameter"),
        (3, TypeError, "`groups` must be a list"),
        ("all", TypeError, "`groups` must be a list"),
        ([3], TypeError, r"groups\[0\] must be a module or parameters"),
        (lambda m: [m[0], ["weight"]], TypeError, r"groups\[1\] must be a module or parameters"),
    ],
)
def test_groups_that_are_none(groups, error, words):
    with pytest.raises(error, match=words):
        collect_groups(net(), groups)


def test_new_parameters_join_their_group_and_lost_ones_leave():
    model = net()
    optimizer = Adam([{"params": list(module.parameters())} for module in model], lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    before, kept, lost = collect_groups(model, list), model[0].weight, model[1].weight
    model[0] = nn.Sequential(model[0], nn.Linear(4, 4))
    model[1] = nn.Linear(4, 2)
    follow_model(optimizer, before, collect_groups(model, list))
    assert sizes(group["params"] for group in optimizer.param_groups) == [4, 2]
    assert optimizer.param_groups[1]["params"][0] is model[1].weight
    assert kept in optimizer.state
    assert lost not in optimizer.state


def test_an_optimizer_keeps_to_its_own_parameters():
    """One that was given for the head alone doesn't get the body."""
    model = net()
    optimizer = SGD(model[1].parameters(), lr=0.1)
    before = collect_groups(model, None)
    model.append(nn.Linear(1, 1))
    follow_model(optimizer, before, collect_groups(model, None))
    assert optimizer.param_groups[0]["params"] == [*model[1].parameters(), *model[2].parameters()]


def test_a_group_that_on_enter_adds_by_hand_is_left_alone():
    model = net()
    optimizer = SGD(model.parameters(), lr=0.1)
    before = collect_groups(model, None)
    model.append(nn.Linear(1, 1))
    optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.2})
    follow_model(optimizer, before, collect_groups(model, None))
    assert sizes(group["params"] for group in optimizer.param_groups) == [4, 2]


def grow(run):
    run.model.append(nn.Linear(1, 1))


def test_a_group_that_on_enter_adds_to_the_optimizer_that_goes_is_refused():
    def add(loop):
        loop.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})

    changing = TrainingPhase(steps=2, opt_fn=Adam, on_enter=add)
    loop = make_loop([TrainingPhase(steps=2), changing])
    with pytest.raises(PhaseError, match="phase 1: `on_enter` adds a parameter group to an optim"):
        advance(loop)
    assert loop.updating


def test_a_group_that_the_model_gains_is_trained():
    phases = [TrainingPhase(2, Adam, momentum=0.5), TrainingPhase(2, lr=0.3, on_enter=grow)]
    phases.append(TrainingPhase(2, SGD, opt_state="map"))
    loop = make_loop(phases, groups=list)
    advance(loop, 40)
    assert [group["lr"] for group in loop.optimizer.param_groups] == [0.3] * 3
    assert float(loop.optimizer.state[loop.model[2].weight]["step"]) == 20
    advance(loop)
    assert isinstance(loop.optimizer, SGD)
    assert len(loop.optimizer.param_groups) == 3


def test_growing_in_the_first_phase_and_freezing_later():
    def freeze(run):
        run.model[0].requires_grad_(False)

    phases = [TrainingPhase(steps=2, opt_fn=Adam, on_enter=grow)]
    phases += [TrainingPhase(steps=2, on_enter=freeze), TrainingPhase(steps=2, opt_fn=SGD)]
    loop = make_loop(phases, groups=lambda model: [model[:1], model[1:]])
    assert len(loop.model) == 2  # not before the first batch
    advance(loop, 2)
    assert sizes(group["params"] for group in loop.optimizer.param_groups) == [2, 4]
    frozen, free = loop.model[0].weight.clone(), loop.model[2].weight.clone()
    advance(loop)
    assert torch.equal(loop.model[0].weight, frozen)
    assert not torch.equal(loop.model[2].weight, free)


def test_an_on_enter_that_failed_is_called_again():
    answers = [RuntimeError("no memory"), None]

    def enter(run):
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    loop = make_loop([TrainingPhase(steps=1), TrainingPhase(1, Adam, on_enter=enter)])
    advance(loop, 1)
    with pytest.raises(RuntimeError, match="no memory"):
        next(iter(loop))
    advance(loop)
    assert answers == []
    assert isinstance(loop.optimizer, Adam)
