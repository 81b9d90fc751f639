"""Random-number states, and checkpoint files that are written whole or not at all."""

from __future__ import annotations

import glob
import os
import pickle
import random
import re
import uuid
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyphase.errors import PhaseError, shown

__all__ = [
    "get_rng_state",
    "load_checkpoint",
    "remove_leftovers",
    "save_checkpoint",
    "set_rng_state",
]


def get_rng_state() -> dict[str, Any]:
    """Return the states of Python's, numpy's and torch's global generators (CPU and CUDA)."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Set the generators back to what :func:`get_rng_state` returned."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    for device, own in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(own, device)


def save_checkpoint(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Write ``state`` to a file, whole or not at all.

    It goes to a new file in the same folder, is flushed to the disk and then takes the place of
    the old file in one move. Whatever fails, the old file stays as it is.

    Raises:
        OSError: the folder can't be written to, or the disk is full.
        PhaseError: ``state`` holds what :func:`load_checkpoint` would refuse.
    """
    state = _plain(state)
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        _check_readable(temporary)
        os.replace(temporary, target)
        _flush_folder(target.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # torch's writer hides what the file said behind an error about positions.
        if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _check_readable(path: Path) -> None:
    """Raise for a file that could not be read back; its tensors are left where they are."""
    try:
        torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" ({found[1]})" if found else ""
        raise PhaseError(
            f"the state can't be saved: it holds objects{what} other than tensors and plain values"
        ) from None


def _flush_folder(folder: Path) -> None:
    """Make a move within a folder outlast a power cut, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove the temporary files of saves to ``path`` whose process was killed."""
    target = Path(path)
    for left in target.parent.glob(f".{glob.escape(target.name)}.*"):
        if re.fullmatch("[0-9a-f]{32}", left.name[len(target.name) + 2 :]):
            left.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """Return a nested state with numpy's numbers as Python's, which is what a loader accepts."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (dict, OrderedDict):
        return type(value)((key, _plain(item)) for key, item in value.items())
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    return value


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote; no code in the file is run.

    Raises:
        FileNotFoundError: there is no such file.
        PhaseError: the file is damaged, or not a pyphase checkpoint.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"`path` must be a path of a file, got {shown(path)}")
    _check_whole(path)  # torch.load doesn't compare the checksums
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise PhaseError(
            f"{shown(str(path))} is not a pyphase checkpoint: it holds objects other than tensors "
            "and plain values"
        ) from None
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise PhaseError(f"{shown(str(path))} is not a pyphase checkpoint: {reason}") from None
    if not isinstance(state, dict) or "pyphase" not in state:
        raise PhaseError(f"{shown(str(path))} is not a pyphase checkpoint")
    return state


def _check_whole(path: str | os.PathLike[str]) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except OSError as error:
        if error.filename is not None:  # not there, or not to be read
            raise
        damaged = str(error)
    except (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, RuntimeError) as error:
        damaged = str(error)
    if damaged is not None:
        raise PhaseError(f"{shown(str(path))} is not a whole checkpoint: {damaged}")
