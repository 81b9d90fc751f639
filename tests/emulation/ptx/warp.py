"""Shuffles and votes of a warp."""

from __future__ import annotations

import numpy as np

from emulation.machine import Fault

from .matrix import whole_warps
from .opcodes import opcode
from .parse import Instruction, Unsupported
from .values import Array


@opcode("shfl")
def shuffle(machine, ins: Instruction, mask: Array) -> None:
    """shfl.sync.mode.b32 d[|p], a, b, c, members: whole warps with the full width."""
    if ins.parts[1] != "sync" or ins.type != "b32":
        raise Unsupported(ins.text)
    members = np.broadcast_to(machine.lanes.read(ins.operands[4], "u32"), mask.shape)[mask]
    if (members != 0xFFFFFFFF).any():
        raise Unsupported(f"a shuffle in a part of a warp: {ins.text}")
    whole_warps(machine, ins, mask)
    clamp = np.broadcast_to(machine.lanes.read(ins.operands[3], "u32"), mask.shape)[mask]
    if not np.isin(clamp, (0, 31)).all():
        raise Unsupported(f"a shuffle of a part of a warp's width: {ins.text}")
    value = np.broadcast_to(machine.lanes.read(ins.operands[1], "b32"), mask.shape)
    by = (
        np.broadcast_to(machine.lanes.read(ins.operands[2], "u32"), mask.shape).astype(np.int64)
        & 31
    )
    lane = machine.lanes.thread % 32
    source = {
        "bfly": lane ^ by,
        "up": lane - by,
        "down": lane + by,
        "idx": by,
    }[ins.parts[2]]
    inside = (source >= 0) & (source < 32)
    source = np.where(inside, source, lane)
    position = np.arange(machine.lanes.count) - lane + source
    targets = ins.operands[0].split("|")
    machine.lanes.write(targets[0], np.ascontiguousarray(value)[position], mask)
    if len(targets) > 1:
        machine.lanes.write(targets[1], inside, mask)


@opcode("vote")
def vote(machine, ins: Instruction, mask: Array) -> None:
    if ins.parts[1] != "sync" or ins.parts[2] not in ("any", "all", "ballot"):
        raise Unsupported(ins.text)
    whole_warps(machine, ins, mask)
    said = np.broadcast_to(machine.lanes.read(ins.operands[1], "pred"), mask.shape).reshape(-1, 32)
    if ins.parts[2] == "ballot":
        result = (said.astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(1).astype(np.uint32)
    else:
        result = said.any(1) if ins.parts[2] == "any" else said.all(1)
    machine.lanes.write(ins.operands[0], np.repeat(result, 32), mask)


@opcode("activemask")
def active(machine, ins: Instruction, mask: Array) -> None:
    raise Fault(f"which lanes are active is not defined: {ins.text}")
