"""A snapshot puts back everything, whatever happened inside."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader
from toys import same

from pyphase.apply.snapshot import Snapshot


def make(opt_fn=Adam, **arguments):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    model.register_buffer("scale", torch.ones(2))
    model.register_buffer("scratch", torch.zeros(2), persistent=False)
    model.register_buffer("unused", None)
    model[2].eval()
    return model, opt_fn(model.parameters(), **arguments)


def train(model, optimizer, count=2):
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.rand(5, 3)).square().mean().backward()
        optimizer.step()


def picture(model, optimizer):
    """Return all that can change, as copies, and the identity of the tensors."""
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]
    record = {
        "tensors": [None if t is None else t.detach().clone() for t in tensors],
        "modes": [module.training for module in model.modules()],
        "buffers": [sorted(module._buffers) for module in model.modules()],
    }
    if optimizer is not None:
        groups = optimizer.param_groups
        record["groups"] = [{k: v for k, v in g.items() if k != "params"} for g in groups]
        record["ids"] = [id(p) for g in groups for p in g["params"]]
        record["state"] = [{k: torch.as_tensor(v).clone() for k, v in s.items()}
                           for s in optimizer.state.values()]  # fmt: skip
        tensors += [v for s in optimizer.state.values() for v in s.values()]
    return record, [id(tensor) for tensor in tensors]


def upset(model, optimizer):
    """Change whatever can be changed."""
    model.train()
    train(model, optimizer)
    model.scale = torch.full((2,), 7.0)
    model.scratch.add_(1)
    model.unused = torch.ones(1)
    model.register_buffer("added", torch.ones(1))
    model[1].running_mean = torch.zeros(4)
    model.zero_grad()
    optimizer.param_groups[0]["lr"] = 123.0
    optimizer.param_groups[0]["new"] = 1
    optimizer.param_groups[0]["params"].pop()
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})


@pytest.mark.parametrize("trained", [0, 2])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("opt_fn", [Adam, lambda params: SGD(params, lr=0.1, momentum=0.9)])
def test_everything_is_as_before(opt_fn, trained, fails):
    model, optimizer = make(opt_fn)
    train(model, optimizer, trained)
    before, identities = picture(model, optimizer)
    try:
        with Snapshot(model, optimizer):
            upset(model, optimizer)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    after, identities_after = picture(model, optimizer)
    same(after, before)
    assert identities_after == identities
    train(model, optimizer)


def test_training_goes_on_as_if_nothing_had_been():
    ends = []
    for disturbed in (False, True):
        model, optimizer = make()
        train(model, optimizer)
        if disturbed:
            with Snapshot(model, optimizer):
                upset(model, optimizer)
        train(model, optimizer)
        ends.append(picture(model, optimizer)[0] | {"ids": None})
    same(*ends)


def test_tensors_of_the_groups_keep_their_identity():
    rate, first = torch.tensor(0.1), torch.tensor(0.9)
    model, optimizer = make(Adam, lr=rate, betas=(first, torch.tensor(0.99)), foreach=False)
    group = optimizer.param_groups[0]
    with Snapshot(model, optimizer):
        rate.fill_(5.0)
        first.fill_(0.0)
        group["lr"] = torch.tensor(7.0)
        group["betas"] = (0.1, 0.2)
    assert optimizer.param_groups[0] is group
    assert group["lr"] is rate
    assert group["betas"][0] is first
    assert (float(rate), round(float(first), 6)) == (pytest.approx(0.1), 0.9)


def test_lists_within_the_state_come_back():
    """LBFGS changes its lists in place."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, history_size=3)
    x = torch.randn(8, 3)

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        return loss

    ends = []
    for _ in range(2):
        with Snapshot(model, optimizer):
            for _ in range(3):
                optimizer.step(closure)
            ends.append([param.detach().clone() for param in model.parameters()])
    same(*ends)


def draw():
    return random.random(), np.random.rand(), torch.rand(3).tolist()


def test_random_generators_come_back():
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(range(9), shuffle=True, generator=generator)
    with Snapshot(nn.Linear(1, 1), loader=loader):
        drawn, order = draw(), [*loader]
    assert draw() == drawn
    assert [*loader] == order


def test_a_model_alone():
    model, optimizer = make()
    before, _ = picture(model, None)
    with Snapshot(model):
        train(model, optimizer)
    same(picture(model, None)[0] | {"tensors": before["tensors"][:-6]},
         before | {"tensors": before["tensors"][:-6]})  # fmt: skip
    assert all(param.grad is None for param in model.parameters())


def test_a_sampler_with_a_state_goes_back():
    class Counting(torch.utils.data.Sampler):
        def __init__(self):
            self.seen = 0

        def __iter__(self):
            for index in range(4):
                self.seen += 1
                yield index

        def __len__(self):
            return 4

        def state_dict(self):
            return {"seen": self.seen}

        def load_state_dict(self, state):
            self.seen = state["seen"]

    model, optimizer = make()
    sampler = Counting()
    loader = DataLoader(torch.rand(4, 3), sampler=sampler)
    with Snapshot(model, optimizer, loader):
        list(loader)
        assert sampler.seen == 4
    assert sampler.seen == 0
