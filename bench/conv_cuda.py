"""The convolution benchmark on a GPU: `python bench/bench_conv.py --device cuda`.

Every contestant's results are held against float64 first. Kernel time is that of a CUDA graph of
some calls, between two events: what the GPU needs. Call time is the clock's, of calls one after the
other until the GPU is done: what an eager loop pays. float32 is timed with TF32 off on all sides,
and dense pairs with TF32 on, on all sides, as well; cudnn.benchmark is on. The floor under a time
is that of the definition's sums at the peak that was measured in this run, or of reading x and
writing y at the bandwidth of a copy, whichever is more.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from conv_contestants import Contestant, contestants, make_tensors, reference
from conv_cuda_picture import draw
from conv_cuda_shapes import PROBLEMS
from conv_measure import LOOSE, error_of
from conv_shapes import Problem

__all__ = ["Peaks", "Row", "run"]

NAMES = ["torch", "native", "auto", "compiled", "kxk"]
TASKS = ("forward", "backward")
CAPTURED = 10  # calls in a graph
CALLS = 100  # in a row, by the clock
ROUNDINGS = {torch.float32: 4, torch.bfloat16: 1, torch.float16: 1}  # an error that passes
Call = Callable[[], object]


@dataclass(frozen=True)
class Peaks:
    """What this GPU did in this run: bytes a second of a copy, flops a second of matmuls."""

    bandwidth: float
    float32: float
    tf32: float
    bfloat16: float
    float16: float

    def floor(self, problem: Problem, task: str, dtype: str, tf32: bool) -> float:
        """Return the least seconds; depthwise sums are no matrix products, but float32 sums."""
        kind = "tf32" if tf32 and dtype == "float32" else dtype
        peak = getattr(self, kind if problem.family == "dense" else "float32")
        itemsize = getattr(torch, dtype).itemsize
        flops, moved = problem.flops("forward"), problem.moved("forward", itemsize)
        if task == "backward":
            flops = problem.flops("training") - flops
            moved = problem.moved("training", itemsize) - moved
        return max(flops / peak, moved / self.bandwidth)


@dataclass
class Row:
    """What was found for a problem; seconds by contestant, quartiles over the rounds."""

    problem: str
    family: str
    dtype: str
    tf32: bool
    layout: str
    task: str
    floor: float
    kernel: dict[str, list[float]] = field(default_factory=dict)
    call: dict[str, float] = field(default_factory=dict)
    errors: dict[str, list[float]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def ratio(self, name: str) -> float:
        """Return torch's kernel time over a contestant's, NaN where one is missing."""
        if name not in self.kernel or "torch" not in self.kernel:
            return float("nan")
        return self.kernel["torch"][1] / self.kernel[name][1]


def run(arguments: argparse.Namespace) -> bool:
    """Measure, print, write; return whether anything of the package's was wrong."""
    if not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch finds no GPU")
    device = torch.device("cuda", torch.cuda.current_device())
    name = torch.cuda.get_device_name(device)
    lines = {"device": name, "torch": torch.__version__, "cuda": str(torch.version.cuda)}
    lines["cudnn"] = str(torch.backends.cudnn.version())
    torch.backends.cudnn.benchmark = True
    print(lines)
    peaks = measure_peaks(device)
    print(peaks)
    rows: list[Row] = []
    for problem in PROBLEMS:
        wanted = re.search(arguments.shapes, problem.label)
        if wanted and (problem.quick or not arguments.quick):
            for row in measure(problem, device, peaks, arguments):
                print_row(row)
                rows.append(row)
    wrong = [f"{row.problem}, {row.dtype}: {line}" for row in rows for line in row.wrong]
    print("\n".join(wrong) or "every contestant within its bound")
    if arguments.json:
        record = {**lines, "peaks": asdict(peaks), "rows": [asdict(row) for row in rows]}
        Path(arguments.json).write_text(json.dumps(record, indent=1))
    if arguments.picture:
        draw(rows, arguments.picture, f"{name}, torch {torch.__version__}")
    return any(re.search(": (native|auto)", line) for line in wrong)


