"""The registered ops, ``torch.ops.pyphase.*``: schemas, fake kernels, formulas of the gradients.

In eager mode an autograd.Function outside of the op carries the gradient; the same one, registered
with the op, is for whoever meets the op in a graph. The intermediate is not saved: the backward op
computes it again. It is differentiable in its turn, to any order.

Long, since each of the four ops needs the same few functions under torch's names for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyphase.conv.check import check_gradient
from pyphase.conv.compute import (
    allocate,
    compute_pair,
    compute_pair_backward,
    compute_strips,
    compute_strips_backward,
)
from pyphase.conv.options import Options, check_options
from pyphase.conv.problem import PairProblem, StripsProblem, pair_problem, strips_problem
from pyphase.conv.registry import (
    add_formula,
    below_autograd,
    define,
    is_plain,
    is_transformed,
    without_autocast,
)
from pyphase.conv.torch_pair import pair_backward, pair_forward, strips_backward, strips_forward

__all__ = [
    "pair_backward_op",
    "pair_op",
    "pair_with_grad",
    "strips_backward_op",
    "strips_op",
    "strips_with_grad",
]

Result = TypeVar("Result")

_PAIR = "Tensor input, Tensor weight1, Tensor weight2, Tensor? bias1"
_OPTIONS = "int[2] stride, int[4] padding, int[2] dilation, int[2] groups, str activation"
_STRIPS = "Tensor input, Tensor[] weights, Tensor?[] biases, bool residual"


# A pair


def _pair(
    input: Tensor,
    weight1: Tensor,
    weight2: Tensor,
    bias1: Tensor | None,
    bias2: Tensor | None,
    *options: Any,
) -> Tensor:
    problem = pair_problem(input, weight1, weight2, bias1, bias2, _options(options))
    return compute_pair(problem, input, weight1, weight2, bias1, bias2)


def _pair_fake(
    input: Tensor,
    weight1: Tensor,
    weight2: Tensor,
    bias1: Tensor | None,
    bias2: Tensor | None,
    *options: Any,
) -> Tensor:
    problem = PairProblem(input, weight1, weight2, bias1, bias2, _options(options))
    return allocate(input, [problem.output])[0]


def _pair_composite(
    input: Tensor,
    weight1: Tensor,
    weight2: Tensor,
    bias1: Tensor | None,
    bias2: Tensor | None,
    *options: Any,
) -> Tensor:
    problem = PairProblem(input, weight1, weight2, bias1, bias2, _options(options))
    return pair_forward(problem.steps, input, weight1, weight2, bias1, bias2)


def _pair_backward(
    grad_output: Tensor,
    input: Tensor,
    weight1: Tensor,
    weight2: Tensor,
    bias1: Tensor | None,
    *options_and_mask: Any,
) -> tuple[Tensor, ...]:
    *options, mask = options_and_mask
    problem = pair_problem(input, weight1, weight2, bias1, None, _options(options))
    check_gradient(grad_output, problem.output[0], input)
    return tuple(compute_pair_backward(problem, grad_output, input, weight1, weight2, bias1, mask))


def _pair_backward_fake(
    grad_output: Tensor,
    input: Tensor,
    weight1: Tensor,
    weight2: Tensor,
    bias1: Tensor | None,
    *options_and_mask: Any,
) -> tuple[Tensor, ...]:
    *options, mask = options_and_mask
    problem = PairProblem(input, weight1, weight2, bias1, None, _options(options))
    check_gradient(grad_output, problem.output[0], input)
    return tuple(allocate(input, problem.grads, mask))


def _options(values: Sequence[Any]) -> Options:
    stride, padding, dilation, groups, activation = values
    given = Options(tuple(stride), tuple(padding), tuple(dilation), tuple(groups), activation)
    return check_options(given)


pair_op = define(
    f"factorized_conv2d({_PAIR}, Tensor? bias2, {_OPTIONS}) -> Tensor",
    _pair,
    _pair_fake,
    cast=True,
)
pair_backward_op = define(
    f"factorized_conv2d_backward(Tensor grad_output, {_PAIR}, {_OPTIONS}, bool[5] output_mask) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _pair_backward,
    _pair_backward_fake,
    cast=False,
)


class PairFunction(torch.autograd.Function):
    """Carry the gradient of :data:`pair_op`, given a problem where the op may be left out."""

    @staticmethod
    def forward(ctx: Any, problem: PairProblem | None, *args: Any) -> Tensor:
        ctx.save_for_backward(*args[:4])
        ctx.options = args[5:]
        if problem is not None:
            return compute_pair(problem, *args[:5])
        return below_autograd(pair_op, *args)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        mask = ctx.needs_input_grad[1:6]
        input, weight1, weight2, bias1 = ctx.saved_tensors
        tensors = (grad_output, input, weight1, weight2, bias1)
        grads: Sequence[Tensor | None]
        if not torch.is_grad_enabled() and is_plain(tensors):
            # Checked anew: hooks may give back other tensors than were saved.
            grads = _pair_backward(*tensors, *ctx.options, mask)
        elif is_transformed(grad_output):
            problem = PairProblem(input, weight1, weight2, bias1, None, _options(ctx.options))
            grads = pair_backward(problem.steps, *tensors, mask)
        else:
            grads = _call(pair_backward_op, *tensors, *ctx.options, mask)
        return (None, *_where(mask, grads), *[None] * len(ctx.options))


class PairBackwardFunction(torch.autograd.Function):
    """Carry the gradient of :data:`pair_backward_op`, with the op's arguments."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*args[:5])
        ctx.options, ctx.mask = _options(args[5:-1]), args[-1]
        return below_autograd(pair_backward_op, *args)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        _, input, weight1, weight2, bias1 = ctx.saved_tensors
        problem = PairProblem(input, weight1, weight2, bias1, None, ctx.options)

        def backward(*tensors: Any) -> Sequence[Tensor | None]:
            grad_output, input, weight1, weight2, bias1 = tensors
            return pair_backward(
                problem.steps, grad_output, input, weight1, weight2, bias1, ctx.mask
            )

        found = _differentiate(backward, ctx.saved_tensors, grads, ctx.mask)
        return (*found, *[None] * (len(ctx.options) + 1))


