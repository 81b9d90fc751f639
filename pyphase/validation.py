"""Mean losses and metrics over a data set, which leave no trace in the run that they interrupt."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from pyphase.apply.batch import run_batch
from pyphase.apply.data import generators
from pyphase.apply.optimizers import set_mode
from pyphase.apply.ranks import sum_of_ranks
from pyphase.apply.state import get_rng_state, set_rng_state
from pyphase.errors import PhaseError, shown
from pyphase.lengths import loader_length

__all__ = ["means_over"]


def means_over(
    data: Any,
    model: torch.nn.Module,
    functions: Mapping[str, Callable[..., Any]],
    optimizer: torch.optim.Optimizer | None,
    autocast: torch.autocast,
) -> dict[str, float]:
    """Return the mean of each of ``functions(output, target)`` over the samples of all processes.

    The model and a schedule-free optimizer are in eval mode meanwhile; modes and random generators
    are as before at the end, those that the data owns included.
    """
    totals, count = dict.fromkeys(functions, 0.0), 0
    with _no_trace(data, model, optimizer), _own_iterator(data), torch.no_grad():
        for batch in data:
            with autocast:
                output, target = run_batch(model, batch)
                found = {name: float(f(output, target)) for name, f in functions.items()}
            size = _samples(target)
            count += size
            totals = {name: totals[name] + size * value for name, value in found.items()}
    if count == 0:
        raise PhaseError(f"the validation data (={shown(data)}) holds no sample")
    *sums, count_of_all = sum_of_ranks([*totals.values(), count])
    return {name: total / count_of_all for name, total in zip(totals, sums, strict=True)}


@contextlib.contextmanager
def _no_trace(
    data: Any, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None
) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    rng, own = get_rng_state(), [(g, g.get_state()) for g in generators(data)]
    in_train_mode = optimizer is not None and optimizer.param_groups[0].get("train_mode", False)
    if optimizer is not None:
        set_mode(optimizer, training=False)
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        if optimizer is not None and in_train_mode:
            set_mode(optimizer, training=True)
        set_rng_state(rng)
        for generator, state in own:
            generator.set_state(state)


@contextlib.contextmanager
def _own_iterator(data: Any) -> Iterator[None]:
    """Let an epoch go on that the training has under way with the same loader.

    A loader with persistent workers has a single iterator, which a second loop would begin anew.
    """
    iterator = getattr(data, "_iterator", None)
    length = None if iterator is None else loader_length(data)
    if iterator is None or length is None or iterator._num_yielded >= length:
        yield
        return
    data._iterator = None
    try:
        yield
    finally:
        data._iterator = iterator


def _samples(target: Any) -> int:
    """Return the number of samples: the length of a target, or of the first part of a dict."""
    while isinstance(target, Mapping):
        target = next(iter(target.values()))
    return 1 if isinstance(target, torch.Tensor) and target.ndim == 0 else len(target)
