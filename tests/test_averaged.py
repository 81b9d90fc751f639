"""What an on_enter trains must be averaged over the processes, or is refused.

A group of one process is enough: the wrappers know their parameters in it as well.
"""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from toys import Batches, loss_of

from pyphase import Learner, PhaseError, PhaseLoop, TrainingPhase

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="no torch.distributed")


@pytest.fixture(autouse=True)
def _group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))


def replicated(net):
    return DistributedDataParallel(net, find_unused_parameters=True)


def sharded(net):
    fully_shard(net)
    return net


def run(net, model, *on_enters):
    phases = [TrainingPhase(steps=2, lr=0.1, on_enter=on_enter) for on_enter in on_enters]
    loop = PhaseLoop(model, phases, Batches("a", 10))
    moved = []
    for _ in loop:
        before = net[0].weight.detach().clone()
        loop.step(loss_of(loop.model))
        moved.append(not torch.equal(before, net[0].weight))
    return moved


def freezes(net):
    return lambda run: net[0].requires_grad_(False)


def thaws(net):
    return lambda run: net[0].requires_grad_(True)


@pytest.mark.parametrize("wrap", [replicated, sharded])
def test_what_is_frozen_in_a_phase_can_be_trained_later(wrap):
    net = network()
    assert run(net, wrap(net), freezes(net), thaws(net)) == [False, False, True, True]


def test_what_was_frozen_before_it_was_wrapped_is_refused_by_ddp_alone():
    net = network()
    freezes(net)(None)
    with pytest.raises(PhaseError, match=r"trains 'module\.0\.weight', .*: wrap the"):
        run(net, replicated(net), None, thaws(net))
    net = network()
    freezes(net)(None)
    assert run(net, sharded(net), None, thaws(net)) == [False, False, True, True]


@pytest.mark.parametrize(
    ("wrap", "advice"),
    [(replicated, "set `run.model` to a new Dist"), (sharded, "call fully_shard on it")],
)
def test_what_is_added_is_refused_unless_it_is_wrapped(wrap, advice):
    net = network()
    with pytest.raises(PhaseError, match=rf"trains '(module\.)?2\.weight', .*: {advice}"):
        run(net, wrap(net), None, lambda loop: net.append(nn.Linear(1, 1)))
    net = network()

    def grow(loop):
        net.append(nn.Linear(1, 1))
        loop.model = replicated(net) if wrap is replicated else loop.model
        if wrap is sharded:
            fully_shard(net[-1])

    assert run(net, wrap(net), None, grow) == [True] * 4


def test_a_learner_trains_the_model_that_an_on_enter_wraps_anew():
    net, wrapped = network(), []

    def grow(loop):
        net.append(nn.Linear(1, 1))
        loop.model = replicated(net)
        wrapped.append(loop.model)

    x = torch.ones(8, 3)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x[:, :1]), 2)
    learn = Learner(replicated(net), data, nn.functional.mse_loss, progress=False)
    learn.fit_opt_sched([TrainingPhase(1), TrainingPhase(1, on_enter=grow)])
    assert [learn.model] == wrapped
