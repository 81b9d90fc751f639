"""Callbacks of a Learner: a small, fixed set of events."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pyphase.apply.ranks import rank, world_size
from pyphase.apply.sharded import save_sharded
from pyphase.apply.state import remove_leftovers, save_checkpoint
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
        """Come at the end, also of a fit that was stopped or failed, and after another's error."""


class Checkpoint(Callback):
    """Keep the file ``path`` up to date, written whole or not at all.

    It is written at the end of each epoch, at the end of the fit, and when the fit is interrupted
    or stopped; not where an optimizer step or the start of a phase (``on_enter``, a function that
    makes its data) was cut off half way, which leaves the file as it was.

    With several processes (torch.distributed), ``path`` is a folder that
    :func:`pyphase.save_sharded` writes to, each process its part; it is left as it was when a fit
    fails or is interrupted at once, since the others may not come to the same point.

    Args:
        path: the file; its folder must exist.
        every: also write it every so many steps, >= 1.

    Raises:
        PhaseError: the folder isn't there, or can't be written to; or ``path`` is a folder where a
            single process trains.
    """

    def __init__(self, path: str | os.PathLike[str], *, every: int | None = None) -> None:
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise PhaseError(f"`path` (={shown(str(path))}) must be in a folder that exists")
        launched = world_size() > 1 or "WORLD_SIZE" in os.environ  # by torchrun, maybe not begun
        if self.path.is_dir() and not launched:
            name = shown(str(self.path))
            raise PhaseError(f"`path` (={name}) is a folder, but a single process writes a file")
        effective = os.access in os.supports_effective_ids
        if not os.access(self.path.parent, os.W_OK, effective_ids=effective):
            raise PhaseError(
                f"`path` (={shown(str(path))}) is in a folder that can't be written to"
            )
        self.every = None if every is None else check_whole("every", every)

    def on_train_begin(self, learn: Learner) -> None:
        if rank() == 0:
            remove_leftovers(self.path)

    def on_step_end(self, learn: Learner) -> None:
        if self.every is not None and learn.loop.position % self.every == 0:
            self._save(learn)

    def on_epoch_end(self, learn: Learner) -> None:
        self._save(learn)

    def on_train_end(self, learn: Learner) -> None:
        if not self._in_shards or not learn.failed:  # the others may not come to the same point
            self._save(learn)

    @property
    def _in_shards(self) -> bool:
        """Whether it is a folder: of several processes, or of one that goes on for several."""
        return world_size() > 1 or self.path.is_dir()

    def _save(self, learn: Learner) -> None:
        if self._in_shards:
            save_sharded(learn, self.path)
        elif not learn.in_step:  # otherwise the weights may be half updated
            save_checkpoint(self.path, learn.state_dict())
