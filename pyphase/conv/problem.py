"""A problem checked once and remembered: its options, its layouts, its fused kernel.

A repeated call costs a look-up by what the tensors look like. Symbolic sizes, as torch.compile has
them, go round the memory.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyphase.conv.backend import current_backend
from pyphase.conv.check import (
    Layout,
    Size,
    check_pair,
    check_strip,
    check_tensors,
    is_channels_last,
    kernel_size_of,
)
from pyphase.conv.choice import Contest, measured, pair_contest, strips_contest
from pyphase.conv.cuda import allows_tf32
from pyphase.conv.native import Kernels, make_pair, make_strips
from pyphase.conv.options import Options, same_padding
from pyphase.conv.torch_pair import make_steps

__all__ = [
    "Layout",
    "PairProblem",
    "StripsProblem",
    "laid_out",
    "pair_problem",
    "strips_problem",
]


_REMEMBERED = 4096  # a few kilobytes each; image sizes that never repeat must not pile up


class Fusible:
    """What may have fused kernels: found when first asked for, and chosen by the backend in force.

    Attributes:
        device: of the tensors.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._kernels: Kernels | None = None
        self._is_planned = False
        self._contest: Contest | None = None

    def native(self, backward: bool) -> Kernels | None:
        """Return the kernels of the whole if they serve a pass under the backend in force."""
        setting = current_backend()
        if setting == "torch":
            return None
        kernels = self._kernels if self._is_planned else self.kernels()
        if kernels is None or not kernels.covered[backward]:
            return None
        return kernels if setting == "native" or self._wins(kernels, backward) else None

    def kernels(self) -> Kernels | None:
        """Return the kernels of the whole, None where there are none."""
        if not self._is_planned:
            self._kernels = self.make_native()
            self._is_planned = True  # last: other threads look at it first
        return self._kernels

    def contest(self) -> Contest:
        """Return what a measured choice is between."""
        if self._contest is None:
            self._contest = self.make_contest()
        return self._contest

    def make_native(self) -> Kernels | None:
        """Return the problem as the device's kernels know it, whether or not one serves it."""
        raise NotImplementedError

    def make_contest(self) -> Contest:
        raise NotImplementedError

    def is_native(self, with_grad: bool) -> bool:
        """Return whether a fused kernel serves a part of the work."""
        forward = self.native(backward=False)
        # What is predicted of a backward pass is so of both: torch's own, after a fused forward
        # pass, would compute the intermediate again, as it does in compiled code, where each op
        # is chosen alone. What is measured is measured so.
        if forward is not None and (not with_grad or forward.is_timed):
            return True
        return with_grad and self.native(backward=True) is not None

    def _wins(self, kernels: Kernels, backward: bool) -> bool:
        return measured(self, kernels, backward) if kernels.is_timed else kernels.wins(backward)


class PairProblem(Fusible):
    """A checked pair of convolutions.

    Attributes:
        format: memory format of the input, the output and their gradients.
        output: layout of the output.
        grads: layouts of the gradients of input, weight1, weight2, bias1 and bias2.
        steps: what torch's convolutions need to know.
    """

    def __init__(
        self,
        input: Tensor,
        weight1: Tensor,
        weight2: Tensor,
        bias1: Tensor | None,
        bias2: Tensor | None,
        options: Options,
    ) -> None:
        others = {"weight1": weight1, "weight2": weight2, "bias1": bias1, "bias2": bias2}
        check_tensors(input, others.items())
        shape = tuple(input.shape)
        weights = tuple(weight1.shape), tuple(weight2.shape)
        shapes = check_pair(shape, weights, (_shape(bias1), _shape(bias2)), options)
        channels_last = is_channels_last(shape, input.stride())
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.output = _layout(shapes.output, channels_last)
        self.grads = [_layout(shape, channels_last), *map(_layout, weights)]
        self.grads += [_layout(weight[:1]) for weight in weights]
        self.steps = make_steps(options, shapes, weights, input.device)
        super().__init__(input.device)
        self.request: dict[str, Any] = {
            "input_shape": shape,
            "weight1_shape": weights[0],
            "weight2_shape": weights[1],
            "dtype": str(input.dtype).removeprefix("torch."),
            "channels_last": channels_last,
            **options._asdict(),
        }

    def make_native(self) -> Kernels | None:
        return make_pair(self.device, self.request)

    def make_contest(self) -> Contest:
        return pair_contest(self.request, self.steps, [*self.grads, self.output])


