"""What ``learn.sched`` is: the plan of a run with its history, and their pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyphase.apply.divergence import smooth
from pyphase.curves import Linear
from pyphase.errors import PhaseError
from pyphase.history import History
from pyphase.plan import Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Record"]


class Record:
    """Show what a run has done, with the names of fastai 0.7's ``learn.sched``.

    Attributes:
        plan: the plan of the run.
        history: its losses and results.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.history = History()
        self.suggestion: dict[str, float] = {}

    def plot_lr(self, show_text: bool = True, show_moms: bool = True) -> Figure:
        """Draw the learning rate, the momentum and all other values of the steps done so far."""
        from pyphase.plot import plot_plan

        self._check_steps()
        done = self.history.steps[-1] + 1
        return plot_plan(self.plan, steps=done, show_text=show_text, show_moms=show_moms)

    def plot(self, n_skip: int = 10, n_skip_end: int = 5, linear: bool | None = None) -> Figure:
        """Draw the smoothed loss over the learning rate, as after an LR range test.

        Args:
            n_skip: points left out at the start.
            n_skip_end: points left out at the end.
            linear: a linear instead of a logarithmic axis of rates; None: linear where the last
                phase's curve is.
        """
        from pyphase.plot_loss import plot_finder

        self._check_steps()
        if linear is None:
            linear = isinstance(self.plan.phases[-1].tracks["lr"], Linear)
        lrs = self.plan.table("lr", np.asarray(self.history.steps, np.int64))
        return plot_finder(
            lrs,
            np.asarray(smooth(self.history.losses)),
            suggestion=self.suggestion,
            linear=linear,
            n_skip=n_skip,
            n_skip_end=n_skip_end,
        )

    def plot_loss(self) -> Figure:
        """Draw the training loss of each step."""
        from pyphase.plot_loss import plot_losses

        self._check_steps()
        return plot_losses(np.asarray(self.history.steps), np.asarray(self.history.losses))

    def _check_steps(self) -> None:
        if not self.history.steps:
            raise PhaseError("no step has been trained yet; `plan.plot()` shows the whole plan")
