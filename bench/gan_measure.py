"""How good generated digits are, by a classifier of real ones: no critic has a say.

The classifier is trained on the training digits. Images of fewer than 32 pixels are brought to 32
by bilinear interpolation, generated and real ones alike.

- accuracy: share of images in which the classifier reads the label that they were made for.
- confidence: mean probability of what it reads.
- Frechet distance between the classifier's 64 features of the images and of the held-out digits,
  each taken for a Gaussian: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), as in Heusel et al.
  (2017), arXiv 1706.08500, who take the features of Inception.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from pyphase import Learner, accuracy, phases_1cycle
from pyphase.demo import SmallResNet
from pyphase.demo_data import ImageSet

FULL = 32  # pixels


def pixels(images: ImageSet, size: int = FULL) -> Tensor:
    """Return digits in [-1, 1], (N, 1, size, size): padded from 28 pixels to 32, then averaged."""
    padded = nn.functional.pad(images.images.float() / 127.5 - 1, (2, 2, 2, 2), value=-1.0)
    return nn.functional.avg_pool2d(padded, FULL // size)


def batches(images: Tensor, labels: Tensor, size: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return a loader of shuffled whole batches of ``size`` samples."""
    samples = TensorDataset(images, labels)
    order = BatchSampler(RandomSampler(samples), size, drop_last=True)
    return DataLoader(samples, batch_size=None, sampler=order)


class Judge:
    """A classifier of real digits, and what it says about others.

    Args:
        train: the digits to train it on.
        held_out: the digits to compare with.
        path: file of its weights: read where it exists, else written.
        epochs: of its training.
        seed: of its weights and the order of its data.
    """

    def __init__(
        self,
        train: ImageSet,
        held_out: ImageSet,
        path: str | os.PathLike[str],
        *,
        epochs: int,
        seed: int,
    ) -> None:
        self.train, self.held_out = train, held_out
        torch.manual_seed(seed)
        data = batches(pixels(train), train.labels, 50)
        self.model = SmallResNet(1, 10)
        learn = Learner(self.model, data, nn.CrossEntropyLoss(), [accuracy], progress=False)
        if Path(path).exists():
            learn.load(path)
        else:
            learn.fit_opt_sched(phases_1cycle(epochs, 0.1, 10, 10, 0.95, 0.85))
            learn.save(path)
        self.model.eval()
        *layers, self._head = self.model.children()
        self._body = nn.Sequential(*layers)
        self._reference = gaussian(self._look(pixels(held_out))[0])

    @torch.no_grad()
    def _look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, 64) and class probabilities (N, 10)."""
        if images.shape[-1] != FULL:
            images = nn.functional.interpolate(images, size=(FULL, FULL), mode="bilinear")
        parts = images.clamp(-1, 1).split(250)
        features = torch.cat([self._body(part) for part in parts])
        return features, self._head(features).softmax(1)

    def __call__(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        """Return ``accuracy``, ``confidence`` and ``frechet`` of images (N, 1, S, S)."""
        features, found = self._look(images)
        return {
            "accuracy": float((found.argmax(1) == labels).float().mean()),
            "confidence": float(found.amax(1).mean()),
            "frechet": frechet(gaussian(features), self._reference),
        }

    def of_real(self, size: int) -> dict[str, float]:
        """Judge training digits of ``size`` pixels, as many of each class as are held out.

        It is what a perfect generator of that size would get: at 32 pixels, the floor.
        """
        images, labels = pixels(self.train, size), self.train.labels
        counts = torch.bincount(self.held_out.labels, minlength=10)
        chosen = [(labels == k).nonzero()[: int(counts[k]), 0] for k in range(10)]
        index = torch.cat(chosen)
        return self(images[index], labels[index])

    def of_held_out(self) -> dict[str, float]:
        """Judge the held-out digits themselves."""
        return self(pixels(self.held_out), self.held_out.labels)


def gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (D,) and covariance (D, D) of features (N, D), in float64."""
    wide = features.double()
    return wide.mean(0), torch.cov(wide.T)


def frechet(one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor]) -> float:
    """Return the Frechet distance of two Gaussians, each a (mean, covariance).

    The trace of (S1 S2)^(1/2) is that of (R S2 R)^(1/2) with R = S1^(1/2), which is symmetric.
    """
    (mean1, cov1), (mean2, cov2) = one, two
    values, vectors = torch.linalg.eigh(cov1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * shared
    return float(distance)
