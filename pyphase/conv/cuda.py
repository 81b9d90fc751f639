"""The CUDA kernels: loaded when a CUDA tensor first needs them, called on torch's current stream.

Without them torch's convolutions serve; a warning says why, once.
"""

from __future__ import annotations

import functools
import importlib
import re
import warnings
from collections.abc import Sequence
from typing import Any

import torch

__all__ = [
    "CudaKernels",
    "allows_tf32",
    "device_name",
    "load",
    "plan_pair",
    "plan_strips",
    "runs_on",
    "why_not",
]

_LEAST = 80  # compute capability: mma.sync on bfloat16, cp.async


class CudaKernels:
    """A planned problem on its device.

    Attributes:
        kernel: the family of the kernels; "" where none serves the problem.
        covered: whether the forward and the backward pass have one.
        planned: the problem as the compiled module planned it.
    """

    is_timed = True  # its predictions are floors, not times
    alignment = 16  # of the widest load

    def __init__(self, planned: Any, device: torch.device) -> None:
        self.planned = planned
        self.kernel: str = planned.kernel
        self.covered = planned.covers(False), planned.covers(True)
        self._device = device
        self._workspace = planned.workspace(False), planned.workspace(True)

    def wins(self, backward: bool) -> bool:
        """Return whether the kernel is predicted to be faster than torch's convolutions."""
        return bool(self.planned.wins(backward))

    def forward(self, *addresses: Any) -> None:
        """Queue what fills the output."""
        self._call(self.planned.forward, self._workspace[0], addresses)

    def backward(self, *addresses: Any) -> None:
        """Queue what fills the gradients that have an address."""
        self._call(self.planned.backward, self._workspace[1], addresses)

    def _call(self, function: Any, size: int, addresses: Sequence[Any]) -> None:
        device = self._device
        with torch.cuda.device(device):
            # Of the current stream, whose order keeps it whole until the kernels have run.
            workspace = torch.empty(size, dtype=torch.uint8, device=device) if size else None
            address = None if workspace is None else workspace.data_ptr()
            function(*addresses, device.index, address, torch.cuda.current_stream().cuda_stream)


def plan_pair(device: torch.device, request: dict[str, Any]) -> Any:
    """Return a pair planned for a device; None where the kernels don't run there."""
    module = _module_for(device)
    if module is None:
        return None
    return module.PlannedPair(module.Pair(**request), _properties(device.index), allows_tf32())


def plan_strips(device: torch.device, requests: Sequence[dict[str, Any]], residual: bool) -> Any:
    """Return a sum of strips planned for a device; None where the kernels don't run there."""
    module = _module_for(device)
    if module is None:
        return None
    pairs = [module.Pair(**request) for request in requests]
    return module.PlannedStrips(pairs, residual, _properties(device.index))


def allows_tf32() -> bool:
    """Return whether torch's convolutions may round float32 to TF32."""
    try:
        return bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:  # set by the newer names, which the old one then refuses to read
        cudnn: Any = torch.backends.cudnn
        return bool(cudnn.conv.fp32_precision == "tf32")


@functools.cache
def device_name(device: torch.device) -> str:
    """Return the name of a GPU."""
    return str(torch.cuda.get_device_name(device))


@functools.cache
def load() -> Any:
    """Return the compiled module, or the ImportError that says why there is none."""
    try:
        return importlib.import_module("pyphase._cuda")
    except ImportError as error:
        return error


def why_not(module: Any) -> str:
    """Return why :func:`load` found no module, "" if it did."""
    if isinstance(module, ModuleNotFoundError) and module.name == "pyphase._cuda":
        return "this installation was built without them: no nvcc was found, or PYPHASE_CUDA=OFF"
    return str(module) if isinstance(module, ImportError) else ""


def runs_on(architectures: str, capability: int) -> bool:
    """Return whether machine code (``sm_90``) or PTX (``compute_80``) runs on a capability."""
    for kind, number in re.findall(r"(sm|compute)_(\d+)", architectures):
        built = int(number)
        # PTX is compiled by the driver, machine code stays within its generation.
        if built <= capability and (kind == "compute" or built // 10 == capability // 10):
            return True
    return False


@functools.cache
def _module_for(device: torch.device) -> Any:
    """Return the compiled module if it runs on a device; else None, after a warning."""
    module = load()
    reason = why_not(module)
    if not reason:
        capability = module.query_device(device.index).capability
        if capability < _LEAST:
            reason = f"compute capability 8.0 is the least, {device} has {capability / 10}"
        elif not runs_on(module.ARCHITECTURES, capability):
            reason = f"they were built for {module.ARCHITECTURES}, {device} has {capability / 10}"
    if not reason:
        return module
    warnings.warn(
        f"torch's convolutions serve in place of pyphase's CUDA kernels: {reason}",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


@functools.cache
def _properties(index: int) -> Any:
    return load().query_device(index)
