"""Run a model on a batch of ``(*inputs, target)``."""

from __future__ import annotations

from typing import Any

import torch

from pyphase.errors import shown

__all__ = ["run_batch"]


def run_batch(model: torch.nn.Module, batch: Any) -> tuple[Any, Any]:
    """Return ``model(*inputs)`` and the target, on the device of the model's first parameter."""
    if not isinstance(batch, list | tuple) or len(batch) < 2:
        raise TypeError(f"a batch must be (*inputs, target), got {shown(type(batch))}")
    param = next(model.parameters(), None)
    if param is not None:
        batch = [x.to(param.device) if isinstance(x, torch.Tensor) else x for x in batch]
    return model(*batch[:-1]), batch[-1]
