"""DAWNBench's recipes of 2018 as plan files, and plan files bound to the images of a folder.

    python bench/tta_plans.py        # writes bench/plans/*.json, and prints the plans

A plan file knows its data by name: "224 px, crops from 0.087, rectangular" are images of 224
pixels, random crops of at least 8.7 % of the area, validated in about their own aspect ratio. Its
``batch_size`` is the samples of a step, over all processes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from tta_data import Source

from pyphase import DecayType, Plan, TrainingPhase, overlay, phases_1cycle
from pyphase.apply.ranks import world_size
from pyphase.errors import PhaseError
from pyphase.plan_text import data_name

__all__ = ["FOLDER", "RECIPES", "Images", "Recipe", "bind", "norm_groups"]

FOLDER = Path(__file__).parent / "plans"
LINEAR = DecayType.LINEAR
CIFAR, IMAGENET = 50_000, 1_281_167  # images to train on
NAME = re.compile(r"(\d+) px(?:, crops from ([\d.]+))?(, rectangular)?")


@dataclasses.dataclass(frozen=True)
class Images:
    """What a phase trains on, as a plan needs it: a name, a batch size, a number of batches."""

    size: int
    batch_size: int
    count: int
    least: float | None = None
    rectangular: bool = False

    @property
    def name(self) -> str:
        crops = "" if self.least is None else f", crops from {self.least:g}"
        return f"{self.size} px{crops}{', rectangular' * self.rectangular}"

    def __len__(self) -> int:
        return math.ceil(self.count / self.batch_size)

    def __call__(self) -> Any:
        raise PhaseError(f"bind() makes loaders of {self.name!r}")


class Recipe(NamedTuple):
    """A plan, and what goes with it."""

    make: Callable[[], list[TrainingPhase]]
    network: str
    target: float
    top: int  # places among which the right class must be


def cifar10() -> list[TrainingPhase]:
    """fast.ai on one V100: 30 epochs, 1cycle to a rate of 1.5, a twentieth of it at its ends."""
    sgd = functools.partial(torch.optim.SGD, weight_decay=1e-4)
    images = Images(32, 512, CIFAR)
    rates = phases_1cycle(30, 1.5, 20, 20, 0.95, 0.85, opt_fn=sgd)
    return overlay(rates, [TrainingPhase(30, data=images)])


def imagenet_8gpus() -> list[TrainingPhase]:
    """One machine of 8 V100s: 35 epochs, steps, rates that follow the batch from 224 pixels on."""
    lr, at_224, at_288 = 1.0, 224 / 512, 128 / 512
    rates = [
        ramp(5, lr, 2 * lr),
        ramp(9, lr),
        ramp(2, lr * at_224),
        ramp(11, lr / 10 * at_224),
        ramp(5, lr / 100 * at_224),
        ramp(1, lr / 100 * at_288),
        ramp(2, lr / 1000 * at_288),
    ]
    return overlay(rates, images(8, (14, 128, 512, 0.08), (18, 224, 224, 0.08), (3, 288, 128, 0.5)))


def imagenet_128gpus() -> list[TrainingPhase]:
    """16 machines of 8 V100s: 40 epochs, linear ramps, batches that grow at each size."""
    lr, grown = 0.24 * 8, 224 / 64
    rates = [
        ramp(6, lr, 2 * lr),
        ramp(5, 2 * lr),
        ramp(3, 2 * lr, lr),
        ramp(3, lr),
        ramp(6, lr, lr / 10 * grown),
        ramp(6, lr / 10 * grown, lr / 100 * grown),
        ramp(8, lr / 100, lr / 1000),
        ramp(3, lr / 1000),
    ]
    sizes = [(6, 128, 64, 0.08), (8, 128, 128, 0.08), (3, 224, 64, 0.087), (12, 224, 224, 0.087)]
    return overlay(rates, images(128, *sizes, (11, 288, 128, 0.5)))


def ramp(epochs: int, start: float, end: float | None = None) -> TrainingPhase:
    """Return a phase of imagenet18's SGD; the first parameter group is the norms', undecayed."""
    options = {"momentum": 0.9, "wds": [0.0, 1e-4]}
    if end is None:
        return TrainingPhase(epochs, torch.optim.SGD, start, **options)
    return TrainingPhase(epochs, torch.optim.SGD, (start, end), LINEAR, **options)


def images(processes: int, *parts: tuple[int, int, int, float]) -> list[TrainingPhase]:
    """Return phases of (epochs, pixels, batch of a process, smallest crop)."""
    return [
        TrainingPhase(
            epochs, data=Images(size, processes * batch, IMAGENET, least, rectangular=size == 288)
        )
        for epochs, size, batch, least in parts
    ]


RECIPES = {
    "cifar10": Recipe(cifar10, "wrn_22", 0.94, top=1),
    "imagenet_8gpus": Recipe(imagenet_8gpus, "resnet50", 0.93, top=5),
    "imagenet_128gpus": Recipe(imagenet_128gpus, "resnet50", 0.93, top=5),
}


def bind(
    plan: Plan, source: Source, *, accumulate: int = 1, pixels: float = 1.0
) -> list[TrainingPhase]:
    """Return the plan's phases with loaders of a source's images.

    Args:
        plan: phases with named data and batch sizes, as a plan file holds them.
        source: the images.
        accumulate: batches of a step.
        pixels: part of the image sizes, for a trial.

    Raises:
        PhaseError: a phase has no such data, or its batch can't be shared out.
    """
    shared = world_size() * accumulate
    made: dict[tuple[str, int], Any] = {}
    phases = []
    for index, (phase, batch) in enumerate(zip(plan.phases, plan.batch_sizes, strict=True)):
        name = data_name(phase.data) or ""
        found = NAME.fullmatch(name)
        if found is None or batch is None:
            raise PhaseError(
                f"{plan.label(index)}: its data (={name!r}) must be named as '224 px' or "
                "'224 px, crops from 0.08', with a `batch_size`"
            )
        if batch % shared:
            raise PhaseError(
                f"{plan.label(index)}: a batch of {batch} can't be shared out to {world_size()} "
                f"processes and {accumulate} batches a step"
            )
        if (name, batch) not in made:
            made[name, batch] = source.pair(
                max(8, round(pixels * int(found[1]))), batch // shared,
                least=float(found[2] or 0.08), rectangular=found[3] is not None,
            )  # fmt: skip
        phases.append(dataclasses.replace(phase, data=made[name, batch]))
    return phases


def norm_groups(model: nn.Module) -> list[list[nn.Parameter]]:
    """Return the parameters of batch norms, and all others."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    own = {id(param): param for norm in norms for param in norm.parameters()}
    return [list(own.values()), [p for p in model.parameters() if id(p) not in own]]


def main() -> None:
    """Write the plan files."""
    for name, recipe in RECIPES.items():
        plan = Plan(recipe.make())
        (FOLDER / f"{name}.json").write_text(plan.to_json() + "\n")
        print(f"{name}\n{plan}\n")


if __name__ == "__main__":
    main()
