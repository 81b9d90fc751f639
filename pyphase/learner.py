"""A whole fit: phases, progress bars, validation, history, checkpoints.

The file is long because it is one class, whose arguments are documented and checked here; what it
does with them is in the modules that it imports.
"""

from __future__ import annotations

import bisect
import contextlib
import copy
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from pyphase.apply.batch import run_batch
from pyphase.apply.loop import PhaseLoop
from pyphase.apply.optimizers import needs_closure, set_mode
from pyphase.apply.params import GroupsArg, collect_groups
from pyphase.apply.ranks import any_rank, rank
from pyphase.apply.sharded import load_sharded
from pyphase.apply.state import load_checkpoint, save_checkpoint
from pyphase.callbacks import Callback
from pyphase.cut import cut_position
from pyphase.errors import PhaseError, check_flags, shown
from pyphase.history import History
from pyphase.interrupt import DeferredInterrupt
from pyphase.lengths import train_part, valid_part
from pyphase.lr_finder import LRFinderResult, lr_find
from pyphase.phase import TrainingPhase, check_data
from pyphase.plan import Plan
from pyphase.progress import Progress
from pyphase.record import Record
from pyphase.validation import means_over

__all__ = ["Learner", "accuracy"]

_OPTIONS = {"scaler", "accumulate", "clip_grad_norm", "prefetch"}
Metric = Callable[[torch.Tensor, torch.Tensor], Any]


