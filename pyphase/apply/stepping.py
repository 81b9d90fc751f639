"""One optimizer step out of the gradients of one or several batches."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch.optim import Optimizer

from pyphase.apply.gradients import (
    average_gradients,
    clip_gradients,
    drop_gradients,
    params_of,
)
from pyphase.apply.groups import skipped_inside, unwrapped
from pyphase.apply.optimizers import needs_closure
from pyphase.errors import PhaseError, check_positive, check_whole, shown

__all__ = ["Stepper"]


class Stepper:
    """Accumulate gradients, average, unscale and clip them, and take the optimizer's step.

    Args:
        scaler: a ``torch.amp.GradScaler``, or None.
        accumulate: batches per step, >= 1.
        clip_grad_norm: the largest norm of the gradients, > 0, or None.

    Attributes:
        taken: batches since the last step.
        updating: whether an optimizer step is under way, or was cut off.
    """

    def __init__(
        self,
        scaler: torch.amp.GradScaler | None,
        accumulate: int,
        clip_grad_norm: float | None,
    ) -> None:
        if scaler is not None and not isinstance(scaler, torch.amp.GradScaler):
            raise TypeError(f"`scaler` must be a torch.amp.GradScaler, got {shown(scaler)}")
        self.scaler = scaler
        self.accumulate = check_whole("accumulate", accumulate)
        self._clip = clip_grad_norm
        if clip_grad_norm is not None:
            self._clip = check_positive("clip_grad_norm", clip_grad_norm)
        self.taken = 0
        self.updating = False
        self._backs = False  # whether the backward passes of this step's batches are ours
        self._losses: list[Any] = []
        self._stepped = False  # whether the scaler let the optimizer take its step

    @property
    def options(self) -> dict[str, Any]:
        """What a step is made of, beside the batches."""
        scaled = self.scaler is not None and self.scaler.is_enabled()
        return {"accumulate": self.accumulate, "clip_grad_norm": self._clip, "scaler": scaled}

    @property
    def loss(self) -> float | None:
        """Mean loss of the batches of the last step, or of the one under way; None without one.

        Each batch weighs the same, as its gradients do.
        """
        if not self._losses or any(loss is None for loss in self._losses):
            return None
        return sum(float(loss) for loss in self._losses) / len(self._losses)

    def add_loss(self, loss: Any) -> None:
        """Take the loss of a batch; its value is read when it is asked for."""
        is_number = isinstance(loss, Real) or (isinstance(loss, torch.Tensor) and loss.numel() == 1)
        if loss is not None and not is_number:
            raise TypeError(f"`loss` must be a scalar, got {shown(loss)}")
        value = loss.detach() if isinstance(loss, torch.Tensor) else loss
        self._losses[self.taken :] = [value]

    def check_closure(self, optimizer: Optimizer, closure: Any) -> None:
        """Raise what is wrong with the closure of a step, or with its absence."""
        if closure is None and needs_closure(optimizer):
            raise PhaseError(f"{type(optimizer).__name__} needs step(closure=...)")
        if closure is not None and not callable(closure):
            raise TypeError(f"`closure` must be a function, got {shown(closure)}")
        if closure is not None and self.scaler is not None:
            raise PhaseError("`closure` and a GradScaler don't go together: torch has no such step")
        if closure is not None and (self.accumulate > 1 or self._clip is not None):
            raise PhaseError(
                "`closure` makes the gradients itself: `accumulate` and `clip_grad_norm` "
                "don't reach them"
            )

    def backward(self, optimizer: Optimizer, loss: Any, closure: Any) -> None:
        """Call the backward pass of a batch unless the caller has, or a closure will."""
        if self.taken == 0:
            self._backs = closure is None and all(p.grad is None for p in params_of(optimizer))
        if not self._backs:
            return
        if not isinstance(loss, torch.Tensor) or not loss.requires_grad:
            raise PhaseError(
                "step() found no gradient: call loss.backward() before it, or hand it the loss"
            )
        try:
            (loss if self.scaler is None else self.scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
        except BaseException:
            if self.taken == 0:  # a part of the gradients would pass for the caller's own
                drop_gradients(optimizer)
            raise

    @property
    def exhausted(self) -> bool:
        """Whether the scaler has skipped so many steps that its scale is 0: it skips all others."""
        return self.scaler is not None and self.scaler.get_scale() == 0.0

    def step(self, optimizer: Optimizer, closure: Callable[[], Any] | None) -> bool:
        """Take the step; return False where the scaler skips it."""
        if self.accumulate > 1:
            average_gradients(optimizer, self.taken + 1)
        if self._clip is not None:
            if self.scaler is not None:
                self.scaler.unscale_(optimizer)
            clip_gradients(optimizer, self._clip)
        self.updating = True
        if self.scaler is None:
            optimizer.step() if closure is None else optimizer.step(closure)
            return True
        # The scale of before and after doesn't tell: one that has come to 0 stays there.
        inner, self._stepped = unwrapped(optimizer), False
        if self._note_step not in inner._optimizer_step_post_hooks.values():
            inner.register_step_post_hook(self._note_step)
        self.scaler.step(optimizer)
        self.scaler.update()
        return self._stepped

    def _note_step(self, optimizer: Optimizer, *_: Any) -> None:
        self._stepped = not skipped_inside(optimizer)
