"""One forward pass of a copy: the calls of each convolution, MACs, moments, batch norms."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pyphase.conv.backend import backend
from pyphase.conv.check import is_channels_last
from pyphase.conv.options import pair_of, same_padding
from pyphase.conv.sites import Call, Site, has_hooks, has_numbers

__all__ = ["call_model", "collect_moments", "fold_norms", "probe"]

_PATCHES_AT_ONCE = 1 << 22  # numbers of unfolded patches in memory, in float64: 32 MB


def call_model(model: nn.Module, inputs: Any) -> Any:
    """Call a model with a tensor, a tuple of arguments, or a dict of keywords."""
    if isinstance(inputs, tuple):
        return model(*inputs)
    return model(**inputs) if isinstance(inputs, dict) else model(inputs)


@torch.no_grad()
def probe(model: nn.Module, sites: Sequence[Site], inputs: Any) -> tuple[int, dict[str, str]]:
    """Fill in the sites' calls. Return the model's MACs, and batch norms by their convolution.

    Works on a copy in eval mode. A batch norm belongs to a convolution if it, and nothing else,
    takes what the convolution gives.
    """
    model = copy.deepcopy(model).eval()
    watch = _Watch()
    for site in sites:
        conv = model.get_submodule(site.name)
        if not site.reason:
            conv.__class__, conv.site = _Watched, site  # type: ignore[assignment]
        conv.register_forward_hook(functools.partial(_record, site), with_kwargs=True)
        conv.register_forward_hook(functools.partial(watch.made, site.name))
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            take = functools.partial(watch.taken, name)
            module.register_forward_pre_hook(take, with_kwargs=True)
    with backend("torch"), FlopCounterMode(display=False) as counter, watch:
        watch.count(call_model(model, inputs))
    return counter.get_total_flops() // 2, watch.pairs()


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return what a convolution or a batch norm was called with."""
    found: Tensor = args[0] if args else kwargs["input"]
    return found


def _record(
    site: Site, conv: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
) -> None:
    input = _input(args, kwargs)
    # Plain numbers only: an operation on the input would count as one that reads it.
    shape, strides = tuple(input.shape), input.stride()
    if input.ndim == 3:
        shape, strides = (1, *shape), (input.numel(), *strides)
    last = is_channels_last(shape, strides)
    site.calls.append(Call(shape, last, input.dtype, input.device, *output.shape[-2:]))


