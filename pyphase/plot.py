"""Figures: a plan before training, the learning rate finder's curve, the losses of a run.

Every function returns a plain :class:`matplotlib.figure.Figure`, made for 600 x 400 pixels. pyplot
is never imported: no window opens, no global state changes, and threads and machines without a
display are fine. ``figure.savefig("plan.png")`` writes it. A notebook shows a figure that is the
last value of its cell once ``%matplotlib inline`` has run there.

The file is longer than most: the layout of a plan's text (which label finds room in which span,
what moves to the notes below) belongs to one figure and to nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyphase.errors import PhaseError, check_positive, check_whole, shown
from pyphase.opt_fn import name_of
from pyphase.phase import Key
from pyphase.plan import Plan
from pyphase.plan_text import data_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_finder", "plot_losses", "plot_plan"]

_DPI = 100
_WIDTH, _HEIGHT = 6.0, 4.0  # inches, as all lengths of the layout
_LEFT, _RIGHT, _TOP = 0.72, 0.24, 0.08  # margins; the left one holds tick labels
_ROW, _TITLE, _LINE, _STEP_AXIS = 0.18, 0.2, 0.15, 0.44  # a row of spans, a panel's title, a note
_PANEL = 0.45  # least height of a panel
_SMALL, _MEDIUM = 7.5, 8.5  # font sizes in points
_PAD = 4.0  # pixels kept free in a span
_MOST_LINES = 60  # of phase borders and of spans in a row; beyond, they would be a solid block
_POINTS = 2000  # samples over the whole plan, and again over all phases
_STAIRS = 50  # steps up to which a curve is drawn as the stairs that it is
_MOST_NOTES = 24  # below a row of spans
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
    _check_flags(show_text=show_text, show_moms=show_moms)
    if opt_name is not None and not isinstance(opt_name, str):
        raise TypeError(f"`opt_name` must be a str, got {shown(opt_name)}")
    end = plan.total_steps if steps is None else check_whole("steps", steps)
    if end > plan.total_steps:
        raise PhaseError(f"`steps` (={end}) must be at most the plan's {plan.total_steps}")
    x, curves = _curves(plan, end, show_moms)
    figure = _figure()
    rows = _rows(plan, end, opt_name) if show_text else {}
    labels, notes = _place_text(rows, end, _ruler(figure))
    groups = max(curve.shape[1] for curve in curves.values())
    below = _LINE * len(notes) + (0.05 if notes else 0) + (_ROW if groups > 1 else 0)
    fixed = _TOP + _ROW * len(rows) + _TITLE * len(curves) + _STEP_AXIS + below
    height = max(_HEIGHT, fixed + _PANEL * len(curves))
    figure.set_size_inches(_WIDTH, height)
    panel = (height - fixed) / len(curves)

    top = height - _TOP
    if rows:
        top -= _ROW * len(rows)
        _draw_rows(_add_axes(figure, top, _ROW * len(rows)), rows, labels, end)
    borders = [begin for begin, _ in plan.spans[1 : _MOST_LINES + 2] if begin < end]
    for label, curve in curves.items():
        top -= _TITLE + panel
        axes = _add_axes(figure, top, panel)
        _draw_curve(axes, label, x, curve, end)
        if len(borders) <= _MOST_LINES:
            axes.vlines(
                borders, 0, 1, "red", "dashed", lw=0.8, transform=axes.get_xaxis_transform()
            )
    _label_steps(axes)
    _draw_below(figure, below, notes, groups)
    return figure


def plot_finder(
    lrs: Any,
    losses: Any,
    *,
    suggestion: Mapping[str, float] | None = None,
    linear: bool = False,
    n_skip: int = 10,
    n_skip_end: int = 5,
) -> Figure:
    """Draw the loss over the learning rate, as a learning rate finder found it.

    Args:
        lrs: learning rates, > 0 (>= 0 if ``linear``), of shape (n,) or (n, groups): the last
            group's are drawn.
        losses: of shape (n,), in the order of ``lrs``. Infinite and NaN losses are gaps.
        suggestion: ``{name: learning rate}``, marked on the curve.
        linear: draw the learning rate on a linear axis, not on a logarithmic one.
        n_skip: points left out at the start, >= 0.
        n_skip_end: points left out at the end, >= 0. No point is left out where fewer than 10
            would stay.

    Raises:
        TypeError: an argument has the wrong type.
        PhaseError: sizes differ, or a number is out of its range.

    Example:
        >>> figure = plot_finder([1e-3, 1e-2, 1e-1], [2.0, 1.0, 3.0], suggestion={"valley": 5e-3})
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['valley: 0.005']
    """
    _check_flags(linear=linear)
    rates, values = _numbers("lrs", lrs, 2), _numbers("losses", losses)
    rates = rates[:, -1] if rates.ndim == 2 else rates
    _check_pair("lrs", rates, "losses", values)
    if not np.all((rates >= 0) & np.isfinite(rates)):
        raise PhaseError(f"`lrs` (={shown(lrs)}) must be finite and >= 0")
    if not linear and not rates.all():
        raise PhaseError(f"`lrs` (={shown(lrs)}) hold a 0, which a log axis lacks: linear=True")
    begin, stop = (
        check_whole("n_skip", n_skip, least=0),
        check_whole("n_skip_end", n_skip_end, least=0),
    )
    inner = slice(begin, rates.size - stop) if rates.size - begin - stop >= 10 else slice(None)
    figure, axes = _loss_axes("learning rate" if linear else "learning rate (log scale)")
    axes.plot(rates[inner], values[inner], lw=1.5)
    if suggestion is not None:
        _mark(axes, suggestion, rates, values, linear)
    if not linear:
        axes.set_xscale("log")
    return figure


def plot_losses(
    steps: Any, losses: Any, *, val_steps: Any = None, val_losses: Any = None
) -> Figure:
    """Draw the training loss over the steps, and validation losses as points.

    Args:
        steps: of shape (n,), in increasing order.
        losses: of shape (n,). More than 4,000 are drawn as the least and the greatest of each of
            2,000 blocks. Infinite and NaN losses are gaps.
        val_steps: of shape (m,), the steps before which the model was validated.
        val_losses: of shape (m,).

    Raises:
        TypeError: an argument has the wrong type.
        PhaseError: sizes differ, or only one of ``val_steps`` and ``val_losses`` is given.

    Example:
        >>> figure = plot_losses([0, 1, 2], [2.0, 1.5, 1.2], val_steps=[3], val_losses=[1.4])
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['training', 'validation']
    """
    at, values = _numbers("steps", steps), _numbers("losses", losses)
    _check_pair("steps", at, "losses", values)
    if (val_steps is None) != (val_losses is None):
        raise PhaseError("give both of `val_steps` and `val_losses`, or neither")
    kept = _extremes(values)
    figure, axes = _loss_axes("step")
    axes.plot(at[kept], values[kept], lw=1.0, label="training")
    if val_steps is not None:
        val_at, val_values = _numbers("val_steps", val_steps), _numbers("val_losses", val_losses)
        _check_pair("val_steps", val_at, "val_losses", val_values)
        axes.plot(val_at, val_values, "o-", ms=4, lw=1.0, label="validation")
        _add_legend(axes)
    return figure


class _Span(NamedTuple):
    """The steps [begin, end) over which a row of text says the same."""

    begin: int
    end: int
    text: str


class _Note(NamedTuple):
    """A text below the panels: its line's label, its distance from the left in pixels."""

    row: str
    left: float
    text: str


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
    count = min(len(spans), _POINTS // 2)
    spans = spans[np.linspace(0, len(spans) - 1, count).astype(np.int64)]
    begins, lasts = spans[:, 0], spans[:, 1] - 1
    even = np.linspace(0, end - 1, _POINTS)
    inner = np.linspace(begins, lasts, max(2, _POINTS // count))
    at = np.concatenate([even, inner.ravel(), np.maximum(begins - 1, 0)])
    return np.unique(at.round().astype(np.int64)), begins[begins > 0]


def _rows(plan: Plan, end: int, opt_name: str | None) -> dict[str, list[_Span]]:
    """Return the rows of text that say something; equal neighbours are one span."""
    count = plan.phase_at(end - 1) + 1
    phases, default = plan.phases[:count], opt_name or "default (SGD)"
    opt_fns = plan.opt_fns[:count]
    named = opt_name is not None or any(fn is not None for fn in opt_fns)
    texts: dict[str, list[str | None]] = {
        "phase": [phase.name for phase in phases],
        "optimizer": [default if fn is None else name_of(fn) for fn in opt_fns if named],
        "data": [data_name(phase.data) for phase in phases],
    }
    rows: dict[str, list[_Span]] = {}
    for row, names in texts.items():
        if not any(names):
            continue
        spans: list[_Span] = []
        runs = groupby(zip(names, plan.spans, strict=False), key=lambda pair: pair[0])
        for name, pairs in runs:
            borders = [span for _, span in pairs]
            text = " ".join((name or "").split())  # a line break would leave the row
            spans.append(_Span(borders[0][0], min(borders[-1][1], end), text))
        if len(spans) > _MOST_LINES:
            spans = [_Span(0, end, f"{len(spans)} spans, too narrow to name")]
        rows[row] = spans
    return rows


def _ruler(figure: Figure) -> Callable[[str], float]:
    """Return the function that measures a small text in pixels."""

    @cache
    def width(text: str) -> float:
        artist = figure.text(0, 0, text, fontsize=_SMALL, parse_math=False)
        pixels = float(artist.get_window_extent().width)
        artist.remove()
        return pixels

    return width


def _place_text(
    rows: Mapping[str, list[_Span]], end: int, width: Callable[[str], float]
) -> tuple[dict[str, list[str]], list[list[_Note]]]:
    """Return each span's label, and lines of notes for the texts that find no room.

    A span shows the first of these that fits: its text, the text's head with a number, the number,
    nothing. Notes say what a number stands for, and the steps of the spans that show nothing.
    """
    room = _DPI * (_WIDTH - _LEFT - _RIGHT)
    labels: dict[str, list[str]] = {}
    lines: list[list[_Note]] = []
    count = 0
    for row, spans in rows.items():
        labels[row] = []
        numbers: dict[str, str] = {}
        hidden: dict[str, list[str]] = {}
        for begin, stop, text in spans:
            number = numbers.get(text, f"({count + 1})")
            tries = [text, f"{re.split(r'[(,]', text)[0]} {number}", number]
            free = (stop - begin) / end * room - _PAD
            label = next((t for t in tries if not text or width(t) <= free), "")
            labels[row].append(label)
            if not label and text:
                hidden.setdefault(text, []).append(_steps_text(begin, stop))
            elif label != text and text not in numbers:
                numbers[text] = number
                count += 1
        notes = [
            f"{numbers.get(text, '')} {text}{_places(hidden.get(text, []))}".strip()
            for text in {**numbers, **hidden}
        ]
        lines += _flow(row, notes, width, room)
    return labels, lines


def _steps_text(begin: int, stop: int) -> str:
    return f"{begin}" if stop - begin == 1 else f"{begin}..{stop - 1}"


def _places(steps: list[str]) -> str:
    more = ", ..." if len(steps) > 3 else ""
    return f" [steps {', '.join(steps[:3])}{more}]" if steps else ""


def _flow(
    row: str, notes: list[str], width: Callable[[str], float], room: float
) -> list[list[_Note]]:
    """Break the notes of a row into lines; shorten a note that is longer than a line."""
    lines: list[list[_Note]] = []
    left = room
    if len(notes) > _MOST_NOTES:
        notes = [*notes[:_MOST_NOTES], f"and {len(notes) - _MOST_NOTES} more"]
    for note in notes:
        text, kept = note, min(200, len(note))
        while width(text) > room:
            kept = min(kept - 1, int(kept * room / width(text)))
            text = f"{note[: kept * 2 // 3]} ... {note[-(kept // 3) :]}"  # the steps stand last
        if left + width(text) > room:
            lines.append([])
            left = 0.0
        lines[-1].append(_Note(row if len(lines) == 1 else "", left, text))
        left += width(text) + 3 * _PAD
    return lines


def _figure() -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI)


def _add_axes(figure: Figure, bottom: float, height: float) -> Axes:
    """Add axes over the whole width; lengths in inches."""
    total = figure.get_size_inches()[1]
    width = (_WIDTH - _LEFT - _RIGHT) / _WIDTH
    shared = figure.axes[0] if figure.axes else None
    axes = figure.add_axes((_LEFT / _WIDTH, bottom / total, width, height / total), sharex=shared)
    axes.tick_params(labelsize=_SMALL, length=3)
    return axes


def _draw_rows(
    axes: Axes, rows: Mapping[str, list[_Span]], labels: Mapping[str, list[str]], end: int
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
            axes.text(left + width / 2, level, label, fontsize=_SMALL, **style)
    axes.set_yticks(range(len(rows)), list(rows), fontsize=_SMALL)
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
    axes.set_title(label, loc="left", fontsize=_MEDIUM, pad=2, parse_math=False)
    axes.set_xlim(0, end)
    axes.margins(y=0.1)
    axes.tick_params(labelbottom=False)
    axes.xaxis.get_offset_text().set_visible(False)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    least, greatest = np.nanmin(curve), np.nanmax(curve)
    if least == greatest:
        axes.set_yticks([least])
    else:
        tall = axes.get_window_extent().height > _DPI
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
    axes.xaxis.get_offset_text().set(visible=True, fontsize=_SMALL)
    axes.set_xlabel("step", fontsize=_MEDIUM, labelpad=2)


def _group_colours(groups: int) -> list[Any]:
    from matplotlib import colormaps

    return ["C0"] if groups == 1 else list(colormaps["viridis"](np.linspace(0, 0.88, groups)))


def _draw_below(figure: Figure, below: float, notes: list[list[_Note]], groups: int) -> None:
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
            bbox_to_anchor=(_LEFT / _WIDTH, top / height),
            ncols=_MOST_GROUPS,
            fontsize=_SMALL,
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
            style: dict[str, Any] = {"fontsize": _SMALL, "va": "baseline", "parse_math": False}
            at = (_LEFT + left / _DPI) / _WIDTH, (top + 0.04) / height
            figure.text(*at, text, **style)
            if row and not left:
                figure.text((_LEFT - 0.08) / _WIDTH, at[1], row, ha="right", **style)


def _mark(
    axes: Axes,
    suggestion: Any,
    rates: NDArray[np.float64],
    losses: NDArray[np.float64],
    linear: bool,
) -> None:
    """Mark suggested learning rates on the curve, straight between its points as it is drawn."""
    if not isinstance(suggestion, Mapping):
        raise TypeError(f"`suggestion` must be a dict of name: rate, got {shown(suggestion)}")
    scale: Callable[[Any], Any] = np.asarray if linear else np.log
    finite = np.isfinite(losses)
    order = np.argsort(rates[finite])
    xs, ys = rates[finite][order], losses[finite][order]
    for index, (name, rate) in enumerate(suggestion.items()):
        at = check_positive(f"suggestion[{name!r}]", rate)
        loss = np.interp(scale(at), scale(xs), ys) if xs.size else np.nan
        style: dict[str, Any] = {"marker": "osD^vPX*"[index % 8], "color": f"C{1 + index % 9}"}
        size = max(4.5, 12.0 - 2.5 * index)  # the later ones, on top, leave the earlier visible
        axes.plot(at, loss, ls="", ms=size, label=f"{name}: {at:.3g}", **style)
    if suggestion:
        _add_legend(axes)


def _loss_axes(xlabel: str) -> tuple[Figure, Axes]:
    figure = _figure()
    axes = figure.add_axes((0.12, 0.13, 0.85, 0.78))
    axes.set_xlabel(xlabel, fontsize=_MEDIUM)
    axes.set_ylabel("loss", fontsize=_MEDIUM)
    axes.tick_params(labelsize=_SMALL)
    axes.xaxis.get_offset_text().set_fontsize(_SMALL)
    axes.grid(alpha=0.3)
    return figure, axes


def _add_legend(axes: Axes) -> None:
    """Add a legend above the axes, where no curve can run into it."""
    style: dict[str, Any] = {"frameon": False, "borderaxespad": 0, "handlelength": 1.2}
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=4, fontsize=_MEDIUM, **style)


def _extremes(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the indices of the least and greatest value of each of up to 2,000 blocks."""
    if values.size <= 2 * _POINTS:
        return np.arange(values.size)
    kept: list[int] = []
    for block in np.array_split(np.arange(values.size), _POINTS):
        low = np.where(np.isnan(values[block]), np.inf, values[block])
        high = np.where(np.isnan(values[block]), -np.inf, values[block])
        kept += sorted({int(block[low.argmin()]), int(block[high.argmax()])})
    return np.asarray(kept)


def _numbers(name: str, value: Any, most_dims: int = 1) -> NDArray[np.float64]:
    """Return an array, tensor or sequence of real numbers as float64."""
    plain = value.tolist() if hasattr(value, "tolist") else value
    try:
        array = np.asarray(plain)
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` must be an array of numbers, got {shown(value)}") from None
    if array.dtype.kind not in "iuf":
        raise TypeError(f"`{name}` must be an array of numbers, got {shown(value)}")
    if not 1 <= array.ndim <= most_dims or not array.size:
        expected = "(n,)" if most_dims == 1 else "(n,) or (n, groups)"
        raise PhaseError(f"`{name}` (shape {array.shape}) must be of shape {expected}, n > 0")
    return array.astype(np.float64)


def _check_pair(name: str, x: NDArray[Any], other: str, y: NDArray[Any]) -> None:
    if x.size != y.size:
        raise PhaseError(f"`{name}` ({x.size}) and `{other}` ({y.size}) must be equally many")


def _check_flags(**flags: Any) -> None:
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"`{name}` must be a bool, got {shown(flag)}")