class StripsProblem(Fusible):
    """A checked sum of strips, each a depthwise pair that keeps the input's size.

    Attributes:
        pairs: the strips.
        residual: whether the input is a summand too.
        output: layout of the output.
        grads: layouts of the gradients of input, all weights, and all biases.
    """

    def __init__(
        self,
        input: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor | None],
        residual: bool,
    ) -> None:
        if not weights or len(weights) % 2 or len(weights) != len(biases):
            raise ValueError(
                "`pairs` must hold two weights and two biases for each of at least one strip, "
                f"got {len(weights)} weights and {len(biases)} biases"
            )
        self.residual = residual
        self.pairs = []
        for i in range(len(weights) // 2):
            both = slice(2 * i, 2 * i + 2)
            try:
                self.pairs.append(_strip(input, weights[both], biases[both]))
            except ValueError as error:
                raise ValueError(f"`pairs[{i}]`: {error}") from None
        self.steps = [pair.steps for pair in self.pairs]
        self.format = self.pairs[0].format
        self.output = self.pairs[0].output
        self.grads = [self.output]
        self.grads += [layout for pair in self.pairs for layout in pair.grads[1:3]]
        self.grads += [layout for pair in self.pairs for layout in pair.grads[3:]]
        super().__init__(input.device)

    def make_native(self) -> Kernels | None:
        return make_strips(self.device, [pair.request for pair in self.pairs], self.residual)

    def make_contest(self) -> Contest:
        return strips_contest(self.pairs[0].request, self.steps, self.grads, self.residual)

    def is_native(self, with_grad: bool) -> bool:
        """Return whether a fused kernel serves a part of the work."""
        if super().is_native(with_grad):
            return True
        return any(pair.is_native(with_grad) for pair in self.pairs)


def _strip(
    input: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]
) -> PairProblem:
    weight1, weight2 = weights
    bias1, bias2 = biases
    shapes = tuple(weight1.shape), tuple(weight2.shape)
    kernel_size = kernel_size_of(*shapes)
    check_strip(tuple(input.shape), shapes)
    channels = input.shape[1]
    padding = same_padding(kernel_size, (1, 1))
    options = Options((1, 1), padding, (1, 1), (channels, channels), "none")
    return PairProblem(input, weight1, weight2, bias1, bias2, options)


_pairs: dict[Hashable, PairProblem] = {}
_strips: dict[Hashable, StripsProblem] = {}


def pair_problem(
    input: Tensor,
    weight1: Tensor,
    weight2: Tensor,
    bias1: Tensor | None,
    bias2: Tensor | None,
    options: Options,
) -> PairProblem:
    """Return the problem of these tensors, checked when it is new."""
    key = (
        input.stride(),
        options,
        input.is_cuda and allows_tf32(),
        (input.shape, input.dtype, input.device),
        (weight1.shape, weight1.dtype, weight1.device),
        (weight2.shape, weight2.dtype, weight2.device),
        None if bias1 is None else (bias1.shape, bias1.dtype, bias1.device),
        None if bias2 is None else (bias2.shape, bias2.dtype, bias2.device),
    )
    try:
        problem = _pairs.get(key)
    except TypeError:  # symbolic sizes have no hash
        return PairProblem(input, weight1, weight2, bias1, bias2, options)
    if problem is None:
        problem = PairProblem(input, weight1, weight2, bias1, bias2, options)
        _remember(_pairs, key, problem)
    return problem


def strips_problem(
    input: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], residual: bool
) -> StripsProblem:
    """Return the problem of these tensors, checked when it is new."""
    looks = [
        None if tensor is None else (tensor.shape, tensor.dtype, tensor.device)
        for tensor in (input, *weights, *biases)
    ]
    key = (input.stride(), residual, len(weights), *looks)
    try:
        problem = _strips.get(key)
    except TypeError:  # symbolic sizes have no hash
        return StripsProblem(input, weights, biases, residual)
    if problem is None:
        problem = StripsProblem(input, weights, biases, residual)
        _remember(_strips, key, problem)
    return problem


def _remember(memory: dict[Hashable, Any], key: Hashable, problem: Any) -> None:
    if len(memory) >= _REMEMBERED:
        memory.clear()
    memory[key] = problem


def _shape(tensor: Tensor | None) -> Size | None:
    return None if tensor is None else tuple(tensor.shape)


def _layout(shape: Size, channels_last: bool = False) -> Layout:
    strides = [0] * len(shape)
    step = 1
    for axis in (1, 3, 2, 0) if channels_last else reversed(range(len(shape))):
        strides[axis] = step
        step *= max(shape[axis], 1)
    return shape, tuple(strides)


def laid_out(tensor: Tensor, layout: Layout) -> Tensor:
    """Return the tensor with the very strides of a layout.

    Torch's convolutions choose a format by their own rule, and where sizes are 1 a format has
    several spellings; what compiled code was told about the strides must hold to the letter.
    """
    if tensor.stride() == layout[1]:
        return tensor
    return tensor.new_empty_strided(*layout).copy_(tensor)