class _Watched(nn.Conv2d):
    """A convolution that leaves its site alone if others read its weight: a pair has none."""

    site: Site
    is_running = False

    def forward(self, input: Tensor) -> Tensor:
        self.is_running = True
        output = super().forward(input)
        self.is_running = False
        return output

    def __getattr__(self, name: str) -> Any:
        if name in ("weight", "bias") and not self.is_running:
            self.site.reason = self.site.reason or f"its {name} is read outside of it"
        return super().__getattr__(name)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the operations that read each convolution's output."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._makers: dict[int, str] = {}  # by the id of an output
        self._kept: list[Tensor] = []  # so that no id comes back
        self._reads: dict[str, int] = {}
        self._calls: dict[str, int] = {}
        self._norm_inputs: dict[str, list[str]] = {}

    def made(self, name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        self._makers[id(output)] = name
        self._kept.append(output)
        self._calls[name] = self._calls.get(name, 0) + 1

    def taken(
        self, norm: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        maker = self._makers.get(id(_input(args, kwargs)), "")
        self._norm_inputs.setdefault(norm, []).append(maker)

    def count(self, tree: Any) -> None:
        """Count each convolution's output in what an operation, or the caller, reads."""
        for leaf in tree_leaves(tree):
            name = self._makers.get(id(leaf))
            if name is not None:
                self._reads[name] = self._reads.get(name, 0) + 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count((args, kwargs))
        return func(*args, **(kwargs or {}))

    def pairs(self) -> dict[str, str]:
        """Return the names of batch norms by that of their convolution."""
        found = {}
        for norm, makers in self._norm_inputs.items():
            conv = makers[0]
            if conv and makers == [conv] * self._calls[conv] and self._reads[conv] == len(makers):
                found[conv] = norm
        return found


def fold_norms(model: nn.Module, sites: Sequence[Site], norms: dict[str, str]) -> None:
    """Set the folded convolution of each site that a batch norm follows, from its own statistics.

    Raises:
        ValueError: a batch norm is in training mode, where it uses the batch's statistics.
    """
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    for site in sites:
        norm = model.get_submodule(norms[site.name]) if site.name in norms else None
        if site.reason or type(norm) is not nn.BatchNorm2d or norm.running_mean is None:
            continue
        if has_hooks(norm):
            continue  # they would be lost
        if norm.training:
            raise ValueError(
                f"`fold_batch_norm` is for inference, but {norms[site.name]!r} is in training "
                "mode: call `model.eval()` first"
            )
        evaluated = copy.deepcopy(site.conv).eval()  # torch's function asks for eval mode
        site.dense = fuse_conv_bn_eval(evaluated, norm).train(site.conv.training)
        site.norm = names[id(norm)]
        if not has_numbers(site.dense.weight):
            site.reason = f"with {site.norm[0]!r} its weight is zero or not finite"


@torch.no_grad()
def collect_moments(model: nn.Module, sites: Sequence[Site], batches: Sequence[Any]) -> None:
    """Set the second moments of the patches under each kernel, over all batches."""
    model = copy.deepcopy(model).eval()
    counts = dict.fromkeys((site.name for site in sites), 0)

    def add(
        site: Site, conv: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> None:
        height, width = output.shape[-2:]
        total, count = _moment(site.conv, _input(args, kwargs), height * width)
        site.moment = total if site.moment is None else site.moment + total
        counts[site.name] += count

    for site in sites:
        if not site.reason:
            conv = model.get_submodule(site.name)
            conv.register_forward_hook(functools.partial(add, site), with_kwargs=True)
    for batch in batches:
        call_model(model, batch)
    for site in sites:
        if site.moment is not None and not counts[site.name]:
            raise ValueError(f"`calibration`: the output of {site.name!r} is empty")
        if site.moment is None:
            site.reason = site.reason or "not called with `calibration`"
        elif not site.moment.isfinite().all() or not site.moment.any():
            site.moment, site.reason = None, "its inputs are zero or not finite"
        else:
            site.moment = site.moment.cpu() / counts[site.name]


def _moment(conv: nn.Conv2d, input: Tensor, positions: int) -> tuple[Tensor, int]:
    """Return the sum of q q^T over all patches q, (groups, d, d), and how many there were.

    An image has as many patches as its output has ``positions``.
    """
    input = (input if input.ndim == 4 else input.unsqueeze(0)).double()
    height, width = conv.kernel_size
    if conv.padding == "same":
        dilation = pair_of("dilation", conv.dilation, least=1)
        top, bottom, left, right = same_padding((height, width), dilation)
    else:
        top, left = (0, 0) if isinstance(conv.padding, str) else conv.padding
        bottom, right = top, left
    input = nn.functional.pad(input, (left, right, top, bottom))
    size = conv.in_channels // conv.groups * height * width
    total = input.new_zeros(conv.groups, size, size)
    count = 0
    per_image = conv.groups * size * positions
    for part in torch.split(input, max(1, _PATCHES_AT_ONCE // max(per_image, 1))):
        patches = nn.functional.unfold(part, (height, width), conv.dilation, 0, conv.stride)
        shape = len(part), conv.groups, size, patches.shape[-1]
        patches = patches.reshape(shape).permute(1, 2, 0, 3).flatten(2)
        total.baddbmm_(patches, patches.mT)
        count += patches.shape[-1]
    return total, count
