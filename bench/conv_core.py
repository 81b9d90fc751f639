"""What the extension says of a problem: whether it has a kernel for it, and where auto uses it.

The package's functions serve any problem, without a kernel by torch's convolutions: a benchmark
that did not ask would time torch against itself.
"""

from __future__ import annotations

import torch
from conv_shapes import Problem

from pyphase import _core

__all__ = ["auto_choice", "native_of"]


def native_of(
    problem: Problem, dtype: torch.dtype, layout: str
) -> _core.ConvPair | _core.ConvStrips:
    """Return the extension's object for a problem; its kernel is "" where it has none."""
    shape = (problem.batch, problem.channels[0], problem.height, problem.width)
    dtype_name = str(dtype).removeprefix("torch.")
    channels_last = layout == "channels_last"

    def pair(k: int, mid: int, out: int) -> _core.ConvPair:
        ends = ((1, k), (k, 1)) if problem.row_first else ((k, 1), (1, k))
        return _core.ConvPair(
            input_shape=shape,
            weight1_shape=(mid, shape[1] // problem.groups, *ends[0]),
            weight2_shape=(out, mid // problem.groups, *ends[1]),
            stride=(problem.stride,) * 2,
            padding=(problem.dilation * (k // 2),) * 4,
            dilation=(problem.dilation,) * 2,
            groups=(problem.groups,) * 2,
            activation=problem.activation,
            dtype=dtype_name,
            channels_last=channels_last,
        )

    pairs = [pair(k, *problem.channels[1:]) for k in problem.kernels]
    return _core.ConvStrips(pairs=pairs, residual=True) if len(pairs) > 1 else pairs[0]


def auto_choice(native: _core.ConvPair | _core.ConvStrips, task: str) -> str:
    """Return what serves under auto: the kernel ("native") or torch, for forward and backward."""
    if not native.kernel:
        return "torch"
    if isinstance(native, _core.ConvStrips):
        return "native" if native.wins(task != "forward") else "torch"
    passes = [False] if task == "forward" else [False, True]
    chosen = ["native" if native.wins(backward) else "torch" for backward in passes]
    return " + ".join(dict.fromkeys(chosen))
