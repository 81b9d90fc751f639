"""The picture of the benchmark on a GPU: times as fast as torch's pair, by shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["draw"]

STYLES = {"native": ("#1f77b4", "o"), "compiled": ("#999999", "s"), "kxk": ("#d95f02", "D")}


def draw(rows: Sequence[Any], path: str, caption: str) -> None:
    """Draw a line a shape, dtype and layout, a panel a task; the ratio on a logarithmic axis."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(line_of(row) for row in rows))
    tasks = list(dict.fromkeys(row.task for row in rows))
    figure = Figure(figsize=(12, 1.5 + 0.15 * len(names)), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=True):
        for name, (color, marker) in STYLES.items():
            some = [row for row in rows if row.task == task and name in row.kernel]
            ratios, lines = [r.ratio(name) for r in some], [names.index(line_of(r)) for r in some]
            axes.scatter(ratios, lines, s=12, color=color, marker=marker, label=name)
        axes.set_xscale("log")
        axes.axvline(1, color="black", lw=1)
        axes.set_title(task, fontsize=10)
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(names)), names, fontsize=6)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    figure.supxlabel(f"kernel time of torch's two convolutions over a contestant's\n{caption}")
    figure.savefig(path)


def line_of(row: Any) -> str:
    return f"{row.problem}, {'tf32' if row.tf32 else row.dtype}, {row.layout}"
