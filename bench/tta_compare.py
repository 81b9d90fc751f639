"""Run the configs of the time-to-accuracy benchmark: interleaved by seed, or over a grid."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from tta_configs import CONFIGS, SGD, Choice, Config, Data, layer_groups
from tta_data import Memory, Source
from tta_nets import small_resnet
from tta_report import quartiles
from tta_run import Run, Setting, fit_phases, fit_plain

from pyphase import Learner, phases_1cycle
from pyphase.apply.ranks import rank
from pyphase.errors import PhaseError

__all__ = ["QUICK", "Bench", "compare", "tune"]

TUNE_FROM = 100  # the first seed of a sweep: none of those that are compared
PRETRAIN = Choice(0.1, 4)  # 1cycle on the first half of the classes, not timed
QUICK = 3  # epochs of a run that is too short to mean anything


class Bench:
    """The data of every config, and one run of one of them.

    Args:
        setting: how runs are done.
        source: the images; a half of the classes is fine-tuned to, from the other half.
        batch: images of a step.
    """

    def __init__(self, setting: Setting, source: Source, batch: int) -> None:
        self.setting, self.source, self.batch = setting, source, batch
        self._halves: tuple[Memory, Memory] | None = None
        self._trained: dict[int, nn.Module] = {}

    def run(self, name: str, choice: Choice, seed: int) -> Run:
        """Train once. Runs of one seed begin with the same weights, but for another stem's."""
        config, run = CONFIGS[name], Run(name, seed, self.setting.target)
        source: Source = self._half(1) if config.tuning else self.source
        model = self._model(config, source, seed)
        groups = layer_groups(model) if config.tuning else None
        model = self.setting.prepare(config.stem(model))
        torch.manual_seed(1000 * seed + rank())
        if config.phases is None:
            pair = self._data(source)(1)
            fit_plain(run, self.setting, model, pair, SGD, choice.lr, int(choice.epochs))
        else:
            phases = config.phases(choice, self._data(source))
            fit_phases(run, self.setting, model, phases, phases[0].data, groups=groups)
        return run

    def _data(self, source: Source) -> Data:
        """Return what makes the loaders of a part of the image size, each once; validated whole."""
        made: dict[int, Any] = {}

        def pair(part: float) -> Any:
            size = round(part * source.size)
            if size not in made:
                made[size] = source.pair(size, self.batch, valid_size=source.size)
            return made[size]

        return pair

    def _model(self, config: Config, source: Source, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        if not config.tuning:
            return small_resnet(source.channels, len(source.classes))
        model = copy.deepcopy(self._pretrained(seed))
        torch.manual_seed(seed)
        model.fc = nn.Linear(model.fc.in_features, len(source.classes))
        return model

    def _pretrained(self, seed: int) -> nn.Module:
        """Return a network trained on the first half of the classes, the same for both configs."""
        if seed not in self._trained:
            source = self._half(0)
            model = small_resnet(source.channels, len(source.classes))
            pair = self._data(source)(1)
            learn: Learner = self.setting.learner(model.to(self.setting.device), pair)
            learn.fit_opt_sched(
                phases_1cycle(PRETRAIN.epochs, PRETRAIN.lr, 10, 10, 0.95, 0.85, opt_fn=SGD)
            )
            self._trained = {seed: model}  # of the last seed only
        return self._trained[seed]

    def _half(self, index: int) -> Memory:
        if self._halves is None:
            if not isinstance(self.source, Memory):
                raise PhaseError("the fine-tuning configs need images that fit in memory")
            middle, count = len(self.source.classes) // 2, len(self.source.classes)
            self._halves = self.source.part(range(middle)), self.source.part(range(middle, count))
        return self._halves[index]


def compare(
    setting: Setting,
    source: Source,
    names: Sequence[str],
    batch: int,
    *,
    seeds: int,
    choices: Mapping[str, Mapping[str, float]],
    epochs: float | None,
) -> tuple[dict[str, list[Run]], dict[str, Choice]]:
    """Return the runs of each config, seed 0 of all of them first, and what was chosen for each.

    ``epochs`` takes the place of the choices' own.
    """
    bench, chosen = Bench(setting, source, batch), {}
    for name in names:
        try:
            chosen[name] = Choice(**choices[name])
        except (KeyError, TypeError):
            raise PhaseError(
                f"--choices has no rate and length for {name!r}: --tune chooses them"
            ) from None
        if epochs is not None:
            chosen[name] = chosen[name]._replace(epochs=epochs)
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for seed in range(seeds):
        for name in names:
            runs[name].append(bench.run(name, chosen[name], seed))
            report(runs[name][-1], chosen[name])
    return runs, chosen


def tune(
    setting: Setting,
    source: Source,
    names: Sequence[str],
    batch: int,
    *,
    seeds: int,
    epochs: float | None,
) -> tuple[dict[tuple[str, Choice], list[Run]], dict[str, Choice]]:
    """Run each config over its grid; choose by the fewest misses, then by the mean CPU time.

    CPU time, since a sweep is long, and others may use the machine meanwhile.
    """
    bench = Bench(setting, source, batch)
    runs: dict[tuple[str, Choice], list[Run]] = {
        (name, choice): [] for name in names for choice in CONFIGS[name].grid
    }
    for seed in range(TUNE_FROM, TUNE_FROM + seeds):
        for name, choice in runs:
            given = choice if epochs is None else choice._replace(epochs=epochs)
            runs[name, choice].append(bench.run(name, given, seed))
            report(runs[name, choice][-1], choice)
    chosen = {
        name: min(CONFIGS[name].grid, key=lambda choice, name=name: badness(runs[name, choice]))
        for name in names
    }
    return runs, chosen


def badness(runs: Sequence[Run]) -> tuple[int, float]:
    missed = sum(run.reached is None for run in runs)
    return missed, quartiles([run.cost("cpu_seconds") for run in runs]).median


def report(run: Run, choice: Choice) -> None:
    """Say on one line how a run went, as it goes."""
    if rank():
        return
    best, last = max(row.accuracy for row in run.rows), run.rows[-1]
    print(
        f"seed {run.seed:3}  {run.config:30} lr {choice.lr:<5g} {last.epochs:5.1f} of "
        f"{choice.epochs:g} epochs, {last.cpu_seconds:5.1f} CPU s, best {best:.4f}",
        flush=True,
    )
