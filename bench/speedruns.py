"""The schedules of two speed-runs as phases: airbench (CIFAR-10) and modded-nanogpt.

    python bench/speedruns.py        # prints the plans

Each function returns phases; what a plan sets besides the optimizer's own values goes to a
:class:`Setting`, from which the training loop reads it. tests/test_speedruns.py holds every step
against the formulas that the speed-runs' own code evaluates.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pyphase import DecayType, Linear, Plan, Table, TrainingPhase, overlay
from pyphase.curves import Part

LINEAR = DecayType.LINEAR


class Setting:
    """A value that a plan sets and a training loop reads."""

    def __init__(self, name: str) -> None:
        self.__name__, self.value = name, math.nan

    def __call__(self, value: float) -> None:
        self.value = value


# --- airbench94: KellerJordan/cifar10-airbench, airbench94_compiled.py ----------------------------


def airbench94(
    steps_per_epoch: int, lookahead: Setting, freeze: Callable[[Any], Any]
) -> list[TrainingPhase]:
    """Return airbench94's run for two parameter groups: norm biases, all others.

    Up from 0.2 to 1 over 23 % of the steps, down to 0.07; after three epochs ``freeze`` ends the
    training of the whitening layer's bias; the look-ahead's decay grows with the cube of the step.
    Rates and weight decays are given per 1024 examples and for steps that Nesterov's momentum does
    not lengthen; the decay of a step does not grow with the rate.
    """
    epochs, whiten_epochs, momentum = 9.9, 3, 0.85
    longer = 1 + 1 / (1 - momentum)
    lr, decay = 11.5 / (1024 * longer), 0.0153 / longer
    total = math.ceil(steps_per_epoch * epochs)
    warmup = int(0.23 * total)
    peaks = [64 * lr, lr]
    fixed = {"momentum": momentum, "wds": [decay / peak for peak in peaks]}
    rates = [
        TrainingPhase(steps=warmup, lr=([0.2 * p for p in peaks], peaks), lr_decay=LINEAR, **fixed),
        TrainingPhase(
            steps=total - warmup, lr=(peaks, [0.07 * p for p in peaks]), lr_decay=LINEAR, **fixed
        ),
    ]
    frozen = whiten_epochs * steps_per_epoch
    bias = [TrainingPhase(steps=frozen), TrainingPhase(steps=total - frozen, on_enter=freeze)]
    # A table with a knot at each step is any function of the step, exactly.
    cube = Table.sample(lambda f: 0.95**5 * f**3, num=total + 1)
    return overlay(rates, bias, [TrainingPhase(steps=total, values={lookahead: cube})])


# --- airbench94_muon.py: horizons that differ from group to group ---------------------------------


def airbench94_muon(steps_per_epoch: int = 25, epochs: int = 8) -> list[TrainingPhase]:
    """Return the rates of its SGD: whitening bias, norm biases, head; Muon's is the last group.

    All fall to 0 in a straight line, the first within 3 epochs, the others within all 8. A line
    that is cut stays a line, so the run is cut where the short horizon ends.
    """
    short, total = 3 * steps_per_epoch, epochs * steps_per_epoch
    starts = [0.053, 0.053, 0.67, 0.24]
    middle = [0.0, *(lr * (1 - short / total) for lr in starts[1:])]
    return [
        TrainingPhase(steps=short, lr=(starts, middle), lr_decay=LINEAR),
        TrainingPhase(steps=total - short, lr=(middle, [0.0] * 4), lr_decay=LINEAR),
    ]


# --- modded-nanogpt: KellerJordan/modded-nanogpt, train_gpt.py ------------------------------------


class Stage(NamedTuple):
    """What holds over a stage.

    Args:
        steps: its length.
        lr_mul: the rate's multiple before the cooldown.
        batch: tokens of a batch.
        sequence: tokens of the longest document.
        windows: blocks that attention reaches back, short and long.
        ahead: (start, end) of the loss weight of each token after the next one.
        prefix: loss weights that follow each other over equal parts of the stage.
    """

    steps: int
    lr_mul: float
    batch: int
    sequence: int
    windows: tuple[int, int]
    ahead: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 0.0), (0.0, 0.0))
    prefix: tuple[float, ...] = (0.0,)


_UNIT = 2048 * 8  # tokens
RECORD = [
    Stage(428, 1.0, 8 * _UNIT, 896, (1, 3), ((0.5, 0.5), (0.25, 0.0))),
    Stage(429, 1.52, 16 * _UNIT, 2048, (3, 7), ((0.5, 0.0), (0.0, 0.0))),
    Stage(428, 1.73, 24 * _UNIT, 2048, (5, 11)),
    Stage(15, 1.0, 24 * _UNIT, 2048, (6, 13)),  # the extension, at the cooldown's end
]
# A later variant: longer documents, a batch that falls again, a loss for prefixes of tokens.
TAPER = [
    Stage(320, 1.0, 8 * _UNIT, 896, (1, 3), ((0.5, 0.5), (0.25, 0.0)), (0.25,)),
    Stage(361, 1.52, 16 * _UNIT, 2048, (3, 7), ((0.5, 0.0), (0.0, 0.0)), (0.2, 0.15, 0.1, 0.05)),
    Stage(426, 1.73, 24 * _UNIT, 3072, (5, 11)),
    Stage(67, 1.73 * (20 / 24) ** 0.5, 20 * _UNIT, 3072, (5, 11)),
    Stage(20, 1.0, 8 * _UNIT, 3072, (6, 13)),
]
NAMES = ("batch", "sequence", "short", "long", "ahead_2", "ahead_3", "prefix", "muon_momentum")


def modded_nanogpt(
    stages: Sequence[Stage],
    settings: dict[str, Setting],
    *,
    lrs: Sequence[float] = (0.023, 0.008, 0.6, 8e-5),
    cooldown: float = 0.6,
    floor: float = 0.15,
    warmup: int = 300,
) -> list[TrainingPhase]:
    """Return modded-nanogpt's run: rates, stages, loss weights and Muon's momentum, as tracks.

    Args:
        stages: its stages, the last one the extension.
        settings: a :class:`Setting` for each of NAMES.
        lrs: the rate of each parameter group; Muon's first, then Adam's with its multiples.
        cooldown: the part of all stages but the last over which each rate falls.
        floor: what it falls to, a multiple of ``lrs``.
        warmup: steps over which Muon's momentum rises from 0.85 to 0.95; it falls over the last 50.
    """
    bounds = list(itertools.accumulate((stage.steps for stage in stages), initial=0))
    total, scheduled = bounds[-1], bounds[-2]
    momentum = settings["muon_momentum"]
    momenta = [
        TrainingPhase(steps=warmup, values={momentum: Linear(0.85, 0.95)}),
        TrainingPhase(steps=total - warmup - 50, values={momentum: 0.95}),
        TrainingPhase(steps=50, values={momentum: Linear(0.95, 0.85)}),
    ]
    return overlay(
        _rates(stages, bounds, lrs, int(scheduled * (1 - cooldown)), floor),
        [_stage(stage, settings) for stage in stages],
        [phase for stage in stages for phase in _prefix(stage, settings["prefix"])],
        momenta,
    )


def _rates(
    stages: Sequence[Stage], bounds: list[int], lrs: Sequence[float], begin: int, floor: float
) -> list[TrainingPhase]:
    """Return each stage's rate, of which the cooldown from step ``begin`` shows a part."""
    end = bounds[-2]
    phases = []
    for stage, (first, last) in zip(stages, itertools.pairwise(bounds), strict=True):
        peaks = [stage.lr_mul * lr for lr in lrs]
        line = Linear(peaks, [floor * lr for lr in lrs])
        if first < min(last, begin):
            phases.append(TrainingPhase(steps=min(last, begin) - first, lr=peaks))
        if begin < last <= end:
            part = Part(
                line, (max(first, begin) - begin) / (end - begin), (last - begin) / (end - begin)
            )
            phases.append(TrainingPhase(steps=last - max(first, begin), lr=part))
    return [*phases, TrainingPhase(steps=bounds[-1] - end, lr=[floor * lr for lr in lrs])]


