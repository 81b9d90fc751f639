"""Small models, data sets and loops that several test files share."""

import torch

from pyphase import PhaseLoop


class Batches:
    """A loader of ``count`` batches, each a tensor that names the data set and the batch."""

    def __init__(self, name, count, batch_size=None):
        self.name, self.count, self.batch_size = name, count, batch_size
        self.started = 0

    def __len__(self):
        return self.count

    def __iter__(self):
        self.started += 1
        return iter([(self.name, index) for index in range(self.count)])


class Endless(Batches):
    """The same without a length."""

    __len__ = None


class Epochs:
    """A sampler that notes the epochs it was told."""

    def __init__(self, count):
        self.count, self.epochs = count, []

    def __len__(self):
        return self.count

    def __iter__(self):
        return iter(range(self.count))

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


def net(seed=0):
    """Return two layers, 3 -> 4 -> 1, with known weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))


def make_loop(phases, data=None, model=None, **arguments):
    """Return a loop over batches that only count."""
    data = Batches("a", 10) if data is None else data
    return PhaseLoop(net() if model is None else model, phases, data, **arguments)


def loss_of(model):
    """Return a loss that reaches every parameter."""
    return model(torch.ones(2, 3)).square().mean()


def advance(loop, steps=None):
    """Take all steps, or the next few; return the batches."""
    batches = []
    while not loop.done and (steps is None or len(batches) < steps):
        batches.append(next(iter(loop)))
        loop.step(loss_of(loop.model))
    return batches


def same(a, b):
    """Assert that two nests of tensors, dicts and lists are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, two in zip(a, b, strict=True):
            same(one, two)
    else:
        assert a == b
