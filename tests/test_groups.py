"""Rates in floats reach an optimizer whose step is compiled."""

import pytest
import torch

from pyphase import DecayType, PhaseScheduler, TrainingPhase


def train(make_optimizer, momentum, compiled):
    torch._dynamo.reset()
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = make_optimizer([weight])
    phases = [
        TrainingPhase(steps=4, lr=0.1, momentum=momentum),
        TrainingPhase(steps=4, lr=0.05, momentum=momentum),
        TrainingPhase(steps=4, lr=0.05, lr_decay=DecayType.LINEAR, momentum=momentum),
    ]
    scheduler = PhaseScheduler(optimizer, phases)
    step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
    path = []
    for _ in range(12):
        weight.grad = torch.ones_like(weight)
        step()
        scheduler.step()
        path.append(weight.detach().clone())
    return torch.stack(path)


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
    eager, compiled = (train(make_optimizer, momentum, c) for c in (False, True))
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=0)


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
