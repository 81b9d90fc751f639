"""One row of the convolution benchmark: check every contestant, then time them in turn."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from conv_contestants import CONTEXT, Contestant, Tensors, contestants, make_tensors, reference
from conv_core import auto_choice, native_of
from conv_shapes import Problem
from roofline import Roofline
from timing import Quiet, interleave_quiet

__all__ = ["Bench", "Effort", "Row"]

ULPS = 1  # an error of so many roundings of the values passes, whatever torch's own is
LOOSE = {torch.float32: 1e-4, torch.bfloat16: 0.1}  # for what is shown but not judged
SHORTEST = 1e-3  # seconds: shorter calls are repeated within a sample
EVERY_TASK = ("forward", "training")
EVERY_LAYOUT = ("nchw", "channels_last")


@dataclass(frozen=True)
class Effort:
    """How much to measure: clean samples wanted, and the seconds after which a row gives up."""

    rounds: int
    context_rounds: int
    limit: float
    total: float = math.inf  # seconds after which problems are only checked, not timed


@dataclass
class Row:
    """What was found for a problem, in a layout, for a task, at a number of threads."""

    problem: Problem
    dtype: str
    task: str  # "forward", or "training": forward and backward
    layout: str
    threads: int
    timings: dict[str, Quiet] = field(default_factory=dict)
    errors: dict[str, list[float]] = field(default_factory=dict)  # output, then each gradient
    wrong: list[str] = field(default_factory=list)
    floor: float = math.nan  # seconds
    auto: str = ""  # what served under auto

    @property
    def name(self) -> str:
        return f"{self.problem.label}, {self.dtype}, {self.layout}, {self.task}"

    @property
    def starred(self) -> bool:
        """Return whether the machine was too busy for a time that is judged."""
        judged = ("torch", "native", "auto")
        return any(found.star for name, found in self.timings.items() if name in judged)

    def ratio(self, name: str) -> float:
        """Return torch's time over a contestant's; NaN where there is none."""
        if name not in self.timings or "torch" not in self.timings:
            return math.nan
        return self.timings["torch"].timing.median / self.timings[name].timing.median

    def share(self, name: str) -> float:
        """Return the floor over a contestant's time."""
        return self.floor / self.timings[name].timing.median if name in self.timings else math.nan

    def record(self) -> dict[str, object]:
        """Return the row for JSON."""
        return {
            "problem": self.problem.label,
            "family": self.problem.family,
            "dtype": self.dtype,
            "task": self.task,
            "layout": self.layout,
            "threads": self.threads,
            "seconds": {name: found.timing._asdict() for name, found in self.timings.items()},
            "clean_samples": {name: found.clean for name, found in self.timings.items()},
            "errors": self.errors,
            "wrong": self.wrong,
            "auto": self.auto,
            "floor": None if math.isnan(self.floor) else self.floor,
        }


