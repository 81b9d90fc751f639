"""What the processes of a torch.distributed run must agree on."""

from __future__ import annotations

import torch
import torch.distributed as dist

__all__ = ["any_rank", "mean_of_ranks", "rank", "sum_of_ranks", "world_size"]


def world_size() -> int:
    """Return the number of processes, 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, 0 without torch.distributed."""
    return dist.get_rank() if world_size() > 1 else 0


def sum_of_ranks(values: list[float]) -> list[float]:
    """Return the sums of each value over all processes; every process must call it."""
    if world_size() == 1:
        return values
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return [float(value) for value in total.tolist()]


def mean_of_ranks(value: float) -> float:
    """Return the mean over all processes, the same on each; every process must call it."""
    return sum_of_ranks([value])[0] / world_size()


def any_rank(value: bool) -> bool:
    """Tell whether ``value`` is true in any process; every process must call it."""
    return sum_of_ranks([float(value)])[0] > 0
