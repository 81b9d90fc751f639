"""Tell when a loss diverges."""

from __future__ import annotations

import math

__all__ = ["DivergenceCheck", "smooth"]


class DivergenceCheck:
    """Watch the losses of one phase.

    The loss is smoothed as in fastai 0.7: s_k = a_k / (1 - beta^k), a_k = beta * a_{k-1} +
    (1 - beta) * loss_k. It diverges when it is not finite, or when, after ``patience`` steps,

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
        self.beta, self.limit, self.patience = beta, limit, patience
        self.count = 0
        self.average = 0.0
        self.first = self.best = math.inf
        self.negative = False

    def __call__(self, loss: float) -> str | None:
        """Take the next loss; return why it diverges, None while it doesn't."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        self.count += 1
        self.negative |= loss < 0
        self.average = self.beta * self.average + (1 - self.beta) * loss
        smoothed = self.average / (1 - self.beta**self.count)
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
    """Return the debiased exponential average of each prefix of ``losses``."""
    average, smoothed = 0.0, []
    for count, loss in enumerate(losses, start=1):
        average = beta * average + (1 - beta) * loss
        smoothed.append(average / (1 - beta**count))
    return smoothed
