"""Shared memory of a batch of blocks, and its shadow: writers and readers since the last barrier.

Two accesses of one place, one of them a write, must have a barrier between them, or a __syncwarp()
if both are of one warp. Epochs count barriers and __syncwarp()s passed; epoch 0 is never. Reads are
recorded when somebody writes near them: most are forgotten before, since a barrier orders them.
"""

from __future__ import annotations

import numpy as np

from emulation.machine import Fault

from .values import UNSIGNED, Array

UNIT = 2  # bytes that one entry of the shadow stands for
READS = 256  # instructions whose reads wait at most, for their memory


class SharedMemory:
    def __init__(self, blocks: int, threads: int, size: int) -> None:
        self.size = size
        self.room = -(-max(size, 1) // 16) * 16
        self.bytes = np.full(blocks * self.room, 0xFF, np.uint8)  # NaN in every float type
        self._block = np.repeat(np.arange(blocks), threads)  # of each lane
        self._thread = np.tile(np.arange(threads, dtype=np.int32), blocks)
        self._begin = self._block * self.room
        units = blocks * self.room // UNIT
        self._writer = np.full(units, -1, np.int32)
        self._reader = np.full(units, -1, np.int32)
        self._in_flight = np.zeros(units, bool)
        self._has_copies = False
        self._reads: list[tuple[int, int, tuple[Array, ...]]] = []  # span in a block, what is read
        self._many_lanes = np.zeros(units, bool)  # have read since the warp's last __syncwarp()
        self._many_warps = np.zeros(units, bool)  # have read since the last barrier
        self._write_epoch = np.zeros(units, np.int32)
        self._write_warp_epoch = np.zeros(units, np.int32)
        self._read_epoch = np.zeros(units, np.int32)
        self._read_warp_epoch = np.zeros(units, np.int32)
        self.epoch = np.ones(blocks, np.int32)
        self.warp_epoch = np.ones(blocks * threads, np.int32)  # by lane, the same within a warp

    def place(self, lanes: Array, address: Array, size: int, text: str) -> Array:
        """Byte offsets in `bytes` of accesses by lanes to their blocks' memory."""
        if address.min(initial=0) < 0 or address.max(initial=0) + size > self.size:
            outside = (address < 0) | (address + size > self.size)
            raise Fault(
                f"out of bounds of shared memory: {int(address[outside][0])} of {self.size} bytes:"
                f" {text}"
            )
        if np.bitwise_or.reduce(address) & (size - 1):
            raise Fault(f"misaligned access to shared memory: {text}")
        return self._begin[lanes] + address

    def load(self, lanes: Array, address: Array, size: int, count: int, text: str) -> list[Array]:
        """`count` numbers of `size` bytes, one after the other, for each lane."""
        place = self.place(lanes, address, size * count, text)
        self.check_read(lanes, place, size * count, text)
        numbers, first = self.bytes.view(UNSIGNED[8 * size]), place // size
        return [numbers[first + i] for i in range(count)]

    def store(self, lanes: Array, address: Array, values: list[Array], text: str) -> None:
        size = values[0].dtype.itemsize
        place = self.place(lanes, address, size * len(values), text)
        self.check_write(lanes, place, size * len(values), text)
        numbers, first = self.bytes.view(UNSIGNED[8 * size]), place // size
        for i, value in enumerate(values):
            numbers[first + i] = value

    def _parties(self, lanes: Array, place: Array, size: int) -> tuple[Array, ...]:
        """Units, (accesses, units of one); threads, barrier and warp epochs, (accesses, 1)."""
        return (
            _units(place, size),
            self._thread[lanes][:, None],
            self.epoch[self._block[lanes]][:, None],
            self.warp_epoch[lanes][:, None],
        )

    def _refuse(self, wrong: Array, lanes: Array, place: Array, what: str, text: str) -> None:
        if wrong.any():
            row = int(np.argwhere(wrong)[0][0])
            lane = int(lanes[row])
            thread, offset = int(self._thread[lane]), int(place[row]) % self.room
            raise Fault(f"{what}: thread {thread} at shared[{offset}]: {text}")

    def _unordered_write(self, units: Array, me: Array, epoch: Array, warp_epoch: Array) -> Array:
        recent = self._write_epoch[units] == epoch
        if not recent.any():
            return recent
        writer = self._writer[units]
        recent &= writer != me
        within = (writer >> 5 == me >> 5) & (self._write_warp_epoch[units] < warp_epoch)
        return recent & ~within

    def check_read(self, lanes: Array, place: Array, size: int, text: str) -> None:
        units, me, epoch, warp_epoch = self._parties(lanes, place, size)
        if self._has_copies:
            flying = self._in_flight[units]
            self._refuse(flying, lanes, place, "read of bytes that a cp.async has in flight", text)
        never = self._write_epoch[units] == 0
        self._refuse(never, lanes, place, "read of uninitialised shared memory", text)
        raced = self._unordered_write(units, me, epoch, warp_epoch)
        self._refuse(raced, lanes, place, "race with a write", text)
        self._reads.append(
            (*self._span(lanes, place, size), (units, me, epoch, warp_epoch, self._block[lanes]))
        )
        if len(self._reads) > READS:
            self._record_reads(0, self.room)

    def _span(self, lanes: Array, place: Array, size: int) -> tuple[int, int]:
        within = place - self._begin[lanes]
        return int(within.min(initial=self.room)), int(within.max(initial=0)) + size

    def _record_reads(self, begin: int, end: int) -> None:
        """Record reads, in their order, until no other may touch these bytes of a block.

        Those since which a barrier has been passed are forgotten.
        """
        count = len(self._reads)
        while count and (self._reads[count - 1][0] >= end or self._reads[count - 1][1] <= begin):
            count -= 1
        for _, _, (*read, block) in self._reads[:count]:
            recent = read[2][:, 0] == self.epoch[block]
            if recent.all():
                self._record_read(*read)
            elif recent.any():
                self._record_read(*(each[recent] for each in read))
        del self._reads[:count]

    def _record_read(self, units: Array, me: Array, epoch: Array, warp_epoch: Array) -> None:
        before = self._reader[units]
        recent = self._read_epoch[units] == epoch
        same_warp = before >> 5 == me >> 5
        same_time = self._read_warp_epoch[units] == warp_epoch
        self._many_warps[units[~recent]] = False
        self._many_lanes[units[~recent | (same_warp & ~same_time)]] = False
        self._many_warps[units[recent & ~same_warp]] = True
        self._many_lanes[units[recent & same_warp & same_time & (before != me)]] = True
        self._reader[units] = me
        self._read_epoch[units] = epoch
        self._read_warp_epoch[units] = warp_epoch
        last = self._reader[units]  # of the lanes that read one place at once
        self._many_warps[units[last >> 5 != me >> 5]] = True
        self._many_lanes[units[last != me]] = True

    def check_write(
        self, lanes: Array, place: Array, size: int, text: str, lands: bool = False
    ) -> None:
        """Check a write and record it; `lands`: of a cp.async that its own thread waited for."""
        units, me, epoch, warp_epoch = self._parties(lanes, place, size)
        if self._has_copies and not lands:
            flying = self._in_flight[units]
            self._refuse(flying, lanes, place, "write to bytes that a cp.async has in flight", text)
        raced = self._unordered_write(units, me, epoch, warp_epoch)
        self._refuse(raced, lanes, place, "race with a write", text)
        if not lands:  # while it flew, a read of these bytes was a fault by itself
            self._refuse_unordered_reads(lanes, place, size, units, me, epoch, warp_epoch, text)
        self._writer[units] = me
        self._write_epoch[units] = epoch
        self._write_warp_epoch[units] = warp_epoch
        both = self._writer[units] != me
        self._refuse(both, lanes, place, "race with a write, in one instruction", text)

    def _refuse_unordered_reads(
        self, lanes: Array, place: Array, size: int, units: Array, me: Array, epoch: Array,
        warp_epoch: Array, text: str,
    ) -> None:  # fmt: skip
        self._record_reads(*self._span(lanes, place, size))
        recent = self._read_epoch[units] == epoch
        if recent.any():
            reader = self._reader[units]
            others = (reader >> 5 != me >> 5) | self._many_warps[units]
            within = self._read_warp_epoch[units] == warp_epoch
            others |= within & (self._many_lanes[units] | (reader != me))
            self._refuse(recent & others, lanes, place, "race with a read", text)

    def start_copy(self, lanes: Array, place: Array, size: int, text: str) -> None:
        self.check_write(lanes, place, size, text)
        self._in_flight[_units(place, size)] = True
        self._has_copies = True

    def land_copy(self, lanes: Array, place: Array, size: int, text: str) -> None:
        self.check_write(lanes, place, size, text, lands=True)
        self._in_flight[_units(place, size)] = False


def _units(place: Array, size: int) -> Array:
    """The shadow's entries for accesses of so many bytes, (accesses, entries of one)."""
    return (place // UNIT)[:, None] + np.arange(-(-size // UNIT))
