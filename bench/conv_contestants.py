"""Who computes a problem: the package's backends, torch's pair, and others for the context."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import conv_external
import torch
import torch.nn.functional as F  # noqa: N812
from conv_shapes import Problem

from pyphase import conv

__all__ = ["CONTEXT", "Contestant", "contestants", "make_tensors", "reference"]

Tensors = tuple[torch.Tensor | None, ...]

# Beside torch's pair and the package's two backends: shown, never judged.
CONTEXT = ("kxk", "compiled", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Contestant:
    """A function of its tensors; around: the context that it is called in."""

    name: str
    function: Callable[..., torch.Tensor]
    tensors: Tensors
    around: Callable[[], AbstractContextManager[object]] = field(default=nullcontext)

    def call(self, task: str, grad_output: torch.Tensor) -> Callable[[], object]:
        """Return what is timed: the function, or the function and the gradients of all tensors."""
        if task == "forward":
            return lambda: self.function(*self.tensors)
        leaves = tuple(t if t is None else t.detach().requires_grad_() for t in self.tensors)
        wanted = [leaf for leaf in leaves if leaf is not None]

        def both() -> list[torch.Tensor]:
            output = self.function(*leaves)
            return [output.detach(), *torch.autograd.grad(output, wanted, grad_output)]

        return both


def make_tensors(problem: Problem, dtype: torch.dtype) -> tuple[Tensors, torch.Tensor]:
    """Return x, then w1, b1, w2, b2 of each pair, and a gradient of the output; all seeded."""
    torch.manual_seed(0)
    inputs, mid, out = problem.channels
    tensors: list[torch.Tensor | None] = [
        torch.randn(problem.batch, inputs, problem.height, problem.width)
    ]
    for k in problem.kernels:
        shapes = [(1, k), (k, 1)] if problem.row_first else [(k, 1), (1, k)]
        fans = inputs // problem.groups, mid // problem.groups
        tensors.append(torch.randn(mid, fans[0], *shapes[0]) / (fans[0] * k) ** 0.5)
        tensors.append(torch.randn(mid) if problem.mid_bias else None)
        tensors.append(torch.randn(out, fans[1], *shapes[1]) / (fans[1] * k) ** 0.5)
        tensors.append(torch.randn(out))
    grad = torch.randn(problem.batch, out, *problem.out_size)
    if problem.activation == "relu":
        _make_signs_exact(tensors)
    return tuple(t if t is None else t.to(dtype) for t in tensors), grad.to(dtype)


def _make_signs_exact(tensors: list[torch.Tensor | None]) -> None:
    """Round x, w1, b1 to grids on which float32 sums the intermediate exactly, and never to 0.

    Else a value within rounding of 0 could pass one contestant's ReLU and not another's: a gradient
    that is right, and far from the reference.
    """
    x, w1, b1 = tensors[:3]
    assert x is not None
    assert w1 is not None
    assert b1 is not None
    x.mul_(2**4).round_().div_(2**4)
    w1.mul_(2**8).round_().div_(2**8)
    b1.mul_(2**12).round_().add_(0.5).div_(2**12)


def in_layout(tensors: Tensors, layout: str) -> Tensors:
    """Return the images and the weights in a layout: a model's .to(memory_format) moves both."""
    if layout == "nchw":
        return tensors
    return tuple(
        t.to(memory_format=torch.channels_last) if t is not None and t.dim() == 4 else t
        for t in tensors
    )


def reference(
    problem: Problem, tensors: Tensors, grad_output: torch.Tensor, *, mid_bias: bool = True
) -> list[torch.Tensor]:
    """Return the output and the gradients of all tensors in float64, by torch's convolutions."""
    double = [t if t is None else t.double() for t in tensors]
    if not mid_bias:
        double = [None if i % 4 == 2 else t for i, t in enumerate(double)]
        with torch.no_grad():
            return [torch_pair(problem)(*double)]
    exact = Contestant("reference", torch_pair(problem), tuple(double))
    found = exact.call("training", grad_output.double())()
    assert isinstance(found, list)
    return found


