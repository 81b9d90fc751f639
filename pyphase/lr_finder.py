"""LR range test: train with a growing rate, watch the loss, put everything back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyphase.apply.batch import run_batch
from pyphase.apply.data import Feed
from pyphase.apply.divergence import DivergenceCheck, smooth
from pyphase.apply.groups import Groups
from pyphase.apply.optimizers import build_optimizer
from pyphase.apply.params import GroupsArg, collect_groups
from pyphase.apply.snapshot import Snapshot
from pyphase.bars import open_bar
from pyphase.curves import check_numbers
from pyphase.errors import PhaseError, check_flags, check_whole, shown
from pyphase.lengths import train_part
from pyphase.opt_fn import OptFn, check_opt_fn
from pyphase.plan import Plan
from pyphase.recipes import lr_range_test
from pyphase.suggest import SUGGESTIONS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LRFinderResult", "lr_find"]


@dataclass(frozen=True, eq=False)
class LRFinderResult:
    """What an LR range test found.

    Attributes:
        lrs: rate of each step, (steps,), or (steps, groups) where there are several groups.
        losses: training loss of each step, (steps,).
        smoothed: the same, smoothed over the steps (0.98, debiased), (steps,).
        suggestion: a rate by each rule of :mod:`pyphase.suggest`; of the last group, where there
            are several.
        plan: the plan of the test.
        stopped: why it stopped before its last step; None where it didn't.
    """

    lrs: NDArray[np.float64]
    losses: NDArray[np.float64]
    smoothed: NDArray[np.float64]
    suggestion: dict[str, float]
    plan: Plan = field(repr=False)
    stopped: str | None = None

    def group_lrs(self, rule: str) -> list[float]:
        """Return the suggestion of a rule for each parameter group."""
        if rule not in self.suggestion:
            raise PhaseError(f"`rule` (={shown(rule)}) must be one of {list(self.suggestion)}")
        table = self.lrs.reshape(len(self.lrs), -1)
        nearest = int(np.abs(np.log(table[:, -1] / self.suggestion[rule])).argmin())
        scale = self.suggestion[rule] / table[nearest, -1]
        return [float(lr * scale) for lr in table[nearest]]

    def plot(self, linear: bool = False) -> Figure:
        """Draw the smoothed loss over the rate, with the suggestions marked."""
        from pyphase.plot_loss import plot_finder

        return plot_finder(self.lrs, self.smoothed, suggestion=self.suggestion, linear=linear)


def lr_find(
    model: torch.nn.Module,
    data: Any,
    loss_fn: Callable[..., torch.Tensor],
    *,
    start_lr: float | Sequence[float] = 1e-7,
    end_lr: float | Sequence[float] = 10.0,
    num_it: int = 100,
    mode: str = "exp",
    stop_div: bool = True,
    optimizer: torch.optim.Optimizer | None = None,
    opt_fn: OptFn | None = None,
    groups: GroupsArg = None,
    accumulate: int = 1,
    progress: bool = False,
) -> LRFinderResult:
    """Find a learning rate: train with a growing one, then put everything back.

    Step k of ``num_it`` = n trains with start_lr * (end_lr/start_lr)^(k/n) (``mode="exp"``) or
    start_lr + (end_lr - start_lr) * k/n (``"linear"``).

    Model, buffers, gradients, optimizer and random generators are as before at the end, also when
    the test is interrupted or the loss raises.

    Args:
        model: the module to test, in training mode meanwhile.
        data: a training loader, a pair of loaders, or an object with ``trn_dl``.
        loss_fn: ``loss_fn(model(*inputs), target)``.
        start_lr: > 0; a list has one per parameter group.
        end_lr: > 0, likewise.
        num_it: number of optimizer steps, >= 2.
        mode: "exp" or "linear".
        stop_div: stop once the loss is not finite or, after the first tenth, its smoothed value
            is over 4 times its best.
        optimizer: test with this optimizer; or
        opt_fn: with a new one, ``opt_fn(params, lr=...)``; None is SGD with momentum 0.9.
        groups: its parameter groups, as for :class:`pyphase.PhaseLoop`.
        accumulate: batches per optimizer step, >= 1; the loss is their mean.
        progress: show a progress bar.

    Raises:
        PhaseError: a value is out of its range.
        TypeError: an argument has the wrong type.

    Equivalent to: fastai 2's ``learn.lr_find()``, whose step k of n uses the same k/n.

    Example:
        >>> import torch
        >>> from pyphase import lr_find
        >>> x = torch.linspace(-1, 1, 64).reshape(64, 1)
        >>> samples = torch.utils.data.TensorDataset(x, 3 * x)
        >>> loader = torch.utils.data.DataLoader(samples, batch_size=8)
        >>> result = lr_find(torch.nn.Linear(1, 1), loader, torch.nn.functional.mse_loss)
        >>> sorted(result.suggestion)
        ['minimum', 'slide', 'steep', 'valley']

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks", 2017.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {shown(model)}")
    if not callable(loss_fn):
        raise TypeError(f"`loss_fn` must be callable, got {shown(loss_fn)}")
    _check_optimizer(optimizer, opt_fn)
    check_flags(stop_div=stop_div, progress=progress)
    check_whole("num_it", num_it, least=2)
    check_whole("accumulate", accumulate)
    plan = Plan(lr_range_test(start_lr, end_lr, num_iter=num_it, mode=mode))
    if not (plan.table("lr", [0]) > 0).all():  # the suggestions take its logarithm
        raise PhaseError(f"`start_lr` (={shown(start_lr)}) must be > 0")
    loader = train_part(data)
    if not hasattr(loader, "__iter__"):
        raise TypeError(f"`data` must be a training loader, got {shown(loader)}")
    with Snapshot(model, optimizer, loader):
        used = _make_optimizer(model, optimizer, opt_fn, groups, start_lr)
        test = _RangeTest(model, loader, loss_fn, accumulate, used, plan)
        losses, stopped = test.run(stop_div, progress)
    table = plan.table("lr", np.arange(len(losses)))
    smoothed = np.asarray(smooth(losses))
    return LRFinderResult(
        lrs=table[:, 0] if table.shape[1] == 1 else table,
        losses=np.asarray(losses),
        smoothed=smoothed,
        suggestion=_suggest(table[:, -1], smoothed, num_it),
        plan=plan,
        stopped=stopped,
    )


