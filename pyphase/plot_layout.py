"""The size of the figures, and where a plan's text goes: into its span, or into the notes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from pyphase.opt_fn import name_of
from pyphase.plan import Plan
from pyphase.plan_text import data_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "DPI",
    "HEIGHT",
    "LEFT",
    "MEDIUM",
    "MOST_LINES",
    "POINTS",
    "RIGHT",
    "SMALL",
    "WIDTH",
    "Note",
    "Span",
    "new_figure",
    "place_text",
    "ruler",
    "text_rows",
]

DPI = 100
WIDTH, HEIGHT = 6.0, 4.0  # inches, as all lengths of the layout
LEFT, RIGHT = 0.72, 0.24  # margins; the left one holds tick labels
SMALL, MEDIUM = 7.5, 8.5  # font sizes in points
POINTS = 2000  # samples of a curve
MOST_LINES = 60  # of phase borders and of spans in a row; beyond, they would be a solid block
_PAD = 4.0  # pixels kept free in a span
_MOST_NOTES = 24  # below a row of spans


class Span(NamedTuple):
    """The steps [begin, end) over which a row of text says the same."""

    begin: int
    end: int
    text: str


class Note(NamedTuple):
    """A text below the panels: its line's label, its distance from the left in pixels."""

    row: str
    left: float
    text: str


def text_rows(plan: Plan, end: int, opt_name: str | None) -> dict[str, list[Span]]:
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
    rows: dict[str, list[Span]] = {}
    for row, names in texts.items():
        if not any(names):
            continue
        spans: list[Span] = []
        runs = groupby(zip(names, plan.spans, strict=False), key=lambda pair: pair[0])
        for name, pairs in runs:
            borders = [span for _, span in pairs]
            text = " ".join((name or "").split())  # a line break would leave the row
            spans.append(Span(borders[0][0], min(borders[-1][1], end), text))
        if len(spans) > MOST_LINES:
            spans = [Span(0, end, f"{len(spans)} spans, too narrow to name")]
        rows[row] = spans
    return rows


def ruler(figure: Figure) -> Callable[[str], float]:
    """Return the function that measures a small text in pixels."""

    @cache
    def width(text: str) -> float:
        artist = figure.text(0, 0, text, fontsize=SMALL, parse_math=False)
        pixels = float(artist.get_window_extent().width)
        artist.remove()
        return pixels

    return width


def place_text(
    rows: Mapping[str, list[Span]], end: int, width: Callable[[str], float]
) -> tuple[dict[str, list[str]], list[list[Note]]]:
    """Return each span's label, and lines of notes for the texts that find no room.

    A span shows the first of these that fits: its text, the text's head with a number, the number,
    nothing. Notes say what a number stands for, and the steps of the spans that show nothing.
    """
    room = DPI * (WIDTH - LEFT - RIGHT)
    labels: dict[str, list[str]] = {}
    lines: list[list[Note]] = []
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
) -> list[list[Note]]:
    """Break the notes of a row into lines; shorten a note that is longer than a line."""
    lines: list[list[Note]] = []
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
        lines[-1].append(Note(row if len(lines) == 1 else "", left, text))
        left += width(text) + 3 * _PAD
    return lines


def new_figure() -> Figure:
    """Return an empty figure of 600 x 400 pixels, outside of pyplot."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, HEIGHT), dpi=DPI)
