"""Smooth a loss, and tell when it diverges."""

from __future__ import annotations

import math

__all__ = ["DivergenceCheck", "SmoothedLoss", "smooth"]


class SmoothedLoss:
    """Average losses with weights that fall off into the past, as fastai 0.7 does.

    s_k = a_k / (1 - beta^k), a_k = beta * a_{k-1} + (1 - beta) * loss_k, a_0 = 0.

    Args:
        beta: in [0, 1).
    """

    def __init__(self, beta: float = 0.98) -> None:
        self.beta = beta
        self.count = 0
        self.average = 0.0

    def add(self, loss: float) -> float:
        """Take the next loss; return the average so far."""
        self.count += 1
        self.average = self.beta * self.average + (1 - self.beta) * loss
        return self.average / (1 - self.beta**self.count)


class DivergenceCheck(SmoothedLoss):
    """Watch the losses of one phase.

    A loss diverges when it is not finite, or when, after ``patience`` steps, its smoothed value s
    is too far above the best one:

        s - best > (limit - 1) * scale

    with scale = |best|. For losses that stay positive that is s > limit * best. Once a loss was
    negative, the scale is at least the way that the loss has come, first - best: a multiple of a
    best near zero or below says nothing.

    Args:
        beta: smoothing, in [0, 1).
        limit: multiple of the best smoothed loss, > 1.
        patience: number of steps before the best is taken and a rise counts.
    """

    def __init__(self, *, beta: float = 0.98, limit: float = 4.0, patience: int = 10) -> None:
        super().__init__(beta)
        self.limit, self.patience = limit, patience
        self.first = self.best = math.inf
        self.negative = False

    def __call__(self, loss: float) -> str | None:
        """Take the next loss; return why it diverges, None while it doesn't."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        self.negative |= loss < 0
        smoothed = self.add(loss)
        if self.count == 1:
            self.first = smoothed
        if self.count <= self.patience:
            return None
        self.best = min(self.best, smoothed)
        scale = abs(self.best)
        if self.negative:
            scale = max(scale, self.first - self.best)
        if smoothed - self.best > (self.limit - 1) * scale:
            return (
                f"the smoothed loss is {smoothed:.4g}, its best of this phase was {self.best:.4g}"
            )
        return None

    def state_dict(self) -> dict[str, float]:
        """Return the numbers that decide the next answer."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Set the numbers back."""
        for name in vars(self):
            setattr(self, name, state[name])


def smooth(losses: list[float], beta: float = 0.98) -> list[float]:
    """Return the smoothed value after each of ``losses``."""
    smoothed = SmoothedLoss(beta)
    return [smoothed.add(loss) for loss in losses]
