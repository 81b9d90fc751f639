"""Calls of the compiled convolutions by address, as careless about memory as the machine allows.

Inputs end where readable memory ends, or begin where it begins: the next byte is on a page that
can't be read, and a kernel that reads it dies. Outputs lie between guard bytes.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence

import torch
from conv_reference import Problem
from torch import Tensor

from pyphase import _core

PAGE = mmap.PAGESIZE
GUARD = 512  # bytes on either side of an output: eight of the widest vectors

_protect = ctypes.CDLL(None, use_errno=True).mprotect
_protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Fenced:
    """A copy of a tensor's memory between pages that can't be touched."""

    def __init__(self, tensor: Tensor, at_end: bool = True) -> None:
        self.size = tensor.numel() * tensor.element_size()
        inner = max(-(-self.size // PAGE), 1) * PAGE
        self._memory = mmap.mmap(-1, inner + 2 * PAGE)
        begin = ctypes.addressof(ctypes.c_char.from_buffer(self._memory)) + PAGE
        self.address = begin + (inner - self.size if at_end else 0)
        ctypes.memmove(self.address, tensor.data_ptr(), self.size)
        self._before = ctypes.string_at(self.address, self.size)
        for page in (begin - PAGE, begin + inner):
            assert _protect(page, PAGE, 0) == 0, "mprotect failed"

    def check(self) -> None:
        """Assert that nobody wrote to it."""
        assert ctypes.string_at(self.address, self.size) == self._before


class Guarded:
    """Memory for a result, full of NaNs, between guard bytes.

    Its strides are those of an image of the format, or of a contiguous weight. ``shift`` elements
    stand between it and where a vector could be aligned.
    """

    def __init__(
        self, shape: Sequence[int], dtype: torch.dtype, channels_last: bool = False, shift: int = 0
    ) -> None:
        like = torch.empty(*shape, dtype=dtype)
        if channels_last:
            like = like.contiguous(memory_format=torch.channels_last)
        self._like = like
        self._size = like.numel() * like.element_size()
        self._begin = GUARD + shift * like.element_size()
        self._bytes = torch.full((self._begin + self._size + GUARD,), 0xFF, dtype=torch.uint8)
        self.address = self._bytes.data_ptr() + self._begin

    def result(self) -> Tensor:
        """Return what was written, asserting that nothing was written beside it."""
        end = self._begin + self._size
        assert bool((self._bytes[: self._begin] == 0xFF).all()), "written before the result"
        assert bool((self._bytes[end:] == 0xFF).all()), "written behind the result"
        inside = self._bytes[self._begin : end].clone().view(self._like.dtype)
        return inside.as_strided(self._like.shape, self._like.stride())


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def request(problem: Problem, dtype: torch.dtype, channels_last: bool) -> dict[str, object]:
    """Return the arguments of a ``ConvPair``."""
    into, mid, out = problem.channels
    row, column = (1, problem.kernel[1]), (problem.kernel[0], 1)
    first, second = (row, column) if problem.row_first else (column, row)
    return {
        "input_shape": (problem.batch, into, *problem.size),
        "weight1_shape": (mid, into // problem.groups[0], *first),
        "weight2_shape": (out, mid // problem.groups[1], *second),
        "stride": problem.stride,
        "padding": problem.sides,
        "dilation": problem.dilation,
        "groups": problem.groups,
        "activation": problem.activation,
        "dtype": dtype_name(dtype),
        "channels_last": channels_last,
    }


class Memory:
    """The tensors of a call: inputs behind fences, results between guards."""

    def __init__(self, channels_last: bool, at_end: bool = True, shift: int = 0) -> None:
        self._channels_last, self._at_end, self._shift = channels_last, at_end, shift
        self._inputs: list[Fenced] = []
        self._results: list[Guarded] = []

    def image(self, tensor: Tensor) -> int:
        """Return the address of an image in the call's layout."""
        last, first = torch.channels_last, torch.contiguous_format
        return self.plain(tensor.contiguous(memory_format=last if self._channels_last else first))

    def plain(self, tensor: Tensor | None) -> int | None:
        """Return the address of a weight or a bias."""
        if tensor is None:
            return None
        self._inputs.append(Fenced(tensor.detach(), self._at_end))
        return self._inputs[-1].address

    def image_result(self, like: Tensor, wanted: bool = True) -> int | None:
        """Return the address of an image to be filled, None if it is not wanted."""
        return self._result(like, self._channels_last) if wanted else None

    def plain_result(self, like: Tensor | None, wanted: bool = True) -> int | None:
        """Return the address of the gradient of a weight or a bias, None if it is not wanted."""
        return self._result(like, False) if wanted and like is not None else None

    def _result(self, like: Tensor, channels_last: bool) -> int:
        self._results.append(Guarded(like.shape, like.dtype, channels_last, self._shift))
        return self._results[-1].address

    def results(self) -> list[Tensor]:
        """Return what was written, asserting that nothing else was."""
        for fenced in self._inputs:
            fenced.check()
        return [guarded.result() for guarded in self._results]


def call_pair(
    pair: _core.ConvPair,
    tensors: Sequence[Tensor | None],
    grad: Tensor,
    memory: Memory,
    mask: Sequence[bool] = (True,) * 5,
) -> list[Tensor]:
    """Return the output, and the gradients in ``mask`` of those tensors that are there."""
    x, *rest = tensors
    address = memory.image(x)
    w1, w2, b1, b2 = map(memory.plain, rest)
    pair.forward(address, w1, w2, b1, b2, memory.image_result(grad))
    results = [
        memory.plain_result(like, wanted) for like, wanted in zip(rest, mask[1:], strict=True)
    ]
    grad_x = memory.image_result(x, mask[0])
    pair.backward(address, w1, w2, b1, memory.image(grad), grad_x, *results)
    output, *grads = memory.results()
    if mask[0]:
        grads.insert(0, grads.pop())
    return [output, *grads]


def call_strips(
    strips: _core.ConvStrips, tensors: Sequence[Tensor | None], grad: Tensor, memory: Memory
) -> list[Tensor]:
    """Return the output and all gradients; the tensors are x, then w1, b1, w2, b2 of each pair."""
    x, *rest = tensors
    address = memory.image(x)
    given = [memory.plain(tensor) for tensor in rest]
    w1, b1, w2, b2 = (given[i::4] for i in range(4))
    strips.forward(address, w1, w2, b1, b2, memory.image_result(grad))
    grad_x = memory.image_result(x)
    found = [memory.plain_result(tensor) for tensor in rest]
    grad_w1, grad_b1, grad_w2, grad_b2 = (found[i::4] for i in range(4))
    image = memory.image(grad)
    strips.backward(address, w1, w2, b1, image, grad_x, grad_w1, grad_w2, grad_b1, grad_b2)
    return memory.results()
