"""Average accumulated gradients, and clip their norm."""

from __future__ import annotations

import math
from typing import Any

import torch

from pyphase.errors import PhaseError, check_number

__all__ = ["average_gradients", "check_clip", "clip_gradients"]


def check_clip(value: Any) -> float:
    """Return a largest norm, > 0, as a float."""
    norm = check_number("clip_grad_norm", value)
    if not 0 < norm < math.inf:
        raise PhaseError(f"`clip_grad_norm` (={norm:g}) must be > 0 and finite")
    return norm


def average_gradients(optimizer: torch.optim.Optimizer, count: int) -> None:
    """Divide the sum of ``count`` batches' gradients by their number."""
    grads = [param.grad for param in _params(optimizer) if param.grad is not None]
    if grads and count > 1:
        torch._foreach_div_(grads, count)


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float) -> None:
    """Scale the gradients of all parameters so that their joint 2-norm is at most ``max_norm``."""
    torch.nn.utils.clip_grad_norm_(_params(optimizer), max_norm)


def _params(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]
