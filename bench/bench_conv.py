"""Speed of the fused factorized convolutions, against torch's two convolutions.

    python bench/bench_conv.py [--device cuda] [--quick] [--only GROUP[,GROUP]] [--shapes REGEX]
                               [--threads N[,N]] [--json FILE] [--picture FILE] [--[no-]compile]
                               [--limit S] [--memory]

Every contestant's output and gradients are held against float64 before it is timed: the package's
error may be twice torch's own, or a few roundings. Then all take turns, in the same layout, with
the same tensors; fresh output memory and all of a call's cost are in the time. glibc keeps freed
memory (else torch's temporaries fault their pages in at every call, and torch comes out two to
three times slower), and samples in which the process was switched out do not count. A star: too
few samples were left for a median, the best is shown. On a GPU: see conv_cuda.py.

The share of the roofline is the time that the machine would need for the definition's multiply-adds
or for reading x and writing y (backward: x, dy, dx too), whichever is more, over the time taken.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import conv_cuda
import conv_external
import torch
from conv_contestants import CONTEXT
from conv_measure import EVERY_LAYOUT, EVERY_TASK, Bench, Effort, Row
from conv_memory import measure_memory, print_memory
from conv_picture import draw
from conv_report import print_calls, print_rows, print_summary, print_wrong, write_json
from conv_shapes import PROBLEMS, SMALL, Problem
from roofline import Roofline, measure_roofline
from timing import keep_freed_memory, machine

from pyphase import _core

GROUPS = ("dense", "depthwise", "bfloat16", "strips", "call")
FULL = Effort(rounds=15, context_rounds=5, limit=8)
QUICK = Effort(rounds=5, context_rounds=3, limit=0.5, total=30)


def listed(choices: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Return a reader of comma-separated choices."""

    def parsed(text: str) -> list[str]:
        found = [name for name in text.split(",") if name]
        for name in found:
            if name not in choices:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(choices)}")
        return found

    return parsed


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    add("--quick", action="store_true", help="few shapes, few samples: under a minute")
    for name, choices, what in (
        ("--only", GROUPS, "groups of problems"),
        ("--tasks", EVERY_TASK, "training: forward and backward"),
        ("--layouts", EVERY_LAYOUT, "of images and weights"),
        ("--context", CONTEXT, "who is shown beside torch and pyphase; '' for nobody"),
    ):
        what = f"{what}; of {', '.join(choices)}"
        add(name, type=listed(choices), default=list(choices), metavar="NAME[,NAME]", help=what)
    add("--shapes", default="", metavar="REGEX", help="only problems in whose label it is found")
    add("--threads", type=numbers, metavar="N[,N]", help="default: all; in a full run all, then 1")
    what = "torch.compile of torch's pair, slow to prepare; default: in a full run"
    add("--compile", action=argparse.BooleanOptionalAction, default=None, help=what)
    what = f"seconds of a row that make do with fewer samples; default: {FULL.limit:g}"
    add("--limit", type=float, metavar="S", help=what)
    add("--memory", action="store_true", help="the peak memory of a training step, nothing else")
    add("--json", metavar="FILE")
    add("--picture", metavar="FILE")
    arguments = parser.parse_args()
    part = arguments.quick or arguments.shapes or arguments.only != list(GROUPS)
    if arguments.compile is None:
        arguments.compile = not part
    if arguments.threads is None:
        cores = torch.get_num_threads()
        arguments.threads = [cores] if part or cores == 1 else [cores, 1]
    if not arguments.compile:
        arguments.context = [name for name in arguments.context if name != "compiled"]
    return arguments


def header(arguments: argparse.Namespace) -> dict[str, str]:
    """Print and return what the numbers depend on."""
    lines = {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "machine": machine(),
        "isa": _core.isa(),
        "load average": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }
    for name, value in lines.items():
        print(f"{name}: {value}")
    for line in conv_external.missing():
        print(f"left out: {line}")
    if not arguments.compile:
        print("left out: torch.compile of the pair (--compile)")
    return lines


def cases(arguments: argparse.Namespace) -> list[tuple[str, Problem, str]]:
    """Return group, problem and dtype of what is asked for, the groups in order."""
    found = []
    for problem in [*PROBLEMS, SMALL]:
        for dtype in problem.dtypes:
            group = "call" if problem is SMALL else problem.family
            group = group if dtype == "float32" else dtype
            quick = problem.quick or problem is SMALL
            if (
                group in arguments.only
                and re.search(arguments.shapes, problem.label)
                and (quick or not arguments.quick)
            ):
                found.append((group, problem, dtype))
    return sorted(found, key=lambda case: GROUPS.index(case[0]))


def measure(arguments: argparse.Namespace, rooflines: dict[int, Roofline | None]) -> list[Row]:
    """Measure all that is asked for; print each group's tables as soon as they are known."""
    effort = QUICK if arguments.quick else FULL
    bench = Bench(
        replace(effort, limit=effort.limit if arguments.limit is None else arguments.limit),
        rooflines,
        contestants=["torch", "native", "auto", *arguments.context],
        tasks=arguments.tasks,
        layouts=arguments.layouts,
    )
    found: list[Row] = []
    for group, some in groupby(cases(arguments), key=lambda case: case[0]):
        rows: list[Row] = []
        for _, problem, dtype in some:
            show(f"{len(found) + len(rows)} rows; {problem.label}")
            rows += bench.rows(problem, dtype)
        show("")
        for threads in rooflines:
            shown = [row for row in rows if row.threads == threads]
            (print_calls if group == "call" else print_rows)(shown)
        found += rows
    return found


def show(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:79}\r", end="", file=sys.stderr, flush=True)


def main() -> None:
    arguments = parse()
    if arguments.device == "cuda":
        sys.exit(conv_cuda.run(arguments))
    if arguments.memory:
        lines = header(arguments)
        memory = measure_memory()
        print_memory(memory)
        if arguments.json:
            Path(arguments.json).write_text(json.dumps({**lines, "memory": memory}, indent=1))
        return
    keep_freed_memory()
    lines = header(arguments)
    rooflines = {threads: measure_roofline(threads) for threads in arguments.threads}
    for roofline in rooflines.values():
        print(f"roofline, {roofline}")
    rows = measure(arguments, rooflines)
    print_summary(rows, lines["isa"])
    failed = print_wrong(rows)
    if arguments.json:
        write_json(arguments.json, lines, rows, rooflines.values())
    if arguments.picture:
        shown = [row for row in rows if row.problem is not SMALL]
        shown = [row for row in shown if row.threads == arguments.threads[0]]
        draw(shown, arguments.picture, lines["machine"])
    sys.exit(failed)


if __name__ == "__main__":
    main()
