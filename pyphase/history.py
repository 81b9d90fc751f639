"""What a run has done: one row per epoch, one loss per step."""

from __future__ import annotations

import csv
import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["History"]


class History:
    """Record losses per step and a row of results per epoch.

    Attributes:
        steps: the steps whose losses were recorded.
        losses: the training loss of each of them; the mean over its batches where gradients are
            accumulated.
        rows: a dict per epoch, with the keys epoch, step, phase, train_loss, valid_loss, and one
            per metric.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.rows: list[dict[str, Any]] = []

    def add_step(self, step: int, loss: float) -> None:
        """Record the loss of one step."""
        self.steps.append(step)
        self.losses.append(loss)

    def add_row(self, row: dict[str, Any]) -> None:
        """Record an epoch."""
        self.rows.append(row)

    @property
    def columns(self) -> list[str]:
        """Keys of the rows, in the order in which they came up."""
        return list(dict.fromkeys(key for row in self.rows for key in row))

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the rows as a CSV file with a header."""
        with Path(path).open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)

    def state_dict(self) -> dict[str, Any]:
        """Return all records."""
        return {"steps": list(self.steps), "losses": list(self.losses), "rows": list(self.rows)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set all records."""
        self.steps, self.losses = list(state["steps"]), list(state["losses"])
        self.rows = [dict(row) for row in state["rows"]]

    def _repr_html_(self) -> str:
        """Return the rows as a table for a notebook."""
        head = "".join(f"<th>{html.escape(column)}</th>" for column in self.columns)
        rows = (
            "".join(f"<td>{html.escape(_cell(row.get(column)))}</td>" for column in self.columns)
            for row in self.rows
        )
        return "".join(["<table>", *(f"<tr>{cells}</tr>" for cells in (head, *rows)), "</table>"])

    def __repr__(self) -> str:
        lines = [header_line(self.columns)] if self.rows else ["no epoch yet"]
        return "\n".join(lines + [row_line(row, self.columns) for row in self.rows])


def header_line(columns: Sequence[str]) -> str:
    """Return the head of the table of rows."""
    return "  ".join(column.rjust(_width(column)) for column in columns)


def row_line(row: dict[str, Any], columns: Sequence[str]) -> str:
    """Return one row as text, aligned with :func:`header_line`."""
    return "  ".join(_cell(row.get(column)).rjust(_width(column)) for column in columns)


def _width(column: str) -> int:
    return max(len(column), 6)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.1e}"