def _check_optimizer(optimizer: Any, opt_fn: OptFn | None) -> None:
    check_opt_fn(opt_fn)
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"`optimizer` must be a torch optimizer, got {shown(optimizer)}")
    if optimizer is not None and opt_fn is not None:
        raise PhaseError("give one of `optimizer` and `opt_fn`")


def _make_optimizer(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer | None,
    opt_fn: OptFn | None,
    groups: GroupsArg,
    start_lr: Any,
) -> torch.optim.Optimizer:
    if optimizer is not None:
        return optimizer
    params = collect_groups(model, groups)
    start = check_numbers("start_lr", start_lr)
    first = start if isinstance(start, float) else start[0]
    return build_optimizer(opt_fn, params, [first] * len(params))


class _RangeTest:
    """The steps of the test, without the restoring."""

    def __init__(
        self,
        model: torch.nn.Module,
        loader: Any,
        loss_fn: Callable[..., torch.Tensor],
        accumulate: int,
        optimizer: torch.optim.Optimizer,
        plan: Plan,
    ) -> None:
        self.model, self.loss_fn, self.accumulate = model, loss_fn, accumulate
        self.optimizer, self.plan = optimizer, plan
        self.groups = Groups(plan, optimizer, [0])
        self.feed = Feed(loader)

    def run(self, stop_div: bool, progress: bool) -> tuple[list[float], str | None]:
        """Return the losses of the steps taken, and why they ended early."""
        self.model.train()
        check = DivergenceCheck(patience=self.plan.total_steps // 10)
        losses: list[float] = []
        total = self.plan.total_steps
        with contextlib.closing(open_bar("LR range test", total, enabled=progress)) as bar:
            for step in range(total):
                self.groups.write(self.optimizer.param_groups, step)
                loss = self._backward()
                reason = check(loss) if stop_div else None
                if reason is not None:
                    return losses, reason
                losses.append(loss)
                self.optimizer.step()
                bar.update()
        return losses, None

    def _backward(self) -> float:
        self.optimizer.zero_grad()
        total = 0.0
        for _ in range(self.accumulate):
            output, target = run_batch(self.model, self.feed.next())
            loss = self.loss_fn(output, target) / self.accumulate
            torch.autograd.backward(loss)
            total += float(loss.detach())
        return total


def _suggest(
    lrs: NDArray[np.float64], losses: NDArray[np.float64], num_it: int
) -> dict[str, float]:
    """Apply every rule to the points between the noisy start and the diverging end."""
    kept = slice(num_it // 10, -5)
    if len(losses[kept]) < 3:
        kept = slice(None)
    lrs, losses = lrs[kept], losses[kept]
    if len(losses) < 2 or not np.isfinite(losses).all() or lrs[0] == lrs[-1]:
        return {}
    return {name: rule(lrs, losses) for name, rule in SUGGESTIONS.items()}
