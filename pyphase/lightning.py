"""Phases inside Lightning's Trainer, also those that change the optimizer and the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.optim import Optimizer

from pyphase.apply.groups import skipped_inside
from pyphase.apply.loop import PhaseLoop
from pyphase.apply.state import set_rng_state
from pyphase.errors import PhaseError
from pyphase.phase import TrainingPhase
from pyphase.plan import Plan, check_phases

__all__ = ["PhaseCallback"]

_ARGUMENTS = {"steps_per_epoch", "batch_size", "optimizer", "groups", "prefetch"}
_TRAINERS = {
    "accumulate": "gradients are accumulated by Trainer(accumulate_grad_batches=...)",
    "clip_grad_norm": "gradients are clipped by Trainer(gradient_clip_val=...)",
    "scaler": "gradients are scaled by Trainer(precision='16-mixed')",
    "stop_div": "a loss that isn't finite stops Lightning by EarlyStopping(check_finite=True)",
}


class PhaseCallback(Callback):
    """Drive a fit of Lightning's Trainer through phases.

    A plan that leaves the optimizer and the data alone needs no callback: return a
    :class:`PhaseScheduler` with ``"interval": "step"`` from ``configure_optimizers``. This one
    serves all plans. Hand :attr:`loader` to ``Trainer.fit``, and let ``configure_optimizers``
    return :meth:`configure`. An epoch of the Trainer ends where the data's epoch ends and where
    other data takes over; the fit ends with the plan (give the Trainer ``max_epochs=-1``). The
    values of the next step are written right after the optimizer's step; batches that only
    accumulate and steps that a GradScaler skips don't count. With ``accumulate_grad_batches=k`` an
    epoch of n batches has ceil(n / k) steps: as Lightning does, the last one takes the batches that
    are left.

    The Trainer's checkpoints hold the whole state: ``fit(..., ckpt_path=...)`` goes on bit for bit.
    Lightning loads the weights before any phase begins, so that a model that grows in ``on_enter``
    can't be resumed here; neither can sharded ones (FSDP).

    Args:
        phases: phases, or a :class:`Plan`.
        data: as for :class:`PhaseLoop`. On several processes give the loaders their
            DistributedSampler: Lightning adds none here.
        arguments: further arguments of :class:`PhaseLoop`: ``steps_per_epoch``, ``batch_size``,
            ``optimizer``, ``groups``, ``prefetch``. What the step itself does (accumulation,
            clipping, precision) is the Trainer's.

    Raises:
        PhaseError: at the start of a fit, as :class:`PhaseLoop`; or where a
            GradientAccumulationScheduler changes the number of batches per step.
        TypeError: an argument has the wrong type, or is the Trainer's.

    Example:
        >>> import lightning, torch
        >>> from pyphase import TrainingPhase
        >>> class Model(lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(2, 1)
        ...
        ...     def training_step(self, batch, batch_idx):
        ...         return self.layer(batch).square().mean()
        ...
        ...     def configure_optimizers(self):
        ...         return phased.configure(self)
        >>> phases = [
        ...     TrainingPhase(epochs=2, opt_fn=torch.optim.Adam, lr=1e-3),
        ...     TrainingPhase(epochs=1, opt_fn=torch.optim.SGD, lr=1e-2, opt_state="map"),
        ... ]
        >>> phased = PhaseCallback(phases, torch.utils.data.DataLoader(torch.ones(8, 2), 2))
        >>> quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False)
        >>> quiet |= dict(enable_model_summary=False, accelerator="cpu", max_epochs=-1)
        >>> lightning.Trainer(callbacks=[phased], **quiet).fit(Model(), phased.loader)
        >>> phased.loop.position, type(phased.loop.optimizer).__name__
        (12, 'SGD')
    """

    def __init__(
        self, phases: Plan | Sequence[TrainingPhase], data: Any = None, **arguments: Any
    ) -> None:
        if unknown := arguments.keys() - _ARGUMENTS:
            hints = "".join(f"; {_TRAINERS[name]}" for name in sorted(unknown & _TRAINERS.keys()))
            raise TypeError(
                f"`arguments` must be of {sorted(_ARGUMENTS)}, got {sorted(unknown)}{hints}"
            )
        if not isinstance(phases, Plan):
            check_phases(phases)
        self.loader = PhaseLoader(self)
        self._phases, self._data, self._arguments = phases, data, arguments
        self._loop: PhaseLoop | None = None
        self._trainer: Trainer | None = None
        self._saved: dict[str, Any] | None = None
        self._followed: Any = None  # the hook on the optimizer in use

    @property
    def loop(self) -> PhaseLoop:
        """The :class:`PhaseLoop` of the running or last fit."""
        if self._loop is None:
            raise PhaseError(
                "there is no fit yet: configure_optimizers must return configure(self)"
            )
        return self._loop

    def configure(self, module: LightningModule) -> Optimizer:
        """Begin the run; return the optimizer of its first step, or of the step it goes on at."""
        trainer: Any = module.trainer
        if any(isinstance(part, GradientAccumulationScheduler) for part in trainer.callbacks):
            raise PhaseError(
                "a GradientAccumulationScheduler changes the batches per step in mid-plan: say "
                "Trainer(accumulate_grad_batches=...), one number for the whole fit"
            )
        self._loop = PhaseLoop(
            module,
            self._phases,
            self._data,
            accumulate=trainer.accumulate_grad_batches,
            **self._arguments,
        )
        self.loader.reset()
        if self._saved is not None:
            self._loop.load_state_dict(self._saved["loop"])
            self.loader.given, self.loader.length = self._saved["given"], self._saved["length"]
        self._follow()
        return self._loop.optimizer

    def next_batch(self) -> Any:
        """Return the next batch of the loop; tell the Trainer of another optimizer."""
        optimizer = self.loop.optimizer
        batch = self.loop.next_batch()
        if self.loop.optimizer is not optimizer and self._trainer is not None:
            self._follow()
            self._trainer.strategy.optimizers = [self.loop.optimizer]
        return batch

    def _follow(self) -> None:
        if self._followed is not None:
            self._followed.remove()
        self._followed = self.loop.optimizer.register_step_post_hook(self._after_step)

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        if not skipped_inside(optimizer):
            self.loop.advance()

    def setup(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        self._trainer = trainer
        trainer.reload_dataloaders_every_n_epochs = 1  # the epochs differ in length

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._saved is not None:
            set_rng_state(self._saved["loop"]["rng"])
            self._saved = None
        if self.loader.length == self.loader.given:
            self.loader.reset()
            _begin_epoch(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.loop.done:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.loader.reset()

    def state_dict(self) -> dict[str, Any]:
        return {
            "loop": self.loop.state_dict(),
            "given": self.loader.given,
            "length": self.loader.length,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict


def _begin_epoch(trainer: Trainer) -> None:
    """Begin an epoch where a checkpoint is of the end of one.

    Lightning would compare the batches done with the length of the new epoch, and go on in the old
    one: its accumulation counts from the epoch's first batch.
    """
    epoch_loop = trainer.fit_loop.epoch_loop
    epoch_loop.batch_progress.reset_on_run()
    if epoch_loop.restarted_on_train_batch_end:  # it has yet to count that batch
        epoch_loop.batch_progress.current.completed = -1


class PhaseLoader:
    """Iterate the batches of a :class:`PhaseCallback`, one epoch of the Trainer at a time.

    Its length is that of the epoch. It is stateful by its methods, since the callback can go on in
    the middle of an epoch.
    """

    def __init__(self, callback: PhaseCallback) -> None:
        self._callback = callback
        self.given = 0
        self.length: int | None = None  # None between two epochs

    def reset(self) -> None:
        """Begin a new epoch with the next batch."""
        self.given, self.length = 0, None

    def __len__(self) -> int:
        if self.length is not None:
            return self.length
        loop = self._callback.loop
        batches, left = loop.steps_on_data * loop.accumulate, loop.batches_left
        return batches if left is None else min(batches, left)

    def __iter__(self) -> Iterator[Any]:
        self.length = len(self)
        while self.given < self.length:
            self.given += 1
            yield self._callback.next_batch()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the callback has it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""