def torch_pair(problem: Problem) -> Callable[..., torch.Tensor]:
    """Return torch's two convolutions, or the sum of the pairs and the input."""

    def one(x: torch.Tensor, weight: Any, bias: Any) -> torch.Tensor:
        vertical, horizontal = weight.shape[2:]
        return F.conv2d(
            x,
            weight,
            bias,
            stride=tuple(problem.stride if k > 1 else 1 for k in (vertical, horizontal)),
            padding=tuple(problem.dilation * (k // 2) for k in (vertical, horizontal)),
            dilation=tuple(problem.dilation if k > 1 else 1 for k in (vertical, horizontal)),
            groups=problem.groups,
        )

    def pair(x: torch.Tensor, w1: Any, b1: Any, w2: Any, b2: Any) -> torch.Tensor:
        mid = one(x, w1, b1)
        return one(F.relu_(mid) if problem.activation == "relu" else mid, w2, b2)

    def summed(x: torch.Tensor, *weights: Any) -> torch.Tensor:
        total = x
        for i in range(0, len(weights), 4):
            total = total + pair(x, *weights[i : i + 4])
        return total

    return summed if problem.family == "strips" else pair


def fused(problem: Problem) -> Callable[..., torch.Tensor]:
    """Return the package's function."""
    padding = problem.dilation * (problem.kernels[0] // 2)

    def pair(x: torch.Tensor, w1: Any, b1: Any, w2: Any, b2: Any) -> torch.Tensor:
        return conv.factorized_conv2d(
            x,
            w1,
            w2,
            b1,
            b2,
            stride=problem.stride,
            padding=padding,
            dilation=problem.dilation,
            groups=problem.groups,
            activation=problem.activation,
        )

    def summed(x: torch.Tensor, *weights: Any) -> torch.Tensor:
        pairs = [weights[i : i + 4] for i in range(0, len(weights), 4)]
        return conv.multi_strip_conv2d(x, pairs, residual=True)

    return summed if problem.family == "strips" else pair


def dense_twin(problem: Problem, tensors: Tensors) -> tuple[Callable[..., torch.Tensor], Tensors]:
    """Return the k x k convolution that the pair stands for, up to activation and inner bias."""
    x = tensors[0]
    assert x is not None
    largest = max(problem.kernels)
    shape = (problem.channels[2], problem.channels[0] // problem.groups, largest, largest)
    weight, bias = x.new_zeros(shape), x.new_zeros(problem.channels[2])
    for i, k in enumerate(problem.kernels):
        w1, _, w2, b2 = tensors[1 + 4 * i : 5 + 4 * i]
        assert w1 is not None
        assert w2 is not None
        assert b2 is not None
        middle = slice((largest - k) // 2, (largest + k) // 2)
        if problem.family == "dense":
            outer = torch.einsum("omab,micd->oiacbd", w2, w1).reshape(*shape)
        else:
            outer = w2 * w1
        weight[:, :, middle, middle] += outer
        bias += b2
    if problem.family == "strips":
        weight[:, :, largest // 2, largest // 2] += 1

    def run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        padding = problem.dilation * (largest // 2)
        more = {"stride": problem.stride, "dilation": problem.dilation, "groups": problem.groups}
        return F.conv2d(x, weight, bias, padding=padding, **more)

    return run, (x, weight, bias)


def contestants(
    problem: Problem, tensors: Tensors, layout: str, task: str, names: list[str]
) -> dict[str, Contestant]:
    """Return those of the names that can compute the problem in this layout."""
    tensors = in_layout(tensors, layout)
    found = {"torch": Contestant("torch", torch_pair(problem), tensors)}
    for backend in ("native", "auto"):
        around = _setting(backend)
        found[backend] = Contestant(backend, fused(problem), tensors, around)
    if "kxk" in names:
        function, twin = dense_twin(problem, tensors)
        found["kxk"] = Contestant("kxk", function, in_layout(twin, layout))
    if "compiled" in names:
        torch.compiler.reset()
        function = torch.compile(torch_pair(problem), dynamic=False)
        found["compiled"] = Contestant("compiled", function, tensors)
    plain = layout == "nchw" and task == "forward" and problem.family != "strips"
    if plain and all(t is None or t.dtype == torch.float32 for t in tensors):
        for name in conv_external.AVAILABLE:
            if name in names:
                run = conv_external.AVAILABLE[name](problem, tensors)
                found[name] = Contestant(name, run, tensors)
    return {name: one for name, one in found.items() if name == "torch" or name in names}


def _setting(backend: str) -> Callable[[], AbstractContextManager[object]]:
    return lambda: conv.backend(backend)
