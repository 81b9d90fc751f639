"""Measured choices in a file, for later processes on the same GPU with the same software."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pyphase.conv.cuda import load

__all__ = ["choices_path", "read_choices", "remove_choices", "write_choice"]


def choices_path() -> Path | None:
    """Return the file's path; None where nothing is to be kept."""
    named = os.environ.get("PYPHASE_CACHE")
    if named is not None:
        return Path(named) / "conv_choices.json" if named else None
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "pyphase" / "conv_choices.json"


def read_choices() -> list[list[Any]]:
    """Return the choices of this software, none where there is no readable file."""
    return [list(values) for values in _read().get(_software(), [])]


def write_choice(choice: Sequence[Any]) -> None:
    """Add a choice; where the file can't be written, it is kept in memory alone."""
    path = choices_path()
    if path is None:
        return
    found = _read()
    rest = [values for values in found.get(_software(), []) if values[:3] != list(choice[:3])]
    found[_software()] = [*rest, list(choice)]
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)
        os.replace(name, path)  # whole or not at all


def remove_choices() -> None:
    """Remove the file."""
    path = choices_path()
    if path is not None:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _read() -> dict[str, list[Any]]:
    path = choices_path()
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _software() -> str:
    """Return what a time depends on besides the GPU."""
    module = load()
    built = getattr(module, "__file__", None)
    stamp = int(os.stat(built).st_mtime) if built else 0
    cudnn: Any = torch.backends.cudnn
    return f"torch {torch.__version__}, cuDNN {cudnn.version()}, kernels {stamp}"
