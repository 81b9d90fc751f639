"""Rates in floats reach an optimizer whose step is compiled."""

import pytest
import torch

from pyphase import DecayType, PhaseScheduler, Plan, TrainingPhase


def train(make_optimizer, momentum, scheduled):
    """Train with a compiled step; set the values by the scheduler, or entry by entry by hand."""
    torch._dynamo.reset()
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = make_optimizer([weight])
    phases = [
        TrainingPhase(steps=4, lr=0.1, momentum=momentum),
        TrainingPhase(steps=4, lr=0.05, momentum=momentum),
        TrainingPhase(steps=4, lr=0.05, lr_decay=DecayType.LINEAR, momentum=momentum),
    ]
    plan = Plan(phases)
    scheduler = PhaseScheduler(optimizer, plan) if scheduled else None
    step = torch.compile(optimizer.step, backend="eager")
    path = []
    for k in range(12):
        if scheduler is None:
            set_by_hand(optimizer.param_groups[0], plan.values_at(k))
        weight.grad = torch.ones_like(weight)
        step()
        if scheduler is not None:
            scheduler.step()
        path.append(weight.detach().clone())
    return torch.stack(path)


def set_by_hand(group, values):
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(values["lr"])
    else:
        group["lr"] = values["lr"]
    if "momentum" in values and "betas" in group:
        group["betas"] = (values["momentum"], group["betas"][1])
    elif "momentum" in values:
        group["momentum"] = values["momentum"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("momentum", [None, 0.5])
@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
        lambda params: torch.optim.Adam(params, lr=0.1),
        lambda params: torch.optim.Adam(params, lr=torch.tensor(0.1, dtype=torch.float64)),
    ],
    ids=["SGD", "Adam", "Adam with a tensor rate"],
)
def test_a_compiled_step_takes_each_steps_floats(make_optimizer, momentum):
    by_hand, scheduled = (train(make_optimizer, momentum, way) for way in (False, True))
    assert torch.equal(scheduled, by_hand)


class Wrapper(torch.optim.Optimizer):
    """What Accelerate makes of an optimizer: it calls on the inner one, and has no hooks."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    def step(self):
        self.optimizer.step()


def test_decoupled_decay_acts_through_a_wrapper():
    weight = torch.nn.Parameter(torch.ones(1))
    weight.grad = torch.zeros(1)
    optimizer = Wrapper(torch.optim.SGD([weight], lr=0.5))
    PhaseScheduler(optimizer, [TrainingPhase(steps=1, lr=0.5, wds=0.5, wd_loss=False)])
    optimizer.step()
    assert weight.item() == 0.75


def test_decoupled_decay_follows_a_closure_that_makes_the_gradients():
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    PhaseScheduler(optimizer, [TrainingPhase(steps=1, lr=0.5, wds=0.5, wd_loss=False)])

    def closure():
        weight.grad = torch.ones(1)
        return weight.sum()

    optimizer.step(closure)
    assert weight.item() == 0.75 - 0.5


def test_a_step_that_a_scaler_skips_decays_nothing():
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.5, momentum=0.9, fused=True)
    PhaseScheduler(optimizer, [TrainingPhase(steps=1, lr=0.5, wds=0.5, wd_loss=False)])
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(weight.sum() * float("inf")).backward()
    scaler.step(optimizer)
    assert weight.item() == 1
