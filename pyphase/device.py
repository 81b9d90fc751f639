"""A plan as tensors on a device, for training steps that are compiled or captured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyphase.errors import PhaseError, check_whole, shown
from pyphase.slots import DECOUPLED, find_slot

if TYPE_CHECKING:
    from pyphase.plan import Plan

__all__ = ["DeviceSchedule"]

_MOST_ROWS = 2**27  # 1 GiB for each column of doubles


class DeviceSchedule:
    """Fill an optimizer's tensors from a table, row by row, without the host.

    ``plan.to(device)`` makes one. :meth:`attach` names the optimizer; :meth:`advance` stands in
    the training step, after ``optimizer.step()``: it adds 1 to the counter, looks up the row of
    that step, and copies its values into the tensors of the parameter groups. All three happen on
    the device. No value is read on the host, nothing waits, no tensor is replaced: the step can be
    compiled whole or captured in a CUDA graph, and replaying it moves the schedule on.

    A value that moves must be a tensor in the parameter groups: ``lr=torch.tensor(0.1)``, for Adam
    ``betas=(torch.tensor(0.9), torch.tensor(0.999))`` too. A float that doesn't move is set once.

    Args:
        plan: the :class:`Plan`; a row of doubles is kept for each step.
        device: where the table and the counter are.
        dtype: floating type of the table; None is float64.

    Attributes:
        step: the counter, int64, 0-d, on the device: the step whose values are set. Past the end of
            the plan values hold.

    Raises:
        PhaseError: the plan calls functions, has ``on_enter``, or changes optimizer or data.
        TypeError: ``dtype`` is no floating type.

    Equivalent to: :class:`PhaseScheduler` on an optimizer with tensors, to the same bits.

    Example:
        >>> from pyphase import DecayType, Plan, TrainingPhase
        >>> plan = Plan([TrainingPhase(steps=4, lr=1.0, lr_decay=DecayType.LINEAR)])
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = torch.optim.SGD([weight], lr=torch.tensor(0.0))
        >>> schedule = plan.to("cpu")
        >>> schedule.attach(optimizer)
        >>> schedule.advance()
        >>> schedule.step, optimizer.param_groups[0]["lr"]
        (tensor(1), tensor(0.7500))
    """

    def __init__(self, plan: Plan, device: Any, dtype: torch.dtype | None = None) -> None:
        dtype = torch.float64 if dtype is None else dtype
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TypeError(f"`dtype` must be a floating torch.dtype, got {shown(dtype)}")
        _refuse_host(plan)
        if plan.total_steps >= _MOST_ROWS:
            raise PhaseError(
                f"the plan has {plan.total_steps} steps; a table on a device takes fewer than "
                f"{_MOST_ROWS}"
            )
        self.plan, self.dtype = plan, dtype
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        self._last = plan.total_steps
        self._targets: list[tuple[torch.Tensor, int]] = []
        self._rows = torch.zeros((plan.total_steps + 1, 0), dtype=dtype, device=device)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Serve this optimizer from now on; set the values of the counter's step.

        Raises:
            PhaseError: the optimizer has nothing for a key; a value that moves is a float in it, or
                a tensor on another device; groups share a tensor; it has another number of groups.
            TypeError: it is no torch optimizer.
        """
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"`optimizer` must be a torch optimizer, got {shown(optimizer)}")
        groups = optimizer.param_groups
        if self.plan.groups not in (1, len(groups)):
            raise PhaseError(
                f"the plan names {self.plan.groups} parameter groups, but "
                f"{type(optimizer).__name__} has {len(groups)}"
            )
        columns: list[NDArray[np.float64]] = []
        targets: list[tuple[torch.Tensor, int]] = []
        floats: list[tuple[dict[str, Any], str, int, float]] = []
        for key in self.plan.keys:
            table = self._table(str(key))
            slot = find_slot(str(key), groups)
            if slot is None:
                raise PhaseError(f"{type(optimizer).__name__} has nothing for `{key}` to set")
            for index, group in enumerate(groups):
                value = group[slot[0]] if slot[1] < 0 else group[slot[0]][slot[1]]
                column = table[:, min(index, table.shape[1] - 1)]
                if isinstance(value, torch.Tensor):
                    own = float(value)
                    column = np.where(np.isnan(column), own, column)
                    targets.append((value, len(columns)))
                    columns.append(column)
                    self._check_tensor(str(key), value)
                else:
                    column = np.where(np.isnan(column), value, column)
                    _check_constant(str(key), column, value, optimizer)
                    floats.append((group, *slot, float(column[0])))
        if len({id(target) for target, _ in targets}) < len(targets):
            raise PhaseError("parameter groups share a tensor: give each group one of its own")
        for group, name, element, number in floats:
            _set_float(group, name, element, number)
        packed = np.stack(columns, axis=1) if columns else np.zeros((self._last + 1, 0))
        self._rows = torch.from_numpy(packed).to(device=self.step.device, dtype=self.dtype)
        self._targets = targets
        self._write()

    def advance(self) -> None:
        """Go on to the next step, on the device; call it after ``optimizer.step()``."""
        with torch.no_grad():
            self.step.add_(1)
        self._write()

    def seek(self, step: int) -> None:
        """Go to any step, as after loading a checkpoint or after the warm-up of a capture."""
        with torch.no_grad():
            self.step.fill_(check_whole("step", step, least=0))
        self._write()

    def _write(self) -> None:
        with torch.no_grad():
            at = self.step.clamp(max=self._last).reshape(1)
            row = self._rows.index_select(0, at)[0]  # row[step] would read the step on the host
            # Not one copy_ each: torch 2.13's AOT autograd drops a copy_ from a row of the same
            # dtype into a 0-d tensor that the compiled function is handed.
            values = [row[column] for _, column in self._targets]
            if values:
                torch._foreach_copy_([target for target, _ in self._targets], values)

    def _table(self, key: str) -> NDArray[np.float64]:
        """Return the values of steps 0 to total_steps, that of the end included."""
        last = self.plan.table(key, [self._last])
        return np.concatenate([self.plan.table(key), last])

    def _check_tensor(self, key: str, value: torch.Tensor) -> None:
        if value.device != self.step.device or value.numel() != 1:
            raise PhaseError(
                f"`{key}` is a tensor of shape {tuple(value.shape)} on {value.device}; a schedule "
                f"on {self.step.device} fills one number on that device"
            )


def _set_float(group: dict[str, Any], name: str, element: int, number: float) -> None:
    if element < 0:
        group[name] = number
    else:
        group[name] = (*group[name][:element], number, *group[name][element + 1 :])


def _check_constant(key: str, column: NDArray[np.float64], value: Any, optimizer: Any) -> None:
    if not (column == column[0]).all():
        raise PhaseError(
            f"`{key}` moves, but {type(optimizer).__name__} holds it as the float {value!r}, which "
            "a compiled or captured step can't read anew: make it a tensor where the optimizer "
            "takes one (lr, Adam's betas, momentum of pyphase.LARS), or leave it constant"
        )


def _refuse_host(plan: Plan) -> None:
    for index, phase in enumerate(plan.phases):
        what = plan.change_at(index)
        if what is None and any(callable(key) for key in phase.tracks):
            what = "calls a function with a value"
        elif what is None and DECOUPLED in phase.tracks:
            what = "decouples the weight decay (wd_loss=False), which AdamW does itself"
        if what:
            raise PhaseError(f"{plan.label(index)} {what}: a schedule on a device can't")
