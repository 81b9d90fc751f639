"""cp.async: the bytes arrive at once, but count as in flight until their thread waits for them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from emulation.machine import Fault

from .opcodes import opcode
from .parse import Instruction, Unsupported
from .values import Array


class Flight(NamedTuple):
    """One instruction's copies."""

    lanes: Array
    places: Array
    groups: Array  # the number of each lane's group
    size: int
    text: str


class Flights:
    def __init__(self, lanes: int) -> None:
        self._group = np.zeros(lanes, np.int64)  # the one that each lane has open
        self._flights: list[Flight] = []

    def start(self, machine, lanes: Array, places: Array, size: int, text: str) -> None:
        machine.shared.start_copy(lanes, places, size, text)
        self._flights.append(Flight(lanes, places, self._group[lanes].copy(), size, text))

    def commit(self, mask: Array) -> None:
        self._group[mask] += 1

    def wait(self, machine, mask: Array, pending: int | None) -> None:
        """Land all but the latest `pending` groups of each lane; None: uncommitted copies too."""
        left = []
        for lanes, places, groups, size, text in self._flights:
            bound = self._group[lanes] - (pending or 0)
            done = mask[lanes] & ((groups < bound) | (pending is None))
            if done.any():
                machine.shared.land_copy(lanes[done], places[done], size, text)
            if not done.all():
                left.append(Flight(lanes[~done], places[~done], groups[~done], size, text))
        self._flights = left

    def require_none(self, leaving: Array) -> None:
        for flight in self._flights:
            if leaving[flight.lanes].any():
                raise Fault(f"a thread exits with cp.async in flight: {flight.text}")


@opcode("cp")
def copy(machine, ins: Instruction, mask: Array) -> None:
    """cp.async.{ca,cg}.shared.global [to], [from], size{, bytes that are not zero}."""
    if ins.parts[1] != "async":
        raise Unsupported(ins.text)
    if ins.parts[2] == "commit_group":
        machine.flights.commit(mask)
    elif ins.parts[2] == "wait_group":
        machine.flights.wait(machine, mask, int(ins.operands[0]))
    elif ins.parts[2] == "wait_all":
        machine.flights.wait(machine, mask, None)
    elif ins.parts[2] in ("ca", "cg") and ins.parts[3:] == ("shared", "global"):
        _start(machine, ins, mask)
    else:
        raise Unsupported(ins.text)


def _start(machine, ins: Instruction, mask: Array) -> None:
    lanes, size = machine.chosen(mask), int(ins.operands[2])
    to, source = (machine.lanes.address(o) for o in ins.operands[:2])
    valid = np.full(machine.lanes.count, size)
    if len(ins.operands) > 3:
        valid[:] = machine.lanes.read(ins.operands[3], "u32")
    if not np.isin(valid[lanes], (0, size)).all():
        raise Unsupported(f"a part of a copy: {ins.text}")
    if (source[lanes] % size).any():
        raise Fault(f"misaligned access to global memory: {ins.text}")
    if machine.counts:
        machine.counts.count_global("cp.async", source, size, mask & (valid > 0))
        machine.counts.count_shared("cp.async", to, size, mask)
    places = machine.shared.place(lanes, to[lanes], size, ins.text)
    machine.flights.start(machine, lanes, places, size, ins.text)
    step = min(size, 8)
    reading = lanes[valid[lanes] > 0]
    parts = [np.zeros(0, f"u{step}")] * (size // step)
    if reading.size:
        parts = machine.tensors.load(
            source[reading], step, len(parts), machine.grid_thread[reading], ins.text
        )
    for i, part in enumerate(parts):
        value = np.zeros(machine.lanes.count, f"u{step}")
        value[reading] = part
        machine.shared.bytes.view(f"u{step}")[places // step + i] = value[lanes]
