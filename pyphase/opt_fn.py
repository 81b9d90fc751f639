"""What an ``opt_fn`` is: its class, its bound keywords, its name, and when two are the same."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from pyphase.errors import shown

__all__ = ["OptFn", "argument_text", "bound", "check_opt_fn", "is_sgd", "name_of", "same"]

OptFn: TypeAlias = Callable[..., torch.optim.Optimizer]


def check_opt_fn(opt_fn: Any) -> None:
    """Raise TypeError unless ``opt_fn`` is None or can be called to make an optimizer."""
    is_class = isinstance(opt_fn, type)
    if opt_fn is None or (is_class and issubclass(opt_fn, torch.optim.Optimizer)):
        return
    if callable(opt_fn) and not is_class and not isinstance(opt_fn, torch.optim.Optimizer):
        return
    raise TypeError(
        f"`opt_fn` must be an optimizer class, or a function (params, lr=...) -> Optimizer, "
        f"such as torch.optim.SGD or functools.partial(torch.optim.Adam, amsgrad=True), "
        f"got {shown(opt_fn)}"
    )


def bound(opt_fn: OptFn) -> tuple[OptFn, tuple[Any, ...], dict[str, Any]]:
    """Return the innermost callable of nested partials, with all bound arguments."""
    if isinstance(opt_fn, functools.partial):
        function, args, keywords = bound(opt_fn.func)
        return function, args + opt_fn.args, {**keywords, **opt_fn.keywords}
    return opt_fn, (), {}


def same(a: OptFn, b: OptFn) -> bool:
    """Tell whether two make the same optimizer: same callable, same bound arguments."""
    (function_a, args_a, keywords_a), (function_b, args_b, keywords_b) = bound(a), bound(b)
    if function_a is not function_b and function_a != function_b:
        return False
    return _equal(args_a, args_b) and _equal(keywords_a, keywords_b)


def is_sgd(opt_fn: OptFn) -> bool:
    """Tell whether this makes a plain torch.optim.SGD."""
    return bound(opt_fn)[0] is torch.optim.SGD


def name_of(opt_fn: OptFn) -> str:
    """Return a name for tables and plots: ``SGD``, ``Adam(amsgrad=True)``, ``make_opt``."""
    function, args, keywords = bound(opt_fn)
    name = str(getattr(function, "__name__", type(function).__name__)).replace("<lambda>", "lambda")
    given = [argument_text(arg) for arg in args]
    given += [f"{key}={argument_text(value)}" for key, value in sorted(keywords.items())]
    return f"{name}({', '.join(given)})" if given else name


def argument_text(value: Any) -> str:
    """Return a bound argument in short, the same in every process: without its address."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", shown(value))


def _equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except Exception:  # arrays and tensors that don't reduce to one bool
        return a is b
