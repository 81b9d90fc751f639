"""Average accumulated gradients, and clip their norm."""

from __future__ import annotations

import torch

__all__ = ["average_gradients", "clip_gradients", "drop_gradients", "params_of"]


def average_gradients(optimizer: torch.optim.Optimizer, count: int) -> None:
    """Divide the sum of ``count`` batches' gradients by their number."""
    grads = [param.grad for param in params_of(optimizer) if param.grad is not None]
    if grads and count > 1:
        torch._foreach_div_(grads, count)


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float) -> None:
    """Scale the gradients of all parameters so that their joint 2-norm is at most ``max_norm``."""
    torch.nn.utils.clip_grad_norm_(params_of(optimizer), max_norm)


def drop_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Call ``zero_grad``; leave None even where an optimizer's own leaves zeros.

    Zeros would pass for the gradients of a backward pass that the caller has made.
    """
    optimizer.zero_grad()
    for param in params_of(optimizer):
        param.grad = None


def params_of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Return the parameters of all groups, in their order."""
    return [param for group in optimizer.param_groups for param in group["params"]]
