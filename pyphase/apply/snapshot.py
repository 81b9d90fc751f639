"""Put a model, an optimizer and the random generators back as they were."""

from __future__ import annotations

import copy
from typing import Any

import torch

from pyphase.apply.data import loader_epochs, loader_state, set_loader_state
from pyphase.apply.state import get_rng_state, set_rng_state

__all__ = ["Snapshot"]


class Snapshot:
    """Context at whose end everything is as at its start, whatever happens inside.

    Parameters, buffers (persistent or not), gradients and training modes of ``model``; state and
    groups of ``optimizer``; the global random generators, those of ``loader``, and its samplers'
    state and epoch, where they tell them. Tensors keep their identity and are restored in place.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        loader: Any = None,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self._loader = loader

    def __enter__(self) -> Snapshot:
        modules = list(self.model.modules())
        self._modules = [(m, m.training, dict(m._buffers)) for m in modules]
        self._grads = [(p, p.grad) for p in self.model.parameters()]
        held: list[Any] = [*self.model.parameters(), *self.model.buffers()]
        held += [grad for _, grad in self._grads if grad is not None]
        if self.optimizer is not None:
            self._groups = [
                (group, group | {"params": list(group["params"])})
                for group in self.optimizer.param_groups
            ]
            self._state = {p: _copied(s) for p, s in self.optimizer.state.items()}
            for record in (*(group for _, group in self._groups), *self._state.values()):
                held += _tensors(record)
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in held]
        self._rng = get_rng_state()
        self._own = loader_state(self._loader)
        self._epochs = loader_epochs(self._loader)
        return self

    def __exit__(self, *_: object) -> None:
        for module, training, buffers in self._modules:
            module.training = training
            module._buffers.clear()
            module._buffers.update(buffers)
        for param, grad in self._grads:
            param.grad = grad
        with torch.no_grad():
            for tensor, saved in self._tensors:
                tensor.copy_(saved)
        if self.optimizer is not None:
            self.optimizer.param_groups[:] = [group for group, _ in self._groups]
            for group, saved_group in self._groups:
                group.clear()
                group.update(saved_group)
            self.optimizer.state.clear()
            self.optimizer.state.update(self._state)
        set_rng_state(self._rng)
        set_loader_state(self._loader, self._own)
        for part, epoch in self._epochs:
            part.set_epoch(epoch)


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state with its own tensors and copies of everything else."""
    return {k: v if isinstance(v, torch.Tensor) else copy.deepcopy(v) for k, v in state.items()}


def _tensors(record: dict[str, Any]) -> list[torch.Tensor]:
    """Return the tensors of a group or state, those within a tuple of betas included."""
    parts = [v if isinstance(v, tuple) else (v,) for k, v in record.items() if k != "params"]
    return [item for part in parts for item in part if isinstance(item, torch.Tensor)]
