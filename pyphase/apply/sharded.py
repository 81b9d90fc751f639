"""Checkpoints of runs with several processes, each writing its part, by torch.distributed."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from pyphase.apply.gradients import params_of
from pyphase.apply.loop import PhaseLoop
from pyphase.apply.ranks import any_rank, rank, sum_of_ranks, world_size
from pyphase.apply.state import get_rng_state, load_checkpoint, save_checkpoint
from pyphase.errors import PhaseError, shown

if TYPE_CHECKING:
    from pyphase.learner import Learner

__all__ = ["load_sharded", "save_sharded"]


def save_sharded(run: PhaseLoop | Learner, folder: str | os.PathLike[str]) -> None:
    """Write the state of a run; every process calls it and writes its own part.

    Weights and optimizer state go through ``torch.distributed.checkpoint``: shards of FSDP2 stay
    shards. Buffers (a batch norm's averages), random generators and the position in the data are
    each process's own. Each call makes a numbered folder within ``folder``; the older ones are
    removed when the new one is complete, so that a run that is killed meanwhile leaves the last
    one.

    Args:
        run: a :class:`PhaseLoop` between a step and the next batch, or a running :class:`Learner`.
        folder: made if it isn't there; all processes must see the same one.

    Raises:
        PhaseError: a batch was given and not stepped.
        OSError, CheckpointException: a process can't write its part; the last checkpoint stays.

    Example:
        >>> import tempfile, torch
        >>> from pyphase import PhaseLoop, TrainingPhase, load_sharded, save_sharded
        >>> def make():
        ...     data = torch.utils.data.DataLoader(torch.ones(8, 2), batch_size=2)
        ...     return PhaseLoop(torch.nn.Linear(2, 1), [TrainingPhase(2)], data)
        >>> loop, folder = make(), tempfile.mkdtemp()
        >>> for batch in loop:
        ...     taken = loop.step(loop.model(batch).square().mean())
        ...     if loop.position == 5:
        ...         save_sharded(loop, folder)
        >>> again = make()
        >>> load_sharded(again, folder)
        >>> again.position
        5
    """
    loop = run if isinstance(run, PhaseLoop) else run.loop
    if loop.pending:
        raise PhaseError("save between a step and the next batch: a batch is under way")
    folder = Path(folder)
    number = max(_numbers(folder), default=0) + 1 if rank() == 0 else 0
    target = folder / f"{int(sum_of_ranks([float(number)])[0]):08d}"
    plain, tensors = _split(run.state_dict(), loop)
    error: Exception | None = None
    try:
        target.mkdir(parents=True, exist_ok=True)
        save_checkpoint(target / f"rank-{rank()}.pt", plain)
    except Exception as caught:
        error = caught
    if any_rank(error is not None):  # or the others would wait for this one
        raise error or PhaseError(f"another process could not write to {shown(str(target))}")
    _call(save, tensors, target)
    if rank() == 0:
        for old in _numbers(folder):
            if old < int(target.name):
                shutil.rmtree(folder / f"{old:08d}", ignore_errors=True)


def load_sharded(
    run: PhaseLoop | Learner,
    folder: str | os.PathLike[str],
    *,
    accept_other_plan: bool = False,
) -> None:
    """Go on where a run that :func:`save_sharded` wrote was; every process calls it.

    With the same number of processes the run goes on bit for bit. With another number, weights,
    optimizer state, plan and step are the saved ones, buffers and the position in the data of added
    processes are the first one's, and they keep their own random generators.

    Only load folders that you trust: torch's metadata in them is a pickle.

    Args:
        run: a new :class:`PhaseLoop`; a :class:`Learner` is loaded by its ``resume`` argument.
        folder: as for :func:`save_sharded`.
        accept_other_plan: as for :meth:`PhaseLoop.load_state_dict`.

    Raises:
        PhaseError: there is no complete checkpoint, it is damaged, or it is of another plan.

    Example: see :func:`save_sharded`.
    """
    folder = Path(folder)
    complete = [n for n in _numbers(folder) if (folder / f"{n:08d}" / ".metadata").is_file()]
    if not complete:
        raise PhaseError(f"{shown(str(folder))} holds no complete sharded checkpoint")
    source = folder / f"{max(complete):08d}"
    own = source / f"rank-{rank()}.pt"
    state = load_checkpoint(own if own.is_file() else source / "rank-0.pt")
    loop_state = state.get("loop", state)
    if not own.is_file():
        loop_state["rng"] = get_rng_state()

    def read(loop: PhaseLoop) -> tuple[dict[str, Any], dict[str, Any]]:
        return _read(source, loop, loop_state)

    run.load_state_dict(state, accept_other_plan=accept_other_plan, read=read)


def _numbers(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return [int(path.name) for path in folder.iterdir() if path.name.isdigit()]


def _split(state: dict[str, Any], loop: PhaseLoop) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what each process keeps for itself, and the tensors that all share."""
    inner = state.get("loop", state)
    buffers = dict(loop.model.named_buffers(remove_duplicate=False))
    own, tensors = {}, {}
    for name, value in inner["model"].items():
        # Replicas differ: DDP hands the first process's to the others before the next batch.
        if name in buffers and not isinstance(value, DTensor):
            own[_name(loop, name)] = value
        else:
            tensors[f"model.{_name(loop, name)}"] = value
    entries: dict[int, dict[str, Any]] = {}
    for index, entry in inner["optimizer"]["state"].items():
        entries[index] = {}
        for key, value in entry.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
                value = {"shape": list(value.shape), "dtype": value.dtype}
            entries[index][key] = value
    optimizer = inner["optimizer"] | {"state": entries}
    plain = inner | {"model": own, "optimizer": optimizer}
    return (plain if inner is state else state | {"loop": plain}), tensors


def _read(
    source: Path, loop: PhaseLoop, saved: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the shared tensors into ones of this process's shards; return both states."""
    optimizer = saved["optimizer"]
    model, tensors = loop.model.state_dict(), {}
    for name, value in model.items():
        if _name(loop, name) in saved["model"]:
            model[name] = saved["model"][_name(loop, name)]
        else:
            tensors[f"model.{_name(loop, name)}"] = value.detach()
    params = params_of(loop.optimizer)
    state: dict[int, dict[str, Any]] = {}
    for index, entry in optimizer["state"].items():
        state[index] = dict(entry)
        for key, value in entry.items():
            if isinstance(value, dict):
                shape, dtype = value["shape"], value["dtype"]
                like = params[index].detach()
                alike = list(like.shape) == shape
                empty = (
                    torch.empty_like(like, dtype=dtype)
                    if alike
                    else torch.empty(shape, dtype=dtype)
                )
                tensors[f"optimizer.{index}.{key}"] = state[index][key] = empty
    try:
        _call(load, tensors, source)
    except (Exception, CheckpointException) as error:
        raise PhaseError(f"{shown(str(source))} is not a whole checkpoint: {error}") from error
    return model, optimizer | {"state": state}


def _call(function: Callable[..., Any], tensors: dict[str, Any], folder: Path) -> None:
    with warnings.catch_warnings():  # that a single process has no process group
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable")
        function(tensors, checkpoint_id=folder, no_dist=world_size() == 1)


def _name(loop: PhaseLoop, name: str) -> str:
    """Return the name that a parameter has outside DistributedDataParallel's wrapper."""
    wrapped = isinstance(loop.model, torch.nn.parallel.DistributedDataParallel)
    return name.removeprefix("module.") if wrapped else name
