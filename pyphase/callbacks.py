"""Callbacks of a Learner: a small, fixed set of events."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pyphase.apply.state import save_checkpoint
from pyphase.errors import PhaseError, check_whole, shown

if TYPE_CHECKING:
    from pyphase.learner import Learner

__all__ = ["Callback", "Checkpoint"]


class Callback:
    """Do nothing at each event of a fit; override the events of interest.

    ``learn.loop`` is the running :class:`PhaseLoop`, ``learn.sched.history`` what it has recorded.
    """

    def on_train_begin(self, learn: Learner) -> None:
        """Come before the first step of a fit."""

    def on_phase_begin(self, learn: Learner) -> None:
        """Come before the first batch of each phase."""

    def on_step_end(self, learn: Learner) -> None:
        """Come after each step."""

    def on_epoch_end(self, learn: Learner) -> None:
        """Come after the validation of each epoch."""

    def on_train_end(self, learn: Learner) -> None:
        """Come at the end, also of a fit that was stopped or interrupted."""


class Checkpoint(Callback):
    """Keep the file ``path`` up to date, written whole or not at all.

    It is written at the end of each epoch, at the end of the fit, and when the fit is interrupted
    or stopped; not where a step was cut off half way, which leaves the file as it was.

    Args:
        path: the file; its folder must exist.
        every: also write it every so many steps, >= 1.
    """

    def __init__(self, path: str | os.PathLike[str], *, every: int | None = None) -> None:
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise PhaseError(f"`path` (={shown(str(path))}) must be in a folder that exists")
        self.every = None if every is None else check_whole("every", every)

    def on_step_end(self, learn: Learner) -> None:
        if self.every is not None and learn.loop.position % self.every == 0:
            self._save(learn)

    def on_epoch_end(self, learn: Learner) -> None:
        self._save(learn)

    def on_train_end(self, learn: Learner) -> None:
        self._save(learn)

    def _save(self, learn: Learner) -> None:
        if not learn.in_step:  # otherwise the weights may be half updated
            save_checkpoint(self.path, learn.state_dict())
