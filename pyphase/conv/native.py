"""The compiled kernels of a problem, behind the same few names on every device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from pyphase import _core
from pyphase.conv.cuda import CudaKernels, plan_pair, plan_strips

__all__ = ["Kernels", "by_kind", "make_pair", "make_strips"]

Request = dict[str, Any]  # a pair, as the compiled modules want it stated


class Kernels(Protocol):
    """What serves a problem; all addresses are those of dense, contiguous tensors.

    Attributes:
        kernel: the family of the kernels; "" where none serves the problem.
        covered: whether the forward and the backward pass have one.
        alignment: of all addresses, in bytes.
        is_timed: whether the choice between it and torch goes by measurement.
    """

    kernel: str
    covered: tuple[bool, bool]
    is_timed: bool
    alignment: int

    def wins(self, backward: bool) -> bool: ...
    def forward(self, *addresses: Any) -> None: ...
    def backward(self, *addresses: Any) -> None: ...


class CpuKernels:
    """The kernels of the CPU; which of them win is a pure function of the problem."""

    is_timed = False
    alignment = 1

    def __init__(self, native: _core.ConvPair | _core.ConvStrips) -> None:
        self.kernel = native.kernel
        self.covered = (self.kernel != "",) * 2
        self.forward: Callable[..., None] = native.forward  # fewer calls than a method
        self.backward: Callable[..., None] = native.backward
        self._wins = native.wins(False), native.wins(True)

    def wins(self, backward: bool) -> bool:
        """Return whether the kernel is expected to be faster than torch's convolutions."""
        return self._wins[backward]


def make_pair(device: torch.device, request: Request) -> Kernels | None:
    """Return the kernels of a pair; None where the device has none at all."""
    if device.type == "cpu":
        return CpuKernels(_core.ConvPair(**request))
    if device.type == "cuda":
        return _cuda_kernels(plan_pair(device, request), device)
    return None


def make_strips(
    device: torch.device, requests: Sequence[Request], residual: bool
) -> Kernels | None:
    """Return the kernels of a sum of strips as a whole; None where the device has none at all."""
    if device.type == "cpu":
        pairs = [_core.ConvPair(**request) for request in requests]
        return CpuKernels(_core.ConvStrips(pairs=pairs, residual=residual))
    if device.type == "cuda":
        return _cuda_kernels(plan_strips(device, requests, residual), device)
    return None


def _cuda_kernels(planned: Any, device: torch.device) -> Kernels | None:
    return None if planned is None else CudaKernels(planned, device)


def by_kind(both: list[Any]) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """Split weight1, weight2, weight1, ..., bias1, bias2, bias1, ... into the four kinds."""
    half = len(both) // 2
    return both[:half:2], both[1:half:2], both[half::2], both[half + 1 :: 2]
