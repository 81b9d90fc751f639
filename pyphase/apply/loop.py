"""Phases as the driver of a hand-written loop: values, optimizers, data, divergence.

Stepping, entering phases, saving and loading share one state, so they stand in one file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from pyphase.apply.before import Before
from pyphase.apply.data import Feed
from pyphase.apply.divergence import DivergenceCheck
from pyphase.apply.gradients import average_gradients, clip_gradients, params_of
from pyphase.apply.groups import Groups
from pyphase.apply.optimizers import (
    build_optimizer,
    carry_state,
    check_carry,
    needs_closure,
    set_mode,
)
from pyphase.apply.params import GroupsArg, collect_groups, follow_model
from pyphase.apply.ranks import mean_of_ranks
from pyphase.apply.sources import Sources
from pyphase.apply.state import get_rng_state, set_rng_state
from pyphase.errors import PhaseError, check_flags, check_positive, check_whole, shown
from pyphase.lengths import loader_length
from pyphase.opt_fn import same
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
        scaler: a ``torch.amp.GradScaler``; a step that it skips doesn't advance the plan.
        accumulate: batches per optimizer step, >= 1. Their gradients are averaged (don't divide
            the loss); the last step of an epoch takes what is left. Steps are optimizer steps.
        clip_grad_norm: the largest norm of the gradients of all parameters, > 0; None: any.
        prefetch: so many steps, >= 0, before other data takes over, its worker processes start,
            so that its first batch is ready in time. Data starts at the border where ``on_enter``
            comes before it, or where a function makes it only then (see ``data``).

    Attributes:
        optimizer: the optimizer in use.
        phase: the :class:`TrainingPhase` of the next step.
        plan: the :class:`Plan`.
        position: number of optimizer steps taken.
        stopped: why the loop stopped before the end of its plan, None while it didn't.
        updating: whether an optimizer step is under way, or was cut off: weights may be half
            updated.

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
        if scaler is not None and not isinstance(scaler, torch.amp.GradScaler):
            raise TypeError(f"`scaler` must be a torch.amp.GradScaler, got {shown(scaler)}")
        check_flags(stop_div=stop_div)
        self.model, self.scaler = model, scaler
        self.accumulate = check_whole("accumulate", accumulate)
        self._clip = clip_grad_norm
        if clip_grad_norm is not None:
            self._clip = check_positive("clip_grad_norm", clip_grad_norm)
        self._prefetch = check_whole("prefetch", prefetch, least=0)
        self._sources = Sources(phases, data, steps_per_epoch, batch_size, self.accumulate)
        self.plan = self._sources.plan
        self._given, self._groups_arg = optimizer, groups
        self.position = 0
        self.stopped: str | None = None
        self._stop_div = stop_div
        self._entered = -1
        self._has_batch = False
        self._batch: Any = None
        self._taken = 0  # batches since the last optimizer step
        self._backs = False  # whether their backward passes are ours
        self.updating = False
        self._before: Before | None = None
        self._feed: Feed | None = None
        self._feed_phase = -1
        self._next: tuple[int, Feed] | None = None  # the data to come, whose workers have started
        self.check = DivergenceCheck()
        if optimizer is not None and self.plan.opt_fns[0] is not None:
            raise PhaseError(
                "`optimizer` serves the phases before the first `opt_fn`: there is none"
            )
        self.optimizer = self._make_optimizer(0)
        self._groups = self._bind(0, self.optimizer)
        self._check_changes()
        self._groups.write(self.optimizer.param_groups, 0)
        set_mode(self.optimizer, training=True)

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
        """Whether a batch was given since the last optimizer step."""
        return self._has_batch or self._taken > 0

    @property
    def feed(self) -> Feed:
        """The stream of batches in use."""
        if self._feed is None:
            raise PhaseError("the loop has no data yet: it starts with the first batch")
        return self._feed

    @property
    def feed_ends(self) -> bool:
        """Whether the data's epoch ends here, or other data takes over with the next step."""
        if self._feed is None:
            return False
        changes = not self.done and not self._sources.same(self._feed_phase, self.phase_index)
        return self._feed.at_epoch_end or changes

    @property
    def steps_on_data(self) -> int:
        """Number of steps from here until other data takes over, or the plan ends."""
        last = self.phase_index + 1
        while last < len(self.plan.phases) and self._sources.same(last - 1, last):
            last += 1
        return self.plan.spans[last - 1][1] - self.position

    @property
    def batches_left(self) -> int | None:
        """Number of batches until the data's epoch ends, None for data without a length.

        Before the first batch of a phase with other data, it is the length of that data.
        """
        index = self.phase_index
        if self._feed is None or not self._sources.same(self._feed_phase, index):
            return loader_length(self._sources.train(index))
        length = self._feed.length
        return None if length is None else (length - self._feed.batch) or length

    @property
    def valid_data(self) -> Any:
        """The validation loader that came with the data in use, None where none did."""
        return self._sources.valid(self._feed_phase)

    def __iter__(self) -> Iterator[Any]:
        if self._has_batch:  # an earlier iterator was left between a batch and its step
            yield self._batch
        while not self.done:
            self._prepare()
            if self._taken == 0:
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
        self._enter(self.phase_index)
        if self._taken == 0:
            self._start_next_data()

    def advance(self) -> None:
        """Count a step that the optimizer has taken; set the values of the next one.

        Only for a loop that calls the optimizer itself, in place of :meth:`step`.
        """
        self.position += 1
        if self.position >= self.plan.total_steps or self.phase_index == self._entered:
            self._groups.write(self.optimizer.param_groups, self.position)

    @property
    def completes_step(self) -> bool:
        """Whether :meth:`step` takes the optimizer's step after the batch given last.

        False where it only accumulates: with DDP, such a batch can run under ``no_sync``.
        """
        last = self._feed is not None and self._feed.at_epoch_end
        return last or self._taken + 1 >= self.accumulate

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
            loss: the batch's loss, a scalar; needed for ``stop_div``.
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
        self._check_closure(closure)
        if self._stop_div:
            self._check_loss(loss)
            if self.stopped is not None:
                self._undo_batch()
                return False
        if self._taken == 0:
            self._backs = closure is None and not self._has_gradient()
        if self._backs:
            self._backward(loss)
        if not self.completes_step:
            self._drop_batch(self._taken + 1)
            return False
        taken = self._step_optimizer(closure)
        self.optimizer.zero_grad()
        self._drop_batch(taken=0)
        if taken:
            self.advance()
        self.updating = False
        return taken

    def _drop_batch(self, taken: int) -> None:
        self._has_batch, self._batch, self._taken = False, None, taken

    def _check_closure(self, closure: Any) -> None:
        if closure is None and needs_closure(self.optimizer):
            raise PhaseError(f"{type(self.optimizer).__name__} needs step(closure=...)")
        if closure is not None and not callable(closure):
            raise TypeError(f"`closure` must be a function, got {shown(closure)}")
        if closure is not None and self.scaler is not None:
            raise PhaseError("`closure` and a GradScaler don't go together: torch has no such step")
        if closure is not None and (self.accumulate > 1 or self._clip is not None):
            raise PhaseError(
                "`closure` makes the gradients itself: `accumulate` and `clip_grad_norm` "
                "don't reach them"
            )

    def _check_loss(self, loss: Any) -> None:
        if loss is None:
            raise PhaseError("`stop_div` needs the loss: step(loss)")
        value = loss.detach() if isinstance(loss, torch.Tensor) else loss
        self.stopped = self.check(mean_of_ranks(float(value)))
        if self.stopped is not None:
            self.stopped = f"stopped before step {self.position}: {self.stopped}"

    def _undo_batch(self) -> None:
        """Drop what the diverging batch has done: gradients, and the buffers of its forward."""
        self.optimizer.zero_grad()
        self._drop_batch(taken=0)
        if self._before is not None:
            self._before.put_buffers_back()

    def _has_gradient(self) -> bool:
        return any(param.grad is not None for param in params_of(self.optimizer))

    def _backward(self, loss: Any) -> None:
        if not isinstance(loss, torch.Tensor) or not loss.requires_grad:
            raise PhaseError(
                "step() found no gradient: call loss.backward() before it, or hand it the loss"
            )
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]

    def _step_optimizer(self, closure: Callable[[], Any] | None) -> bool:
        if self.accumulate > 1:
            average_gradients(self.optimizer, self._taken + 1)
        if self._clip is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            clip_gradients(self.optimizer, self._clip)
        self.updating = True
        if self.scaler is None:
            self.optimizer.step() if closure is None else self.optimizer.step(closure)
            return True
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return bool(self.scaler.get_scale() >= before)

    def _enter(self, index: int) -> None:
        """Start phase ``index`` unless it has been started: optimizer, model, data, values."""
        while self._entered < index:
            self._start_phase(self._entered + 1)
        if self._feed is None or not self._sources.same(self._feed_phase, index):
            epoch = 0 if self._feed is None else self._feed.epoch + 1
            if self._feed is not None and self._sources.last_use(self._feed_phase):
                self._feed.close()
            if self._next is not None and self._next[0] == index:
                self._feed = self._next[1]
            else:
                self._feed = Feed(self._sources.train(index), epoch)
            self._next = None
        self._feed_phase = index

    def _start_next_data(self) -> None:
        """Start the workers of the data that takes over within the next ``prefetch`` steps."""
        index, spans = self.phase_index, self.plan.spans
        while self._next is None and index + 1 < len(spans):
            left = spans[index][1] - self.position
            index += 1
            if left > self._prefetch or self.plan.phases[index].on_enter is not None:
                return
            if self._sources.same(self._feed_phase, index):
                continue
            # The number of the coming epoch isn't known before the last one of the data in use.
            if left * self.accumulate < self.feed.epoch_left + self.accumulate:
                loader = self._sources.train(index) if self._sources.is_made(index) else None
                if getattr(loader, "num_workers", 0):
                    coming = Feed(loader, self.feed.epoch + 1)
                    coming.begin()
                    self._next = index, coming
            return

    def _start_phase(self, index: int) -> None:
        phase = self.plan.phases[index]
        if phase.on_enter is not None:
            params = self._collect()
            phase.on_enter(self)
            follow_model(self.optimizer, params, self._collect())
        before, opt_before = self._groups, self.optimizer
        if self._changes_optimizer(index):
            set_mode(opt_before, training=False)
            self.optimizer = self._make_optimizer(index)
            self._groups = self._bind(index, self.optimizer)
            set_mode(self.optimizer, training=True)
        self._groups.write(self.optimizer.param_groups, self.plan.spans[index][0])
        if self._groups is not before:
            carry_state(phase.opt_state, opt_before, self.optimizer)
        self.optimizer.zero_grad()  # a gradient left by somebody else would pass for the batch's
        self.check = DivergenceCheck()
        self._entered = index

    def _collect(self) -> list[list[torch.nn.Parameter]]:
        return collect_groups(self.model, self._groups_arg)

    def _changes_optimizer(self, index: int) -> bool:
        """Tell whether phase ``index`` builds an optimizer.

        A plan can't know whose optimizer its first phases use. Where none was given it is an SGD,
        and a phase that asks for SGD goes on with it.
        """
        before, now = self.plan.opt_fns[index - 1], self.plan.opt_fns[index]
        is_default = before is None and self._given is None
        if is_default and now is not None and same(now, torch.optim.SGD):
            return False
        return self.plan.changes_optimizer(index)

    def _make_optimizer(self, index: int) -> Optimizer:
        if self.plan.opt_fns[index] is None and self._given is not None:
            return self._given
        params = self._collect()
        starts = [form[1] for form in self.plan.phases[index].tracks["lr"].forms()]
        if len(starts) not in (1, len(params)):
            raise PhaseError(
                f"the plan names {self.plan.groups} parameter groups, but `groups` makes "
                f"{len(params)}"
            )
        lrs = starts * len(params) if len(starts) == 1 else starts
        return build_optimizer(self.plan.opt_fns[index], params, lrs)

    def _bind(
        self, index: int, optimizer: Optimizer, own: dict[str, list[Any]] | None = None
    ) -> Groups:
        last = index + 1
        while last < len(self.plan.phases) and not self._changes_optimizer(last):
            last += 1
        return Groups(self.plan, optimizer, range(index, last), own)

    def _check_changes(self) -> None:
        """Build each later optimizer once: what can't work is said before any training."""
        before, last_groups = type(self.optimizer), self.optimizer.param_groups
        for index, phase in enumerate(self.plan.phases):
            if not self._changes_optimizer(index):
                continue
            optimizer = self._make_optimizer(index)
            self._bind(index, optimizer)
            if phase.opt_state == "map" and any(g.get("dampening") == 1 for g in last_groups):
                raise PhaseError(
                    f"{self.plan.label(index)}: `opt_state` (='map') can't read the mean gradient "
                    "of an SGD with dampening 1"
                )
            try:
                check_carry(phase.opt_state, before, type(optimizer))
            except PhaseError as error:
                raise PhaseError(f"{self.plan.label(index)}: {error}") from None
            before, last_groups = type(optimizer), optimizer.param_groups

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the run depends on.

        It is the state after the last optimizer step. A batch that was given since is given again
        after loading, with the same random numbers: buffers, generators and the position in the
        data are those of before it. The tensors are the live ones: save or copy them before the
        next step.

        Raises:
            PhaseError: the optimizer's step was cut off half way.
        """
        if self.updating:
            raise PhaseError("the optimizer's step was cut off: weights may be half updated")
        before = self._before if self.pending else None
        model = self.model.state_dict()
        feed = None if self._feed is None else self._feed.state_dict()
        coming: list[Any] | None = None
        if self._next is not None:
            coming = [self._next[0], self._next[1].state_dict()]
        if before is not None:
            model.update({name: kept for name, kept in before.named.items() if name in model})
            feed = before.feed
        begun = self.position < self.plan.total_steps and self.phase_index == self._entered
        return {
            "pyphase": "loop 1",
            "plan": self.plan.to_json(),
            "position": self.position,
            "entered": self.position if begun else self.position - 1,
            "stopped": self.stopped,
            "model": model,
            "optimizer": self.optimizer.state_dict(),
            "optimizer_class": type(self.optimizer).__name__,
            "own": {name: list(own) for name, own in self._groups.own.items()},
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "check": self.check.state_dict() if before is None else before.check,
            "feed": feed,
            "next": coming,
            "sources": self._sources.state_dict(),
            "rng": get_rng_state() if before is None else before.rng,
        }

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
            PhaseError: the state was saved under another plan (the message shows the differences),
                unless ``accept_other_plan``; or it is no state of a PhaseLoop.
        """
        _check_state(state)
        is_same_plan = self.plan.check_same(state["plan"], accept=accept_other_plan)
        if self._entered >= 0 or self.position:
            raise PhaseError("load the state into a new loop, before its first batch")
        self._enter_again(state["entered"], state["position"])
        if type(self.optimizer).__name__ != state["optimizer_class"]:
            raise PhaseError(
                f"the state is of {state['optimizer_class']}, but step {self.position} of this "
                f"plan has {type(self.optimizer).__name__}"
            )
        try:
            if read is not None:
                model, optimizer = read(self)
                state = state | {"model": model, "optimizer": optimizer}
            self._restore(state, is_same_plan)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            if isinstance(error, PhaseError):
                raise
            raise PhaseError(f"the state doesn't fit this run: {error}") from error

    def _enter_again(self, entered: int, position: int) -> None:
        """Enter the phases up to the one of step ``entered``, as training to ``position`` did."""
        last = self.plan.phase_at(entered) if entered >= 0 else -1
        for index, (begin, end) in enumerate(self.plan.spans[: last + 1]):
            self.position = begin
            self._start_phase(index)
            # Functions that no later phase calls keep the value of the last step.
            self._groups.write(self.optimizer.param_groups, min(position, end - 1))
        self.position = position

    def _restore(self, state: dict[str, Any], is_same_plan: bool) -> None:
        self.stopped = state["stopped"]
        self.model.load_state_dict(state["model"])
        options = [{**group, "params": None} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        if not is_same_plan:
            for group, own_options in zip(self.optimizer.param_groups, options, strict=True):
                group.update(own_options | {"params": group["params"]})
        own = {name: state["own"].get(name, own) for name, own in self._groups.own.items()}
        self._groups = self._bind(self._groups.phases[0], self.optimizer, own)
        if self.scaler is not None and state["scaler"] is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.check.load_state_dict(state["check"])
        self._sources.load_state_dict(state["sources"])
        if state["feed"] is not None:
            self._feed_phase = max(self._entered, 0)
            self._feed = Feed(self._sources.train(self._feed_phase))
            self._feed.load_state_dict(state["feed"])
        if state["next"] is not None and is_same_plan:
            index, coming = state["next"]
            feed = Feed(self._sources.train(index))
            feed.load_state_dict(coming)
            self._next = index, feed
        if self.phase_index == max(self._entered, 0):
            self._groups.write(self.optimizer.param_groups, self.position)
        set_mode(self.optimizer, training=True)  # a state may be of the end of a fit
        set_rng_state(state["rng"])


_OPTIONAL = {"stopped": str, "scaler": dict, "feed": dict, "next": list}
_PARTS = {"plan": str, "position": int, "entered": int, "model": dict, "optimizer": dict}
_PARTS |= {"optimizer_class": str, "own": dict, "check": dict, "sources": dict, "rng": dict}


def _check_state(state: Any) -> None:
    if not isinstance(state, dict) or state.get("pyphase") != "loop 1":
        raise PhaseError("not a state of a PhaseLoop")
    wrong = [name for name, kind in _PARTS.items() if not isinstance(state.get(name), kind)]
    wrong += [
        name
        for name, kind in _OPTIONAL.items()
        if name not in state or not isinstance(state[name], kind | None)
    ]
    if wrong:
        raise PhaseError(f"not a state of a PhaseLoop: `{wrong[0]}` is missing or wrong")
