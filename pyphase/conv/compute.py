"""A checked problem on real tensors: by the fused kernel, or by torch's convolutions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyphase.conv.problem import Layout, PairProblem, StripsProblem, laid_out
from pyphase.conv.torch_pair import pair_backward, pair_forward

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
        output = pair_forward(input, weight1, weight2, bias1, bias2, problem.steps)
        return laid_out(output, problem.output)
    (output,) = allocate(input, [problem.output])
    input = input.contiguous(memory_format=problem.format)
    rest = _contiguous((weight1, weight2, bias1, bias2))  # alive until the kernel is done
    addresses: Any = (*_addresses(rest), output.data_ptr())
    native.forward(input.data_ptr(), *addresses)
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
        grads = pair_backward(grad_output, input, weight1, weight2, bias1, problem.steps, mask)
        return [
            input.new_empty(0) if grad is None else laid_out(grad, layout)
            for grad, layout in zip(grads, problem.grads, strict=True)
        ]
    results = allocate(input, problem.grads, mask)
    grad_output = grad_output.contiguous(memory_format=problem.format)
    input = input.contiguous(memory_format=problem.format)
    rest = _contiguous((weight1, weight2, bias1))
    wanted = [grad if needed else None for grad, needed in zip(results, mask, strict=True)]
    addresses: Any = (*_addresses(rest), grad_output.data_ptr(), *_addresses(wanted))
    native.backward(input.data_ptr(), *addresses)
    return results


def compute_strips(
    problem: StripsProblem,
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
) -> Tensor:
    """Return the sum of the strips: by the kernel of the whole, or strip by strip."""
    native = problem.native()
    if native is not None and input.numel():
        (output,) = allocate(input, [problem.output])
        input = input.contiguous(memory_format=problem.format)
        rest = _contiguous((*weights, *biases))
        addresses: Any = (*_four(_addresses(rest)), output.data_ptr())
        native.forward(input.data_ptr(), *addresses)
        return output
    total = None
    for i, pair in enumerate(problem.pairs):
        weight1, weight2 = weights[2 * i : 2 * i + 2]
        bias1, bias2 = biases[2 * i : 2 * i + 2]
        output = compute_pair(pair, input, weight1, weight2, bias1, bias2)
        total = output if total is None else total.add_(output)
    assert total is not None
    return total.add_(input) if problem.residual else total


def compute_strips_backward(
    problem: StripsProblem,
    grad_output: Tensor,
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    mask: Sequence[bool],
) -> list[Tensor]:
    """Return the gradients of input, weights and biases; those not in ``mask`` are empty."""
    native = problem.native()
    if native is None or not input.numel():
        return _strip_by_strip(problem, grad_output, input, weights, biases, mask)
    results = allocate(input, problem.grads, mask)
    grad_output = grad_output.contiguous(memory_format=problem.format)
    input = input.contiguous(memory_format=problem.format)
    rest = _contiguous((*weights, *biases))
    wanted = [grad if needed else None for grad, needed in zip(results, mask, strict=True)]
    grad_input, *grads = _addresses(wanted)
    given: Any = (*_four(_addresses(rest))[:3], grad_output.data_ptr(), grad_input, *_four(grads))
    native.backward(input.data_ptr(), *given)
    return results


def _strip_by_strip(
    problem: StripsProblem,
    grad_output: Tensor,
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    mask: Sequence[bool],
) -> list[Tensor]:
    mask_weights, mask_biases = mask[1 : 1 + len(weights)], mask[1 + len(weights) :]
    grad_inputs, grad_weights, grad_biases = [], [], []
    for i, pair in enumerate(problem.pairs):
        both = slice(2 * i, 2 * i + 2)
        weight1, weight2 = weights[both]
        own = (mask[0], *mask_weights[both], *mask_biases[both])
        grad, *grads = compute_pair_backward(
            pair, grad_output, input, weight1, weight2, biases[2 * i], own
        )
        grad_inputs.append(grad)
        grad_weights += grads[:2]
        grad_biases += grads[2:]
    grad_input = grad_inputs[0]
    if mask[0]:
        for grad in (*grad_inputs[1:], *([grad_output] if problem.residual else [])):
            grad_input.add_(grad)
    return [grad_input, *grad_weights, *grad_biases]


def allocate(
    like: Tensor, layouts: Sequence[Layout], mask: Sequence[bool] | None = None
) -> list[Tensor]:
    """Allocate results; those not in ``mask`` are empty."""
    options: Any = {"dtype": like.dtype, "device": like.device}
    return [
        torch.empty_strided(*layout, **options)
        if mask is None or mask[i]
        else torch.empty(0, **options)
        for i, layout in enumerate(layouts)
    ]


def _four(both: list[Any]) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """Split weight1, weight2, weight1, ..., bias1, bias2, bias1, ... into the four kinds."""
    half = len(both) // 2
    return both[:half:2], both[1:half:2], both[half::2], both[half + 1 :: 2]


def _contiguous(tensors: Iterable[Tensor | None]) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def _addresses(tensors: Iterable[Tensor | None]) -> list[Any]:
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]
