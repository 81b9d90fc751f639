"""Fused kernel or torch's convolutions: timed once for each problem, on the user's own GPU.

Both sides run on made-up tensors of the problem's layouts, on a stream of their own, in turn, after
calls to warm up; the time is that of calls one after the other, as a training loop makes them. The
faster one serves from then on.
"""

from __future__ import annotations

import math
import statistics
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from pyphase.conv.check import Layout
from pyphase.conv.choice_file import read_choices, remove_choices, write_choice
from pyphase.conv.cuda import allows_tf32, device_name
from pyphase.conv.native import Kernels, by_kind
from pyphase.conv.torch_pair import (
    Steps,
    pair_backward,
    pair_forward,
    strips_backward,
    strips_forward,
)

__all__ = ["Choice", "Contest", "choices", "clear_choices", "measured"]
__all__ += ["pair_contest", "strips_contest"]

_WARM, _ROUNDS, _CALLS = 3, 5, 10
_LONG = 5.0  # milliseconds: longer calls are timed one by one

Call = Callable[[], object]


class Choice(NamedTuple):
    """What was measured for a problem on a device, and who serves it.

    Attributes:
        problem: sizes, options and dtype.
        device: the GPU's name.
        task: ``"forward"`` or ``"backward"``.
        backend: ``"native"`` or ``"torch"``, the faster one.
        native: seconds a call of the fused kernel.
        torch: seconds a call of torch's convolutions.

    Example:
        >>> Choice("a pair", "a GPU", "forward", "native", 1e-5, 2e-5).backend
        'native'
    """

    problem: str
    device: str
    task: str
    backend: str
    native: float
    torch: float


class Contest(NamedTuple):
    """What a choice is between.

    Attributes:
        problem: its name, the same for no two.
        dtype: of all tensors.
        layouts: of the input, all weights, all biases, the output.
        forward: torch's, given those tensors but the last.
        backward: torch's, given the gradient of the output and then those.
        strips: the number of strips, 0 for a pair.
    """

    problem: str
    dtype: torch.dtype
    layouts: Sequence[Layout]
    forward: Callable[..., object]
    backward: Callable[..., object]
    strips: int


class _Problem(Protocol):
    device: torch.device

    def contest(self) -> Contest: ...


_lock = threading.RLock()
_memory: dict[tuple[str, str, str], Choice] = {}
_is_read = False


def choices() -> list[Choice]:
    """Return what ``backend("auto")`` has measured and chosen on GPUs.

    Choices are kept in a file and serve later processes with the same GPU, torch and build of the
    kernels: see :func:`clear_choices`.

    Example:
        >>> [choice.backend for choice in choices() if choice.device == "no such GPU"]
        []
    """
    with _lock:
        _read()
        return list(_memory.values())


def clear_choices() -> None:
    """Forget what was measured, in memory and in the file: the next call of a problem measures.

    The file is ``conv_choices.json`` in the folder that the environment variable ``PYPHASE_CACHE``
    names, else in ``pyphase`` below ``XDG_CACHE_HOME`` or ``~/.cache``. An empty ``PYPHASE_CACHE``
    keeps choices in memory only.

    Example:
        >>> clear_choices()  # doctest: +SKIP
    """
    with _lock:
        _memory.clear()
        remove_choices()


def measured(problem: _Problem, kernels: Kernels, backward: bool) -> bool:
    """Return whether the kernel serves a pass: as measured, now if it never was.

    Nothing is measured while a CUDA graph is being captured or torch is to be deterministic: what
    was measured before counts in a capture, the planner's prediction else.
    """
    if torch.are_deterministic_algorithms_enabled():  # a choice by time may differ between runs
        return kernels.wins(backward)
    contest = problem.contest()
    name = device_name(problem.device)
    key = (contest.problem, name, "backward" if backward else "forward")
    found = _memory.get(key)
    if found is None:
        if torch.cuda.is_current_stream_capturing():
            return kernels.wins(backward)
        with _lock:
            _read()
            found = _memory.get(key)
            if found is None:
                try:
                    native, torchs = _race(contest, kernels, backward, problem.device)
                except torch.cuda.OutOfMemoryError:
                    return kernels.wins(backward)
                backend = "native" if native < torchs else "torch"
                found = _memory[key] = Choice(*key, backend, native, torchs)
                write_choice(found)
    return found.backend == "native"


def _read() -> None:
    global _is_read
    if not _is_read:
        _is_read = True
        for values in read_choices():
            choice = Choice(*values)
            _memory.setdefault(choice[:3], choice)


