"""Images in folders of classes, decoded when they are needed: ImageNet's layout.

Training takes a random crop, resized, and flips half of the images; validation resizes the shorter
side to 1.14 times the size and takes the middle.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tta_data import Pair, Source, loaders, shares

from pyphase.errors import PhaseError

__all__ = ["Folder", "random_crop"]

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)  # of ImageNet, as everybody takes them
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}
Box = tuple[float, float, float, float]  # left, upper, right, lower


class Folder(Source):
    """``train`` and ``val``, each with a folder per class.

    Raises:
        PhaseError: a folder is missing or holds no image, or the two have different classes.
    """

    channels = 3

    def __init__(self, root: Path, *, workers: int, size: int) -> None:
        self.name, self.workers, self.size = root.name, workers, size
        self.train, self.classes = scan(root / "train")
        self.valid, classes = scan(root / "val")
        if classes != self.classes:
            odd = sorted(set(classes) ^ set(self.classes))
            raise PhaseError(f"`--data` ({root}): train and val differ in the classes {odd[:5]}")
        self.counts = len(self.train), len(self.valid)
        self._aspects: list[float] | None = None

    def pair(
        self,
        size: int,
        batch_size: int,
        *,
        valid_size: int | None = None,
        least: float = 0.08,
        rectangular: bool = False,
    ) -> Pair:
        train = Files(self.train, size, least=least)
        order, shapes = self._shapes(valid_size or size, 4 * batch_size, rectangular)
        valid = Files(self.valid, size, shapes=shapes)
        return loaders(train, valid, batch_size, order=order, workers=self.workers)

    def _shapes(
        self, size: int, batch_size: int, rectangular: bool
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the order of the held-out images, and the (height, width) of each.

        Rectangular ones are sorted by aspect ratio, and those of a batch have the mean of theirs.
        """
        count = len(self.valid)
        if not rectangular:
            return list(range(count)), [(size, size)] * count
        if self._aspects is None:
            self._aspects = [aspect(path) for path, _ in self.valid]
        order = sorted(range(count), key=self._aspects.__getitem__)
        shapes = [(size, size)] * count
        for batch in shares(order, batch_size):
            ratio = statistics.fmean(self._aspects[index] for index in batch)
            long = int(size * max(ratio, 1 / ratio)) // 8 * 8
            for index in batch:
                shapes[index] = (size, max(long, size)) if ratio >= 1 else (max(long, size), size)
        return order, shapes


def scan(folder: Path) -> tuple[list[tuple[Path, int]], list[str]]:
    """Return the images below a folder with their labels, and the names of the classes."""
    if not folder.is_dir():
        raise PhaseError(f"`--data`: {folder} is not a folder")
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    files = []
    for label, name in enumerate(classes):
        found = sorted(f for f in (folder / name).rglob("*") if f.suffix.lower() in SUFFIXES)
        if not found:
            raise PhaseError(f"`--data`: {folder / name} holds no image")
        files += [(file, label) for file in found]
    if len(classes) < 2:
        raise PhaseError(f"`--data`: {folder} must hold a folder for each of at least two classes")
    return files, classes


def aspect(path: Path) -> float:
    """Return width / height, from the file's head."""
    from PIL import Image

    with Image.open(path) as image:
        return image.width / image.height


class Files(Dataset[tuple[torch.Tensor, int]]):
    """Images by their files: random crops of at least ``least``, or the middle to ``shapes``."""

    def __init__(
        self,
        files: list[tuple[Path, int]],
        size: int,
        *,
        least: float = 1.0,
        shapes: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self.files, self.size, self.least, self.shapes = files, size, least, shapes
        self.name = f"{size} px"

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        path, label = self.files[index]
        try:
            with Image.open(path) as image:
                if self.shapes is None:
                    box = random_crop(image.width, image.height, self.least)
                    shape = (self.size, self.size)
                else:
                    shape = self.shapes[index]
                    box = middle(image.width, image.height, shape)
                array = resized(image, box, shape)
        except OSError as error:
            raise PhaseError(f"{path} can't be read as an image: {error}") from None
        if self.shapes is None and torch.rand(()) < 0.5:
            array = array[:, ::-1]
        pixels = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
        return (pixels.float() / 255 - MEAN) / DEVIATION, label


def random_crop(width: int, height: int, least: float) -> Box:
    """Return a box of ``least`` to all of the area, 3/4 to 4/3 times as wide as high.

    As torchvision's RandomResizedCrop: after ten boxes that don't fit, the largest one in the
    middle.
    """
    for _ in range(10):
        area = width * height * (least + (1 - least) * float(torch.rand(())))
        ratio = math.exp((2 * float(torch.rand(())) - 1) * math.log(4 / 3))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left = int(torch.randint(width - wide + 1, ()))
            upper = int(torch.randint(height - high + 1, ()))
            return left, upper, left + wide, upper + high
    ratio = min(max(width / height, 3 / 4), 4 / 3)
    return centred(width, height, min(width, height * ratio), min(height, width / ratio))


def middle(width: int, height: int, shape: tuple[int, int]) -> Box:
    """Return the box that a resize of the shorter side to 1.14 x its size and a crop leave."""
    high, wide = shape
    scale = 1.14 * min(shape) / min(width, height)
    return centred(width, height, min(wide / scale, width), min(high / scale, height))


def centred(width: float, height: float, wide: float, high: float) -> Box:
    left, upper = (width - wide) / 2, (height - high) / 2
    return left, upper, left + wide, upper + high


def resized(image: Any, box: Box, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Return a box of an image as uint8 (height, width, 3).

    A JPEG is decoded at a half, a quarter or an eighth of its size where that is enough.
    """
    from PIL.Image import Resampling

    before = image.size
    wanted = [
        math.ceil(side * new / (end - begin))
        for side, new, begin, end in zip(before, shape[::-1], box[:2], box[2:], strict=True)
    ]
    image.draft("RGB", tuple(wanted))
    scales = [now / then for now, then in zip(image.size, before, strict=True)]
    left, upper, right, lower = (edge * scales[i % 2] for i, edge in enumerate(box))
    box = (left, upper, min(right, image.width), min(lower, image.height))
    small = image.convert("RGB").resize(shape[::-1], Resampling.BILINEAR, box)
    return np.asarray(small)
