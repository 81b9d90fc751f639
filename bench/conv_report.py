"""Tables of the convolution benchmark, in 100 columns."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from conv_contestants import CONTEXT
from conv_measure import EVERY_LAYOUT, EVERY_TASK, Row
from conv_shapes import SMALL
from conv_targets import AUTO_AT_LEAST, verdicts
from roofline import Roofline
from timing import Quiet

__all__ = ["print_calls", "print_rows", "print_summary", "print_wrong", "write_json"]

HEADINGS = {"kxk": "k x k", "compiled": "comp", "onnxruntime": "onnx", "openvino": "openv"}
TASKS = {"forward": "forward", "training": "forward + backward"}


def print_rows(rows: list[Row]) -> None:
    """Print a table for each task and layout of the rows of one family and number of threads."""

    def key(row: Row) -> tuple[int, int]:
        return EVERY_TASK.index(row.task), EVERY_LAYOUT.index(row.layout)

    for _, found in groupby(sorted(rows, key=key), key=key):
        some = list(found)
        first = some[0]
        print(
            f"\n{first.problem.family}, {TASKS[first.task]}, {first.layout}, {first.dtype}, "
            f"{counted(first.threads)}"
        )
        others = [name for name in CONTEXT if any(name in row.timings for row in some)]
        print(f"{'':37}{'milliseconds':>16}{'floor /':>9}  times as fast as torch's pair")
        print(f"{'':37}{'torch':>8}{'native':>8}{'native':>9}{'native':>8}{'auto':>6}", end="")
        print("".join(f"{HEADINGS[name]:>6}" for name in others))
        for row in some:
            print_row(row, others)
        print(means_line(some))
        print(errors_line(some), flush=True)


def means_line(rows: list[Row]) -> str:
    """Say what a contestant does over all rows of a table: geometric mean, least and most."""

    def found(name: str) -> str:
        ratios = [row.ratio(name) for row in rows if name in row.timings and not row.starred]
        if not ratios:
            return f"{name} -"
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        return f"{name} {times(mean)} ({times(min(ratios))} to {times(max(ratios))})"

    return f"geometric mean (least to most): {found('native')}; {found('auto')}"


def print_row(row: Row, others: list[str]) -> None:
    share = row.share("native")
    cells = [f"{row.problem.label:37}"]
    cells += [f"{milliseconds(row.timings.get(name)):>8}" for name in ("torch", "native")]
    cells += [f"{'-' if math.isnan(share) else f'{100 * share:.0f} %':>9}"]
    cells += [f"{times(row.ratio('native')):>8}", f"{times(row.ratio('auto')):>6}"]
    cells += [f"{times(row.ratio(name)):>6}" for name in others]
    print("".join(cells))


def counted(threads: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)}"


def milliseconds(found: Quiet | None) -> str:
    if found is None:
        return "-"
    value = 1e3 * found.timing.median
    return f"{value:.{3 if value < 1 else 2 if value < 100 else 1}f}{found.star}"


def times(ratio: float) -> str:
    return "-" if math.isnan(ratio) else f"{ratio:.{2 if ratio < 10 else 1}f}"


def errors_line(rows: list[Row]) -> str:
    def worst(name: str) -> str:
        found = [max(row.errors[name]) for row in rows if name in row.errors]
        return f"{name} {max(found):.1e}" if found else f"{name} -"

    names = ("torch", "native", "auto")
    spreads = sorted(
        (row.timings[name].timing.high - row.timings[name].timing.low)
        / row.timings[name].timing.median
        for row in rows
        for name in names
        if name in row.timings
    )
    spread = f"; quartiles {100 * spreads[len(spreads) // 2]:.0f} % apart" if spreads else ""
    errors = ", ".join(worst(name) for name in names)
    return f"largest rms error / rms value: {errors}{spread}"


def print_calls(rows: list[Row]) -> None:
    """Print the cost of a call on a problem that has next to no work."""
    print(f"\n{rows[0].problem.label}, microseconds a call")
    print(f"{'':44}{'torch':>9}{'native':>9}{'auto':>9}{'compile':>9}")
    for row in rows:
        name = f"{TASKS[row.task]}, {row.layout}, {counted(row.threads)}"
        cells = []
        for contestant in ("torch", "native", "auto", "compiled"):
            found = row.timings.get(contestant)
            cells.append(f"{1e6 * found.timing.median:.1f}{found.star}" if found else "-")
        print(f"{name:44}" + "".join(f"{cell:>9}" for cell in cells), flush=True)


def by_threads(rows: list[Row]) -> dict[int, list[Row]]:
    """Return the rows that are judged, by number of threads."""
    judged = [row for row in rows if row.problem is not SMALL]
    found: dict[int, list[Row]] = {row.threads: [] for row in judged}
    for row in judged:
        found[row.threads].append(row)
    return found


def print_summary(rows: list[Row], isa: str) -> None:
    """Print what the package was to reach, and what it did."""
    for some in by_threads(rows).values():
        print_targets(some, isa)
        print_auto(some)


def print_targets(rows: list[Row], isa: str) -> None:
    """Print each group's geometric mean and least beside what it is to reach."""
    where = f"{counted(rows[0].threads)}, {isa}"
    print(f"\ntargets, {where}: times as fast as torch's pair, same layout")
    print("needs: the share of the roofline at which the mean is `at least`; has: the native one's")
    heads = f"{'mean':>8}{'least':>8}{'at least':>10}{'go for':>8}{'needs':>8}{'has':>8}"
    print(f"{'group':42}{'rows':>5}{heads}")
    starred = sum(row.starred for row in rows)
    if starred:
        print(f"({starred} of {len(rows)} rows have a star: not judged)")
    late = sum(not row.timings for row in rows)
    if late:
        print(f"({late} of {len(rows)} rows were only checked: no time left)")
    for verdict in verdicts(rows):
        target = verdict.target
        share = "share" in target.name
        cells = [verdict.mean, verdict.least, target.at_least, target.go_for]
        shown = [f"{100 * value:.0f} %" if share else f"{value:.2f}" for value in cells]
        print(
            f"{target.name:42}{verdict.rows:5}{shown[0]:>8}{shown[1]:>8}{shown[2]:>10}{shown[3]:>8}"
            f"{100 * verdict.needs:6.0f} %{100 * verdict.has:6.0f} %  {verdict.word(isa)}"
        )