def pair_contest(request: dict[str, Any], steps: Steps, layouts: Sequence[Layout]) -> Contest:
    """Return the contest of a pair; layouts: input, two weights, two biases, output."""

    def backward(grad: Tensor, x: Tensor, w1: Tensor, w2: Tensor, b1: Tensor, _: Tensor) -> object:
        return pair_backward(steps, grad, x, w1, w2, b1, (True,) * 5)

    return Contest(
        _name(request), _dtype(request), layouts, partial(pair_forward, steps), backward, 0
    )


def strips_contest(
    request: dict[str, Any], steps: Sequence[Steps], layouts: Sequence[Layout], residual: bool
) -> Contest:
    """Return the contest of a sum; layouts: input, all weights, all biases. The output's is x's."""
    count = len(steps)

    def forward(x: Tensor, *rest: Tensor) -> object:
        both = rest[: 2 * count], rest[2 * count :]
        return strips_forward(pair_forward, steps, x, *both, residual)

    def backward(grad: Tensor, x: Tensor, *rest: Tensor) -> object:
        both = rest[: 2 * count], rest[2 * count :]
        mask = (True,) * (1 + 4 * count)
        return strips_backward(pair_backward, steps, grad, x, *both, residual, mask)

    kernels = [weight[0][2:] for weight in layouts[1 : 1 + 2 * count]]
    name = f"{_name(request)}, strips {kernels}, residual={residual}"
    return Contest(name, _dtype(request), [*layouts, layouts[0]], forward, backward, count)


def _name(request: dict[str, Any]) -> str:
    words = [f"{key}={value}" for key, value in request.items()]
    return ", ".join(
        [*words, "tf32"] if _dtype(request) == torch.float32 and allows_tf32() else words
    )


def _dtype(request: dict[str, Any]) -> torch.dtype:
    found: torch.dtype = getattr(torch, request["dtype"])
    return found


def _race(
    contest: Contest, kernels: Kernels, backward: bool, device: torch.device
) -> tuple[float, float]:
    """Return the seconds a call of the kernel and of torch's convolutions."""
    with torch.cuda.device(device), torch.no_grad():
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())  # the work before is not to disturb
        with torch.cuda.stream(stream):
            sides = _sides(contest, kernels, backward, device)
            found = _interleave(sides)
    return found[0], found[1]


def _sides(
    contest: Contest, kernels: Kernels, backward: bool, device: torch.device
) -> tuple[Call, Call]:
    dtype = contest.dtype

    def make(layouts: Sequence[Layout]) -> list[Tensor]:
        return [_ramp(layout, dtype, device) for layout in layouts]

    tensors = make(contest.layouts)
    *given, y = tensors
    grads = make(contest.layouts[:-1]) if backward else []
    x, rest = _grouped(given, contest.strips)
    if not backward:
        return (
            lambda: kernels.forward(x, *rest, y.data_ptr()),
            lambda: contest.forward(*given),
        )
    grad_x, grad_rest = _grouped(grads, contest.strips)

    def native(_: Any = grads) -> None:  # which must live as long as its addresses
        kernels.backward(x, *rest[:3], y.data_ptr(), grad_x, *grad_rest)

    return native, lambda: contest.backward(y, *given)


def _ramp(layout: Layout, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers from -1 to 1: random ones would move the user's generator."""
    values = torch.linspace(-1, 1, math.prod(layout[0]), dtype=dtype, device=device)
    return torch.empty_strided(*layout, dtype=dtype, device=device).copy_(values.view(layout[0]))


def _grouped(tensors: Sequence[Tensor], strips: int) -> tuple[int, list[Any]]:
    """Return the address of the first, and those of w1, w2, b1, b2: numbers, or a list of each."""
    x, *rest = [tensor.data_ptr() for tensor in tensors]
    return x, list(by_kind(rest)) if strips else rest


def _interleave(sides: Sequence[Call]) -> list[float]:
    """Return the median seconds a call of each."""
    for side in sides:
        for _ in range(_WARM):
            side()
    calls = [1 if _milliseconds(side, 1) > _LONG else _CALLS for side in sides]
    found: list[list[float]] = [[] for _ in sides]
    for _ in range(_ROUNDS):
        for side, count, times in zip(sides, calls, found, strict=True):
            times.append(_milliseconds(side, count) / count)
    return [1e-3 * statistics.median(times) for times in found]


def _milliseconds(call: Call, count: int) -> float:
    event: Any = torch.cuda.Event
    begin, end = event(enable_timing=True), event(enable_timing=True)
    begin.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))
