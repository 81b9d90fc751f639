"""One progress bar for a terminal, a notebook or a log file."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

__all__ = ["LogLines", "open_bar"]

_INTERVAL = 30.0  # seconds between two lines of a log
_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


def open_bar(label: str, total: int, initial: int = 0, *, enabled: bool = True) -> Any:
    """Return a bar: tqdm's in a terminal or a notebook, lines of text where neither is.

    A bar goes back to the start of its line at each refresh; a file would keep them all. One that
    is not ``enabled`` shows nothing.
    """
    if not enabled:
        return LogLines(label, total, initial, interval=math.inf)
    if not redraws():
        return LogLines(label, total, initial)
    from tqdm.auto import tqdm

    return tqdm(
        desc=label,
        initial=initial,
        total=total,
        leave=False,
        dynamic_ncols=True,
        bar_format=_FORMAT,
    )


def redraws() -> bool:
    """Tell whether what is shown can be drawn over: a terminal's line, or a notebook's cell."""
    if sys.stderr.isatty():
        return True
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


class LogLines:
    """Write a line to standard error now and then, with what a bar would show.

    Args:
        label: what is counted.
        total: the count at the end.
        initial: the count at the start.
        interval: least number of seconds between two lines.
    """

    def __init__(
        self, label: str, total: int, initial: int = 0, interval: float = _INTERVAL
    ) -> None:
        self.label, self.total, self.count, self.interval = label, total, initial, interval
        self._text = ""
        self._began = self._last = time.monotonic()

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Set the text after the count."""
        self._text = text

    def update(self, count: int = 1) -> None:
        """Count; write a line if the last one was long ago."""
        self.count += count
        now = time.monotonic()
        if now - self._last >= self.interval:
            self._last = now
            parts = [f"{self.count}/{self.total}", self._text, f"{now - self._began:.0f} s"]
            text = ", ".join(part for part in parts if part)
            print(f"{self.label}: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Do nothing: each line is written already."""
