"""What the time-to-accuracy benchmark compares: ways to plan a run, each with its choices."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from pyphase import DecayType, TrainingPhase, overlay, phases_1cycle, step_decay
from pyphase.nets import replace_stem

__all__ = ["CONFIGS", "Choice", "Config", "Data", "layer_groups"]

COSINE = DecayType.COSINE
SGD = functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=5e-4)
DIV, PCT, MOMENTA = 10, 10, (0.95, 0.85)  # 1cycle as fastai 0.7's notebook has it
SIZES = (1 / 2, 3 / 4, 1)  # of growing images, a third of the epochs each
TAIL, TAIL_LR = 0.3, 1 / 30  # AdamW's part of the epochs, and of SGD's highest rate
SPREAD = 3  # each group of layers learns so many times as fast as the one before it

Data = Callable[[float], Any]  # a pair of loaders, for a part of the image size to train on


class Choice(NamedTuple):
    """What is chosen for each config by a sweep: its highest rate, and its length in epochs."""

    lr: float
    epochs: float


@dataclass(frozen=True)
class Config:
    """A way to train.

    Args:
        name: as the table has it.
        phases: the phases for a choice and the data; None is torch's OneCycleLR in a plain loop.
        grid: what the sweep tries.
        stem: changes the network before it is trained.
        tuning: start from a network trained on the other half of the classes.
    """

    name: str
    phases: Callable[[Choice, Data], list[TrainingPhase]] | None
    grid: tuple[Choice, ...]
    stem: Callable[[nn.Module], nn.Module] = field(default=lambda model: model)
    tuning: bool = False


def constant(choice: Choice, data: Data) -> list[TrainingPhase]:
    return [TrainingPhase(choice.epochs, SGD, choice.lr, data=data(1))]


def steps(choice: Choice, data: Data) -> list[TrainingPhase]:
    """A tenth of the rate after half of the epochs, a hundredth after four fifths."""
    milestones = [choice.epochs / 2, choice.epochs * 0.8]
    return over(
        step_decay(choice.lr, milestones=milestones, epochs=choice.epochs, opt_fn=SGD), data
    )


def cycle(choice: Choice, data: Data) -> list[TrainingPhase]:
    return over(rates(choice), data)


def growing(choice: Choice, data: Data) -> list[TrainingPhase]:
    return overlay(rates(choice), sizes(choice.epochs, data))


def changing(choice: Choice, data: Data) -> list[TrainingPhase]:
    """1cycle with SGD, then AdamW, which goes on with SGD's momentum; growing images."""
    adam = choice.lr * TAIL_LR
    tail = TrainingPhase(
        choice.epochs * TAIL, torch.optim.AdamW, (adam, adam / 100), COSINE,
        opt_state="map", wds=0.02, name="AdamW",
    )  # fmt: skip
    first = rates(choice._replace(epochs=choice.epochs * (1 - TAIL)))
    return overlay([*first, tail], sizes(choice.epochs, data))


def discriminative(choice: Choice, data: Data) -> list[TrainingPhase]:
    peaks = [choice.lr / SPREAD**2, choice.lr / SPREAD, choice.lr]
    return over(phases_1cycle(choice.epochs, peaks, DIV, PCT, *MOMENTA, opt_fn=SGD), data)


def rates(choice: Choice) -> list[TrainingPhase]:
    return phases_1cycle(choice.epochs, choice.lr, DIV, PCT, *MOMENTA, opt_fn=SGD)


def over(phases: list[TrainingPhase], data: Data) -> list[TrainingPhase]:
    epochs = sum(phase.epochs or 0 for phase in phases)
    return overlay(phases, [TrainingPhase(epochs, data=data(1))])


def sizes(epochs: float, data: Data) -> list[TrainingPhase]:
    return [TrainingPhase(epochs / len(SIZES), data=data(part)) for part in SIZES]


def layer_groups(model: nn.Module) -> list[list[nn.Parameter]]:
    """Return the parameters of stem and first stage, of the stages between, of last stage and head.

    For a :class:`tta_nets.ResNet`.
    """
    stem, head = [model.conv1, model.bn1, model.stages[0]], [model.stages[-1], model.fc]
    parts = [stem, list(model.stages[1:-1]), head]
    return [[p for module in part for p in module.parameters()] for part in parts]


def grid(rates: tuple[float, ...], epochs: tuple[float, ...]) -> tuple[Choice, ...]:
    return tuple(Choice(lr, length) for length in epochs for lr in rates)


factorized = functools.partial(replace_stem, kind="factorized")
CYCLES = grid((0.1, 0.2, 0.4), (5, 6, 7))
GROWING = grid((0.1, 0.2, 0.4), (6, 7.5, 9))
TUNING = grid((0.1, 0.2, 0.4), (3, 4, 6))
CONFIGS = {
    config.name: config
    for config in (
        Config("constant rate", constant, grid((0.03, 0.1, 0.3), (15,))),
        Config("step decay", steps, CYCLES),
        Config("torch OneCycleLR, plain loop", None, CYCLES),
        Config("1cycle", cycle, CYCLES),
        Config("1cycle, growing images", growing, GROWING),
        Config("growing images, then AdamW", changing, GROWING),
        Config("growing, factorized stem", growing, GROWING, stem=factorized),
        Config("fine-tuning, one rate", cycle, TUNING, tuning=True),
        Config("fine-tuning, a rate per depth", discriminative, TUNING, tuning=True),
    )
}