def accuracy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the share of right classes; output (N, classes), target (N)."""
    return (output.argmax(dim=1) == target).float().mean()


class Learner:
    """Train a model through phases.

    Args:
        model: the module; batches go to the device of its first parameter.
        data: a (training, validation) pair of loaders, an object with ``trn_dl`` and ``val_dl``,
            or a training loader alone. A batch is ``(*inputs, target)``.
        loss_fn: ``loss_fn(model(*inputs), target)``, a scalar mean over the batch.
        metrics: functions like ``loss_fn``, averaged over the validation samples.
        groups: parameter groups, as for :class:`PhaseLoop` (discriminative rates).
        progress: show progress bars and a table of results (in the first process, of several).
        autocast: run model and loss in this dtype (``torch.bfloat16``) by ``torch.autocast``.
        options: further arguments of :class:`PhaseLoop`: ``scaler``, ``accumulate``,
            ``clip_grad_norm``, ``prefetch``.

    Under torch.distributed, losses and metrics of the validation are means over all processes,
    weighted by samples; training losses are each process's own.

    Attributes:
        loop: the :class:`PhaseLoop` of the running or last fit.
        sched: the :class:`pyphase.record.Record` of the last fit or LR range test.
        in_step: whether an optimizer step is under way, or it or a phase's start was cut off: the
            model may be half updated.
        failed: whether the fit is under way, or ended by an error.

    Raises:
        PhaseError: `groups` are empty or overlap, or two metrics have one name.
        TypeError: an argument has the wrong type.

    Example:
        >>> import torch
        >>> from pyphase import Learner, phases_1cycle
        >>> x = torch.linspace(-1, 1, 64).reshape(64, 1)
        >>> samples = torch.utils.data.TensorDataset(x, 3 * x)
        >>> train = torch.utils.data.DataLoader(samples, batch_size=8, shuffle=True)
        >>> learn = Learner(
        ...     torch.nn.Linear(1, 1), (train, train), torch.nn.functional.mse_loss, progress=False
        ... )
        >>> history = learn.fit_opt_sched(phases_1cycle(20, 0.1, 10, 10, 0.95, 0.85))
        >>> len(history.losses), history.rows[-1]["valid_loss"] < 1e-3
        (160, True)
    """

    def __init__(
        self,
        model: torch.nn.Module,
        data: Any,
        loss_fn: Callable[..., torch.Tensor],
        metrics: Sequence[Metric] = (),
        *,
        groups: GroupsArg = None,
        progress: bool = True,
        autocast: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"`model` must be a torch.nn.Module, got {shown(model)}")
        if not callable(loss_fn):
            raise TypeError(f"`loss_fn` must be callable, got {shown(loss_fn)}")
        if not isinstance(metrics, Iterable) or not all(callable(m) for m in metrics):
            raise TypeError(f"`metrics` must be a list of functions, got {shown(metrics)}")
        check_data(data)
        check_flags(progress=progress)
        if groups is not None:
            collect_groups(model, groups)  # raises for what a fit would refuse
        names = ["epoch", "step", "phase", "train_loss", "valid_loss", *map(_name, metrics)]
        if len(set(names)) < len(names):
            raise PhaseError(f"`metrics` need names of their own, got {names[5:]}")
        self.model, self.data, self.loss_fn = model, data, loss_fn
        self.metrics, self.groups = tuple(metrics), groups
        self.progress = progress and rank() == 0
        if autocast is not None and not isinstance(autocast, torch.dtype):
            raise TypeError(f"`autocast` must be a torch.dtype, got {shown(autocast)}")
        if unknown := options.keys() - _OPTIONS:
            raise TypeError(f"`options` must be of {sorted(_OPTIONS)}, got {sorted(unknown)}")
        self.autocast, self.options = autocast, options
        self.failed = False
        self._loop: PhaseLoop | None = None
        self._sched: Record | None = None
        self._valid_step = 0

    @property
    def in_step(self) -> bool:
        """Whether an optimizer step is under way, or it or a phase's start was cut off."""
        return self._loop is not None and self._loop.updating

    @property
    def loop(self) -> PhaseLoop:
        """The loop of the running or last fit."""
        if self._loop is None:
            raise PhaseError("there is no fit yet: call fit_opt_sched() first")
        return self._loop

    @property
    def sched(self) -> Record:
        """The record of the last fit or LR range test."""
        if self._sched is None:
            raise PhaseError("there is no run yet: call fit_opt_sched() or lr_find() first")
        return self._sched

    def fit_opt_sched(
        self,
        phases: Plan | Sequence[TrainingPhase],
        data_list: Sequence[Any] | None = None,
        stop_div: bool = False,
        cut: float | Sequence[float] | None = None,
        callbacks: Sequence[Callback] = (),
        resume: str | os.PathLike[str] | dict[str, Any] | None = None,
    ) -> History:
        """Train through ``phases`` and return the history.

        Args:
            phases: phases, or a :class:`Plan`.
            data_list: data for each phase, as ``data`` of the constructor; one per phase.
            stop_div: stop when the loss diverges; everything up to the last good step is kept.
            cut: run only the first ``cut`` epochs of the plan (a number, or fastai 0.7's list of
                epochs per phase, whose sum counts), with unchanged schedules.
            callbacks: called at the events of :class:`pyphase.callbacks.Callback`.
            resume: go on from this checkpoint file, or from this :meth:`state_dict`.

        Ctrl-C lets the step finish and the callbacks run (a :class:`Checkpoint` saves), then
        raises KeyboardInterrupt; a second one interrupts at once.

        Raises:
            PhaseError: phases, data and cut don't fit, or the checkpoint is of another plan.
            TypeError: an argument has the wrong type.
        """
        callbacks = _check_callbacks(callbacks)
        data: Any = self.data if data_list is None else list(data_list)
        loop = PhaseLoop(
            self.model, phases, data, groups=self.groups, stop_div=stop_div, **self.options
        )
        end = cut_position(loop.plan, cut)
        self._loop, self._sched, self._valid_step = loop, Record(loop.plan), 0
        if resume is not None:
            self._resume(resume)
        with (
            DeferredInterrupt() as interrupt,
            Progress(self.progress, end) as bar,
            contextlib.ExitStack() as stack,  # which calls all, also where one fails
        ):
            stack.callback(lambda: set_mode(loop.optimizer, training=False))
            for callback in reversed(callbacks):
                stack.callback(callback.on_train_end, self)
            self.failed = True
            _call(callbacks, "on_train_begin", self)
            self._train(end, callbacks, interrupt, bar)
            self.failed = False
        if interrupt.pending:
            raise KeyboardInterrupt
        return self.sched.history

    def _train(
        self,
        end: int,
        callbacks: Sequence[Callback],
        interrupt: DeferredInterrupt,
        bar: Progress,
    ) -> None:
        loop, history = self.loop, self.sched.history
        if loop.stopped is not None:  # resumed where the loss had diverged
            bar.say(loop.stopped)
        self._end_epoch(end, callbacks, bar)  # a resumed run may owe a validation
        last_phase = -1
        for batch in () if loop.position >= end else loop:
            if loop.phase_index != last_phase:
                last_phase = loop.phase_index
                self.model = loop.model  # an `on_enter` may have wrapped it anew
                _call(callbacks, "on_phase_begin", self)
            self.model.train()
            loss = self._loss(batch)
            step = loop.position
            if loop.step(loss, closure=self._closure(batch)):
                mean = loop.loss
                assert mean is not None
                history.add_step(step, mean)
                bar.advance(loop, mean)
                _call(callbacks, "on_step_end", self)
            if loop.stopped is not None:
                bar.say(loop.stopped)
            if not loop.pending and any_rank(interrupt.pending):
                interrupt.pending = True
                break
            self._end_epoch(end, callbacks, bar)
            if loop.position >= end:
                break

    def _loss(self, batch: Any) -> torch.Tensor:
        with self._autocast():
            output, target = run_batch(self.model, batch)
            loss: torch.Tensor = self.loss_fn(output, target)
        return loss

    def _closure(self, batch: Any) -> Callable[[], torch.Tensor] | None:
        """Return what evaluates the batch anew, for an optimizer that does so in its step."""
        optimizer = self.loop.optimizer
        if not needs_closure(optimizer):
            return None

        def evaluate() -> torch.Tensor:
            optimizer.zero_grad()
            loss = self._loss(batch)
            torch.autograd.backward(loss)
            return loss

        return evaluate

    def _end_epoch(self, end: int, callbacks: Sequence[Callback], bar: Progress) -> None:
        """Validate and record, once, where an epoch, a data set or the run has come to its end."""
        loop, history = self.loop, self.sched.history
        if loop.stopped is not None or loop.position == self._valid_step:
            return
        if not (loop.feed_ends or loop.position >= end):
            return
        began = bisect.bisect_left(history.steps, self._valid_step)
        losses = history.losses[began:]
        row = {
            "epoch": len(history.rows),
            "step": loop.position,
            "phase": loop.plan.phase_at(loop.position - 1),
            "train_loss": sum(losses) / max(len(losses), 1),
        }
        history.add_row(row | self.validate())
        self._valid_step = loop.position  # not before: interrupted, it is still owed
        bar.row(history.rows[-1], history.columns)
        _call(callbacks, "on_epoch_end", self)

    def validate(self) -> dict[str, float]:
        """Return the mean loss and metrics over the validation data, {} where there is none.

        The data that goes with the running phase comes before the learner's own. The model is in
        eval mode meanwhile; the random generators are left as they were, the data's own included.
        """
        data = None if self._loop is None else self._loop.valid_data
        data = valid_part(self.data) if data is None else data
        if data is None:
            return {}
        functions = {"valid_loss": self.loss_fn} | {_name(m): m for m in self.metrics}
        optimizer = None if self._loop is None else self._loop.optimizer
        return means_over(data, self.model, functions, optimizer, self._autocast())

    def _autocast(self) -> torch.autocast:
        device = next((param.device.type for param in self.model.parameters()), "cpu")
        return torch.autocast(device, dtype=self.autocast, enabled=self.autocast is not None)

    def lr_find(self, **arguments: Any) -> LRFinderResult:
        """Run :func:`pyphase.lr_find` on this model and data; ``learn.sched.plot()`` shows it."""
        arguments = {"groups": self.groups, "progress": self.progress} | arguments
        result = lr_find(self.model, train_part(self.data), self.loss_fn, **arguments)
        self._sched = Record(result.plan)
        self._sched.history.steps = list(range(len(result.losses)))
        self._sched.history.losses = [float(loss) for loss in result.losses]
        self._sched.suggestion = result.suggestion
        return result

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the fit: everything that the rest of it depends on.

        Its tensors are the live ones, as torch's: ``copy.deepcopy`` keeps them as they are now.
        """
        return {
            "pyphase": "learner 1",
            "loop": self.loop.state_dict(),
            "history": self.sched.history.state_dict(),
            "valid_step": self._valid_step,
        }

    def _resume(self, resume: str | os.PathLike[str] | dict[str, Any]) -> None:
        if not isinstance(resume, dict | str | os.PathLike):
            raise TypeError(f"`resume` must be a path or a state_dict, got {shown(resume)}")
        if isinstance(resume, dict):
            # torch's optimizers go on with the tensors that they load: the caller keeps his own.
            resume = resume | {"loop": copy.deepcopy(resume.get("loop"))}
        elif os.path.isdir(resume):
            load_sharded(self, resume)
            return
        else:
            resume = load_checkpoint(resume)
        self.load_state_dict(resume)

    def load_state_dict(self, state: dict[str, Any], **options: Any) -> None:
        """Load a :meth:`state_dict` into the fit that begins: what ``resume`` does.

        ``options`` go to :meth:`PhaseLoop.load_state_dict`.
        """
        parts = {"loop": dict, "history": dict, "valid_step": int}
        if state.get("pyphase") != "learner 1" or not all(
            isinstance(state.get(name), kind) for name, kind in parts.items()
        ):
            raise PhaseError("not a state of a Learner's fit")
        self.loop.load_state_dict(state["loop"], **options)
        self.sched.history.load_state_dict(state["history"])
        self._valid_step = state["valid_step"]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model's weights to a file, whole or not at all."""
        save_checkpoint(path, {"pyphase": "model 1", "model": self.model.state_dict()})

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read the model's weights from what :meth:`save` or a :class:`Checkpoint` wrote."""
        state = load_checkpoint(path)
        found = state.get("loop", state).get("model")
        if not isinstance(found, dict):
            raise PhaseError(f"{shown(str(path))} holds no model")
        self.model.load_state_dict(found)


def _check_callbacks(callbacks: Any) -> tuple[Callback, ...]:
    found = tuple(callbacks) if isinstance(callbacks, Iterable) else (None,)
    if not all(isinstance(callback, Callback) for callback in found):
        raise TypeError(f"`callbacks` must be a list of Callback, got {shown(callbacks)}")
    return found


def _call(callbacks: Sequence[Callback], event: str, learn: Learner) -> None:
    for callback in callbacks:
        getattr(callback, event)(learn)


def _name(metric: Metric) -> str:
    return str(getattr(metric, "__name__", type(metric).__name__))
