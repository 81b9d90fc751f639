"""Which parameters have gradients that all processes average."""

from __future__ import annotations

import torch
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from pyphase.errors import PhaseError

__all__ = ["Averaged"]


class Averaged:
    """Refuse what ``on_enter`` makes trainable and the model's wrapper doesn't average.

    DistributedDataParallel averages the gradients of the parameters that could be trained when it
    was made, FSDP2 those that it has sharded. Others would differ from process to process, without
    a word.

    Args:
        model: the model as a loop gets it, before any phase has begun.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model, params = model, list(model.parameters())
        self._replicated = isinstance(model, DistributedDataParallel)
        self._sharded = any(isinstance(param, DTensor) for param in params)
        self._known = {id(param) for param in params}
        self._frozen = {id(param) for param in params if not param.requires_grad}

    def check(self, model: torch.nn.Module) -> None:
        """Raise PhaseError where a parameter is trained and not averaged."""
        if model is not self._model:  # a new wrapper has the parameters of now
            return
        for name, param in model.named_parameters():
            is_new, was_frozen = id(param) not in self._known, id(param) in self._frozen
            if not param.requires_grad or isinstance(param, DTensor):
                continue
            if is_new and self._sharded:
                advice = "call fully_shard on it"
            elif is_new and self._replicated:
                advice = "set `run.model` to a new DistributedDataParallel"
            elif was_frozen and self._replicated:
                advice = (
                    "wrap the model before anything is frozen, by "
                    "DistributedDataParallel(..., find_unused_parameters=True)"
                )
            else:
                continue
            raise PhaseError(
                f"`on_enter` trains {name!r}, whose gradients are not averaged over the processes: "
                + advice
            )