pair_with_grad: Callable[..., Tensor] = PairFunction.apply
add_formula(pair_op, partial(PairFunction.apply, None), _pair_composite)
add_formula(pair_backward_op, PairBackwardFunction.apply)


# A sum of strips. The autograd.Functions take weights and biases as `rest`, one after the other.


def _strips(input: Tensor, weights: Any, biases: Any, residual: bool) -> Tensor:
    problem = strips_problem(input, weights, biases, residual)
    return compute_strips(problem, input, weights, biases)


def _strips_fake(input: Tensor, weights: Any, biases: Any, residual: bool) -> Tensor:
    return allocate(input, [StripsProblem(input, weights, biases, residual).output])[0]


def _strips_composite(input: Tensor, weights: Any, biases: Any, residual: bool) -> Tensor:
    steps = StripsProblem(input, weights, biases, residual).steps
    return strips_forward(pair_forward, steps, input, weights, biases, residual)


def _strips_backward(
    grad_output: Tensor, input: Tensor, weights: Any, biases: Any, residual: bool, mask: Any
) -> list[Tensor]:
    problem = strips_problem(input, weights, biases, residual)
    _check_strips_gradient(problem, grad_output, input, mask)
    return compute_strips_backward(problem, grad_output, input, weights, biases, mask)


def _strips_backward_fake(
    grad_output: Tensor, input: Tensor, weights: Any, biases: Any, residual: bool, mask: Any
) -> list[Tensor]:
    problem = StripsProblem(input, weights, biases, residual)
    _check_strips_gradient(problem, grad_output, input, mask)
    return allocate(input, problem.grads, mask)


def _check_strips_gradient(
    problem: StripsProblem, grad_output: Tensor, input: Tensor, mask: Sequence[bool]
) -> None:
    check_gradient(grad_output, problem.output[0], input)
    if len(mask) != len(problem.grads):
        raise ValueError(
            f"`output_mask` must have {len(problem.grads)} entries, one for each gradient, got "
            f"{len(mask)}"
        )


