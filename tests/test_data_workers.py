"""Changes of data with worker processes and samplers: nothing lost, nothing seen twice.

Each sample names itself, so that a test can count what the model has seen.
"""

import itertools
import os

import pytest
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Sampler,
    get_worker_info,
)
from toys import same
from training import seed_all

from pyphase import PhaseLoop, TrainingPhase


class Images(Dataset):
    """Images of one size, their indices, random brightness, and the worker's process."""

    def __init__(self, count, size):
        self.count, self.size = count, size

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.rand(1, self.size, self.size), index, os.getpid()


def images(size, batch_size, count=12, **arguments):
    return DataLoader(Images(count, size), batch_size, **{"shuffle": True} | arguments)


def make(phases, **arguments):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 1))
    return PhaseLoop(model, phases, **arguments)


def train(loop, steps=None):
    """Take steps; return of each batch the image size, the indices and the workers."""
    seen = []
    for image, index, worker in itertools.islice(loop, steps):
        seen.append((image.shape[-1], index.tolist(), set(worker.tolist())))
        loop.step(loop.model(image).square().mean())
    return seen


def indices(seen):
    """Return the indices of all samples, in order."""
    return [index for _, batch, _ in seen for index in batch]


def alive(worker):
    try:
        os.kill(worker, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("persistent", [False, True])
def test_image_and_batch_size_change_and_the_old_workers_end(persistent):
    """1.5 epochs of small images in batches of 4, then 1.5 of large ones in batches of 3."""
    arguments = {"num_workers": 2, "persistent_workers": persistent}
    small, large = images(4, 4, **arguments), images(8, 3, **arguments)
    loop = make([TrainingPhase(1.5, data=small), TrainingPhase(1.5, data=large)])
    seen = train(loop, 5)
    workers = set().union(*(pids for *_, pids in seen))
    seen += train(loop, 1)
    if persistent:
        assert not any(alive(pid) for pid in workers)  # gone with the border, not with the loader
    seen += train(loop)
    assert [size for size, *_ in seen] == [4] * 5 + [8] * 6
    assert [len(index) for _, index, _ in seen] == [4] * 5 + [3] * 6
    for begin, end in ((0, 3), (5, 9)):  # whole epochs
        assert sorted(indices(seen[begin:end])) == list(range(12))
    for begin, end in ((3, 5), (9, 11)):  # half ones
        half = indices(seen[begin:end])
        assert len(set(half)) == len(half)
    assert not any(alive(pid) for pid in workers)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_the_next_workers_start_before_the_border(prefetch):
    arguments = {"num_workers": 1}
    loop = make(
        [
            TrainingPhase(steps=6, data=images(4, 4)),
            TrainingPhase(1, data=images(8, 4, **arguments)),
        ],
        prefetch=prefetch,
    )
    started = []
    for image, _, worker in loop:
        started.append(loop._data.coming is not None)
        if loop._data.coming is not None:
            workers = loop._data.coming[1]._batches._workers
            assert [process.is_alive() for process in workers] == [True]
            pid = workers[0].pid
        elif prefetch and image.shape[-1] == 8:
            assert set(worker.tolist()) == {pid}
        loop.step(loop.model(image).square().mean())
    assert started == [False] * (6 - prefetch) + [True] * prefetch + [False] * 3


def test_on_enter_comes_before_the_workers_of_its_phase():
    """Workers hold a copy of the data set as it was when they started."""
    data = Images(12, 4)

    def enlarge(loop):
        data.size = 8

    loader = DataLoader(data, 4, num_workers=1)
    phases = [TrainingPhase(1, data=images(2, 4)), TrainingPhase(1, data=loader, on_enter=enlarge)]
    assert [size for size, *_ in train(make(phases))] == [2] * 3 + [8] * 3


@pytest.mark.parametrize("cut", [3, 5, 6, 8])
def test_a_state_with_prefetched_workers_resumes_bit_for_bit(cut):
    """Also with the next data's first batches already on their way."""

    def start():
        seed_all(4)
        arguments = {"num_workers": 1}
        small, large = images(4, 4, **arguments), images(8, 3, **arguments)
        return make(
            [TrainingPhase(2, data=small), TrainingPhase(1.5, torch.optim.Adam, 0.01, data=large)],
            prefetch=2,
        )

    ends, rests = [], []
    for loaded in (False, True):
        loop = start()
        train(loop, cut)
        if loaded:
            state, loop = loop.state_dict(), start()
            seed_all(99)
            loop.load_state_dict(state)
        rests.append([step[:2] for step in train(loop)])
        ends.append(loop.state_dict())
    same(*rests)
    same(*ends)


def test_persistent_workers_resume_with_the_same_order():
    """What the workers themselves draw goes on within them, and begins anew in a new process."""

    def start():
        seed_all(4)
        return make([TrainingPhase(3, data=images(4, 4, num_workers=1, persistent_workers=True))])

    whole = [index for _, index, _ in train(start())]
    for cut in (2, 4, 6):
        loop = start()
        train(loop, cut)
        state, loop = loop.state_dict(), start()
        loop.load_state_dict(state)
        assert [index for _, index, _ in train(loop)] == whole[cut:]


def test_a_distributed_sampler_shuffles_anew_in_each_epoch():
    """Two replicas in one process: together they see each sample once an epoch."""
    orders = []
    for rank in range(2):
        loaders = []
        for size in (4, 8):
            data = Images(12, size)
            sampler = DistributedSampler(data, 2, rank, shuffle=True)
            loaders.append(DataLoader(data, 2, sampler=sampler, num_workers=1))
        phases = [TrainingPhase(2, data=loaders[0]), TrainingPhase(1.0, data=loaders[1])]
        orders.append(indices(train(make(phases))))
    epochs = []
    for begin in (0, 6, 12):
        epoch = [order[begin : begin + 6] for order in orders]
        assert sorted(epoch[0] + epoch[1]) == list(range(12))
        epochs.append(epoch)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


class Rotating(Sampler):
    """A sampler with a state: each epoch begins where the one before has ended."""

    def __init__(self, count, take):
        self.count, self.take, self.next = count, take, 0

    def __len__(self):
        return self.take

    def __iter__(self):
        for _ in range(self.take):
            yield self.next
            self.next = (self.next + 1) % self.count

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]


