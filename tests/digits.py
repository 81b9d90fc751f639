"""Real digits (scikit-learn's, 8 x 8 pixels) and a small network, for loops of other libraries."""

import functools

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


@functools.cache
def tensors():
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)


def samples(count, begin=0):
    images, labels = tensors()
    return TensorDataset(images[begin : begin + count], labels[begin : begin + count])


def loader(count=400, batch_size=50, begin=0, seed=0, shuffle=True):
    """Return a loader with an order of its own, the same in each loop."""
    order = torch.Generator().manual_seed(seed)
    return DataLoader(samples(count, begin), batch_size, shuffle=shuffle, generator=order)


def network(dropout=0.0):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Dropout(dropout), nn.Linear(24, 10))


def loss_of(model, batch):
    images, labels = batch
    return nn.functional.cross_entropy(model(images), labels)


def accuracy_of(model):
    images, labels = tensors()
    with torch.no_grad():
        return float((model.eval()(images).argmax(dim=1) == labels).float().mean())


def values_in(optimizer):
    """Return what a step uses: the options of each group, without its parameters."""
    return [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]


def plain_loop(model, optimizer, scheduler, batches, accumulate=1):
    """Train as a hand-written loop does; return the values of each step."""
    seen = []
    for index, batch in enumerate(batches, start=1):
        (loss_of(model, batch) / accumulate).backward()
        if index % accumulate == 0:
            seen.append(values_in(optimizer))
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    return seen


def phase_loop(loop):
    """Train through a PhaseLoop; return the optimizer and values of each step."""
    seen = []
    for batch in loop:
        loss = loss_of(loop.model, batch)
        loss.backward()
        seen.append((type(loop.optimizer).__name__, values_in(loop.optimizer)))
        loop.step(loss)
    return seen
