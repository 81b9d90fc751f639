"""The figure of a plan: every scheduled value over the steps.

It is a plain :class:`matplotlib.figure.Figure`, made for 600 x 400 pixels. pyplot is never
imported: no window opens, no global state changes, and threads and machines without a display are
fine. ``figure.savefig("plan.png")`` writes it. A notebook shows a figure that is the last value of
its cell once ``%matplotlib inline`` has run there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyphase.errors import PhaseError, check_flags, check_whole, shown
from pyphase.phase import Key
from pyphase.plan import Plan
from pyphase.plot_layout import (
    DPI,
    HEIGHT,
    LEFT,
    MEDIUM,
    MOST_LINES,
    POINTS,
    RIGHT,
    SMALL,
    WIDTH,
    Note,
    Span,
    new_figure,
    place_text,
    ruler,
    text_rows,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_plan"]

_TOP = 0.08  # inches, as all lengths of the layout
_ROW, _TITLE, _LINE, _STEP_AXIS = 0.18, 0.2, 0.15, 0.44  # a row of spans, a panel's title, a note
_PANEL = 0.45  # least height of a panel
_STAIRS = 50  # steps up to which a curve is drawn as the stairs that it is
_MOST_GROUPS = 6  # parameter groups in the legend


def plot_plan(
    plan: Plan,
    *,
    steps: int | None = None,
    show_text: bool = True,
    show_moms: bool = True,
    opt_name: str | None = None,
) -> Figure:
    """Draw every scheduled value of a plan over its steps.

    One panel each for ``lr``, for ``momentum`` and for every further value that the plan sets, with
    a red dashed line at each border of two phases and one curve per parameter group where groups
    differ. Step k holds its value over [k, k + 1); a value that a phase does not set is a gap. The
    rows above the panels name the phases, optimizers and data; what finds no room there has a
    number, or its steps, in the notes below. Beyond 60 borders, the lines are left out.

    The figure has 600 x 400 pixels. It grows in height where more than four panels, or many notes,
    need it.

    Args:
        plan: a :class:`Plan`.
        steps: in [1, plan.total_steps]: draw only the first so many, those trained so far.
        show_text: name phases, optimizers and data.
        show_moms: draw the momentum.
        opt_name: name of the optimizer in use before any phase names one.

    Raises:
        TypeError: an argument has the wrong type.
        PhaseError: ``steps`` is out of its range.

    Example:
        >>> from pyphase import DecayType, Plan, TrainingPhase
        >>> phase = TrainingPhase(steps=100, lr=0.1, lr_decay=DecayType.COSINE, momentum=0.9)
        >>> figure = plot_plan(Plan([phase, phase]))
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['lr', 'momentum']
    """
    if not isinstance(plan, Plan):
        raise TypeError(f"`plan` must be a Plan, got {shown(plan)}")
    check_flags(show_text=show_text, show_moms=show_moms)
    if opt_name is not None and not isinstance(opt_name, str):
        raise TypeError(f"`opt_name` must be a str, got {shown(opt_name)}")
    end = plan.total_steps if steps is None else check_whole("steps", steps)
    if end > plan.total_steps:
        raise PhaseError(f"`steps` (={end}) must be at most the plan's {plan.total_steps}")
    x, curves = _curves(plan, end, show_moms)
    figure = new_figure()
    rows = text_rows(plan, end, opt_name) if show_text else {}
    labels, notes = place_text(rows, end, ruler(figure))
    groups = max(curve.shape[1] for curve in curves.values())
    below = _LINE * len(notes) + (0.05 if notes else 0) + (_ROW if groups > 1 else 0)
    fixed = _TOP + _ROW * len(rows) + _TITLE * len(curves) + _STEP_AXIS + below
    height = max(HEIGHT, fixed + _PANEL * len(curves))
    figure.set_size_inches(WIDTH, height)
    panel = (height - fixed) / len(curves)

    top = height - _TOP
    if rows:
        top -= _ROW * len(rows)
        _draw_rows(_add_axes(figure, top, _ROW * len(rows)), rows, labels, end)
    borders = [begin for begin, _ in plan.spans[1 : MOST_LINES + 2] if begin < end]
    for label, curve in curves.items():
        top -= _TITLE + panel
        axes = _add_axes(figure, top, panel)
        _draw_curve(axes, label, x, curve, end)
        if len(borders) <= MOST_LINES:
            axes.vlines(
                borders, 0, 1, "red", "dashed", lw=0.8, transform=axes.get_xaxis_transform()
            )
    _label_steps(axes)
    _draw_below(figure, below, notes, groups)
    return figure


def _curves(
    plan: Plan, end: int, show_moms: bool
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
    """Return the abscissas, and the values (points, groups) of each panel; one column if equal."""
    at, borders = _sample(plan, end)
    where = np.searchsorted(at, borders)  # a border has its value twice: held from before, and new
    x = np.append(np.insert(at, where, borders), end)
    curves: dict[str, NDArray[np.float64]] = {}
    first: dict[Key, int] = {"lr": 0, "momentum": 1, "beta": 2, "weight_decay": 3}
    for key in sorted(plan.keys, key=lambda key: first.get(key, 4)):
        values = plan.table(key, at)
        if (key == "momentum" and not show_moms) or np.all(np.isnan(values)):
            continue
        if key == "weight_decay" and "decoupled_weight_decay" in plan.keys and not values.any():
            continue  # it is decoupled: drawn under that name
        if np.array_equal(values, np.repeat(values[:, :1], plan.groups, 1), equal_nan=True):
            values = values[:, :1]
        held = np.insert(values, where, values[where - 1], axis=0)
        curves[plan.keys[key]] = np.append(held, values[-1:], axis=0)
    return x, curves


def _sample(plan: Plan, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the steps to look up, and the borders among them, with both sides of each."""
    spans = np.asarray(plan.spans, dtype=np.int64)
    spans = np.minimum(spans[spans[:, 0] < end], end)
    count = min(len(spans), POINTS // 2)
    spans = spans[np.linspace(0, len(spans) - 1, count).astype(np.int64)]
    begins, lasts = spans[:, 0], spans[:, 1] - 1
    even = np.linspace(0, end - 1, POINTS)
    inner = np.linspace(begins, lasts, max(2, POINTS // count))
    at = np.concatenate([even, inner.ravel(), np.maximum(begins - 1, 0)])
    return np.unique(at.round().astype(np.int64)), begins[begins > 0]


def _add_axes(figure: Figure, bottom: float, height: float) -> Axes:
    """Add axes over the whole width; lengths in inches."""
    total = figure.get_size_inches()[1]
    width = (WIDTH - LEFT - RIGHT) / WIDTH
    shared = figure.axes[0] if figure.axes else None
    axes = figure.add_axes((LEFT / WIDTH, bottom / total, width, height / total), sharex=shared)
    axes.tick_params(labelsize=SMALL, length=3)
    return axes


def _draw_rows(
    axes: Axes, rows: Mapping[str, list[Span]], labels: Mapping[str, list[str]], end: int
) -> None:
    """Draw the spans as bars with their labels: grey phases, else one colour per text."""
    colours: dict[tuple[str, str], str] = {}
    for level, (row, spans) in enumerate(rows.items()):
        for index, (span, label) in enumerate(zip(spans, labels[row], strict=True)):
            if not span.text:
                continue
            left, width = span.begin, span.end - span.begin
            if row == "phase":
                colour, alpha = "0.5", 0.2 + 0.2 * (index % 2)
            else:
                key = (row, span.text)
                colour, alpha = colours.setdefault(key, f"C{len(colours) % 10}"), 0.3
            axes.barh(level, width, 0.84, left, color=colour, alpha=alpha, lw=0)
            style: dict[str, Any] = {"ha": "center", "va": "center_baseline", "parse_math": False}
            axes.text(left + width / 2, level, label, fontsize=SMALL, **style)
    axes.set_yticks(range(len(rows)), list(rows), fontsize=SMALL)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, end)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelbottom=False)


def _draw_curve(
    axes: Axes, label: str, x: NDArray[np.int64], curve: NDArray[np.float64], end: int
) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    style = "steps-post" if end <= _STAIRS else "default"
    for values, colour in zip(curve.T, _group_colours(curve.shape[1]), strict=True):
        axes.plot(x, values, lw=1.4, color=colour, drawstyle=style)
    axes.set_title(label, loc="left", fontsize=MEDIUM, pad=2, parse_math=False)
    axes.set_xlim(0, end)
    axes.margins(y=0.1)
    axes.tick_params(labelbottom=False)
    axes.xaxis.get_offset_text().set_visible(False)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    least, greatest = np.nanmin(curve), np.nanmax(curve)
    if least == greatest:
        axes.set_yticks([least])
    else:
        tall = axes.get_window_extent().height > DPI
        axes.yaxis.set_major_locator(MaxNLocator(5 if tall else 3, steps=[1, 2, 5, 10]))


def _label_steps(axes: Axes) -> None:
    """Label the axis of steps, which all panels share, below the last one."""
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    steps = ScalarFormatter(useOffset=False)
    steps.set_powerlimits(
        (-6, 6)
    )  # a label has room for 6 digits; longer ones get a common exponent
    axes.xaxis.set_major_formatter(steps)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.tick_params(labelbottom=True)
    axes.xaxis.get_offset_text().set(visible=True, fontsize=SMALL)
    axes.set_xlabel("step", fontsize=MEDIUM, labelpad=2)


def _group_colours(groups: int) -> list[Any]:
    from matplotlib import colormaps

    return ["C0"] if groups == 1 else list(colormaps["viridis"](np.linspace(0, 0.88, groups)))


def _draw_below(figure: Figure, below: float, notes: list[list[Note]], groups: int) -> None:
    """Draw what stands below the panels: the legend of the groups, and the notes."""
    from matplotlib.lines import Line2D

    height = figure.get_size_inches()[1]
    top = below
    if groups > 1:
        colours = _group_colours(groups)
        shown_groups = np.linspace(0, groups - 1, min(groups, _MOST_GROUPS)).round().astype(int)
        figure.legend(
            [Line2D([], [], color=colours[group], lw=2) for group in shown_groups],
            [f"group {group}" for group in shown_groups],
            loc="upper left",
            bbox_to_anchor=(LEFT / WIDTH, top / height),
            ncols=_MOST_GROUPS,
            fontsize=SMALL,
            frameon=False,
            borderpad=0,
            borderaxespad=0,
            handlelength=1.2,
            columnspacing=1.2,
        )
        top -= _ROW
    for line in notes:
        top -= _LINE
        for row, left, text in line:
            style: dict[str, Any] = {"fontsize": SMALL, "va": "baseline", "parse_math": False}
            at = (LEFT + left / DPI) / WIDTH, (top + 0.04) / height
            figure.text(*at, text, **style)
            if row and not left:
                figure.text((LEFT - 0.08) / WIDTH, at[1], row, ha="right", **style)
