"""What a batch changes before its optimizer step, as it was before the batch."""

from __future__ import annotations

import torch

from pyphase.apply.data import Feed
from pyphase.apply.state import get_rng_state

__all__ = ["Before"]


class Before:
    """Keep buffers, random generators and the position in the data before a batch is drawn.

    A run that ends between a batch and its step (an error in the model, a second Ctrl-C) is saved
    as it was before the batch, and a diverging batch is undone.

    Args:
        model: its buffers are copied.
        feed: the data in use.
        last: what was kept for the step before; its copies of buffers that nobody has written
            since are taken over, so that large constant buffers are copied once.
    """

    def __init__(self, model: torch.nn.Module, feed: Feed, last: Before | None) -> None:
        copies = {} if last is None else {id(b): (kept, known) for b, kept, known in last._kept}
        self._kept: list[tuple[torch.Tensor, torch.Tensor, int | None]] = []
        self.named: dict[str, torch.Tensor] = {}
        for name, buffer in model.named_buffers():
            version = _version(buffer)
            kept, known = copies.get(id(buffer), (None, None))
            if kept is None or version is None or known != version:
                kept = buffer.detach().clone()
            self._kept.append((buffer, kept, version))
            self.named[name] = kept
        self.feed = feed.state_dict()
        self.rng = get_rng_state()

    def put_buffers_back(self) -> None:
        """Undo what the batch has done to the buffers."""
        with torch.no_grad():
            for buffer, kept, _ in self._kept:
                buffer.copy_(kept)


def _version(buffer: torch.Tensor) -> int | None:
    """Return a counter of in-place changes; None where changes may not be counted.

    A replayed CUDA graph writes without counting; inference tensors have no counter.
    """
    return None if buffer.is_cuda or buffer.is_inference() else buffer._version