def print_auto(rows: list[Row]) -> None:
    """Print the rows in which choosing a backend was the slowest against torch's pair."""
    found = [row for row in rows if "auto" in row.timings and not row.starred]
    found.sort(key=lambda row: row.ratio("auto"))
    if not found:
        return
    worst = found[0].ratio("auto")
    word = "reached" if worst >= AUTO_AT_LEAST else "NOT REACHED"
    print(f"\nauto: least {worst:.3f} in {len(found)} rows, at least {AUTO_AT_LEAST}: {word}")
    same = [row.ratio("auto") for row in found if row.auto == "torch"]
    if same:
        print(
            f"  {same[0]:.3f} to {same[-1]:.3f} in the {len(same)} rows that are torch's own pair"
        )
    for row in [row for row in found if row.auto != "torch"][:5]:
        print(f"  {row.ratio('auto'):.3f} {row.name} ({row.auto})")


def print_wrong(rows: list[Row]) -> bool:
    """Print what was too inexact or failed; return whether any of it is the package's."""
    lines = [(line, row) for row in rows for line in row.wrong]
    if lines:
        print(f"\nnot timed, because wrong or failing ({len(lines)}):")
    for line, row in lines[:50]:
        print(f"  {row.name}:\n    {line}")
    return any(line.startswith(("native", "auto")) for line, _ in lines)


def write_json(
    path: str, lines: dict[str, str], rows: list[Row], rooflines: Iterable[Roofline | None]
) -> None:
    """Write the lines about the machine, its rooflines, all rows, and the targets."""
    targets = [
        {
            "threads": threads,
            "group": verdict.target.name,
            "rows": verdict.rows,
            "mean": verdict.mean,
            "least": verdict.least,
            "at_least": verdict.target.at_least,
            "go_for": verdict.target.go_for,
        }
        for threads, some in by_threads(rows).items()
        for verdict in verdicts(some)
    ]
    record = {
        **lines,
        "rooflines": [roofline._asdict() for roofline in rooflines if roofline],
        "targets": targets,
        "rows": [row.record() for row in rows],
    }
    Path(path).write_text(json.dumps(record, indent=1))
