"""Depthwise passes through the launch code that a GPU would run, for the tests.

A problem is a list of pairs (``conv_reference.Problem``) over one input, summed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from conv_reference import Problem
from torch import Tensor

from emulation.build import HOST, KERNELS, host_library
from emulation.machine import OUTPUT, WORKSPACE, require, run_on_fibers
from emulation.machine import Tensor as Array

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ACTIVATIONS = ("none", "relu", "gelu", "silu")
UNITS = tuple(KERNELS / f"depthwise_{name}.cu" for name in ("float", "half", "bfloat16"))
SOURCES = (
    *UNITS,
    KERNELS / "depthwise.cpp",
    KERNELS / "depthwise_march_plan.cpp",
    KERNELS / "depthwise_plan.cpp",
    KERNELS.parent / "problem.cpp",
    HOST / "depthwise_entry.cpp",
)


class Device(NamedTuple):
    """What the plans ask of a GPU. Few multiprocessors: few blocks, each with much to do."""

    sms: int = 2
    shared_per_sm: int = 164 << 10
    shared_per_block: int = 163 << 10


SMALL = Device()
A100 = Device(108)
H100 = Device(132, 228 << 10, 227 << 10)
RTX4090 = Device(128, 100 << 10, 99 << 10)


class Sum(NamedTuple):
    """A sum of depthwise pairs over one input, and the input itself if ``residual``."""

    pairs: tuple[Problem, ...]
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    residual: bool = False

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        one = self.pairs[0]
        top, bottom, left, right = one.sides
        spans = [(k - 1) * d + 1 for k, d in zip(one.kernel, one.dilation, strict=True)]
        height = (one.size[0] + top + bottom - spans[0]) // one.stride[0] + 1
        width = (one.size[1] + left + right - spans[1]) // one.stride[1] + 1
        return one.batch, one.channels[0], height, width

    @property
    def numbers(self) -> ctypes.Array[ctypes.c_int64]:
        """The problem as depthwise_entry.cpp reads it."""
        one = self.pairs[0]
        head = [one.batch, one.channels[0], *one.size, self.channels_last]
        head += [DTYPES.index(self.dtype), ACTIVATIONS.index(one.activation), self.residual]
        flat = [*head, len(self.pairs)]
        for pair in self.pairs:
            top, bottom, left, right = pair.sides
            flat.append(pair.row_first)
            flat += [pair.kernel[0], pair.stride[0], pair.dilation[0], top, bottom]
            flat += [pair.kernel[1], pair.stride[1], pair.dilation[1], left, right]
        return (ctypes.c_int64 * len(flat))(*flat)


class Plan(NamedTuple):
    """A plan's numbers and those of its first launch."""

    workspace: int
    bytes: float
    flops: float
    is_march: bool
    grid: int
    block: int
    shared: int
    choice: tuple[int, ...]


def plan(problem: Sum, backward: bool = False, device: Device = SMALL) -> Plan:
    """Return the plan of a pass; a Fault where none serves it."""
    library = host_library(SOURCES)
    library.depthwise_plan.restype = ctypes.c_char_p
    numbers = (ctypes.c_double * 23)()
    require(library.depthwise_plan(problem.numbers, _numbers(device), int(backward), numbers))
    workspace, size, flops, march, grid, block, shared, *choice = numbers
    whole = (int(workspace), size, flops, bool(march), int(grid), int(block), int(shared))
    return Plan(*whole, tuple(map(int, choice)))


def forward(
    problem: Sum,
    x: Tensor,
    weights: Sequence[Tensor | None],
    device: Device = SMALL,
    library: ctypes.CDLL | None = None,
) -> Tensor:
    """Return the output; ``weights``: w1, w2, b1, b2 of one pair after another."""
    return run(problem, x, weights, None, device, library)[0]


def run(
    problem: Sum,
    x: Tensor,
    weights: Sequence[Tensor | None],
    grad: Tensor | None = None,
    device: Device = SMALL,
    library: ctypes.CDLL | None = None,
) -> list[Tensor]:
    """Return the output of a forward pass; with ``grad`` the gradients of x and the weights."""
    backward = grad is not None
    library = library or host_library(SOURCES)
    library.depthwise_run.restype = ctypes.c_char_p
    tensors = [Array("x", _lay(x, problem))]
    size = plan(problem, backward, device).workspace if backward else 0
    workspace = Array("workspace", np.full(size // 4, np.nan, np.float32), WORKSPACE)
    if grad is None:
        tensors += [Array("y", _blank(problem.output_shape, problem), OUTPUT)]
        tensors += [workspace, Array("none", np.zeros(0, np.float32))]
    else:
        tensors += [Array("grad y", _lay(grad, problem)), workspace]
        tensors += [Array("grad x", _blank(x.shape, problem), OUTPUT)]
    none = np.zeros(0, np.float32)
    for i, weight in enumerate(weights):
        tensors.append(Array(f"weight {i}", none if weight is None else _flat(weight)))
    if backward:
        for i, weight in enumerate(weights):
            if weight is None:
                tensors.append(Array("none", none))
            else:
                blank = np.full_like(_flat(weight), -1)
                tensors.append(Array(f"grad {i}", blank, OUTPUT))

    def start(addresses: list[int | None]) -> None:
        table = (ctypes.c_void_p * len(addresses))(*addresses)
        numbers = _numbers(device)
        require(library.depthwise_run(problem.numbers, numbers, int(backward), table))

    run_on_fibers(library, tensors, start)
    if grad is None:
        return [_take(tensors[1].array, problem.output_shape, problem)]
    found = [_take(tensors[3].array, tuple(x.shape), problem)]
    for array, weight in zip(tensors[4 + len(weights) :], weights, strict=True):
        if weight is not None:
            found.append(_tensor(array.array, problem.dtype).reshape(weight.shape))
    return found


def _numbers(values: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


def _flat(tensor: Tensor) -> np.ndarray:
    """The elements as numpy has them: bfloat16 as whole numbers."""
    tensor = tensor.detach().contiguous().flatten()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy().copy()


def _lay(image: Tensor, problem: Sum) -> np.ndarray:
    return _flat(image.permute(0, 2, 3, 1) if problem.channels_last else image)


def _blank(shape: Sequence[int], problem: Sum) -> np.ndarray:
    return np.full_like(_flat(torch.zeros(tuple(shape), dtype=problem.dtype)), -1)


def _tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    tensor = torch.from_numpy(array.copy())
    return tensor.view(dtype) if dtype == torch.bfloat16 else tensor


def _take(array: np.ndarray, shape: tuple[int, int, int, int], problem: Sum) -> Tensor:
    tensor = _tensor(array, problem.dtype)
    if not problem.channels_last:
        return tensor.reshape(shape)
    n, c, h, w = shape
    return tensor.reshape(n, h, w, c).permute(0, 3, 1, 2).contiguous()
