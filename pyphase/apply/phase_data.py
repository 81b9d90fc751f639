"""The data of each phase: which stream of batches is in use, and which one starts next."""

from __future__ import annotations

from typing import Any

from pyphase.apply.data import Feed
from pyphase.apply.sources import Sources
from pyphase.errors import PhaseError
from pyphase.lengths import loader_length

__all__ = ["PhaseData"]


class PhaseData:
    """Hold the stream of batches in use; change it at the borders of a plan.

    Args:
        sources: the data of each phase.
        prefetch: so many steps before other data takes over, its worker processes start.

    Attributes:
        coming: the phase and the stream of the data to come, whose workers have started.
        cut_off: whether the change to other data was cut off: a function that makes it has failed.
    """

    def __init__(self, sources: Sources, prefetch: int) -> None:
        self.sources, self.plan = sources, sources.plan
        self._prefetch = prefetch
        self._feed: Feed | None = None
        self._phase = -1
        self.coming: tuple[int, Feed] | None = None
        self.cut_off = False

    @property
    def started(self) -> bool:
        """Whether there is a stream: it starts with the first batch."""
        return self._feed is not None

    @property
    def feed(self) -> Feed:
        """The stream of batches in use."""
        if self._feed is None:
            raise PhaseError("the loop has no data yet: it starts with the first batch")
        return self._feed

    @property
    def at_epoch_end(self) -> bool:
        """Whether the last batch of an epoch was the last one given (known lengths only)."""
        return self._feed is not None and self._feed.at_epoch_end

    @property
    def valid(self) -> Any:
        """The validation loader that came with the data in use, None where none did."""
        return self.sources.valid(self._phase)

    def serves(self, index: int) -> bool:
        """Tell whether the stream in use is that of phase ``index``."""
        return self._feed is not None and self.sources.same(self._phase, index)

    def batches_left(self, index: int) -> int | None:
        """Return the number of batches until the epoch ends, None for data without a length.

        Where phase ``index`` has other data than is in use, it is the length of that.
        """
        if self._feed is None or not self.serves(index):
            return loader_length(self.sources.train(index))
        length = self._feed.length
        return None if length is None else (length - self._feed.batch) or length

    def steps_left(self, position: int) -> int:
        """Return the number of steps from a position until other data takes over, or the end."""
        last = self.plan.phase_at(position) + 1
        while last < len(self.plan.phases) and self.sources.same(last - 1, last):
            last += 1
        return self.plan.spans[last - 1][1] - position

    def enter(self, index: int) -> None:
        """Change to the data of phase ``index`` unless it is in use."""
        if not self.serves(index):
            self.cut_off = True
            epoch = 0 if self._feed is None else self._feed.epoch + 1
            if self._feed is not None and self.sources.last_use(self._phase):
                self._feed.close()
            if self.coming is not None and self.coming[0] == index:
                self._feed = self.coming[1]
            else:
                self._feed = Feed(self.sources.train(index), epoch)
            self.coming, self.cut_off = None, False
        self._phase = index

    def start_next(self, position: int) -> None:
        """Start the workers of the data that takes over within the next ``prefetch`` steps."""
        index, spans = self.plan.phase_at(position), self.plan.spans
        accumulate = self.sources.accumulate
        while self.coming is None and index + 1 < len(spans):
            left = spans[index][1] - position
            index += 1
            if left > self._prefetch or self.plan.phases[index].on_enter is not None:
                return
            if self.sources.same(self._phase, index):
                continue
            # The number of the coming epoch isn't known before the last one of the data in use.
            if left * accumulate < self.feed.epoch_left + accumulate:
                loader = self.sources.train(index) if self.sources.is_made(index) else None
                if getattr(loader, "num_workers", 0):
                    coming = Feed(loader, self.feed.epoch + 1)
                    coming.begin()
                    self.coming = index, coming
            return

    def state_dict(self) -> dict[str, Any]:
        """Return the positions in the data, and what decides each loader's order."""
        coming = None
        if self.coming is not None:
            coming = [self.coming[0], self.coming[1].state_dict()]
        feed = None if self._feed is None else self._feed.state_dict()
        return {"feed": feed, "next": coming, "sources": self.sources.state_dict()}

    def load_state_dict(self, state: dict[str, Any], index: int, *, take_next: bool) -> None:
        """Go to the saved positions; the stream in use is that of phase ``index``."""
        self.sources.load_state_dict(state["sources"])
        if state["feed"] is not None:
            self._phase = index
            self._feed = Feed(self.sources.train(index))
            self._feed.load_state_dict(state["feed"])
        if state["next"] is not None and take_next:
            number, coming = state["next"]
            feed = Feed(self.sources.train(number))
            feed.load_state_dict(coming)
            self.coming = number, feed