strips_op = define(
    f"multi_strip_conv2d({_STRIPS}) -> Tensor",
    _strips,
    _strips_fake,
    cast=True,
)
strips_backward_op = define(
    f"multi_strip_conv2d_backward(Tensor grad_output, {_STRIPS}, bool[] output_mask) -> Tensor[]",
    _strips_backward,
    _strips_backward_fake,
    cast=False,
)


class StripsFunction(torch.autograd.Function):
    """Carry the gradient of :data:`strips_op`."""

    @staticmethod
    def forward(ctx: Any, residual: bool, input: Tensor, *rest: Any) -> Tensor:
        ctx.save_for_backward(input, *rest)
        ctx.residual = residual
        weights, biases = _halve(rest)
        return below_autograd(strips_op, input, weights, biases, residual)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        input, *rest = ctx.saved_tensors
        mask = ctx.needs_input_grad[1:]
        args = (grad_output, input, *_halve(rest), ctx.residual, mask)
        grads: Sequence[Tensor | None]
        if is_transformed(grad_output):
            steps = StripsProblem(input, *_halve(rest), ctx.residual).steps
            grads = strips_backward(pair_backward, steps, *args)
        else:
            grads = _call(strips_backward_op, *args)
        return (None, *_where(mask, grads))


class StripsBackwardFunction(torch.autograd.Function):
    """Carry the gradient of :data:`strips_backward_op`."""

    @staticmethod
    def forward(ctx: Any, residual: bool, mask: Any, *tensors: Any) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*tensors)
        ctx.residual, ctx.mask = residual, mask
        grad_output, input, *rest = tensors
        args = (grad_output, input, *_halve(rest), residual, mask)
        return tuple(below_autograd(strips_backward_op, *args))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        _, input, *rest = ctx.saved_tensors
        steps = StripsProblem(input, *_halve(rest), ctx.residual).steps

        def backward(grad_output: Tensor, input: Tensor, *rest: Any) -> Sequence[Tensor | None]:
            args = (grad_output, input, *_halve(rest), ctx.residual, ctx.mask)
            return strips_backward(pair_backward, steps, *args)

        return (None, None, *_differentiate(backward, ctx.saved_tensors, grads, ctx.mask))


def _apply_strips(input: Tensor, weights: Any, biases: Any, residual: bool) -> Tensor:
    return strips_with_grad(residual, input, *weights, *biases)


def _apply_strips_backward(
    grad_output: Tensor, input: Tensor, weights: Any, biases: Any, residual: bool, mask: Any
) -> list[Tensor]:
    apply: Callable[..., tuple[Tensor, ...]] = StripsBackwardFunction.apply
    return list(apply(residual, mask, grad_output, input, *weights, *biases))


strips_with_grad: Callable[..., Tensor] = StripsFunction.apply
add_formula(strips_op, _apply_strips, _strips_composite)
add_formula(strips_backward_op, _apply_strips_backward)


def _halve(both: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    half = len(both) // 2
    return list(both[:half]), list(both[half:])


def _call(op: Callable[..., Result], *args: Any) -> Result:
    """Call a backward op, with its own formula only where a gradient of it may be asked for."""
    return op(*args) if torch.is_grad_enabled() else below_autograd(op, *args)


def _where(mask: Sequence[bool], grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [grad if needed else None for grad, needed in zip(grads, mask, strict=True)]


def _differentiate(
    backward: Callable[..., Sequence[Tensor | None]],
    tensors: Sequence[Tensor | None],
    grads: Sequence[Tensor],
    mask: Sequence[bool],
) -> list[Tensor | None]:
    """Return the gradients of ``tensors``, from those of the results of ``backward(*tensors)``.

    Everything in it is torch's own, so that it can be differentiated in its turn.
    """
    present = [tensor for tensor in tensors if tensor is not None]

    def results(*given: Tensor) -> tuple[Tensor, ...]:
        rest = iter(given)
        args = [None if tensor is None else next(rest) for tensor in tensors]
        return tuple(grad for grad in backward(*args) if grad is not None)

    with without_autocast():
        pull = torch.func.vjp(results, *present)[1]
        found = iter(pull(tuple(g for g, needed in zip(grads, mask, strict=True) if needed)))
    return [None if tensor is None else next(found) for tensor in tensors]
