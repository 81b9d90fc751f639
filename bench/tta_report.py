"""The tables and the picture of the time-to-accuracy benchmark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tta_run import Run

__all__ = ["Quartiles", "draw", "quartiles", "sweep_table", "table"]

COLUMNS = {"seconds": "seconds", "cpu_seconds": "CPU seconds", "epochs": "epochs"}


class Quartiles(NamedTuple):
    """First quartile, median, third quartile; a run that doesn't reach the target is infinite."""

    low: float
    median: float
    high: float

    def text(self) -> str:
        if math.isinf(self.low):
            return "never"
        low, median, high = (number(value) for value in self)
        return f"{median} ({low}..{high})"


def number(value: float) -> str:
    """Return three or four characters where the value is below 1000, "never" for infinity."""
    if math.isinf(value):
        return "never"
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def quartiles(values: Sequence[float]) -> Quartiles:
    """Return the quartiles, interpolated as numpy's, with infinities."""
    ordered = sorted(values)

    def at(part: float) -> float:
        place = part * (len(ordered) - 1)
        low, t = math.floor(place), place % 1
        return ordered[low] if t == 0 else (1 - t) * ordered[low] + t * ordered[low + 1]

    return Quartiles(at(0.25), at(0.5), at(0.75))


def table(runs: Mapping[str, Sequence[Run]], choices: Mapping[str, Any]) -> str:
    """Return one line a config, at most 80 characters each; then the images it has seen."""
    head = f"{'':29} {'reached':>7} {'seconds':>18} {'CPU s':>5} {'epochs':>17}"
    lines = [head]
    for name, own in runs.items():
        found = {column: quartiles([run.cost(column) for run in own]) for column in COLUMNS}
        count = f"{sum(run.reached is not None for run in own)}/{len(own)}"
        lines.append(
            f"{name:29} {count:>7} {found['seconds'].text():>18} "
            f"{number(found['cpu_seconds'].median):>5} {found['epochs'].text():>17}"
        )
    lines += ["", f"{'':29} {'highest rate':>12} {'planned epochs':>15} {'images seen':>17}"]
    for name, own in runs.items():
        images = quartiles([run.cost("images") for run in own]).median
        lines.append(
            f"{name:29} {choices[name].lr:12g} {choices[name].epochs:15g} {number(images):>17}"
        )
    return "\n".join(lines)


def sweep_table(runs: Mapping[tuple[str, Any], Sequence[Run]], chosen: Mapping[str, Any]) -> str:
    """Return one line for each choice that a sweep has tried."""
    lines = [f"{'':30} {'rate':>6} {'epochs':>6} {'reached':>7} {'CPU s':>8} {'epochs to it':>12}"]
    for (name, choice), own in runs.items():
        cpu, epochs = (quartiles([run.cost(c) for run in own]) for c in ("cpu_seconds", "epochs"))
        count = f"{sum(run.reached is not None for run in own)}/{len(own)}"
        lines.append(
            f"{name:30} {choice.lr:6g} {choice.epochs:6g} {count:>7} {number(cpu.median):>8} "
            f"{number(epochs.median):>12}{'  chosen' if chosen[name] == choice else ''}"
        )
    return "\n".join(lines)


def draw(runs: Mapping[str, Sequence[Run]], path: str, title: str, caption: str) -> None:
    """Draw each run as a dot, median and quartiles as a line; a panel a cost."""
    from matplotlib.figure import Figure

    names = list(runs)
    figure = Figure(figsize=(10, 1.7 + 0.42 * len(names)), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(COLUMNS), sharey=True)
    for axes, (column, label) in zip(panels, COLUMNS.items(), strict=True):
        draw_panel(axes, [[run.cost(column) for run in runs[name]] for name in names])
        axes.set_xlabel(f"{label} to the target", fontsize=9)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(caption, fontsize=8)
    figure.savefig(path)


def draw_panel(axes: Any, rows: list[list[float]]) -> None:
    reached = [value for row in rows for value in row if math.isfinite(value)]
    limit = 1.12 * max(reached, default=1.0)
    for line, row in enumerate(rows):
        color = f"C{line % 10}"
        found = [value for value in row if math.isfinite(value)]
        spread = [line + 0.3 * ((i % 5) / 4 - 0.5) for i in range(len(found))]
        axes.scatter(found, spread, s=14, color=color, alpha=0.55, linewidths=0, zorder=2)
        low, median, high = (min(value, limit) for value in quartiles(row))
        axes.plot([low, high], [line, line], color=color, lw=2.5, zorder=1)
        axes.plot([median, median], [line - 0.28, line + 0.28], color="black", lw=1.6, zorder=3)
        if missed := len(row) - len(found):
            axes.text(limit, line, f"{missed} never", ha="right", va="bottom", fontsize=7.5)
    axes.set_xlim(0, limit * 1.02)
    axes.grid(axis="x", alpha=0.3)
    axes.tick_params(axis="y", length=0)
