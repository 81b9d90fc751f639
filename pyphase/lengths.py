"""From epochs, steps or samples to the length of each phase in (fractional) steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyphase.errors import PhaseError, check_whole, shown
from pyphase.phase import TrainingPhase

__all__ = [
    "batch_sizes",
    "epoch_sizes",
    "epoch_steps",
    "loader_length",
    "phase_lengths",
    "train_part",
    "valid_part",
]


def phase_lengths(
    phases: Sequence[TrainingPhase],
    steps_per_epoch: Sequence[int | None],
    batch_size: Sequence[int | None],
) -> list[float]:
    """Return the length of each phase in steps: a whole number only where it was given so."""
    lengths: list[float] = []
    for index, phase in enumerate(phases):
        label = f"phase {index}" if phase.name is None else f"phase {index} ({phase.name!r})"
        per_epoch, per_batch = steps_per_epoch[index], batch_size[index]
        if phase.steps is not None:
            lengths.append(float(phase.steps))
        elif phase.samples is not None:
            if per_batch is None:
                raise PhaseError(f"{label}: `samples` (={phase.samples}) needs a `batch_size`")
            lengths.append(phase.samples / per_batch)
        elif phase.epochs is not None:
            if per_epoch is None:
                raise PhaseError(
                    f"{label}: `epochs` (={phase.epochs:g}) needs `steps_per_epoch` "
                    "(or give the phase `steps`, or a loader with a length as `data`)"
                )
            lengths.append(float(phase.epochs) * per_epoch)
    return lengths


def epoch_steps(batches: int | None, accumulate: int) -> int | None:
    """Return the steps of an epoch of so many batches: its last step takes what is left."""
    return None if batches is None else -(-batches // accumulate)


def epoch_sizes(
    phases: Sequence[TrainingPhase], given: Any, accumulate: int = 1
) -> tuple[int | None, ...]:
    """Return the steps per epoch of each phase: what was given, else those of its loader."""
    sizes = _one_per_phase("steps_per_epoch", given, phases)
    batches = [loader_length(phase.data) for phase in phases]
    known = [epoch_steps(count, accumulate) for count in batches]
    return tuple(found if size is None else size for found, size in zip(known, sizes, strict=True))


def batch_sizes(phases: Sequence[TrainingPhase], given: Any) -> tuple[int | None, ...]:
    """Return the batch size of each phase: what was given, else its loader's."""
    sizes = _one_per_phase("batch_size", given, phases)
    known = [_batch_size(train_part(phase.data)) for phase in phases]
    return tuple(found if size is None else size for found, size in zip(known, sizes, strict=True))


def loader_length(loader: Any) -> int | None:
    """Return the number of batches of a loader, None where it has no length."""
    try:
        length = len(train_part(loader))
    except (TypeError, NotImplementedError):
        return None
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        raise PhaseError(f"`data` (={shown(loader)}) has no length: {text}") from error
    if length < 1:
        raise PhaseError(f"`data` (={shown(loader)}) must have at least one batch, it has none")
    return length


def train_part(data: Any) -> Any:
    """Return the training loader of a loader, a (training, validation) pair, or fastai's data."""
    if isinstance(data, tuple) and len(data) == 2:
        return data[0]
    return getattr(data, "trn_dl", data)


def valid_part(data: Any) -> Any:
    """Return the validation loader that goes with :func:`train_part`, None where there is none."""
    if isinstance(data, tuple) and len(data) == 2:
        return data[1]
    return getattr(data, "val_dl", None)


def _batch_size(loader: Any) -> int | None:
    try:
        return check_whole("batch_size", getattr(loader, "batch_size", None))
    except Exception:  # none, or something else of that name
        return None


def _one_per_phase(name: str, sizes: Any, phases: Sequence[TrainingPhase]) -> list[int | None]:
    if sizes is None:
        return [None] * len(phases)
    if not isinstance(sizes, Sequence) or isinstance(sizes, str):
        return [check_whole(name, sizes)] * len(phases)
    checked = [
        None if size is None else check_whole(f"{name}[{i}]", size) for i, size in enumerate(sizes)
    ]
    if len(checked) == len(phases):
        return checked
    seen: list[Any] = []
    for phase in phases:
        if phase.data is not None and not any(phase.data is data for data in seen):
            seen.append(phase.data)
    if len(checked) != len(seen):
        raise PhaseError(
            f"`{name}` (={shown(sizes)}) must be an int, or one per phase ({len(phases)})"
            + (f", or one per data set ({len(seen)})" if seen else "")
        )
    position = {id(data): size for data, size in zip(seen, checked, strict=True)}
    return [position.get(id(phase.data)) for phase in phases]
