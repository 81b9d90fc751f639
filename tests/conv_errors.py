"""How far a result may be from the exact one: twice as far as torch's own, plus one rounding.

For each tensor of a result, the output and every gradient, with the maxima over its elements::

    max |ours - exact| <= 2 * max |torch's - exact| + eps * max terms

exact: torch's two convolutions in float64, on the same (already rounded) values. torch's: the same
in the dtype itself, by torch's own loops and not by oneDNN, whose gradients of drawn problems are
not to be relied on: that of a strided 1x1 weight over few channels in channels_last writes outside
of its memory (uxlfoundation/oneDNN, issue 6035; test_conv_torch_pair.py), and on a machine with
AVX-512, bfloat16 weights gave NaNs and crashes. eps: the dtype's distance from 1 to the next
number. terms: for each element, the sum of the absolute values of the products that it is a sum of:
the same convolutions on absolute values, in float64, without the activation, none of which makes a
number larger. Where the activation is curved, a rounding of the intermediate's own terms changes
the slope by the second derivative times that, and the products that pass there count so much more
in the gradients. So a rounding of the largest sum is granted once, since torch's error may be small
by luck, and nothing else is.

One thing is not an error. Where the side of a relu's kink on which an intermediate value lies is
decided by rounding, both slopes are right: the terms that pass there are taken off the error of the
gradients. A value is that close to 0 if it is less than a rounding of each of its own terms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import conv_reference as reference
import torch
from conv_reference import Problem
from torch import Tensor
from torch.nn import functional

Function = Callable[..., Tensor]


class Bound(NamedTuple):
    """The exact tensors of a result, and what each may be off by."""

    exact: list[Tensor]
    limits: list[float]
    undecided: list[Tensor]  # by element: what passes where rounding decides a relu

    def of(self, indices: Sequence[int]) -> Bound:
        """Return the bound of some of the tensors."""
        return Bound(*[[part[i] for i in indices] for part in self])

    def hold(self, ours: Sequence[Tensor], what: object = "") -> None:
        """Assert that a result lies within the bound."""
        assert len(ours) == len(self.exact)
        for i, (value, exact) in enumerate(zip(ours, self.exact, strict=True)):
            assert value.shape == exact.shape, f"{what}: tensor {i}"
            error = (value.detach().double() - exact).abs() - self.undecided[i]
            worst = _largest(error)
            assert worst <= self.limits[i], (
                f"{what}: tensor {i}: {worst:.3e} > {self.limits[i]:.3e}"
            )


def evaluate(function: Function, tensors: Sequence[Tensor | None], grad: Tensor) -> list[Tensor]:
    """Return the output of a function and the gradients of its tensors, Nones left out."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    output = function(*leaves)
    found = torch.autograd.grad(output, [t for t in leaves if t is not None], grad)
    return [output.detach(), *found]


@contextmanager
def without_onednn() -> Iterator[None]:
    """Have torch convolve by its own loops."""
    enabled, *_ = torch.backends.mkldnn.set_flags(_enabled=False, _fp32_precision=None)
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(_enabled=enabled, _fp32_precision=None)


def bound(
    plain: Function,
    absolute: Function,
    tensors: Sequence[Tensor | None],
    grad: Tensor,
    undecided: Sequence[Tensor] | None = None,
) -> Bound:
    """Return the bound of what ``plain`` computes; ``absolute`` is it without activations."""
    wide = [None if t is None else t.detach().double() for t in tensors]
    exact = evaluate(plain, wide, grad.double())
    with without_onednn():
        theirs = evaluate(plain, tensors, grad)
    positive = [None if t is None else t.abs() for t in wide]
    terms = evaluate(absolute, positive, grad.double().abs())
    eps = torch.finfo(grad.dtype).eps
    limits = [
        2 * _largest((near.double() - value).abs()) + eps * _largest(scale)
        for near, value, scale in zip(theirs, exact, terms, strict=True)
    ]
    return Bound(exact, limits, list(undecided or map(torch.zeros_like, exact)))