def _stage(stage: Stage, settings: dict[str, Setting]) -> TrainingPhase:
    values = {
        settings["batch"]: stage.batch,
        settings["sequence"]: stage.sequence,
        settings["short"]: stage.windows[0],
        settings["long"]: stage.windows[1],
        settings["ahead_2"]: Linear(*stage.ahead[0]),
        settings["ahead_3"]: Linear(*stage.ahead[1]),
    }
    return TrainingPhase(steps=stage.steps, values=values)


def _prefix(stage: Stage, setting: Setting) -> list[TrainingPhase]:
    """Return one phase per weight; a part of the stage begins at the first step within it."""
    count = len(stage.prefix)
    edges = [math.ceil(part * stage.steps / count) for part in range(count + 1)]
    return [
        TrainingPhase(steps=end - begin, values={setting: weight})
        for weight, (begin, end) in zip(stage.prefix, itertools.pairwise(edges), strict=True)
    ]


def main() -> None:
    """Print the plans."""
    settings = {name: Setting(name) for name in NAMES}
    print(Plan(airbench94(48, Setting("lookahead"), lambda run: None)))
    print(Plan(airbench94_muon()))
    print(Plan(modded_nanogpt(RECORD, settings)))
    print(Plan(modded_nanogpt(TAPER, settings, cooldown=0.8, floor=0.3, warmup=240)))


if __name__ == "__main__":
    main()
