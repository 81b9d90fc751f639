"""LARS, an SGD that scales each layer's step to the size of its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT, _default_to_fused_or_foreach

from pyphase.errors import (
    PhaseError,
    check_flags,
    check_fraction,
    check_number,
    check_positive,
    shown,
)

__all__ = ["LARS"]


class LARS(Optimizer):
    """Scale each layer's step by the ratio of its weight norm to its gradient norm.

    For each parameter w (a tensor) with gradient g, momentum buffer b (0 at first) and the norms
    ||.|| over the whole tensor::

        ratio = trust_coefficient * ||w|| / (||g|| + weight_decay * ||w|| + eps)
        d     = ratio * (g + weight_decay * w)
        b    <- momentum * b + d
        w    <- w - lr * b                        (nesterov: w - lr * (d + momentum * b))

    ratio is 1 where ||w|| or ||g|| is 0. For an excluded parameter d = g: no ratio, no weight
    decay. With ``maximize``, -g takes the place of g. With momentum 0 there is no buffer: b is d.

    The buffer holds no lr, as in ``torch.optim.SGD``. The paper's does: v <- momentum * v + lr * d,
    w <- w - v. For a constant lr both are the same, v = lr * b. Where lr changes from one step to
    the next, this class does v <- momentum * (lr / previous lr) * v + lr * d, which is Goyal et
    al.'s momentum correction (2017, section 3): a scheduled lr acts on the whole step at once, and
    lr = 0 stands still, whereas the paper's form goes on with the old rates for about
    1 / (1 - momentum) steps. And the buffer means what SGD's means, so that either can carry on
    from the other's.

    Args:
        params: parameters, named parameters, or dicts of parameter groups; a group may set each of
            the arguments below for itself.
        lr: learning rate, >= 0; a number or a 0-d tensor, which is read on its device. With
            ratios near ``trust_coefficient`` it is large, often 1 to 30.
        momentum: in [0, 1); a number or a 0-d tensor, which, as lr, a compiled or captured step
            reads anew each time. (torch's SGD takes a float only.)
        weight_decay: L2 penalty, >= 0.
        trust_coefficient: > 0; the length of a step relative to the length of the weights, at
            lr = 1 and without momentum. The paper's eta.
        eps: >= 0, added to the denominator.
        nesterov: use Nesterov's momentum; needs ``momentum`` > 0.
        exclude: which parameters take plain SGD steps. None: those with ndim <= 1, that is biases
            and the weights of norm layers. True: all of the group. False: none. To choose by name,
            give the chosen ones a group of their own.
        maximize: go up the gradient instead of down.
        foreach: update all parameters of a device and dtype together (True), or one by one
            (False). None leaves it to torch: together on accelerators.

    Shapes: parameters of any shape and stride, also empty ones. Half types take their norms in
    float32; complex parameters are as their real and imaginary parts side by side.

    Raises:
        PhaseError: an argument, or a value of a parameter group, is out of its range.
        TypeError: it has the wrong type.
        RuntimeError: in ``step()``, a gradient is sparse; nothing has been updated then.

    Equivalent to: ``torch.optim.SGD(params, lr, momentum, nesterov=nesterov)``, for excluded
    parameters; for others, to that SGD with d in place of each gradient.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
        >>> optimizer = LARS([weight], lr=1.0, momentum=0.0, trust_coefficient=0.1)
        >>> (1000 * weight.sum()).backward()
        >>> optimizer.step()  # a tenth of the weight's length, whatever the gradient's
        >>> weight.data
        tensor([[2.6464, 3.6464]])

    Source: You, Gitman & Ginsburg, "Large batch training of convolutional networks" (2017),
    arXiv 1708.03888.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        *,
        momentum: float | Tensor = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        eps: float = 1e-8,
        nesterov: bool = False,
        exclude: bool | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
            "nesterov": nesterov,
            "exclude": exclude,
            "maximize": maximize,
            "foreach": foreach,
        }
        _check("LARS", defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if isinstance(param_group, dict):  # the base class says what else is wrong with it
            where = f"LARS: param group {len(self.param_groups)}"
            _check(where, {**self.defaults, **param_group})
        super().add_param_group(param_group)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work = []
        for group in self.param_groups:
            params: list[Tensor] = []
            grads: list[Tensor] = []
            buffers: list[Tensor] = []
            self._init_group(group, params, grads, buffers)
            work.append((group, params, grads, buffers))
        for group, params, grads, buffers in work:
            foreach = group["foreach"]
            if foreach is None:
                foreach = _default_to_fused_or_foreach(params, False)[1]
            update = _update_together if foreach else _update_one_by_one
            update(group, params, grads, buffers)
        return loss

    # torch.compile knows this name, and runs it outside the graph.
    def _init_group(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        buffers: list[Tensor],
    ) -> None:
        """Fill the lists with what has a gradient; ``buffers`` stays empty without momentum."""
        for param in group["params"]:
            grad = param.grad
            if grad is None:
                continue
            if grad.layout is not torch.strided:
                raise RuntimeError(
                    f"LARS does not take sparse gradients, got {grad.layout} for a parameter of "
                    f"shape {tuple(param.shape)}: make dense ones, such as by Embedding(sparse="
                    "False), or give this parameter to another optimizer"
                )
            if param.numel() == 0:  # torch < 2.6 mixes up _foreach_norm's results beside these
                continue
            params.append(param)
            grads.append(grad)
            if _has_momentum(group):
                state = self.state[param]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(param)
                buffers.append(state["momentum_buffer"])


def _update_one_by_one(
    group: Mapping[str, Any], params: list[Tensor], grads: list[Tensor], buffers: list[Tensor]
) -> None:
    """Update as the equations of :class:`LARS` stand: the oracle of ``_update_together``."""
    lr, momentum, moves = group["lr"], group["momentum"], _has_momentum(group)
    for i, (w, grad) in enumerate(zip(params, grads, strict=True)):
        d = -grad if group["maximize"] else grad
        if not _is_excluded(w, group):
            norm_type = _norm_type(w)
            w_norm = torch.linalg.vector_norm(w, dtype=norm_type)
            g_norm = torch.linalg.vector_norm(grad, dtype=norm_type)
            d = d.add(w, alpha=group["weight_decay"]).mul_(_ratio(w_norm, g_norm, group))
        if moves:
            b = buffers[i].mul_(momentum).add_(d)
            d = _ahead([d], [b], momentum)[0] if group["nesterov"] else b
        if isinstance(lr, Tensor):
            w.add_(d * -lr)  # as alpha the tensor would be read on the host
        else:
            w.add_(d, alpha=-lr)


def _update_together(
    group: Mapping[str, Any], params: list[Tensor], grads: list[Tensor], buffers: list[Tensor]
) -> None:
    """Update all parameters of a device and dtype at once, without waiting for the device."""
    lr, momentum, moves = group["lr"], group["momentum"], _has_momentum(group)
    buckets: dict[Any, list[int]] = {}
    for i, w in enumerate(params):
        buckets.setdefault((w.device, w.dtype, _is_excluded(w, group)), []).append(i)
    for (_, _, excluded), indices in buckets.items():
        ws = [params[i] for i in indices]
        ds: tuple[Tensor, ...] | list[Tensor] = [grads[i] for i in indices]
        if not excluded:
            norm_type = _norm_type(ws[0])
            w_norms = torch.stack(torch._foreach_norm(ws, 2, dtype=norm_type))
            g_norms = torch.stack(torch._foreach_norm(ds, 2, dtype=norm_type))
            ratios = _ratio(w_norms, g_norms, group)
        if group["maximize"]:
            ds = torch._foreach_neg(ds)
        if not excluded:
            ds = torch._foreach_add(ds, ws, alpha=group["weight_decay"])
            torch._foreach_mul_(ds, ratios.unbind())  # one launch a tensor, called from C++
        if moves:
            bs = [buffers[i] for i in indices]
            torch._foreach_mul_(bs, momentum)
            torch._foreach_add_(bs, ds)
            ds = _ahead(ds, bs, momentum) if group["nesterov"] else bs
        if isinstance(lr, Tensor):
            torch._foreach_add_(ws, torch._foreach_mul(ds, -lr))
        else:
            torch._foreach_add_(ws, ds, alpha=-lr)


def _ratio(w_norm: Tensor, g_norm: Tensor, group: Mapping[str, Any]) -> Tensor:
    scale = g_norm + group["weight_decay"] * w_norm + group["eps"]
    ratio = group["trust_coefficient"] * w_norm / scale
    return torch.where((w_norm > 0) & (g_norm > 0), ratio, 1.0)


def _ahead(
    ds: tuple[Tensor, ...] | list[Tensor], bs: list[Tensor], momentum: float | Tensor
) -> tuple[Tensor, ...]:
    """Return d + momentum * b: Nesterov's look ahead."""
    if isinstance(momentum, Tensor):  # as alpha it would be read on the host
        return torch._foreach_add(ds, torch._foreach_mul(bs, momentum))
    return torch._foreach_add(ds, bs, alpha=momentum)


def _has_momentum(group: Mapping[str, Any]) -> bool:
    """Tell whether there is a buffer; a tensor always has one, or it would be read on the host."""
    return isinstance(group["momentum"], Tensor) or group["momentum"] != 0


def _is_excluded(param: Tensor, group: Mapping[str, Any]) -> bool:
    exclude: bool | None = group["exclude"]
    return param.ndim <= 1 if exclude is None else exclude


def _norm_type(param: Tensor) -> torch.dtype | None:
    return torch.float32 if param.dtype in (torch.float16, torch.bfloat16) else None


def _check(where: str, values: Mapping[str, Any]) -> None:
    try:
        lr, momentum = _number("lr", values["lr"]), _number("momentum", values["momentum"])
        if check_number("lr", lr) < 0:
            raise PhaseError(f"`lr` (={shown(values['lr'])}) must be >= 0")
        check_fraction("momentum", momentum, closed=False)
        for name in ("weight_decay", "eps"):
            if check_number(name, values[name]) < 0:
                raise PhaseError(f"`{name}` (={shown(values[name])}) must be >= 0")
        check_positive("trust_coefficient", values["trust_coefficient"])
        for name in ("nesterov", "maximize"):
            check_flags(**{name: values[name]})
        for name in ("exclude", "foreach"):
            if not isinstance(values[name], bool | None):
                raise TypeError(f"`{name}` must be None or a bool, got {shown(values[name])}")
        if values["nesterov"] and momentum == 0:
            raise PhaseError("`nesterov` (=True) needs a `momentum` > 0, got 0")
    except (PhaseError, TypeError) as error:
        raise type(error)(f"{where}: {error}") from None


def _number(name: str, value: Any) -> Any:
    """Return a 0-d tensor's number, anything else as it is."""
    if isinstance(value, Tensor) and value.ndim != 0:
        raise PhaseError(
            f"`{name}` must be a number or a 0-d tensor, got shape {tuple(value.shape)}"
        )
    return value.item() if isinstance(value, Tensor) else value
