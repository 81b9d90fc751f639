"""What the fused convolutions are to reach, and whether a run's rows reach it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from conv_measure import Row

__all__ = ["AUTO_AT_LEAST", "TARGETS", "Target", "Verdict", "geometric_mean", "verdicts"]

AUTO_AT_LEAST = 0.97  # of torch's speed, in every row: choosing a backend must not cost


class Target(NamedTuple):
    """A group of rows, and the value that their geometric mean is to reach.

    value: torch's time over the native backend's, in the same layout; or the share of the roofline.
    """

    name: str
    at_least: float
    go_for: float
    belongs: Callable[[Row], bool]
    value: Callable[[Row], float]
    only_isa: str = ""


class Verdict(NamedTuple):
    """A target with what was found: its rows' geometric mean and their least.

    Shares of the roofline, geometric means. needs: at which the target is reached, given torch's
    speed; has: the native backend's.
    """

    target: Target
    rows: int
    mean: float
    least: float
    needs: float
    has: float

    def word(self, isa: str) -> str:
        """Return the verdict in a few letters."""
        if self.target.only_isa not in ("", isa):
            return f"for {self.target.only_isa}"
        if self.mean >= self.target.go_for:
            return "reached, both"
        return "reached" if self.mean >= self.target.at_least else "NOT REACHED"


def native(row: Row) -> float:
    return row.ratio("native")


def share(row: Row) -> float:
    return row.share("native")


def rows_of(
    family: str,
    task: str,
    layout: str = "",
    *,
    kernel: Callable[[int], bool] = lambda k: True,
    plane: int = 1,
    dtype: str = "float32",
) -> Callable[[Row], bool]:
    def belongs(row: Row) -> bool:
        problem = row.problem
        return (
            problem.family == family
            and (family == "dense" or problem.stride == 1)
            and row.task == task
            and layout in ("", row.layout)
            and row.dtype == dtype
            and min(problem.height, problem.width) >= plane
            and kernel(max(problem.kernels))
        )

    return belongs


def is_7(k: int) -> bool:
    return k == 7


def is_long(k: int) -> bool:
    return k >= 11


def is_21(k: int) -> bool:
    return k == 21


NCHW, LAST = "nchw", "channels_last"
DW = "depthwise"
TARGETS = [
    Target(
        "depthwise forward NCHW, k = 7, from 28x28",
        4.5,
        7,
        rows_of(DW, "forward", NCHW, kernel=is_7, plane=28),
        native,
    ),
    Target(
        "depthwise forward NCHW, k >= 11",
        11,
        15,
        rows_of(DW, "forward", NCHW, kernel=is_long),
        native,
    ),
    Target("depthwise forward channels_last", 2.2, 3.5, rows_of(DW, "forward", LAST), native),
    Target("depthwise training NCHW", 6, 12, rows_of(DW, "training", NCHW), native),
    Target(
        "depthwise training channels_last, k = 7",
        4,
        6,
        rows_of(DW, "training", LAST, kernel=is_7),
        native,
    ),
    Target(
        "depthwise training channels_last, k = 21",
        14,
        20,
        rows_of(DW, "training", LAST, kernel=is_21),
        native,
    ),
    Target("dense forward channels_last", 1.1, 1.2, rows_of("dense", "forward", LAST), native),
    Target("dense forward NCHW", 1.25, 1.45, rows_of("dense", "forward", NCHW), native),
    Target("dense training, both layouts", 1.3, 1.8, rows_of("dense", "training"), native),
    Target("strips + residual forward NCHW", 9, 15, rows_of("strips", "forward", NCHW), native),
    Target(
        "strips + residual forward channels_last",
        3,
        5,
        rows_of("strips", "forward", LAST),
        native,
    ),
    Target(
        "depthwise forward bfloat16, both layouts",
        10,
        20,
        rows_of(DW, "forward", dtype="bfloat16"),
        native,
        "avx2",
    ),
    Target("dense forward, share of the roofline", 0.88, 0.93, rows_of("dense", "forward"), share),
    Target("depthwise forward, share of the roofline", 0.38, 0.5, rows_of(DW, "forward"), share),
]


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(math.log(value) for value in values) / len(values))


def verdicts(rows: list[Row]) -> list[Verdict]:
    """Return the verdict of each target that has rows without a star."""
    found = []
    for target in TARGETS:
        judged = [row for row in rows if target.belongs(row) and not row.starred]
        judged = [row for row in judged if not math.isnan(target.value(row))]
        if judged:
            values = [target.value(row) for row in judged]
            needs = target.at_least
            if target.value is native:
                needs *= geometric_mean([row.share("torch") for row in judged])
            has = geometric_mean([share(row) for row in judged])
            mean = geometric_mean(values)
            found.append(Verdict(target, len(values), mean, min(values), needs, has))
    return found
