"""Small real training problems for the tests."""

import random

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset


class Noisy(Dataset):
    """Samples with augmentation from all three global generators."""

    def __init__(self, count, offset=0):
        self.count, self.offset = count, offset

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        noise = random.random() + float(np.random.rand()) + float(torch.rand(()))
        x = torch.tensor([float(index + self.offset), noise, 1.0]) / self.count
        return x, x.sum(dim=0, keepdim=True)


def loader(count=12, batch_size=2, offset=0, **arguments):
    return DataLoader(Noisy(count, offset), batch_size=batch_size, shuffle=True, **arguments)


def plain(count=12, batch_size=2, start=0.0):
    x = (start + torch.arange(count, dtype=torch.float32)).reshape(-1, 1)
    return DataLoader(TensorDataset(x, 3 * x), batch_size=batch_size)


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1))


def seed_all(seed=0):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def train_step(model, loop, batch):
    x, y = batch
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
    return loop.step(loss)


def same_tensors(a, b):
    """Assert that two nested states are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor)
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same_tensors(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, two in zip(a, b, strict=True):
            same_tensors(one, two)
    else:
        assert a == b
