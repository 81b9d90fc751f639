"""Which of the two implementations serves: the setting, and the context that restores it."""

from __future__ import annotations

from contextvars import ContextVar
from types import TracebackType

from pyphase.errors import shown

__all__ = ["BACKENDS", "backend", "current_backend"]

BACKENDS = ("auto", "native", "torch")

_current: ContextVar[str] = ContextVar("pyphase.conv.backend", default="auto")

current_backend = _current.get


class backend:  # noqa: N801  (reads as torch.no_grad does)
    """Choose what computes the factorized convolutions from here on, or inside a ``with`` block.

    The fused kernels are for depthwise pairs (as many groups as channels, twice), and for pairs
    with one group: on the CPU in float32, on CUDA devices, where they were built, in all types but
    float64.

    Args:
        name: ``"auto"``: the fused kernel where it is the faster one, else torch's two
            convolutions. On the CPU a pure function of the problem. On a CUDA device both are timed
            once for each problem, and :func:`choices` lists the results; in the capture of a CUDA
            graph, and under ``torch.use_deterministic_algorithms``, nothing is timed.
            ``"native"``: the fused kernel wherever there is one. ``"torch"``: torch's two
            convolutions.

    The results are the same but for rounding, and a problem without a fused kernel is never an
    error: torch's convolutions serve it. The setting is the current thread's (and asyncio task's)
    own, as torch's grad mode is; other threads start at ``"auto"``. It counts when the work is
    done: in a backward pass, the setting during ``backward()``; in compiled code, the one during
    the call. Set it outside of compiled functions.

    Raises:
        ValueError: there is no such backend.

    Example:
        >>> with backend("torch"):
        ...     print(current_backend())
        torch
        >>> current_backend()
        'auto'
    """

    def __init__(self, name: str) -> None:
        if name not in BACKENDS:
            raise ValueError(f"`name` (={shown(name)}) must be one of {BACKENDS}")
        self._name = name
        self._previous = current_backend()
        _current.set(name)

    def __enter__(self) -> backend:
        if current_backend() != self._name:  # entered again, after it was left
            self._previous = current_backend()
            _current.set(self._name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _current.set(self._previous)

    def __repr__(self) -> str:
        return f"backend({self._name!r})"