@pytest.mark.parametrize("cut", [1, 3, 4, 8, 9])
def test_a_sampler_with_a_state_goes_on(cut):
    def start():
        a, b = Rotating(10, 6), Rotating(12, 6)
        parts = (
            images(4, 2, sampler=a, shuffle=False),
            images(8, 3, sampler=b, shuffle=False),
        )
        return make([TrainingPhase(1.5, data=data) for data in (*parts, parts[0])])

    whole = [index for _, index, _ in train(start())]
    assert whole[3] == [6, 7]
    loop = start()
    train(loop, cut)
    state, loop = loop.state_dict(), start()
    loop.load_state_dict(state)
    assert [index for _, index, _ in train(loop)] == whole[cut:]


class Stream(IterableDataset):
    """Samples without a length, shared out between the workers."""

    def __init__(self, size):
        self.size = size

    def __iter__(self):
        info = get_worker_info()
        begin, stride = (0, 1) if info is None else (info.id, info.num_workers)
        for index in itertools.count(begin, stride):
            yield torch.rand(1, self.size, self.size), index, os.getpid()


def test_iterable_data_has_steps():
    def start():
        seed_all(4)
        loaders = [DataLoader(Stream(size), 4, num_workers=2) for size in (4, 8)]
        return make([TrainingPhase(steps=5, data=data) for data in loaders], prefetch=2)

    loop = start()
    seen, state = train(loop, 3), None
    state = loop.state_dict()
    seen += train(loop)
    assert [size for size, *_ in seen] == [4] * 5 + [8] * 5
    for begin in (0, 5):
        assert len(set(indices(seen[begin : begin + 5]))) == 20
    again = start()
    again.load_state_dict(state)
    assert [step[:2] for step in train(again)] == [step[:2] for step in seen[3:]]


@pytest.mark.parametrize("cut", [5, 6, 7])
def test_workers_do_not_start_amid_an_accumulated_step(cut):
    """What a step was before its first batch is kept: no generator may move after that."""

    def start():
        seed_all(4)
        phases = [
            TrainingPhase(steps=3, data=images(2, 4, 16)),  # four batches an epoch
            TrainingPhase(steps=3, data=images(2, 4, 16, num_workers=1)),
        ]
        return make(phases, accumulate=2, prefetch=2)

    whole = start()
    train(whole)
    loop = start()
    for number, batch in enumerate(itertools.islice(loop, cut), start=1):
        if number < cut:  # the last batch is left without its step
            loop.step(loop.model(batch[0]).square().mean())
    state, again = loop.state_dict(), start()
    seed_all(99)
    again.load_state_dict(state)
    train(again)
    same(again.state_dict(), whole.state_dict())
