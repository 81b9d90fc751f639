"""Callbacks that write down each step, its loss and the plan's values: CSV, TensorBoard."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pyphase.apply.ranks import rank
from pyphase.callbacks import Callback
from pyphase.errors import PhaseError, check_whole, shown
from pyphase.phase import Key
from pyphase.plan import Plan

if TYPE_CHECKING:
    from pyphase.learner import Learner

__all__ = ["CSVLog", "TensorBoardLog", "step_values"]


def step_values(learn: Learner) -> dict[str, float]:
    """Return the last step: step, phase, loss, and each of the plan's values by its name.

    A value per parameter group has a name for each, such as ``lr.0``. A value that the phase
    doesn't set is left out.
    """
    plan, history = learn.loop.plan, learn.sched.history
    step = history.steps[-1]
    values = {"step": step, "phase": plan.phase_at(step), "loss": history.losses[-1]}
    names = _names(plan)
    for key, value in plan.values_at(step).items():
        numbers = value if isinstance(value, tuple) else (value,) * len(names[key])
        values |= dict(zip(names[key], numbers, strict=True))
    return values


def _names(plan: Plan) -> dict[Key, list[str]]:
    """Return the names of each key's values: its own, or one per parameter group."""
    names = {}
    for key, name in plan.keys.items():
        width = max(phase.tracks[key].width for phase in plan.phases if key in phase.tracks)
        names[key] = [name] if width == 1 else [f"{name}.{group}" for group in range(width)]
    return names


class CSVLog(Callback):
    """Write a line per step to the CSV file ``path``: step, phase, loss, and the plan's values.

    A resumed fit goes on in the file, from its own step: lines of later steps, which a crash may
    have left, are dropped. Each line is in the file once its step has ended. Of several processes
    the first one writes.

    Args:
        path: the file; its folder must exist.
        every: write only each step that is a multiple of it, >= 1.

    Raises:
        PhaseError: the folder doesn't exist.
    """

    def __init__(self, path: str | os.PathLike[str], *, every: int = 1) -> None:
        self.path, self.every = Path(path), check_whole("every", every)
        if not self.path.parent.is_dir():
            raise PhaseError(f"`path` (={shown(str(path))}) must be in a folder that exists")
        self._file: TextIO | None = None

    def on_train_begin(self, learn: Learner) -> None:
        if rank() != 0:
            return
        begin = learn.loop.position
        named = _names(learn.loop.plan).values()
        self._columns = ["step", "phase", "loss", *(name for names in named for name in names)]
        kept: list[dict[str, Any]] = []
        if begin and self.path.exists():
            with self.path.open(newline="") as file:
                kept = [row for row in csv.DictReader(file) if _step_of(row) < begin]
        temporary = self.path.with_name(f".{self.path.name}.new")
        with temporary.open("w", newline="") as file:
            self._writer(file).writeheader()
            self._writer(file).writerows(kept)
        os.replace(temporary, self.path)
        self._file = self.path.open("a", newline="")

    def on_step_end(self, learn: Learner) -> None:
        values = step_values(learn)
        if self._file is not None and values["step"] % self.every == 0:
            self._writer(self._file).writerow(values)
            self._file.flush()

    def on_train_end(self, learn: Learner) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _writer(self, file: TextIO) -> csv.DictWriter[str]:
        return csv.DictWriter(file, self._columns, restval="")


def _step_of(row: dict[str, Any]) -> float:
    """Return the step of a line, infinity for one that was cut off."""
    text = row.get("step") or ""
    return float(text) if text.isdecimal() and None not in row.values() else float("inf")


class TensorBoardLog(Callback):
    """Write each step's loss and values, and each epoch's results, for TensorBoard.

    Scalars are named ``train/loss``, ``plan/lr`` and so on for the plan's values, and
    ``epoch/valid_loss`` and so on for the history's rows. Of several processes the first one
    writes. It needs the package tensorboard.

    Args:
        log_dir: the folder of this run; made if it isn't there.
        every: write only each step that is a multiple of it, >= 1.
    """

    def __init__(self, log_dir: str | os.PathLike[str], *, every: int = 1) -> None:
        self.log_dir, self.every = Path(log_dir), check_whole("every", every)
        self._writer: Any = None

    def on_train_begin(self, learn: Learner) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if rank() != 0:
            return
        begin = learn.loop.position
        # TensorBoard drops what an earlier run has written at these steps.
        self._writer = SummaryWriter(str(self.log_dir), purge_step=begin or None)

    def on_step_end(self, learn: Learner) -> None:
        if self._writer is None:
            return
        values = step_values(learn)
        step = int(values.pop("step"))
        if step % self.every == 0:
            self._writer.add_scalar("train/loss", values.pop("loss"), step)
            for name, value in values.items():
                self._writer.add_scalar(f"plan/{name}", value, step)

    def on_epoch_end(self, learn: Learner) -> None:
        if self._writer is None:
            return
        row = dict(learn.sched.history.rows[-1])
        step = row.pop("step")
        for name, value in row.items():
            if name not in ("epoch", "phase"):
                self._writer.add_scalar(f"epoch/{name}", value, step)
        self._writer.flush()

    def on_train_end(self, learn: Learner) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
