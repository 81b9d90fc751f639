"""How an op enters torch's dispatcher: one library, and what is the same for every op."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet
from torch.autograd import forward_ad

__all__ = [
    "add_formula",
    "any_requires_grad",
    "autocast",
    "below_autograd",
    "define",
    "is_autocast",
    "is_plain",
    "is_transformed",
    "without_autocast",
]

Result = TypeVar("Result")

library: Any = torch.library.Library("pyphase", "DEF")  # type: ignore[no-untyped-call]

_AUTOCAST = {
    kind: getattr(DispatchKey, name)
    for kind, name in (
        ("cpu", "AutocastCPU"),
        ("cuda", "AutocastCUDA"),
        ("mps", "AutocastMPS"),
        ("xpu", "AutocastXPU"),
    )
    if hasattr(DispatchKey, name)
}

_PLAIN = (Tensor, torch.nn.Parameter)
_TRACED = DispatchKey.PreDispatch  # as export does it, by modes that are not in the stack


def define(
    schema: str, kernel: Callable[..., Result], fake: Callable[..., Result], *, cast: bool
) -> Callable[..., Result]:
    """Register an op, and return it.

    Args:
        schema: name, arguments and results, as torch's ``native_functions.yaml`` writes them.
        kernel: what computes it, on every device.
        fake: what allocates its results, without computing; sizes may be symbolic.
        cast: whether autocast casts its arguments, as it does for conv2d. A backward op follows
            the types of its forward instead.
    """
    name = schema.partition("(")[0]
    library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"pyphase::{name}", fake, lib=library)
    op: Callable[..., Result] = getattr(torch.ops.pyphase, name).default
    for kind, key in _AUTOCAST.items():
        library.impl(name, _under_autocast(op, kind if cast else None), key.name)
    return op


def add_formula(
    op: Any, apply: Callable[..., Any], composite: Callable[..., Any] | None = None
) -> None:
    """Register what carries the gradient of an op.

    Args:
        op: as :func:`define` gives it.
        apply: of an autograd.Function; for calls that want a gradient.
        composite: the same in torch's own operations; for calls under torch.func, where an
            autograd.Function can't serve below the dispatcher.

    This is torch.library.register_autograd at a lower level: that one drops the gradients of a
    list that has a None in it, and can't be used under torch.func.
    """

    def kernel(*args: Any) -> Any:
        if composite is not None and torch._C._are_functorch_transforms_active():
            return composite(*args)
        if torch.is_grad_enabled() and any_requires_grad(args):
            return apply(*args)
        return below_autograd(op, *args)

    library.impl(op.name(), kernel, "Autograd")


def any_requires_grad(args: Iterable[Any]) -> bool:
    """Return whether a tensor among arguments, or in a list among them, requires a gradient."""
    for arg in args:
        if isinstance(arg, Tensor):
            if arg.requires_grad:
                return True
        elif isinstance(arg, list | tuple) and any_requires_grad(arg):
            return True
    return False


def below_autograd(op: Callable[..., Result], *args: Any) -> Result:
    """Call an op without its own autograd formula."""
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def is_plain(args: Iterable[Any]) -> bool:
    """Return whether torch's dispatcher would do nothing but call the kernel of an op, on the CPU.

    Then the kernel is called at once: the way through the dispatcher takes longer than a small
    convolution. Not so where someone looks on (a mode, a trace, the profiler, a compiler,
    torch.func), where autocast casts, or where a tensor is more than its memory: a subclass, one
    whose sign is yet to be turned, or one that has none, as a batch of gradients.
    """
    if (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._dispatch_tls_is_dispatch_key_included(_TRACED)
        or is_transformed()
        or torch._C._get_tracing_state() is not None
        or torch._C._autograd._profiler_enabled()
        or torch._C._is_any_autocast_enabled()
    ):
        return False
    try:
        for arg in args:
            if arg is not None and (
                type(arg) not in _PLAIN or not arg.is_cpu or arg.is_neg() or not arg.data_ptr()
            ):
                return False
    except RuntimeError:  # data_ptr() of what has no memory
        return False
    return True


def is_transformed(*batches: Tensor) -> bool:
    """Return whether torch.func or forward-mode differentiation looks on: they want torch's ops.

    So do ``batches`` of gradients that autograd puts together itself, for ``is_grads_batched``.
    """
    return (
        torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or any(map(torch._C._functorch.is_legacy_batchedtensor, batches))
    )


def without_autocast() -> Any:
    """Return a context in which no op is autocast, on any device."""
    keys = DispatchKeySet(DispatchKey.Undefined)
    for key in _AUTOCAST.values():
        keys = keys | DispatchKeySet(key)
    return torch._C._ExcludeDispatchKeyGuard(keys)


def is_autocast(kind: str) -> bool:
    """Return whether autocast is on for a kind of device."""
    return kind in _AUTOCAST and torch.is_autocast_enabled(kind)


def autocast(tensors: Any, kind: str) -> Any:
    """Return tensors, or lists of them, as autocast has them on this kind of device."""
    return _cast(tensors, torch.get_autocast_dtype(kind))


def _under_autocast(op: Callable[..., Result], kind: str | None) -> Callable[..., Result]:
    def kernel(*args: Any) -> Result:
        cast = args if kind is None else autocast(args, kind)
        with without_autocast():
            return op(*cast)

    return kernel


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Cast what autocast casts: floating point other than float64."""
    if isinstance(value, Tensor):
        eligible = value.is_floating_point() and value.dtype != torch.float64
        return value.to(dtype) if eligible else value
    if isinstance(value, list | tuple):
        return [_cast(item, dtype) for item in value]
    return value
