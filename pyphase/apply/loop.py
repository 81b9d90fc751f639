"""Phases as the driver of a hand-written loop: values, optimizers, data, divergence.

A third of the file is documentation; the work is done by the parts that it puts together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from pyphase.apply.averaged import Averaged
from pyphase.apply.before import Before
from pyphase.apply.data import Feed
from pyphase.apply.divergence import DivergenceCheck
from pyphase.apply.gradients import drop_gradients
from pyphase.apply.loop_state import check_state, check_step_options, read_state, write_state
from pyphase.apply.params import GroupsArg, collect_groups
from pyphase.apply.phase_data import PhaseData
from pyphase.apply.phase_optimizers import PhaseOptimizers
from pyphase.apply.ranks import mean_of_ranks
from pyphase.apply.sources import Sources
from pyphase.apply.stepping import Stepper
from pyphase.errors import PhaseError, check_flags, check_whole, shown
from pyphase.phase import TrainingPhase
from pyphase.plan import Plan

__all__ = ["PhaseLoop"]


class PhaseLoop:
    """Iterate batches through the phases of a plan; change optimizer and data at the borders.

    ``for batch in loop`` yields the batches of the current phase's data. :meth:`step` takes the
    optimizer's step and sets the values of the next one. At a border the loop builds the next
    optimizer, hands over its state as ``opt_state`` says, switches the data, and calls
    ``on_enter``. Phases with the same data share its iterator: no batch is lost or repeated.

    Args:
        model: the module that is trained.
        phases: phases, or a :class:`Plan`.
        data: one loader for all phases, or a list with one per phase. A phase's own ``data`` comes
            first. Each may be a loader, a (training, validation) pair, an object with ``trn_dl``,
            or a function that makes one of these.
        steps_per_epoch, batch_size: as for :class:`Plan`; needed where a loader has no length.
        optimizer: the optimizer of the phases before the first ``opt_fn``.
        groups: what makes the parameter groups: a list of modules or of parameter lists, or a
            function of the model that returns one. None is one group.
        stop_div: stop on a non-finite loss, or on a smoothed loss of over 4 times the best of the
            phase (see :class:`pyphase.apply.divergence.DivergenceCheck`). The step is not taken.
        scaler: a ``torch.amp.GradScaler`` of this loop's own; a step that it skips doesn't advance
            the plan, and the loop stops where it has skipped so many that its scale is 0.
        accumulate: batches per optimizer step, >= 1. Their gradients are averaged (don't divide
            the loss); the last step of an epoch takes what is left. Steps are optimizer steps.
        clip_grad_norm: the largest norm of the gradients of all parameters, > 0; None: any.
        prefetch: so many steps, >= 0, before other data takes over, its worker processes start,
            so that its first batch is ready in time. Data starts at the border where ``on_enter``
            comes before it, or where a function makes it only then (see ``data``).

    Attributes:
        plan: the :class:`Plan`.
        position: number of optimizer steps taken.
        stopped: why the loop stopped before the end of its plan, None while it didn't.

    Raises:
        PhaseError: the plan doesn't fit the data, the optimizers or the model.
        TypeError: an argument has the wrong type.

    Example:
        >>> import torch
        >>> from pyphase import PhaseLoop, TrainingPhase
        >>> model = torch.nn.Linear(2, 1)
        >>> data = torch.utils.data.DataLoader(torch.ones(8, 2), batch_size=2)
        >>> phases = [
        ...     TrainingPhase(epochs=1, opt_fn=torch.optim.Adam, lr=1e-3),
        ...     TrainingPhase(epochs=0.5, opt_fn=torch.optim.SGD, lr=1e-2, opt_state="map"),
        ... ]
        >>> loop = PhaseLoop(model, phases, data)
        >>> for batch in loop:
        ...     loss = model(batch).square().mean()
        ...     loss.backward()
        ...     taken = loop.step(loss)
        >>> loop.position, type(loop.optimizer).__name__
        (6, 'SGD')
    """

    def __init__(
        self,
        model: torch.nn.Module,
        phases: Plan | Sequence[TrainingPhase],
        data: Any = None,
        *,
        steps_per_epoch: int | Sequence[int] | None = None,
        batch_size: int | Sequence[int] | None = None,
        optimizer: Optimizer | None = None,
        groups: GroupsArg = None,
        stop_div: bool = False,
        scaler: torch.amp.GradScaler | None = None,
        accumulate: int = 1,
        clip_grad_norm: float | None = None,
        prefetch: int = 10,
    ) -> None:
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"`model` must be a torch.nn.Module, got {shown(model)}")
        if optimizer is not None and not isinstance(optimizer, Optimizer):
            raise TypeError(f"`optimizer` must be a torch optimizer, got {shown(optimizer)}")
        check_flags(stop_div=stop_div)
        self.model, self._groups, self._averaged = model, groups, Averaged(model)
        self._stepper = Stepper(scaler, accumulate, clip_grad_norm)
        prefetch = check_whole("prefetch", prefetch, least=0)
        sources = Sources(phases, data, steps_per_epoch, batch_size, self.accumulate)
        self.plan = sources.plan
        self._data = PhaseData(sources, prefetch)
        self._optimizers = PhaseOptimizers(self.plan, optimizer, self._collect)
        self.position = 0
        self.stopped: str | None = None
        self._stop_div = stop_div
        self.check = DivergenceCheck()
        self._entered = -1  # the last phase that was started
        self._has_batch = False
        self._batch: Any = None
        self._before: Before | None = None

    def _collect(self) -> list[list[torch.nn.Parameter]]:
        return collect_groups(self.model, self._groups)

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer in use."""
        return self._optimizers.optimizer

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """The gradient scaler, None without one."""
        return self._stepper.scaler

    @property
    def accumulate(self) -> int:
        """Batches per optimizer step."""
        return self._stepper.accumulate

    @property
    def loss(self) -> float | None:
        """Mean loss of the batches of the last step, or of the one under way.

        Each batch weighs the same, as its gradients do. None where :meth:`step` got no loss.
        """
        return self._stepper.loss

    @property
    def updating(self) -> bool:
        """Whether an optimizer step is under way, or it or a phase's start was cut off.

        The model may be half updated then: there is no state to save.
        """
        return self._stepper.updating or self._optimizers.cut_off or self._data.cut_off

    @property
    def phase_index(self) -> int:
        """Index of the phase of the next step."""
        return self.plan.phase_at(self.position)

    @property
    def phase(self) -> TrainingPhase:
        """The phase of the next step (the last one, at the end)."""
        return self.plan.phases[self.phase_index]

    @property
    def done(self) -> bool:
        """Whether the plan is at its end, or was stopped."""
        return self.stopped is not None or self.position >= self.plan.total_steps

    @property
    def pending(self) -> bool:
        """Whether a batch was drawn since the last optimizer step, or its drawing was cut off."""
        return self._before is not None

    @property
    def feed(self) -> Feed:
        """The stream of batches in use."""
        return self._data.feed

    @property
    def feed_ends(self) -> bool:
        """Whether the data's epoch ends here, or other data takes over with the next step."""
        if not self._data.started:
            return False
        changes = not self.done and not self._data.serves(self.phase_index)
        return self._data.at_epoch_end or changes

    @property
    def steps_on_data(self) -> int:
        """Number of steps from here until other data takes over, or the plan ends."""
        return self._data.steps_left(self.position)

    @property
    def batches_left(self) -> int | None:
        """Number of batches until the data's epoch ends, None for data without a length.

        Before the first batch of a phase with other data, it is the length of that data.
        """
        return self._data.batches_left(self.phase_index)

    @property
    def valid_data(self) -> Any:
        """The validation loader that came with the data in use, None where none did."""
        return self._data.valid

    def __iter__(self) -> Iterator[Any]:
        if self._has_batch:  # an earlier iterator was left between a batch and its step
            yield self._batch
        while not self.done:
            self._prepare()
            if self._stepper.taken == 0:
                self._before = Before(self.model, self.feed, self.check, all_buffers=self._stop_div)
            self._batch = self.feed.next()
            self._has_batch = True
            yield self._batch

    def next_batch(self) -> Any:
        """Return the next batch; enter its phase first.

        Only for a loop that calls the optimizer itself: see :meth:`advance`.
        """
        self._prepare()
        return self.feed.next()

    def _prepare(self) -> None:
        """Enter the phase of the next batch; start the data to come, but not amid a step."""
        index = self.phase_index
        while self._entered < index:
            self._start_phase(self._entered + 1)
        self._data.enter(index)
        if self._stepper.taken == 0:
            self._data.start_next(self.position)

    def _start_phase(self, index: int) -> None:
        on_enter = self.plan.phases[index].on_enter
        self._optimizers.enter(index, None if on_enter is None else lambda: self._grow(on_enter))
        self.check = DivergenceCheck()
        self._entered = index

    def _grow(self, on_enter: Callable[[Any], Any]) -> None:
        on_enter(self)
        self._averaged.check(self.model)

    def advance(self) -> None:
        """Count a step that the optimizer has taken; set the values of the next one.

        Only for a loop that calls the optimizer itself, in place of :meth:`step`.
        """
        self.position += 1
        if self.position >= self.plan.total_steps or self.phase_index == self._entered:
            self._optimizers.write(self.position)

    @property
    def completes_step(self) -> bool:
        """Whether :meth:`step` takes the optimizer's step after the batch given last.

        False where it only accumulates: with DDP, such a batch can run under ``no_sync``.
        """
        return self._data.at_epoch_end or self._stepper.taken + 1 >= self.accumulate

    def step(
        self,
        loss: torch.Tensor | float | None = None,
        *,
        closure: Callable[[], Any] | None = None,
    ) -> bool:
        """Take the optimizer's step for the batch, zero the gradients, set the next values.

        ``loss.backward()`` is called here if nobody has called it yet, that is, while no parameter
        has a gradient (with ``accumulate``: after the first batch of the step).

        Args:
            loss: the batch's loss, a scalar; needed for ``stop_div``, which looks at the mean of
                the step's batches.
            closure: for optimizers that evaluate the loss several times in a step (LBFGS): a
                function that zeroes the gradients, computes the loss of the same batch, calls its
                ``backward()`` and returns it.

        Returns:
            False where no step was taken: the batch was one of several to accumulate, the loss
            diverged, or the scaler skipped the step.

        Raises:
            PhaseError: there is no new batch since the last step, or the plan is at its end; the
                optimizer needs a closure, or it and a scaler are given.
        """
        if not self._has_batch:
            raise PhaseError("step() takes the step of a batch: call it once for each batch")
        self._stepper.check_closure(self.optimizer, closure)
        self._stepper.add_loss(loss)
        if self._stop_div:
            self._check_loss(loss)
            if self.stopped is not None:
                self._undo_batch()
                return False
        self._stepper.backward(self.optimizer, loss, closure)
        if not self.completes_step:
            self._drop_batch(self._stepper.taken + 1)
            return False
        taken = self._stepper.step(self.optimizer, closure)
        drop_gradients(self.optimizer)
        self._drop_batch(taken=0)
        if taken:
            self.advance()
        elif self._stepper.exhausted:
            self.stopped = f"stopped before step {self.position}: the scaler's scale has come to 0"
        self._stepper.updating = False
        return taken

    def _drop_batch(self, taken: int) -> None:
        self._has_batch, self._batch, self._stepper.taken = False, None, taken
        if taken == 0:
            self._before = None

    def _check_loss(self, loss: Any) -> None:
        if loss is None:
            raise PhaseError("`stop_div` needs the loss: step(loss)")
        mean = self.loss if self.completes_step else None  # reading it waits for a GPU
        reason = None if mean is None else self.check(mean_of_ranks(mean))
        if reason is not None:
            self.stopped = f"stopped before step {self.position}: {reason}"

    def _undo_batch(self) -> None:
        """Drop what the diverging batch has done: gradients, and the buffers of its forward."""
        drop_gradients(self.optimizer)
        if self._before is not None:
            self._before.put_buffers_back()
        self._drop_batch(taken=0)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the run depends on.

        It is the state after the last optimizer step. A batch that was given since is given again
        after loading, with the same random numbers: buffers, generators and the position in the
        data are those of before it. The tensors are the live ones: save or copy them before the
        next step.

        Raises:
            PhaseError: the optimizer's step, or the start of a phase, was cut off half way.
        """
        return read_state(self, self._before)

    def load_state_dict(
        self,
        state: dict[str, Any],
        *,
        accept_other_plan: bool = False,
        read: Callable[[PhaseLoop], tuple[dict[str, Any], dict[str, Any]]] | None = None,
    ) -> None:
        """Go on where a saved run was, bit for bit.

        The phases up to the saved one are entered again without training: ``on_enter`` of each is
        called, so that the model has the saved one's shape. Then ``read``, if given, returns the
        states of model and optimizer in place of those in ``state``: that is how shards are read.

        Raises:
            PhaseError: the state was saved under another plan (the message shows the differences)
                or with another ``accumulate``, ``clip_grad_norm`` or ``scaler``, unless
                ``accept_other_plan``; or it is no state of a PhaseLoop.
        """
        check_state(state)
        if not accept_other_plan:
            check_step_options(state["step_options"], self._stepper.options)
        is_same_plan = self.plan.check_same(state["plan"], accept=accept_other_plan)
        if self._entered >= 0 or self.position:
            raise PhaseError("load the state into a new loop, before its first batch")
        self._enter_again(state["entered"], state["position"])
        write_state(self, state, keep_plan=not is_same_plan, read=read)

    def _enter_again(self, entered: int, position: int) -> None:
        """Enter the phases up to the one of step ``entered``, as training to ``position`` did."""
        last = self.plan.phase_at(entered) if entered >= 0 else -1
        for index, (begin, end) in enumerate(self.plan.spans[: last + 1]):
            self.position = begin
            self._start_phase(index)
            # Functions that no later phase calls keep the value of the last step.
            self._optimizers.write(min(position, end - 1))
        self.position = position
