"""What the extension says of a problem: whether it has a kernel for it, and where auto uses it.

The package's functions serve any problem, without a kernel by torch's convolutions: a benchmark
that did not ask would time torch against itself.
"""

from __future__ import annotations

from typing import Any

import torch
from conv_shapes import Problem

from pyphase import _core

__all__ = ["auto_choice", "native_of", "requests"]


def requests(problem: Problem, dtype: str, channels_last: bool) -> list[dict[str, Any]]:
    """Return the problem's pairs as the compiled modules want them stated."""
    inputs, mid, out = problem.channels
    found = []
    for k in problem.kernels:
        ends = ((1, k), (k, 1)) if problem.row_first else ((k, 1), (1, k))
        found.append(
            {
                "input_shape": (problem.batch, inputs, problem.height, problem.width),
                "weight1_shape": (mid, inputs // problem.groups, *ends[0]),
                "weight2_shape": (out, mid // problem.groups, *ends[1]),
                "stride": (problem.stride,) * 2,
                "padding": (problem.dilation * (k // 2),) * 4,
                "dilation": (problem.dilation,) * 2,
                "groups": (problem.groups,) * 2,
                "activation": problem.activation,
                "dtype": dtype,
                "channels_last": channels_last,
            }
        )
    return found


def native_of(
    problem: Problem, dtype: torch.dtype, layout: str
) -> _core.ConvPair | _core.ConvStrips:
    """Return the extension's object for a problem; its kernel is "" where it has none."""
    stated = requests(problem, str(dtype).removeprefix("torch."), layout == "channels_last")
    pairs = [_core.ConvPair(**request) for request in stated]
    return _core.ConvStrips(pairs=pairs, residual=True) if len(pairs) > 1 else pairs[0]


def auto_choice(native: _core.ConvPair | _core.ConvStrips, task: str) -> str:
    """Return what serves under auto: the kernel ("native") or torch, for forward and backward."""
    if not native.kernel:
        return "torch"
    if task == "forward":
        return "native" if native.wins(False) else "torch"
    if not native.wins(True):
        return "torch"  # wholly
    return "native" if native.wins(False) else "torch + native"