def pair_bound(problem: Problem, tensors: Sequence[Tensor | None], grad: Tensor) -> Bound:
    """Return the bound of a pair."""
    x, w1, _, b1, _ = (None if t is None else t.detach().double() for t in tensors)
    curvature = _curvature(problem.activation, _first(problem, x, w1, b1)).abs()

    def absolute(x: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None, b2: Tensor | None) -> Tensor:
        terms = _first(problem, x, w1, b1)
        fixed = terms.detach()
        curved = terms + (terms - fixed) * curvature * fixed  # its value is that of the terms
        return _second(problem, curved, w2, b2)

    return bound(
        lambda *t: reference.torch_pair(problem, *t),
        absolute,
        tensors,
        grad,
        _undecided(problem, tensors, grad) if problem.activation == "relu" else None,
    )


def strips(x: Tensor, *rest: Tensor | None, kernels, row_first=True, residual=True) -> Tensor:
    """Return a sum of depthwise pairs by torch; ``rest`` is w1, b1, w2, b2 of one after another."""
    channels = (x.shape[1],) * 3
    total = x if residual else torch.zeros_like(x)
    for i, kernel in enumerate(kernels):
        w1, b1, w2, b2 = rest[4 * i : 4 * i + 4]
        problem = Problem(channels, tuple(x.shape[2:]), kernel, row_first, groups=channels[:2])
        total = total + reference.torch_pair(problem, x, w1, w2, b1, b2)
    return total


def _undecided(problem: Problem, tensors: Sequence[Tensor | None], grad: Tensor) -> list[Tensor]:
    """Return what passes through a relu where rounding decides, for each tensor of the result."""
    wide = [None if t is None else t.detach().double() for t in tensors]
    positive = [None if t is None else t.abs() for t in wide]
    x, w1, _, b1, b2 = wide
    eps = torch.finfo(torch.float64 if grad.dtype == torch.float64 else torch.float32).eps
    each = eps * (w1[0].numel() + 1)
    scale = _first(problem, positive[0], positive[1], positive[3])
    near = _first(problem, x, w1, b1).abs() <= each * scale

    def through(x: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None, b2: Tensor | None) -> Tensor:
        return _second(problem, _first(problem, x, w1, b1) * near, w2, b2)

    output, grad_x, grad_w1, grad_w2, *grad_biases = evaluate(
        through, positive, grad.double().abs()
    )
    # The value itself has no jump there, and so neither have the output and what it multiplies.
    found = [torch.zeros_like(output), grad_x, grad_w1, torch.zeros_like(grad_w2)]
    if b1 is not None:
        found.append(grad_biases[0])
    if b2 is not None:
        found.append(torch.zeros_like(b2))
    return found


def _curvature(activation: str, mid: Tensor) -> Tensor:
    """Return the second derivative of an activation; a relu has none, but a kink."""
    if activation not in ("gelu", "silu"):
        return torch.zeros_like(mid)
    leaf = mid.clone().requires_grad_()
    value = {"gelu": functional.gelu, "silu": functional.silu}[activation](leaf)
    (slope,) = torch.autograd.grad(value.sum(), leaf, create_graph=True)
    (found,) = torch.autograd.grad(slope.sum(), leaf)
    return found


def _alone(problem: Problem, index: int) -> Problem:
    """Return a problem in which one convolution is a 1x1 that is to copy its input."""
    axis = 1 if (index == 0) == problem.row_first else 0  # of the convolution that is copied
    parts = {name: list(getattr(problem, name)) for name in ("kernel", "stride", "dilation")}
    for part in parts.values():
        part[axis] = 1
    padding = problem.padding
    if not isinstance(padding, str):
        padding = tuple(0 if i == axis else size for i, size in enumerate(padding))
    groups = tuple(1 if i == index else count for i, count in enumerate(problem.groups))
    return problem._replace(
        **{name: tuple(part) for name, part in parts.items()},
        padding=padding,
        groups=groups,
        activation="none",
    )


def _first(problem: Problem, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    copy = torch.eye(weight.shape[0], dtype=x.dtype)[:, :, None, None]
    return reference.torch_pair(_alone(problem, 1), x, weight, copy, bias, None)


def _second(problem: Problem, mid: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    copy = torch.eye(mid.shape[1], dtype=mid.dtype)[:, :, None, None]
    return reference.torch_pair(_alone(problem, 0), mid, copy, weight, None, bias)


def _largest(tensor: Tensor) -> float:
    return float(tensor.max()) if tensor.numel() else 0.0
