"""Global memory: arrays at their real addresses, and who wrote each element in which launch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emulation.machine import INPUT, OUTPUT, WORKSPACE, Fault, Tensor

from .values import UNSIGNED, Array

UNIT = 2  # bytes that one entry of the shadow stands for: the smallest element


class Tensors:
    """The tensors that kernels may reach, for several launches on the same ones.

    `sampled`: not all blocks of a launch run, so a workspace may be read where nobody has written.
    """

    def __init__(self, tensors: list[Tensor], sampled: bool = False) -> None:
        kept = [tensor for tensor in tensors if tensor.array.size]
        self.tensors = sorted(kept, key=lambda tensor: tensor.array.ctypes.data)
        self.bytes = [t.array.reshape(-1).view(np.uint8) for t in self.tensors]
        self._begin = np.array([t.array.ctypes.data for t in self.tensors], np.int64)
        self._end = self._begin + np.array([t.array.nbytes for t in self.tensors], np.int64)
        self._writers = [
            np.full(
                0 if t.role == INPUT else -(-t.array.nbytes // UNIT),
                -1 if sampled and t.role == WORKSPACE else 0,
                np.int64,
            )
            for t in self.tensors
        ]
        self.read_bytes = np.zeros(len(self.tensors), np.int64)
        self.written_bytes = np.zeros(len(self.tensors), np.int64)
        self._launch = 0

    def begin_launch(self) -> None:
        self._launch += 1

    def _locate(self, address: Array, size: int, text: str) -> list[tuple[int, Array | slice]]:
        """Each tensor that is reached, and by which addresses; most often there is but one."""
        if np.bitwise_or.reduce(address) & (size - 1):
            raise Fault(f"misaligned access to global memory: {text}")
        one = int(np.searchsorted(self._begin, address.min(), "right")) - 1
        if one >= 0 and address.max() + size <= self._end[one]:
            return [(one, slice(None))]
        which = np.searchsorted(self._begin, address, "right") - 1
        inside = (which >= 0) & (address + size <= self._end[which])
        if not inside.all():
            lost = int(address[~inside][0])
            near = self._nearest(lost)
            raise Fault(f"out of bounds of global memory, {near}: {text}")
        return [(int(i), which == i) for i in np.unique(which)]

    def _nearest(self, address: int) -> str:
        distance = np.minimum(abs(self._begin - address), abs(self._end - address))
        i = int(distance.argmin())
        return f"{address - int(self._begin[i])} of {self.tensors[i].name}'s {len(self.bytes[i])}"

    def load(self, address: Array, size: int, count: int, thread: Array, text: str) -> list[Array]:
        """`count` numbers of `size` bytes at each address; `thread` tells the grid's apart."""
        results = [np.empty(len(address), UNSIGNED[8 * size]) for _ in range(count)]
        for i, here in self._locate(address, size * count, text):
            offset = address[here] - self._begin[i]
            self.read_bytes[i] += size * count * len(offset)
            if self.tensors[i].role != INPUT:
                self._check_read(i, offset, size * count, thread[here], text)
            numbers, first = self._view(i, size), offset // size
            for k, result in enumerate(results):
                result[here] = numbers[first + k]
        return results

    def store(self, address: Array, values: list[Array], thread: Array, text: str) -> None:
        size = values[0].dtype.itemsize
        whole = size * len(values)
        for i, here in self._locate(address, whole, text):
            offset = address[here] - self._begin[i]
            self.written_bytes[i] += whole * len(offset)
            self._record_write(i, offset, whole, thread[here], text)
            numbers, first = self._view(i, size), offset // size
            for k, value in enumerate(values):
                numbers[first + k] = value[here]

    def _view(self, i: int, size: int) -> Array:
        data = self.bytes[i]
        return data[: len(data) // size * size].view(UNSIGNED[8 * size])

    def _units(self, offset: Array, size: int) -> Array:
        return (offset[:, None] + np.arange(0, size, UNIT)) // UNIT

    def _tag(self, thread: Array) -> Array:
        return (self._launch << 42) + thread[:, None] + 1

    def _check_read(self, i: int, offset: Array, size: int, thread: Array, text: str) -> None:
        writer = self._writers[i][self._units(offset, size)]
        if (writer == 0).any():
            raise Fault(f"read of {self.tensors[i].name} where nobody has written: {text}")
        if ((writer >> 42 == self._launch) & (writer != self._tag(thread))).any():
            name = self.tensors[i].name
            raise Fault(f"read of what another thread wrote to {name} in this launch: {text}")

    def _record_write(self, i: int, offset: Array, size: int, thread: Array, text: str) -> None:
        tensor = self.tensors[i]
        if tensor.role == INPUT:
            raise Fault(f"write to an input, {tensor.name}: {text}")
        units, tag = self._units(offset, size), self._tag(thread)
        writers = self._writers[i]
        before = writers[units]
        twice = (before != 0) & ((tensor.role == OUTPUT) | (before >> 42 == self._launch))
        if twice.any():
            who = "by two threads" if (before != tag)[twice].any() else "twice"
            raise Fault(f"{tensor.name} is written {who}: {text}")
        writers[units] = tag
        if (writers[units] != tag).any():
            raise Fault(f"{tensor.name} is written by two threads: {text}")

    def require_complete(self) -> None:
        """Raise Fault unless every element of each output has been written."""
        for tensor, writers in zip(self.tensors, self._writers, strict=True):
            if tensor.role == OUTPUT and (writers == 0).any():
                missing = int((writers == 0).sum()) * UNIT
                size = tensor.array.nbytes
                raise Fault(f"{missing} of {size} bytes of {tensor.name} were never written")

    def bytes_moved(self, tensors: Sequence[Tensor]) -> list[dict[str, int]]:
        """Bytes read and written of each tensor."""
        moved = {
            tensor.array.ctypes.data: {"read": int(read), "written": int(written)}
            for tensor, read, written in zip(
                self.tensors, self.read_bytes, self.written_bytes, strict=True
            )
        }
        nothing = {"read": 0, "written": 0}
        return [moved[t.array.ctypes.data] if t.array.size else nothing for t in tensors]
