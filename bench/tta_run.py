"""One timed run: train until the accuracy on the held-out images is reached, or the plan ends."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pyphase import Callback, Learner, Plan, TrainingPhase, accuracy
from pyphase.apply.ranks import world_size

__all__ = ["Clock", "Row", "Run", "Setting", "fit_phases", "fit_plain", "top_accuracy"]


@dataclass(frozen=True)
class Row:
    """An evaluation: what the training had taken until then, and the accuracy."""

    epochs: float
    images: int
    seconds: float
    cpu_seconds: float  # of this process, all threads
    accuracy: float


@dataclass
class Run:
    """The evaluations of a run, and the first that reaches the target."""

    config: str
    seed: int
    target: float
    rows: list[Row] = field(default_factory=list)

    @property
    def reached(self) -> Row | None:
        return next((row for row in self.rows if row.accuracy >= self.target), None)

    def cost(self, name: str) -> float:
        """Return a field of the row that reached the target, infinity where none did."""
        return math.inf if self.reached is None else float(getattr(self.reached, name))

    def record(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Setting:
    """How runs are done.

    Args:
        target: accuracy to reach, in (0, 1].
        metric: of the held-out images; its name is ``accuracy``.
        autocast: the type of mixed precision, None for none.
        accumulate: batches of a step.
        device: of the network.
        progress: show progress bars.
    """

    target: float
    metric: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = accuracy
    autocast: torch.dtype | None = None
    accumulate: int = 1
    device: str = "cpu"
    progress: bool = False

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the network on its device, one of several processes' where there are several."""
        layout = torch.channels_last if self.device != "cpu" else torch.contiguous_format
        model = model.to(self.device, memory_format=layout)
        if world_size() == 1:
            return model
        ids = None if self.device == "cpu" else [torch.device(self.device).index]
        return DistributedDataParallel(model, device_ids=ids)

    def learner(self, model: nn.Module, data: Any, groups: Any = None) -> Learner:
        options: dict[str, Any] = {"accumulate": self.accumulate}
        if self.autocast is torch.float16:
            options["scaler"] = torch.amp.GradScaler(torch.device(self.device).type)
        return Learner(
            model, data, nn.CrossEntropyLoss(), [self.metric], groups=groups,
            progress=self.progress, autocast=self.autocast, **options,
        )  # fmt: skip


def top_accuracy(places: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the metric that counts a class among the ``places`` likeliest as right."""

    def found(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        likeliest = output.topk(places, dim=1).indices
        return (likeliest == target[:, None]).any(dim=1).float().mean()

    found.__name__ = "accuracy"
    return found


class Reached(Exception):  # noqa: N818
    """End a fit: the accuracy is there."""


class Clock(Callback):
    """Count seconds and images of the training alone, and write a row for each evaluation."""

    def __init__(self, run: Run, model: nn.Module, epoch_images: int) -> None:
        self.run, self.epoch_images = run, epoch_images
        self.images, self.seconds, self.cpu = 0, 0.0, 0.0
        self._hook = model.register_forward_pre_hook(self._count)
        self.start()

    def _count(self, model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if model.training:
            self.images += len(inputs[0]) * world_size()

    def start(self) -> None:
        """Let the time count from here."""
        self._mark = time.perf_counter(), time.process_time()

    def pause(self) -> None:
        """Add the time since the last call of either."""
        self.seconds += time.perf_counter() - self._mark[0]
        self.cpu += time.process_time() - self._mark[1]
        self.start()

    def evaluated(self, found: float) -> bool:
        """Note an evaluation, tell whether the target is reached, and go on counting."""
        epochs = self.images / self.epoch_images
        self.run.rows.append(Row(epochs, self.images, self.seconds, self.cpu, found))
        self.start()
        if self.run.reached is not None:
            self._hook.remove()
        return self.run.reached is not None

    def on_train_begin(self, learn: Learner) -> None:
        self.start()

    def on_step_end(self, learn: Learner) -> None:
        self.pause()  # the evaluation comes after an epoch's last step

    def on_epoch_end(self, learn: Learner) -> None:
        if self.evaluated(learn.sched.history.rows[-1]["accuracy"]):
            raise Reached


def fit_phases(
    run: Run,
    setting: Setting,
    model: nn.Module,
    phases: Plan | Sequence[TrainingPhase],
    data: Any,
    *,
    groups: Any = None,
) -> None:
    """Train through phases by a Learner, which evaluates after each epoch and each data set."""
    learn = setting.learner(model, data, groups)
    with contextlib.suppress(Reached):
        learn.fit_opt_sched(phases, callbacks=[Clock(run, model, len(data[0].dataset))])


def fit_plain(
    run: Run, setting: Setting, model: nn.Module, data: Any, opt_fn: Any, lr: float, epochs: int
) -> None:
    """Train in a plain loop with torch's OneCycleLR, at its defaults."""
    learn = setting.learner(model, data)  # evaluates
    train, _ = data
    optimizer = opt_fn(model.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * len(train))
    clock, kind = Clock(run, model, len(train.dataset)), torch.device(setting.device).type
    for epoch in range(epochs):
        if hasattr(train.sampler, "set_epoch"):
            train.sampler.set_epoch(epoch)
        model.train()
        for images, labels in train:
            with torch.autocast(kind, setting.autocast, setting.autocast is not None):
                output = model(images.to(setting.device))
                loss = nn.functional.cross_entropy(output, labels.to(setting.device))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        clock.pause()
        if clock.evaluated(learn.validate()["accuracy"]):
            return
