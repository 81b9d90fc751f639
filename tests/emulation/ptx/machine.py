"""Run a kernel's instructions over all lanes of a batch of blocks."""

from __future__ import annotations

import numpy as np

from emulation.machine import Fault

from . import arithmetic, asynchronous, convert, logic, matrix, memory, warp
from .counters import Counts
from .lanes import Lanes
from .opcodes import TABLE
from .parse import Instruction, Kernel, Unsupported
from .shadow import SharedMemory
from .tensors import Tensors
from .values import UNSIGNED, Array

GROUPS = (arithmetic, asynchronous, convert, logic, matrix, memory, warp)  # that filled TABLE
RUNNING = -1  # of `waiting`: the program counter of the barrier otherwise
WHOLE_WARP = ("shfl", "vote")  # by .sync, the first lanes of a warp wait there for the others


class Machine:
    """The state of a batch of blocks while it runs."""

    def __init__(
        self,
        kernel: Kernel,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        shared: int,
        arguments: bytes,
        tensors: Tensors,
        blocks: Array,
        counts: Counts | None = None,
    ) -> None:
        self.kernel = kernel
        self.lanes = Lanes(kernel, grid, block, blocks)
        self.shared = SharedMemory(len(blocks), self.lanes.threads, shared)
        self.flights = asynchronous.Flights(self.lanes.count)
        self.tensors = tensors
        self.counts = counts
        if counts:
            counts.threads = self.lanes.threads
        self.grid_thread = np.repeat(np.asarray(blocks, np.int64), self.lanes.threads) * 1024
        self.grid_thread += self.lanes.thread
        self.staged: list[tuple[str, Array]] = []  # results of an instruction that reads first
        self._local = np.full((self.lanes.count, kernel.local_bytes), 0xFF, np.uint8)
        self._arguments = np.frombuffer(arguments, np.uint8)
        self._mask, self._chosen = np.zeros(0, bool), np.zeros(0, np.int64)
        self._counter = np.zeros(self.lanes.count, np.int64)
        self._live = np.ones(self.lanes.count, bool)
        self._waiting = np.full(self.lanes.count, RUNNING)
        self._meeting = np.full(self.lanes.count, RUNNING)  # the same, for the rest of a warp

    def parameter(self, address: Array, size: int) -> Array:
        """Numbers in the kernel's arguments; a single one where all addresses are the same."""
        least, most = int(address.min()), int(address.max())
        if least < 0 or most + size > len(self._arguments):
            raise Fault("out of bounds of the arguments")
        if least == most:
            return self._arguments[least : least + size].view(UNSIGNED[8 * size])
        raw = self._arguments[address[:, None] + np.arange(size)]
        return np.ascontiguousarray(raw).view(UNSIGNED[8 * size])[:, 0]

    def chosen(self, mask: Array) -> Array:
        """The numbers of a mask's lanes; a mask is seldom used for one instruction alone."""
        if self._mask is not mask:
            self._mask, self._chosen = mask, np.flatnonzero(mask)
        return self._chosen

    def local(self, lanes: Array, address: Array, size: int, value: Array | None = None) -> Array:
        """Bytes of lanes' local memory, after `value` has been put there."""
        if (address < 0).any() or (address + size > self._local.shape[1]).any():
            raise Fault("out of bounds of local memory")
        place = (lanes[:, None], address[:, None] + np.arange(size))
        if value is not None:
            self._local[place] = value
        return self._local[place]

    def run(self) -> None:
        while self._live.any():
            ready = self._live & (self._waiting == RUNNING) & (self._meeting == RUNNING)
            if not ready.any():
                for at in self._meeting[self._meeting != RUNNING]:
                    text = self.kernel.instructions[at].text
                    raise Fault(f"a part of a warp takes part in a warp's instruction: {text}")
                raise Fault("deadlock: every thread waits at a barrier or has exited")
            at = int(self._counter[ready].min())
            mask = ready & (self._counter == at)
            if mask.all():
                mask = self.lanes.every
            others = self._counter[ready & ~mask]
            self._run_on(at, mask, int(others.min()) if others.size else -1)

    def _run_on(self, at: int, mask: Array, until: int) -> None:
        """Run lanes that are together until they may part, or meet those that are at `until`."""
        code = self.kernel.instructions
        while at != until:
            if at >= len(code):
                raise Fault("a thread runs past the last instruction")
            ins = code[at]
            if ins.name in WHOLE_WARP and self._must_meet(ins, at, mask):
                break
            at += 1
            if ins.is_control:
                to = self._together(ins, at, mask)
                if to is not None and (until < 0 or to <= until):
                    at = to
                    continue
                self._counter[mask] = at
                self._step(ins, mask)
                return
            self._step(ins, mask)
        self._counter[mask] = at

    def _together(self, ins: Instruction, at: int, mask: Array) -> int | None:
        """Where a branch takes lanes that all go one way."""
        if ins.name != "bra":
            return None
        every = taken = np.count_nonzero(mask)
        if ins.guard:
            taken = np.count_nonzero(mask & (self.lanes.register(ins.guard) != ins.negated))
        if 0 < taken < every:
            return None
        if self.counts and taken:
            self.counts.instructions[ins.opcode] += taken
        return self.kernel.labels[ins.operands[0]] if taken else at

    def _must_meet(self, ins: Instruction, at: int, mask: Array) -> bool:
        """Whether lanes without the rest of their warp have to wait at an instruction."""
        if ins.guard:
            return False
        partial = mask & ~self.lanes.in_whole_warps(mask)
        if not partial.any():
            return False
        self._meeting[partial] = at
        self._meeting[self.lanes.in_whole_warps(self._meeting == at)] = RUNNING
        return True

    def _step(self, ins: Instruction, mask: Array) -> None:
        if ins.guard:
            mask = mask & (self.lanes.register(ins.guard) != ins.negated)
            if not mask.any():
                return
        if self.counts:
            self.counts.instructions[ins.opcode] += np.count_nonzero(mask)
        if ins.name in TABLE:
            TABLE[ins.name](self, ins, mask)
        elif ins.name in ("bra", "brx"):
            self._branch(ins, mask)
        elif ins.name in ("ret", "exit"):
            self.flights.require_none(mask)
            self._live &= ~mask
            self._release()
        elif ins.name in ("bar", "barrier"):
            self._barrier(ins, mask)
        elif ins.name not in ("membar", "fence"):
            raise Unsupported(ins.text)

    def _branch(self, ins: Instruction, mask: Array) -> None:
        if ins.name == "bra":
            self._counter[mask] = self.kernel.labels[ins.operands[0]]
            return
        index = np.broadcast_to(self.lanes.read(ins.operands[0], "u32"), mask.shape)
        targets = np.array([self.kernel.labels[n] for n in self.kernel.tables[ins.operands[1]]])
        self._counter[mask] = targets[index[mask]]

    def require_whole_warps(self, ins: Instruction, mask: Array) -> None:
        if not (self.lanes.in_whole_warps(mask) == mask).all():
            raise Fault(f"a part of a warp takes part in a warp's instruction: {ins.text}")

    def _barrier(self, ins: Instruction, mask: Array) -> None:
        if ins.parts[:3] == ("bar", "warp", "sync"):
            members = np.broadcast_to(self.lanes.read(ins.operands[0], "u32"), mask.shape)[mask]
            if (members != 0xFFFFFFFF).any():
                raise Unsupported(f"a part of a warp: {ins.text}")
            self.require_whole_warps(ins, mask)
            self.shared.warp_epoch[mask] += 1
            return
        if ins.parts not in (("bar", "sync"), ("barrier", "sync")) or ins.operands != ("0",):
            raise Unsupported(ins.text)
        self._waiting[mask] = self._counter[mask] - 1
        self._release()

    def _release(self) -> None:
        """Let the blocks go on whose threads are all at a barrier, the same one."""
        waiting = self._waiting.reshape(self.lanes.blocks, -1)
        live = self._live.reshape(self.lanes.blocks, -1)
        at_barrier = waiting != RUNNING
        full = (at_barrier | ~live).all(1) & at_barrier.any(1)
        for block in np.flatnonzero(full):
            if not live[block].all():
                raise Fault("threads exited while others wait at a barrier")
            if (waiting[block] != waiting[block, 0]).any():
                raise Fault("barrier divergence: threads of a block wait at different barriers")
        waiting[full] = RUNNING
        self.shared.epoch[full] += 1
