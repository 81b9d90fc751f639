"""Progress bars, and the table of results that grows below them."""

from __future__ import annotations

from typing import Any

from pyphase.apply.divergence import SmoothedLoss
from pyphase.apply.loop import PhaseLoop
from pyphase.bars import open_bar
from pyphase.history import header_line, row_line
from pyphase.lengths import epoch_steps

__all__ = ["Progress"]

# In 80 columns, a label of that length leaves some for the bar itself.
_LABEL = 20
_BETA = 0.9  # of the loss that is shown


class Progress:
    """Show one bar per epoch and one line per result; nothing at all unless ``enabled``.

    Args:
        enabled: whether to show anything.
        end: step at which the run ends.
    """

    def __init__(self, enabled: bool, end: int) -> None:
        self.enabled, self.end = enabled, end
        self._bar: Any = None
        self._columns: list[str] = []
        self._smoothed = SmoothedLoss(_BETA)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def advance(self, loop: PhaseLoop, loss: float) -> None:
        """Count a step that was taken."""
        if not self.enabled:
            return
        if self._bar is None:
            self._open(loop)
        smoothed = self._smoothed.add(loss)
        lr = loop.optimizer.param_groups[-1]["lr"]
        self._bar.set_postfix_str(f"loss {smoothed:.4f}, lr {float(lr):.1e}", refresh=False)
        self._bar.update()

    def row(self, row: dict[str, Any], columns: list[str]) -> None:
        """Show the results of an epoch."""
        self._close()
        if not self.enabled:
            return
        if columns != self._columns:
            self._columns = columns
            print(header_line(columns))
        print(row_line(row, columns), flush=True)

    def say(self, text: str) -> None:
        """Show a message."""
        self._close()
        if self.enabled:
            print(text, flush=True)

    def _open(self, loop: PhaseLoop) -> None:
        done = -(-loop.feed.batch // loop.accumulate) - 1
        left = self.end - loop.position + 1
        length = epoch_steps(loop.feed.length, loop.accumulate)
        total = done + left if length is None else min(length, done + left)
        name = loop.phase.name
        label = f"phase {loop.phase_index}" + ("" if name is None else f" {name}")
        self._bar = open_bar(label[:_LABEL], total, done)
        self._smoothed = SmoothedLoss(_BETA)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
