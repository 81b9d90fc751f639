"""ldmatrix and mma.sync: what lane = 4 g + q holds of a fragment (csrc/conv/cuda/ptx.cuh)."""

from __future__ import annotations

import numpy as np

from .lanes import vector
from .opcodes import opcode
from .parse import Instruction, Unsupported
from .values import Array, from_bfloat16

G, Q = np.arange(32) >> 2, np.arange(32) & 3


def whole_warps(machine, ins: Instruction, mask: Array) -> Array:
    """Which warps take part, all of their lanes together."""
    if machine.lanes.threads % 32:
        raise Unsupported(f"a block of {machine.lanes.threads} threads: {ins.text}")
    machine.require_whole_warps(ins, mask)
    return mask.reshape(-1, 32).all(1)


@opcode("ldmatrix")
def load_matrices(machine, ins: Instruction, mask: Array) -> None:
    transposed = "trans" in ins.parts
    plain = tuple(p for p in ins.parts if p not in ("trans", "x1", "x2", "x4"))
    if plain not in (
        ("ldmatrix", "sync", "aligned", "m8n8", "shared", "b16"),
        ("ldmatrix", "sync", "aligned", "m8n8", "shared_cta", "b16"),
    ):
        raise Unsupported(ins.text)
    warps = whole_warps(machine, ins, mask)
    address = machine.lanes.address(ins.operands[1]).reshape(-1, 32)[warps]
    lanes = np.flatnonzero(mask).reshape(-1, 32)
    for i, register in enumerate(vector(ins.operands[0])):
        rows, readers = address[:, 8 * i : 8 * i + 8], lanes[:, 8 * i : 8 * i + 8]
        place = machine.shared.place(readers.reshape(-1), rows.reshape(-1), 16, ins.text)
        if machine.counts:
            _count(machine, readers, rows)
        row = place.reshape(-1, 8, 1) + 2 * np.arange(8)  # each element's place: warp, row, column
        along = 2 * Q[:, None] + np.arange(2)
        where = row[:, along, G[:, None]] if transposed else row[:, G[:, None], along]
        for half in range(2):
            machine.shared.check_read(lanes.reshape(-1), where[:, :, half].reshape(-1), 2, ins.text)
        values = machine.shared.bytes.view(np.uint16)[where // 2].astype(np.uint32)
        full = np.zeros(machine.lanes.count, np.uint32)
        full[mask] = (values[:, :, 0] | values[:, :, 1] << np.uint32(16)).reshape(-1)
        machine.lanes.write(register, full, mask)


def _count(machine, readers: Array, rows: Array) -> None:
    full = np.zeros(machine.lanes.count, np.int64)
    takes_part = np.zeros(machine.lanes.count, bool)
    full[readers.reshape(-1)] = rows.reshape(-1)
    takes_part[readers.reshape(-1)] = True
    machine.counts.count_shared("ldmatrix", full, 16, takes_part)


@opcode("mma")
def multiply(machine, ins: Instruction, mask: Array) -> None:
    head, kinds = ins.parts[:6], ins.parts[6:]
    known = {
        ("m16n8k16", ("f32", "f16", "f16", "f32")),
        ("m16n8k16", ("f32", "bf16", "bf16", "f32")),
        ("m16n8k8", ("f32", "tf32", "tf32", "f32")),
    }
    if head[1:3] != ("sync", "aligned") or head[4:6] != ("row", "col"):
        raise Unsupported(ins.text)
    if (head[3], kinds) not in known:
        raise Unsupported(ins.text)
    whole_warps(machine, ins, mask)
    d, a, b, c = (vector(operand) for operand in ins.operands)
    packed = 1 if kinds[1] == "tf32" else 2
    element = np.arange(packed)
    warps = machine.lanes.count // 32
    left, right = np.zeros((warps, 16, 8 * packed)), np.zeros((warps, 8 * packed, 8))
    for r, register in enumerate(a):
        column = packed * (Q + 4 * (r >> 1))[:, None] + element
        left[:, (G + 8 * (r & 1))[:, None], column] = _elements(machine, register, kinds[1])
    for r, register in enumerate(b):
        row = packed * (Q + 4 * r)[:, None] + element
        right[:, row, G[:, None]] = _elements(machine, register, kinds[1])
    product = left @ right
    for e, (target, start) in enumerate(zip(d, c, strict=True)):
        total = product[:, G + 8 * (e >> 1), 2 * Q + (e & 1)].reshape(-1)
        total = total + np.asarray(machine.lanes.read(start, "f32")).astype(np.float64)
        machine.staged.append((target, total.astype(np.float32)))
    for target, value in machine.staged:
        machine.lanes.write(target, value, mask)
    machine.staged.clear()


def _elements(machine, register: str, kind: str) -> Array:
    """A fragment's register as (warps, 32, elements) of float64."""
    bits = np.broadcast_to(machine.lanes.read(register, "b32"), (machine.lanes.count,))
    bits = np.ascontiguousarray(bits).reshape(-1, 32)
    if kind == "tf32":
        return (bits & np.uint32(0xFFFFE000)).view(np.float32)[..., None].astype(np.float64)
    halves = np.stack([bits & np.uint32(0xFFFF), bits >> np.uint32(16)], -1).astype(np.uint16)
    numbers = halves.view(np.float16) if kind == "f16" else from_bfloat16(halves)
    return numbers.astype(np.float64)
