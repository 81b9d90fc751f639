"""Run what a host library launches: on fibers, on fibers with checks, or as PTX.

A run copies arrays to where the library's kernels find them, calls, and copies the results back.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

INPUT, OUTPUT, WORKSPACE = 0, 1, 2


class Fault(AssertionError):  # noqa: N818
    """What a detector found."""


class Tensor(NamedTuple):
    """An array of a run, its name in reports, and what kernels may do with it."""

    name: str
    array: np.ndarray
    role: int = INPUT


def call(function: Callable[..., bytes | None], *arguments: object) -> bytes | None:
    """Call a C function with texts and addresses; returns the text that says what went wrong."""
    converted = [
        a.encode() if isinstance(a, str) else ctypes.c_void_p(a) if isinstance(a, int) else a
        for a in arguments
    ]
    return function(*converted)


def require(error: bytes | None) -> None:
    """Raise Fault with an error's text."""
    if error is not None:
        raise Fault(error.decode())


def turns(library: ctypes.CDLL, order: str = "forward", seed: int = 1) -> None:
    """Set the order in which the threads of a block get their turn."""
    library.emulation_turns(("forward", "backward", "shuffled").index(order), ctypes.c_uint(seed))


def mutate(library: ctypes.CDLL, number: int) -> None:
    """Turn on one of the faults of a mutable library; 0: none."""
    library.emulation_mutant(number)


def run_on_fibers(
    library: ctypes.CDLL, tensors: Sequence[Tensor], call: Callable[[list[int | None]], None]
) -> list[dict[str, int]]:
    """Call with the addresses of tensors; a checked library counts their bytes and may raise.

    Returns, for each tensor, bytes read, written and never written (empty without checks). A
    library that runs its launches elsewhere (`ptx.launch.PtxLibrary`) runs them there.
    """
    if not isinstance(library, ctypes.CDLL):
        return library.run(tensors, call)
    if not hasattr(library, "emulation_tensor"):
        call([tensor.array.ctypes.data if tensor.array.size else None for tensor in tensors])
        return [{} for _ in tensors]
    library.emulation_tensor.restype = ctypes.c_void_p
    library.emulation_count.restype = ctypes.c_uint64
    library.emulation_clear()
    addresses: list[int | None] = []
    for name, array, role in tensors:
        address = library.emulation_tensor(name.encode(), ctypes.c_size_t(array.nbytes), role)
        ctypes.memmove(address, array.ctypes.data, array.nbytes)
        addresses.append(address if array.size else None)
    call(addresses)
    counts = []
    for i, (name, array, role) in enumerate(tensors):
        read, written, never = (library.emulation_count(ctypes.c_size_t(i), w) for w in range(3))
        if role == OUTPUT and never:
            raise Fault(f"{never} of {array.nbytes} bytes of {name} were never written")
        if role == OUTPUT:
            ctypes.memmove(array.ctypes.data, addresses[i], array.nbytes)
        counts.append({"read": read, "written": written, "never": never})
    return counts


class Launches:
    """A host library whose launches are taken down by name, and not run."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self.names: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def run(
        self, tensors: Sequence[Tensor], call: Callable[[list[int | None]], None]
    ) -> list[dict[str, int]]:
        with launches_go_to(self._library, lambda name, _: self.names.add(name)):
            call([t.array.ctypes.data if t.array.size else None for t in tensors])
        return [{} for _ in tensors]


class Launched(ctypes.Structure):
    """cuda_host::Launched."""

    _fields_ = [
        ("kernel", ctypes.c_void_p),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_size_t),
        ("arguments", ctypes.POINTER(ctypes.c_size_t * 2)),
        ("count", ctypes.c_size_t),
    ]

    def argument_bytes(self) -> list[bytes]:
        pairs = [self.arguments[i] for i in range(self.count)]
        return [ctypes.string_at(address, size) for address, size in pairs]


Elsewhere = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(Launched))


@contextlib.contextmanager
def launches_go_to(
    library: ctypes.CDLL, run: Callable[[str, Launched], None]
) -> Iterator[list[BaseException]]:
    """Let `run` take every launch; what it raises is raised at the end of the block."""
    raised: list[BaseException] = []

    def take(name: bytes, launched: ctypes._Pointer[Launched]) -> int:
        try:
            run(name.decode(), launched.contents)
        except BaseException as error:
            raised.append(error)
        return len(raised)

    callback = Elsewhere(take)
    library.emulation_elsewhere(callback)
    try:
        yield raised
    finally:
        library.emulation_elsewhere(None)
    if raised:
        raise raised[0]
