"""The picture of the convolution benchmark: how many times as fast as torch's pair, by shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from conv_measure import Row

__all__ = ["draw"]

STYLES = {
    "nchw": {"color": "#1f77b4", "marker": "o", "label": "native, NCHW"},
    "channels_last": {"color": "#d95f02", "marker": "D", "label": "native, channels_last"},
}
TITLES = {"forward": "forward", "training": "forward + backward"}
TICKS = (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)


def draw(rows: Sequence[Row], path: str, caption: str) -> None:
    """Draw one line a shape, a panel a task; the ratio on a logarithmic axis."""
    from matplotlib.figure import Figure

    places = lines_of(rows)
    height = 2.1 + 0.17 * (1 + max(places.values(), default=0))
    figure = Figure(figsize=(10, height), dpi=110, layout="constrained")
    tasks = [task for task in TITLES if any(row.task == task for row in rows)]
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=True):
        draw_panel(axes, [row for row in rows if row.task == task], places)
        axes.set_title(TITLES[task], fontsize=10)
        axes.tick_params(axis="y", length=0)
    draw_names(panels[0], places)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=9, frameon=False)
    axis = "times as fast as torch's two convolutions, same layout"
    if any(row.starred for row in rows):
        axis += "; hollow: too few clean samples"
    figure.supxlabel(f"{axis}\n{caption}", fontsize=9)
    figure.savefig(path)


def group_of(row: Row) -> str:
    return row.problem.family + (", bfloat16" if row.dtype == "bfloat16" else "")


def lines_of(rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    """Return the height of each (group, label), with a line free above each group for its name."""
    places: dict[tuple[str, str], float] = {}
    groups = dict.fromkeys(sorted((group_of(row) for row in rows), key=group_order))
    line = 0.0
    for group in groups:
        line += 1.6 if places else 0.8
        for row in rows:
            key = (group, row.problem.label)
            if group_of(row) == group and key not in places:
                places[key] = line
                line += 1
    return places


def group_order(group: str) -> int:
    return ["dense", "depthwise", "depthwise, bfloat16", "strips"].index(group)


def draw_panel(axes: Any, rows: list[Row], places: dict[tuple[str, str], float]) -> None:
    for layout, style in STYLES.items():
        some = [row for row in rows if row.layout == layout]
        lines = [places[group_of(row), row.problem.label] for row in some]
        offset = 0.15 if layout == "channels_last" else -0.15
        lines = [line + offset for line in lines]
        faces = ["white" if row.starred else style["color"] for row in some]
        ratios = [row.ratio("native") for row in some]
        marks = {"s": 17, "zorder": 3, "marker": style["marker"], "edgecolors": style["color"]}
        axes.scatter(ratios, lines, facecolors=faces, **marks)
        axes.scatter([], [], facecolors=style["color"], label=style["label"], **marks)
        axes.scatter(
            [row.ratio("auto") for row in some],
            lines,
            s=50,
            marker="|",
            color=style["color"],
            alpha=0.6,
            zorder=2,
            label=f"auto, {'NCHW' if layout == 'nchw' else layout}",
        )
    found = [row.ratio(name) for row in rows for name in ("native", "auto")]
    found = [ratio for ratio in found if not math.isnan(ratio)] or [1.0]
    low, high = min(0.8, 0.85 * min(found)), max(2.2, 1.2 * max(found))
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = [tick for tick in TICKS if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.minorticks_off()
    axes.axvline(1, color="black", lw=1, zorder=1)
    axes.grid(axis="x", alpha=0.3)
    for line in places.values():
        axes.axhline(line, color="black", lw=0.3, alpha=0.15, zorder=0)


def draw_names(axes: Any, places: dict[tuple[str, str], float]) -> None:
    axes.set_yticks(list(places.values()), [label for _, label in places], fontsize=7)
    last = max(places.values(), default=0)
    axes.set_ylim(last + 0.8, -0.8)
    firsts = {group: line for (group, _), line in reversed(places.items())}
    for group, line in firsts.items():
        axes.text(
            -0.01,
            line - 0.9,
            group,
            transform=axes.get_yaxis_transform(),
            ha="right",
            va="center",
            fontsize=8.5,
            fontweight="bold",
        )