class Bench:
    """Measures problems; torch's number of threads is set for each row."""

    def __init__(
        self,
        effort: Effort,
        rooflines: dict[int, Roofline | None],
        *,
        contestants: list[str],
        tasks: tuple[str, ...] = EVERY_TASK,
        layouts: tuple[str, ...] = EVERY_LAYOUT,
    ) -> None:
        self.effort = effort
        self.began = time.perf_counter()
        self.rooflines = rooflines
        self.contestants = contestants
        self.tasks = tasks
        self.layouts = layouts

    @property
    def late(self) -> bool:
        return time.perf_counter() - self.began > self.effort.total

    def rows(self, problem: Problem, dtype: str) -> list[Row]:
        """Measure a problem in every layout, for every task, at every number of threads."""
        tensors, grad_output = make_tensors(problem, getattr(torch, dtype))
        exact = reference(problem, tensors, grad_output)
        twins: dict[str, list[torch.Tensor]] = {"kxk": []}  # with an activation, equal to nothing
        if problem.activation == "none":
            twins["kxk"] = reference(problem, tensors, grad_output, mid_bias=False)
        found = []
        for threads in self.rooflines:
            torch.set_num_threads(threads)
            for task in self.tasks:
                for layout in self.layouts:
                    row = Row(problem, dtype, task, layout, threads)
                    self._measure(row, tensors, grad_output, twins, exact)
                    found.append(row)
        return found

    def _measure(
        self,
        row: Row,
        tensors: Tensors,
        grad_output: torch.Tensor,
        twins: dict[str, list[torch.Tensor]],
        exact: list[torch.Tensor],
    ) -> None:
        if row.layout == "channels_last":
            grad_output = grad_output.to(memory_format=torch.channels_last)
        some = contestants(row.problem, tensors, row.layout, row.task, self.contestants)
        native = native_of(row.problem, grad_output.dtype, row.layout)
        row.auto = auto_choice(native, row.task)
        if not native.kernel:
            row.wrong.append("native: no kernel for this problem")
            some.pop("native", None)
        with torch.set_grad_enabled(row.task == "training"):
            calls = {name: one.call(row.task, grad_output) for name, one in some.items()}
            for name, one in some.items():
                if not check(row, one, calls[name], twins.get(name, exact)):
                    del calls[name]
            if not self.late:
                self._time(row, calls, some)
        roofline = self.rooflines[row.threads]
        if roofline is not None:
            itemsize = grad_output.element_size()
            flops, moved = row.problem.flops(row.task), row.problem.moved(row.task, itemsize)
            row.floor = roofline.floor(flops, moved)

    def _time(
        self, row: Row, calls: dict[str, Callable[[], object]], some: dict[str, Contestant]
    ) -> None:
        repeats: dict[str, int] = {}
        rounds: dict[str, int] = {}
        for name, call in calls.items():
            with some[name].around():
                call()
                began = time.perf_counter()
                call()
                took = time.perf_counter() - began
            repeats[name] = max(1, int(SHORTEST / took))
            rounds[name] = self.effort.context_rounds if name in CONTEXT else self.effort.rounds
        row.timings = interleave_quiet(
            calls,
            repeats=repeats,
            rounds=rounds,
            limit=self.effort.limit,
            around={name: one.around for name, one in some.items()},
        )


def check(row: Row, one: Contestant, call: Callable[[], object], exact: list[torch.Tensor]) -> bool:
    """Compare with float64; note the errors, and whether the contestant may be timed.

    The package's: at most twice torch's own error, or a few roundings. The others: not nonsense.
    """
    try:
        with one.around():
            output = call()
    except (RuntimeError, NotImplementedError, ValueError) as error:
        row.wrong.append(f"{one.name}: {type(error).__name__}: {str(error)[:200]}")
        return False
    outputs = output if isinstance(output, list) else [output]
    # The shorter counts: a forward has no gradients, a k x k kernel's are not the pair's.
    found = [error_of(got, want) for got, want in zip(outputs, exact, strict=False)]
    row.errors[one.name] = found
    dtype = outputs[0].dtype
    bounds = [LOOSE[dtype]] * len(found)
    if one.name in ("native", "auto"):
        torchs = row.errors["torch"]
        bounds = [max(2 * error, ULPS * torch.finfo(dtype).eps) for error in torchs]
    bad = [
        f"{one.name}: error {error:.1e} > {bound:.1e} in {result_name(row, i)}"
        for i, (error, bound) in enumerate(zip(found, bounds, strict=True))
        if not error <= bound
    ]
    row.wrong += bad
    return not bad


def error_of(got: torch.Tensor, want: torch.Tensor) -> float:
    """Return the root mean square of the errors over that of the values.

    The largest error of millions of elements hangs on luck; this one doesn't.
    """
    if got.shape != want.shape:
        return math.inf
    return float((got.detach().double() - want).norm()) / (float(want.norm()) or 1.0)


def result_name(row: Row, index: int) -> str:
    """Name the index-th of: output, gradients of x and of the tensors that are there."""
    if index == 0:
        return "output"
    one_pair = ["weight1", "bias1", "weight2", "bias2"]
    if not row.problem.mid_bias:
        one_pair.remove("bias1")
    return "gradient of " + ("x" if index == 1 else one_pair[(index - 2) % len(one_pair)])
