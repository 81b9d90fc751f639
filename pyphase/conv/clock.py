"""Seconds of calls on this machine, in turns."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from pyphase.conv.probe import call_model
from pyphase.conv.sites import Site

__all__ = ["time_layers", "time_models"]

_ROUNDS = 5
_AT_LEAST = 0.004  # seconds of a sample: a clock's ticks and a call's own cost must not count


@torch.no_grad()
def time_models(models: Sequence[nn.Module], inputs: Any) -> list[float]:
    """Return the median seconds of each model's forward pass with these inputs."""
    return _in_turns([functools.partial(call_model, model, inputs) for model in models])


@torch.no_grad()
def time_layers(site: Site, layers: Sequence[nn.Module]) -> list[float]:
    """Return the median seconds of each layer in the site's place, all its calls together."""
    totals = [0.0] * len(layers)
    for call in site.calls:
        generator = torch.Generator(call.device).manual_seed(0)  # the user's own draws nothing
        x = torch.randn(call.shape, generator=generator, device=call.device).to(call.dtype)
        if call.channels_last:
            x = x.to(memory_format=torch.channels_last)
        calls = [functools.partial(layer, x) for layer in layers]
        totals = [total + took for total, took in zip(totals, _in_turns(calls), strict=True)]
    return totals


def _in_turns(calls: Sequence[Callable[[], object]]) -> list[float]:
    repeats = []
    for call in calls:
        _sample(call, 1)  # a first call picks kernels and allocates
        repeats.append(max(1, round(_AT_LEAST / max(_sample(call, 1), 1e-9))))
    samples = [
        [_sample(call, count) for call, count in zip(calls, repeats, strict=True)]
        for _ in range(_ROUNDS)
    ]
    return [statistics.median(own) for own in zip(*samples, strict=True)]


def _sample(call: Callable[[], object], count: int) -> float:
    _wait()
    began = time.perf_counter()
    for _ in range(count):
        call()
    _wait()
    return (time.perf_counter() - began) / count


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
