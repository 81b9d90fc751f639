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
    if problem.family == "strips":
        return _core.ConvStrips(
            input_shape=shape,
            kernel_sizes=[(k, k) for k in problem.kernels],
            row_first=[problem.row_first] * len(problem.kernels),
            dtype=dtype_name,
            channels_last=channels_last,
            residual=True,
        )
    k = problem.kernels[0]
    ends = ((1, k), (k, 1)) if problem.row_first else ((k, 1), (1, k))
    inputs, mid, out = problem.channels
    return _core.ConvPair(
        input_shape=shape,
        weight1_shape=(mid, inputs // problem.groups, *ends[0]),
        weight2_shape=(out, mid // problem.groups, *ends[1]),
        stride=(problem.stride,) * 2,
        padding=(problem.dilation * (k // 2),) * 4,
        dilation=(problem.dilation,) * 2,
        groups=(problem.groups,) * 2,
        activation=problem.activation,
        dtype=dtype_name,
        channels_last=channels_last,
        bias1=problem.mid_bias,
        bias2=True,
    )


def auto_choice(native: _core.ConvPair | _core.ConvStrips, task: str, threads: int) -> str:
    """Return what serves under auto: the kernel ("native") or torch, for forward and backward."""
    passes = [False] if task == "forward" else [False, True]
    chosen = ["native" if native.wins(backward, threads) else "torch" for backward in passes]
    return " + ".join(dict.fromkeys(chosen)) if native.kernel else "torch"