def measure_peaks(device: torch.device, size: int = 8192, copied: int = 1 << 30) -> Peaks:
    """Return the rates of a copy of `copied` bytes, and of products of size x size matrices."""
    source = torch.zeros(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * copied / kernel_seconds(lambda: target.copy_(source))[1]

    def product(dtype: torch.dtype, tf32: bool) -> float:
        with tf32_set(tf32):
            a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
            out = torch.empty_like(a)
            return 2 * size**3 / kernel_seconds(lambda: torch.mm(a, b, out=out))[1]

    return Peaks(
        bandwidth,
        product(torch.float32, False),
        product(torch.float32, True),
        product(torch.bfloat16, False),
        product(torch.float16, False),
    )


@contextmanager
def tf32_set(on: bool) -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def measure(
    problem: Problem, device: torch.device, peaks: Peaks, arguments: argparse.Namespace
) -> Iterator[Row]:
    """Yield a row for each dtype, precision, layout and task."""
    names = [name for name in NAMES if name != "compiled" or arguments.compile]
    for dtype in problem.dtypes:
        made, grad = make_tensors(problem, getattr(torch, dtype))
        tensors = tuple(None if t is None else t.to(device) for t in made)
        grad = grad.to(device)
        exact = reference(problem, tensors, grad)
        both = dtype == "float32" and problem.family == "dense"
        for tf32 in (False, True) if both else (False,):
            for layout in arguments.layouts:
                for task in TASKS:
                    floor = peaks.floor(problem, task, dtype, tf32)
                    row = Row(problem.label, problem.family, dtype, tf32, layout, task, floor)
                    some = contestants(problem, tensors, layout, task, names)
                    with tf32_set(tf32):
                        fill(row, some, in_format(grad, layout), exact, arguments.quick)
                    yield row


def in_format(grad: torch.Tensor, layout: str) -> torch.Tensor:
    last = layout == "channels_last"
    return grad.to(memory_format=torch.channels_last) if last else grad


def fill(
    row: Row,
    some: dict[str, Contestant],
    grad: torch.Tensor,
    exact: list[torch.Tensor],
    quick: bool,
) -> None:
    """Check the contestants and time those that are right."""
    for name, one in some.items():
        with one.around(), torch.set_grad_enabled(row.task == "backward"):
            try:
                call, results = prepared(one, row.task, grad)
                want = exact[:1] if row.task == "forward" else exact[1:]
                if not is_right(row, name, results(), want, grad.dtype):
                    continue
                row.kernel[name] = kernel_seconds(call, rounds=5 if quick else 20)
                row.call[name] = call_seconds(call, CALLS // 5 if quick else CALLS)
            except (RuntimeError, NotImplementedError) as error:
                row.wrong.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")


def prepared(
    one: Contestant, task: str, grad: torch.Tensor
) -> tuple[Call, Callable[[], list[torch.Tensor]]]:
    """Return what is timed, and what gives its results."""
    if task == "forward":
        return (lambda: one.function(*one.tensors)), lambda: [one.function(*one.tensors)]
    leaves = [t if t is None else t.detach().requires_grad_() for t in one.tensors]
    wanted = [leaf for leaf in leaves if leaf is not None]

    def both() -> list[torch.Tensor]:
        return list(torch.autograd.grad(one.function(*leaves), wanted, grad))

    output = one.function(*leaves)
    return (lambda: torch.autograd.grad(output, wanted, grad, retain_graph=True)), both


def is_right(
    row: Row, name: str, found: list[torch.Tensor], want: list[torch.Tensor], dtype: torch.dtype
) -> bool:
    """Hold results against float64: twice torch's error is the most, or a few roundings."""
    if name == "kxk":  # another function, where there is an activation or an inner bias
        return True
    row.errors[name] = [error_of(got, exact) for got, exact in zip(found, want, strict=True)]
    bounds = [max(LOOSE.get(dtype, 1e-2), 2e-2 * row.tf32)] * len(found)
    if name in ("native", "auto") and "torch" in row.errors:
        bound = ROUNDINGS[dtype] * torch.finfo(dtype).eps
        bounds = [max(2 * error, bound) for error in row.errors["torch"]]
    bad = [f"{e:.1e} > {b:.1e}" for e, b in zip(row.errors[name], bounds, strict=True) if e > b]
    row.wrong += [f"{name}, {row.layout}, {row.task}: error {text}" for text in bad]
    return not bad


def kernel_seconds(call: Call, rounds: int = 10) -> list[float]:
    """Return quartiles of the seconds a call, in a CUDA graph of some calls, between events."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CAPTURED):
            call()
    found = []
    for round_ in range(rounds + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        if round_ > 1:  # the first ones are not warm
            found.append(1e-3 * begin.elapsed_time(end) / CAPTURED)
    return statistics.quantiles(found, n=4)


def call_seconds(call: Call, count: int) -> float:
    """Return the seconds a call, by the clock, of calls one after the other."""
    call()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(count):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / count


def print_row(row: Row) -> None:
    kind = "tf32" if row.tf32 else row.dtype
    cells = [f"{row.problem:38} {kind:9}{row.layout:14}{row.task:9}"]
    for name in ("torch", "native"):
        found = row.kernel.get(name)
        share = f" ({100 * row.floor / found[1]:.0f} %)" if found else ""
        cells.append(f"{name} {1e6 * found[1]:.1f} us{share}" if found else f"{name} -")
    for name in ("native", "auto", "compiled", "kxk"):
        if name in row.kernel:
            cells.append(f"{name} {row.ratio(name):.2f}x")
    calls = ", ".join(f"{name} {1e6 * seconds:.0f}" for name, seconds in row.call.items())
    print("  ".join([*cells, f"calls, us: {calls}"]), flush=True)
