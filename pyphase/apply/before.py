"""What a batch changes before its optimizer step, as it was before the batch."""

from __future__ import annotations

import torch

from pyphase.apply.data import Feed
from pyphase.apply.divergence import DivergenceCheck
from pyphase.apply.state import get_rng_state

__all__ = ["Before"]


class Before:
    """Keep buffers, random generators and the position in the data before a batch is drawn.

    A run that ends between a batch and its step (an error in the model, a second Ctrl-C) is saved
    as it was before the batch, and a diverging batch is undone.

    Args:
        model: its buffers are copied. Batch norm writes to them without counting, so that only a
            copy of each step tells what they were.
        feed: the data in use.
        check: the divergence check, which counts a loss before its step.
        all_buffers: copy also the buffers that a checkpoint leaves out (``persistent=False``).
    """

    def __init__(
        self, model: torch.nn.Module, feed: Feed, check: DivergenceCheck, *, all_buffers: bool
    ) -> None:
        self._buffers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.named: dict[str, torch.Tensor] = {}
        for prefix, module in model.named_modules(remove_duplicate=False):
            for name, buffer in module._buffers.items():
                left_out = name in module._non_persistent_buffers_set
                if buffer is None or (left_out and not all_buffers):
                    continue
                kept = buffer.detach().clone()
                self._buffers.append((buffer, kept))
                if not left_out:
                    self.named[f"{prefix}.{name}" if prefix else name] = kept
        self.feed, self.check = feed.state_dict(), check.state_dict()
        self.rng = get_rng_state()

    def put_buffers_back(self) -> None:
        """Undo what the batch has done to the buffers."""
        with torch.no_grad():
            for buffer, kept in self._buffers:
                buffer.copy_(kept)
