"""Slow oracles of the factorized convolutions, in numpy's float64, and the problems to hold.

A convolution is a sum over the taps of its kernel; its gradients are the same sum read backwards.
Nothing here is shared with the package.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch


class Problem(NamedTuple):
    """One pair of convolutions: sizes, and the options as numbers."""

    channels: tuple[int, int, int] = (4, 6, 5)
    size: tuple[int, int] = (7, 9)
    kernel: tuple[int, int] = (3, 5)  # vertical, horizontal
    row_first: bool = True
    batch: int = 2
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] | str = "same"
    dilation: tuple[int, int] = (1, 1)
    groups: tuple[int, int] = (1, 1)
    activation: str = "none"
    biases: tuple[bool, bool] = (True, True)

    @property
    def options(self) -> dict[str, Any]:
        names = ("stride", "padding", "dilation", "groups", "activation")
        return {name: getattr(self, name) for name in names}

    @property
    def sides(self) -> tuple[int, int, int, int]:
        """Padding as (top, bottom, left, right)."""
        if isinstance(self.padding, str):
            total = [d * (k - 1) for k, d in zip(self.kernel, self.dilation, strict=True)]
            return (total[0] // 2, -(-total[0] // 2), total[1] // 2, -(-total[1] // 2))
        vertical, horizontal = self.padding
        return (vertical, vertical, horizontal, horizontal)


PROBLEMS = {
    "dense": Problem(),
    "dense, column first": Problem(row_first=False, activation="relu"),
    "dense, strides": Problem(stride=(2, 3), padding=(1, 2), activation="gelu"),
    "dense, dilation": Problem(dilation=(2, 1), padding=(2, 0), activation="silu"),
    "dense, even kernels": Problem(kernel=(4, 2)),
    "dense, no bias": Problem(biases=(False, False), padding=(0, 0)),
    "dense, 1x1": Problem(kernel=(1, 1), stride=(2, 1), padding=(0, 1)),
    "dense, more padding than kernel": Problem(kernel=(3, 1), padding=(4, 3), size=(1, 2)),
    "depthwise": Problem(channels=(6, 6, 6), groups=(6, 6)),
    "depthwise, column first": Problem(
        channels=(6, 6, 6), groups=(6, 6), row_first=False, kernel=(4, 7), activation="silu"
    ),
    "depthwise, strides": Problem(
        channels=(5, 5, 5), groups=(5, 5), stride=(3, 2), padding=(1, 3), biases=(False, True)
    ),
    "depthwise, dilation": Problem(
        channels=(3, 3, 3), groups=(3, 3), dilation=(1, 3), padding=(1, 6), activation="gelu"
    ),
    "depthwise, one channel": Problem(channels=(1, 1, 1), kernel=(3, 3), activation="relu"),
    "depthwise, long": Problem(
        channels=(2, 2, 2), groups=(2, 2), kernel=(21, 31), biases=(True, False)
    ),
    "depthwise, longer than 63": Problem(
        channels=(2, 2, 2), groups=(2, 2), kernel=(3, 65), size=(4, 6)
    ),
    "grouped": Problem(channels=(4, 8, 6), groups=(2, 2), activation="relu"),
    "grouped, one of each": Problem(channels=(4, 8, 3), groups=(4, 1), row_first=False),
    "one pixel": Problem(size=(1, 1), kernel=(3, 3)),
}


def draw(problem: Problem, seed: int = 0) -> dict[str, np.ndarray | None]:
    """Return random float64 arrays: input, weights and biases, and the gradient of the output."""
    generator = np.random.default_rng(seed)
    into, mid, out = problem.channels
    row, column = (1, problem.kernel[1]), (problem.kernel[0], 1)
    first, second = (row, column) if problem.row_first else (column, row)
    arrays: dict[str, np.ndarray | None] = {
        "input": generator.standard_normal((problem.batch, into, *problem.size)),
        "weight1": generator.standard_normal((mid, into // problem.groups[0], *first)),
        "weight2": generator.standard_normal((out, mid // problem.groups[1], *second)),
        "bias1": generator.standard_normal(mid) if problem.biases[0] else None,
        "bias2": generator.standard_normal(out) if problem.biases[1] else None,
    }
    return arrays


def tensors(problem: Problem, dtype=torch.float64, channels_last=False, grad=False, seed=0):
    """Return the same as torch tensors, in the order of the arguments."""
    result = [
        None if a is None else torch.tensor(a, dtype=dtype) for a in draw(problem, seed).values()
    ]
    if channels_last:
        result[0] = result[0].contiguous(memory_format=torch.channels_last)
    return [None if t is None else t.requires_grad_(grad) for t in result]


def _halves(problem: Problem):
    """Return (stride, sides, dilation, groups) of both convolutions."""
    (sv, sh), (dv, dh), (top, bottom, left, right) = (
        problem.stride,
        problem.dilation,
        problem.sides,
    )
    row = ((1, sh), (0, 0, left, right), (1, dh))
    column = ((sv, 1), (top, bottom, 0, 0), (dv, 1))
    first, second = (row, column) if problem.row_first else (column, row)
    return (*first, problem.groups[0]), (*second, problem.groups[1])


def _taps(x, weight, half):
    """Yield each tap of a kernel and the view of the padded input that it meets."""
    (sv, sh), (top, bottom, left, right), (dv, dh), _ = half
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    kv, kh = weight.shape[2:]
    out_v = (padded.shape[2] - dv * (kv - 1) - 1) // sv + 1
    out_h = (padded.shape[3] - dh * (kh - 1) - 1) // sh + 1
    for v in range(kv):
        for h in range(kh):
            rows = slice(v * dv, v * dv + (out_v - 1) * sv + 1, sv)
            columns = slice(h * dh, h * dh + (out_h - 1) * sh + 1, sh)
            yield v, h, (slice(None), slice(None), rows, columns), padded


def _grouped(array, groups, axis):
    shape = array.shape
    return array.reshape(*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])


def conv(x, weight, bias, half):
    groups, total = half[3], 0.0
    for v, h, window, padded in _taps(x, weight, half):
        view = _grouped(padded[window], groups, 1)
        kernel = _grouped(weight[:, :, v, h], groups, 0)
        total = total + np.einsum("ngihw,goi->ngohw", view, kernel)
    total = total.reshape(x.shape[0], weight.shape[0], *total.shape[3:])
    return total if bias is None else total + bias[:, None, None]


def conv_grads(grad, x, weight, half):
    """Return the gradients of x, weight and bias."""
    _, (top, _, left, _), _, groups = half
    grad_weight = np.zeros_like(weight)
    grad_padded = None
    grad_groups = _grouped(grad, groups, 1)
    for v, h, window, padded in _taps(x, weight, half):
        grad_padded = np.zeros_like(padded) if grad_padded is None else grad_padded
        view = _grouped(padded[window], groups, 1)
        kernel = _grouped(weight[:, :, v, h], groups, 0)
        product = np.einsum("ngohw,ngihw->goi", grad_groups, view)
        grad_weight[:, :, v, h] = product.reshape(weight.shape[:2])
        spread = np.einsum("ngohw,goi->ngihw", grad_groups, kernel)
        grad_padded[window] += spread.reshape(padded[window].shape)
    height, width = x.shape[2:]
    inside = grad_padded[:, :, top : top + height, left : left + width]
    return inside, grad_weight, grad.sum((0, 2, 3))


def _normal(x):
    """Return the normal distribution's cumulative function and its density."""
    cumulative = 0.5 * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2)))
    return cumulative, np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def activate(x, name):
    """Return the activation of x and its derivative."""
    if name == "relu":
        return np.maximum(x, 0), (x > 0).astype(float)
    if name == "gelu":
        cumulative, density = _normal(x)
        return x * cumulative, cumulative + x * density
    if name == "silu":
        sigmoid = 1 / (1 + np.exp(-x))
        return x * sigmoid, sigmoid * (1 + x * (1 - sigmoid))
    return x, np.ones_like(x)


