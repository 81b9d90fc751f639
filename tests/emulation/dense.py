"""Run the dense passes as the binding would, on the machine of fibers or as PTX."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from conv_reference import Problem
from torch import Tensor

from emulation import build, machine

UNITS = tuple(build.KERNELS / f"dense_{name}.cu" for name in ("float", "bfloat16", "half"))
SOURCES = (
    *UNITS,
    build.KERNELS / "dense.cpp",
    build.KERNELS / "dense_plan.cpp",
    build.KERNELS / "dense_tiles.cpp",
    build.KERNELS.parent / "problem.cpp",
    build.HOST / "dense_entry.cpp",
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ACTIVATIONS = ("none", "relu", "gelu", "silu")


class Gpu(NamedTuple):
    """What a plan asks of a device. The default: A100."""

    capability: int = 80
    sms: int = 108
    threads_per_sm: int = 2048
    shared_per_sm: int = 164 << 10
    shared_per_block: int = 163 << 10


A100 = Gpu()


class Planned(NamedTuple):
    """A plan's numbers; of each launch its grid, shared bytes and choices."""

    workspace: int
    bytes: float
    flops: float
    launches: list[tuple[int, int, list[int]]]


def library(*, checked: bool = False, mutable: Path | None = None) -> ctypes.CDLL:
    return build.host_library(SOURCES, checked=checked, mutable=mutable)


def _numbers(values: Iterable[int]) -> Any:
    values = [int(value) for value in values]
    return (ctypes.c_int64 * len(values))(*values)


def describe(
    problem: Problem,
    tensors: Sequence[Tensor | None],
    tf32: bool = False,
    channels_last: bool | None = None,
) -> Any:
    """The numbers that dense_entry.cpp reads."""
    x, w1, w2 = tensors[:3]
    assert x is not None
    assert w1 is not None
    assert w2 is not None
    if channels_last is None:
        channels_last = not x.is_contiguous()
    kind = [
        ACTIVATIONS.index(problem.activation),
        [*DTYPES, torch.float64].index(x.dtype),
        channels_last,
        tf32,
    ]
    sizes = [*x.shape, *w1.shape, *w2.shape, *problem.stride, *problem.dilation, *problem.sides]
    return _numbers([*sizes, *kind])


def plan(lib: ctypes.CDLL, numbers: Any, backward: bool, gpu: Gpu = A100) -> Planned:
    found = (ctypes.c_double * 256)()
    lib.dense_plan.restype = ctypes.c_char_p
    machine.require(lib.dense_plan(numbers, _numbers(gpu), int(backward), found, 256))
    launches = []
    for i in range(int(found[3])):
        grid, shared, *choice = (int(v) for v in found[4 + 18 * i : 22 + 18 * i])
        launches.append((grid, shared, choice))
    return Planned(int(found[0]), found[1], found[2], launches)


def array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory, in its order, as integers."""
    dense = (
        tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 and not tensor.is_contiguous() else tensor
    )
    kind = torch.int32 if tensor.dtype == torch.float32 else torch.int16
    return dense.contiguous().view(kind).numpy().copy()


def tensor(values: np.ndarray, like: Tensor) -> Tensor:
    found = torch.from_numpy(values).view(like.dtype)
    if like.ndim == 4 and not like.is_contiguous():
        return found.reshape(*(like.shape[i] for i in (0, 2, 3, 1))).permute(0, 3, 1, 2)
    return found.reshape(like.shape)


def run(
    lib: ctypes.CDLL,
    problem: Problem,
    tensors: Sequence[Tensor | None],
    grad: Tensor,
    *,
    backward: bool,
    tf32: bool = False,
    gpu: Gpu = A100,
    wanted: Sequence[bool] = (True,) * 5,
) -> list[Tensor]:
    """Return the output, or the gradients of the tensors that are there and wanted.

    ``grad`` gives the output its shape and layout.
    """
    numbers = describe(problem, tensors, tf32)
    planned = plan(lib, numbers, backward, gpu)
    assert planned.launches, "not covered"
    names = ("x", "w1", "w2", "b1", "b2")
    empty = np.zeros(0, np.int32)
    inputs = [
        machine.Tensor(name, empty if t is None else array(t))
        for name, t in zip(names, tensors, strict=True)
    ]
    role = machine.INPUT if backward else machine.OUTPUT
    y = machine.Tensor("y", array(grad if backward else torch.full_like(grad, float("nan"))), role)
    workspace = np.full(planned.workspace // 4, 0x7FFFFFFF, np.int32)
    every = [*inputs, y, machine.Tensor("workspace", workspace, machine.WORKSPACE)]
    results = []
    if backward:
        for name, t, want in zip(names, tensors, wanted, strict=True):
            asked = t is not None and want
            values = array(torch.full_like(t, float("nan"))) if asked else empty
            every.append(machine.Tensor(f"gradient of {name}", values, machine.OUTPUT))
            if asked:
                results.append((every[-1], t))
    else:
        results.append((y, grad))

    def call(addresses: list[int | None]) -> None:
        pointers = (ctypes.c_void_p * len(addresses))(*addresses)
        machine.require(lib.dense_run(numbers, _numbers(gpu), int(backward), pointers))

    lib.dense_run.restype = ctypes.c_char_p
    machine.run_on_fibers(lib, every, call)
    return [tensor(result.array, like) for result, like in results]
