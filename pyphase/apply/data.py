"""The stream of batches of one data set, epoch after epoch, with a position that can be saved."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch

from pyphase.apply.state import get_rng_state, set_rng_state
from pyphase.errors import PhaseError, shown
from pyphase.lengths import loader_length

__all__ = ["Feed", "generators", "loader_epochs", "loader_state", "set_loader_state"]


class Feed:
    """Iterate a loader without end; remember the epoch and the batch within it.

    The position is saved as the state of generators and samplers at the start of the epoch and the
    number of batches taken since: going back draws the same order again and leaves these batches
    out.

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

    @property
    def at_epoch_end(self) -> bool:
        """Whether the last batch of an epoch was the last one given (known lengths only)."""
        return self.batch > 0 and self.batch == self.length

    @property
    def epoch_left(self) -> float:
        """Number of batches that this epoch still has; infinite where the length isn't known."""
        return float("inf") if self.length is None else self.length - self.batch

    def begin(self) -> None:
        """Start the first epoch, if it isn't yet: worker processes begin to load."""
        if self._batches is None:
            self._begin_epoch()

    def close(self) -> None:
        """End the worker processes, also those that a loader keeps for its next epoch."""
        self._batches = None
        if getattr(self.loader, "_iterator", None) is not None:
            self.loader._iterator = None  # their owner: they end with it

    def next(self) -> Any:
        """Return the next batch; start the next epoch where one has ended."""
        self.begin()
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
        own = loader_state(self.loader)
        # A loader with persistent workers draws differently once it has its iterator.
        used = getattr(self.loader, "_iterator", None) is not None
        self._start = {"rng": get_rng_state(), "own": own, "used": used}
        self._batches = iter(self.loader)
        self.batch = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last batch."""
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "start": self._start,
            "own": loader_state(self.loader),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position: begin its epoch anew and leave out the batches taken."""
        self.epoch, taken, start = state["epoch"], state["batch"], state["start"]
        self._batches = None
        if start is None:
            set_loader_state(self.loader, state["own"])
            return
        if start["used"] and getattr(self.loader, "_iterator", None) is None:
            iter(self.loader)
        set_rng_state(start["rng"])
        set_loader_state(self.loader, start["own"])
        self._begin_epoch()
        while self.batch < taken:
            assert self._batches is not None
            if next(self._batches, self) is self:
                raise PhaseError(
                    f"`data` (={shown(self.loader)}) ended after {self.batch} batches, but the "
                    f"saved position is after {taken}: it is not the data of the saved run"
                )
            self.batch += 1


def loader_state(loader: Any) -> list[Any]:
    """Return what decides a loader's order: its own generators, and samplers that have a state."""
    states: list[Any] = [generator.get_state() for generator in generators(loader)]
    return states + [copy.deepcopy(sampler.state_dict()) for sampler in _stateful(loader)]


def set_loader_state(loader: Any, states: list[Any]) -> None:
    """Set back what :func:`loader_state` returned."""
    own = generators(loader)
    for generator, state in zip(own, states[: len(own)], strict=True):
        generator.set_state(state)
    for sampler, state in zip(_stateful(loader), states[len(own) :], strict=True):
        sampler.load_state_dict(copy.deepcopy(state))


def generators(loader: Any) -> list[torch.Generator]:
    """Return the generators that a loader and its samplers own, each once."""
    found = [getattr(part, "generator", None) for part in _parts(loader)]
    own = {id(g): g for g in found if isinstance(g, torch.Generator)}
    return list(own.values())


def _stateful(loader: Any) -> list[Any]:
    """Return the samplers whose state can be saved and loaded."""
    samplers = _parts(loader)[1:]
    return [s for s in samplers if hasattr(s, "state_dict") and hasattr(s, "load_state_dict")]


def loader_epochs(loader: Any) -> list[tuple[Any, Any]]:
    """Return each part of a loader that has ``set_epoch``, with the ``epoch`` that it is at."""
    parts = [part for part in _parts(loader) if hasattr(part, "set_epoch")]
    return [(part, part.epoch) for part in parts if hasattr(part, "epoch")]


def _parts(loader: Any) -> list[Any]:
    """Return a loader and its samplers, each once; a batch sampler has its own inside."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    samplers = [getattr(part, "sampler", None) for part in (loader, batch_sampler)]
    return list({id(part): part for part in (loader, batch_sampler, *samplers)}.values())
