"""The stream of batches of one data set, epoch after epoch, with a position that can be saved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from pyphase.apply.state import get_rng_state, set_rng_state
from pyphase.errors import PhaseError, shown
from pyphase.lengths import loader_length

__all__ = ["Feed", "generators"]


class Feed:
    """Iterate a loader without end; remember the epoch and the batch within it.

    The position is saved as the state of the generators at the start of the epoch and the number
    of batches taken since: going back draws the same order again and leaves these batches out.

    Args:
        loader: anything that can be iterated once per epoch.
        epoch: number of the first epoch, handed to ``set_epoch`` of the loader's sampler.
    """

    def __init__(self, loader: Any, epoch: int = 0) -> None:
        self.loader = loader
        self.epoch = epoch
        self.batch = 0
        self.length = loader_length(loader)
        self._start: dict[str, Any] | None = None
        self._batches: Iterator[Any] | None = None
        self._held: list[Any] = []  # the batch that is given again after loading

    @property
    def at_epoch_end(self) -> bool:
        """Whether the last batch of an epoch was the last one given (known lengths only)."""
        return self.batch > 0 and self.batch == self.length

    def next(self) -> Any:
        """Return the next batch; start the next epoch where one has ended."""
        if self._held:
            self.batch += 1
            return self._held.pop()
        if self._batches is None:
            self._begin_epoch()
        assert self._batches is not None
        try:
            batch = next(self._batches)
        except StopIteration:  # not at `length` batches: a loader may have code after its last one
            if self.batch == 0:
                raise PhaseError(
                    f"`data` (={shown(self.loader)}) gave no batch in epoch {self.epoch}; a "
                    "generator can be read only once, a loader as often as wanted"
                ) from None
            self._begin_epoch()
            return self.next()
        self.batch += 1
        return batch

    def _begin_epoch(self) -> None:
        if self._batches is not None:
            self.epoch += 1
        for part in _parts(self.loader):
            set_epoch = getattr(part, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(self.epoch)
        own = [generator.get_state() for generator in generators(self.loader)]
        # A loader with persistent workers draws differently once it has its iterator.
        used = getattr(self.loader, "_iterator", None) is not None
        self._start = {"rng": get_rng_state(), "own": own, "used": used}
        self._batches = iter(self.loader)
        self.batch = 0

    def state_dict(self, *, pending: bool = False) -> dict[str, Any]:
        """Return the position: after the last batch, or before it while it is ``pending``."""
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "pending": pending,
            "start": self._start,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position: begin its epoch anew and leave out the batches taken."""
        self.epoch, taken, start = state["epoch"], state["batch"], state["start"]
        self._batches = None
        if start is None:
            return
        if start["used"] and getattr(self.loader, "_iterator", None) is None:
            iter(self.loader)
        set_rng_state(start["rng"])
        for generator, own in zip(generators(self.loader), start["own"], strict=True):
            generator.set_state(own)
        self._begin_epoch()
        batch = None
        while self.batch < taken:
            assert self._batches is not None
            batch = next(self._batches, self)
            if batch is self:
                raise PhaseError(
                    f"`data` (={shown(self.loader)}) ended after {self.batch} batches, but the "
                    f"saved position is after {taken}: it is not the data of the saved run"
                )
            self.batch += 1
        if state["pending"]:
            self.batch -= 1
            self._held = [batch]


def generators(loader: Any) -> list[torch.Generator]:
    """Return the generators that a loader and its samplers own, each once."""
    found = [getattr(part, "generator", None) for part in _parts(loader)]
    own = {id(g): g for g in found if isinstance(g, torch.Generator)}
    return list(own.values())


def _parts(loader: Any) -> list[Any]:
    """Return a loader and its samplers, each once; a batch sampler has its own inside."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    samplers = [getattr(part, "sampler", None) for part in (loader, batch_sampler)]
    return list({id(part): part for part in (loader, batch_sampler, *samplers)}.values())