def pair(problem: Problem, arrays):
    """Return the output of a pair."""
    first, second = _halves(problem)
    mid, _ = activate(
        conv(arrays["input"], arrays["weight1"], arrays["bias1"], first), problem.activation
    )
    return conv(mid, arrays["weight2"], arrays["bias2"], second)


def pair_grads(problem: Problem, arrays, grad_output):
    """Return the gradients in the order of the arguments, None for an absent bias."""
    first, second = _halves(problem)
    x, weight1 = arrays["input"], arrays["weight1"]
    mid, slope = activate(conv(x, weight1, arrays["bias1"], first), problem.activation)
    grad_mid, grad_weight2, grad_bias2 = conv_grads(grad_output, mid, arrays["weight2"], second)
    grad_x, grad_weight1, grad_bias1 = conv_grads(grad_mid * slope, x, weight1, first)
    has_bias1, has_bias2 = problem.biases
    return [
        grad_x,
        grad_weight1,
        grad_weight2,
        grad_bias1 if has_bias1 else None,
        grad_bias2 if has_bias2 else None,
    ]


def torch_pair(problem: Problem, x, weight1, weight2, bias1, bias2):
    """Return the pair by torch's own functions, padding first: what users would write."""
    functional = torch.nn.functional
    (stride1, sides1, dilation1, groups1), (stride2, sides2, dilation2, groups2) = _halves(problem)
    acts = {
        "none": lambda x: x,
        "relu": functional.relu,
        "gelu": functional.gelu,
        "silu": functional.silu,
    }

    def pad(x, sides):
        top, bottom, left, right = sides
        return functional.pad(x, (left, right, top, bottom))

    def conv(x, weight, bias, stride, dilation, groups):
        if x.dtype.itemsize == 2 and weight.shape[3] >= 15 and stride == dilation == (1, 1):
            # As columns: torch never ends making code for some rows (conv/torch_pair.py).
            return functional.conv2d(x.mT, weight.mT, bias, groups=groups).mT
        return functional.conv2d(x, weight, bias, stride, 0, dilation, groups)

    mid = conv(pad(x, sides1), weight1, bias1, stride1, dilation1, groups1)
    mid = pad(acts[problem.activation](mid), sides2)
    return conv(mid, weight2, bias2, stride2, dilation2, groups2)
