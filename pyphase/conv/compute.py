"""A checked problem on real tensors: by the fused kernel, or by torch's convolutions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyphase.conv.check import Layout
from pyphase.conv.native import Kernels, by_kind
from pyphase.conv.problem import PairProblem, StripsProblem, laid_out
from pyphase.conv.torch_pair import (
    pair_backward,
    pair_forward,
    strips_backward,
    strips_forward,
)

__all__ = [
    "allocate",
    "compute_pair",
    "compute_pair_backward",
    "compute_strips",
    "compute_strips_backward",
]


def compute_pair(
    problem: PairProblem,
    input: Tensor,
    weight1: Tensor,
    weight2: Tensor,
    bias1: Tensor | None,
    bias2: Tensor | None,
) -> Tensor:
    """Return the output of a pair."""
    native = problem.native(backward=False)
    if native is None or not input.numel():
        output = pair_forward(problem.steps, input, weight1, weight2, bias1, bias2)
        return laid_out(output, problem.output)
    (output,) = allocate(input, [problem.output])
    input = _dense(input, problem.format, native)
    _alive, addresses = _contiguous((weight1, weight2, bias1, bias2), native)
    native.forward(input.data_ptr(), *addresses, output.data_ptr())
    return output


def compute_pair_backward(
    problem: PairProblem,
    grad_output: Tensor,
    input: Tensor,
    weight1: Tensor,
    weight2: Tensor,
    bias1: Tensor | None,
    mask: Sequence[bool],
) -> list[Tensor]:
    """Return the gradients of input, weights and biases; those not in ``mask`` are empty."""
    native = problem.native(backward=True)
    if native is None or not input.numel():
        grads = pair_backward(problem.steps, grad_output, input, weight1, weight2, bias1, mask)
        return _as_results(grads, problem.grads, mask, input)
    results = allocate(input, problem.grads, mask)
    grad_output = _dense(grad_output, problem.format, native)
    input = _dense(input, problem.format, native)
    _alive, addresses = _contiguous((weight1, weight2, bias1), native)
    native.backward(
        input.data_ptr(), *addresses, grad_output.data_ptr(), *_addresses(results, mask)
    )
    return results


def compute_strips(
    problem: StripsProblem,
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
) -> Tensor:
    """Return the sum of the strips: by the kernel of the whole, or strip by strip."""
    native = problem.native(backward=False)
    if native is not None and input.numel():
        (output,) = allocate(input, [problem.output])
        input = _dense(input, problem.format, native)
        _alive, addresses = _contiguous((*weights, *biases), native)
        native.forward(input.data_ptr(), *by_kind(addresses), output.data_ptr())
        return output
    args = (problem.pairs, input, weights, biases, problem.residual)
    return laid_out(strips_forward(compute_pair, *args), problem.output)


def compute_strips_backward(
    problem: StripsProblem,
    grad_output: Tensor,
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    mask: Sequence[bool],
) -> list[Tensor]:
    """Return the gradients of input, weights and biases; those not in ``mask`` are empty."""
    native = problem.native(backward=True)
    if native is None or not input.numel():
        args = (problem.pairs, grad_output, input, weights, biases, problem.residual, mask)
        grads = strips_backward(compute_pair_backward, *args)
        return _as_results(grads, problem.grads, mask, input)
    results = allocate(input, problem.grads, mask)
    grad_output = _dense(grad_output, problem.format, native)
    input = _dense(input, problem.format, native)
    _alive, addresses = _contiguous((*weights, *biases), native)
    grad_input, *grads = _addresses(results, mask)
    given: Any = (
        *by_kind(addresses)[:3],
        grad_output.data_ptr(),
        grad_input,
        *by_kind(grads),
    )
    native.backward(input.data_ptr(), *given)
    return results


def _as_results(
    grads: Sequence[Tensor | None], layouts: Sequence[Layout], mask: Sequence[bool], like: Tensor
) -> list[Tensor]:
    """Return what an op returns: the very layouts that were promised, and empty for the rest."""
    return [
        laid_out(grad, layout) if needed and grad is not None else like.new_empty(0)
        for grad, layout, needed in zip(grads, layouts, mask, strict=True)
    ]


def allocate(
    like: Tensor, layouts: Sequence[Layout], mask: Sequence[bool] | None = None
) -> list[Tensor]:
    """Allocate results; those not in ``mask`` are empty."""
    return [
        like.new_empty_strided(*layout) if mask is None or mask[i] else like.new_empty(0)
        for i, layout in enumerate(layouts)
    ]


def _contiguous(
    tensors: Iterable[Tensor | None], native: Kernels
) -> tuple[list[Tensor | None], list[Any]]:
    """Return contiguous tensors, and their addresses: those must live as long as these serve."""
    kept: list[Tensor | None] = []
    addresses: list[Any] = []
    for tensor in tensors:
        if tensor is not None:
            tensor = _loadable(tensor.contiguous(), native)
        kept.append(tensor)
        addresses.append(None if tensor is None else tensor.data_ptr())
    return kept, addresses


def _dense(tensor: Tensor, format: torch.memory_format, native: Kernels) -> Tensor:
    """Return a tensor in a format, at an address that the kernels can load from."""
    return _loadable(tensor.contiguous(memory_format=format), native)


def _loadable(tensor: Tensor, native: Kernels) -> Tensor:
    return tensor.clone() if tensor.data_ptr() % native.alignment else tensor


def _addresses(tensors: Sequence[Tensor], mask: Sequence[bool]) -> list[Any]:
    return [t.data_ptr() if needed else None for t, needed in zip(tensors, mask, strict=True)]
