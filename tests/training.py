"""Small real training problems for the tests."""

import random

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from pyphase import Callback


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


class Events(Callback):
    """Note the events of a fit, and the position after each step."""

    def __init__(self):
        self.seen = []

    def on_train_begin(self, learn):
        self.seen.append("begin")

    def on_phase_begin(self, learn):
        self.seen.append(f"phase {learn.loop.phase_index}")

    def on_step_end(self, learn):
        self.seen.append(learn.loop.position)

    def on_epoch_end(self, learn):
        self.seen.append("epoch")

    def on_train_end(self, learn):
        self.seen.append("end")
