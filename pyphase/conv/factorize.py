"""Spatial SVD of trained k x k convolutions over a whole model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from pyphase.conv.clock import time_layers, time_models
from pyphase.conv.decompose import Decomposition
from pyphase.conv.factor_plan import FactorPlan, Swap
from pyphase.conv.factor_table import LayerPlan
from pyphase.conv.options import whole
from pyphase.conv.probe import collect_moments, fold_norms, probe
from pyphase.conv.ranks import ORDERS, Shape
from pyphase.conv.rules import (
    Layer,
    by_energy,
    by_latency,
    by_macs,
    by_rank,
    by_ratio,
    by_score,
    score,
    with_pairs,
)
from pyphase.conv.sites import Site, find_sites
from pyphase.errors import check_flags, check_number, shown

__all__ = ["factorize"]

Ranks = int | Mapping[str, Any]


def factorize(
    model: nn.Module,
    inputs: Any,
    *,
    rank: Ranks | None = None,
    ratio: float | None = None,
    energy: float | None = None,
    macs: float | None = None,
    latency: float | None = None,
    max_drop: float | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    calibration: Any = None,
    order: str | None = None,
    multiple: int = 1,
    ignore: Collection[str] = (),
    grouped: bool = False,
    fold_batch_norm: bool = False,
    measure: bool = True,
) -> FactorPlan:
    """Plan a model whose trained k x k convolutions are rows and columns of low rank.

    Each kernel W (K, C, k', k) becomes a :class:`FactorizedConv2d` with r channels between its two
    convolutions: r (C k + K k') MACs a pixel in place of C K k' k. The pair is the one of rank r
    with the least ||W - W'||^2, or with a ``calibration`` the least squared error of the layer's
    outputs on it; in the order, row or column first, that is the better one. The model itself is
    not changed before ``plan.apply()``: it is run, timed and evaluated as copies in eval mode.

    Exactly one rule chooses the ranks:

    Args:
        model: any module.
        inputs: an example for one forward pass: a tensor, a tuple of arguments or a dict of
            keywords. MACs and times are those of this pass.
        rank: channels between the two, per group, >= 1, for every layer where that gains; or, by
            the layers' names, the rank or (order, rank) of each, up to the full rank, whether it
            gains or not. Layers that it doesn't name are left alone.
        ratio: in (0, 1): the highest rank with at most this share of the layer's MACs.
        energy: in (0, 1): the fewest MACs with 1 - error^2 of at least this, layer by layer.
        macs: in (0, 1): at most this share of the whole model's MACs (all its operations'), with
            the greatest product of the layers' energies: greedy by the log of it per MAC.
        latency: in (0, 1): at most this share of the model's time, as measured here; greedy by
            the same per second.
        max_drop: >= 0: the fewest MACs on the greedy path whose score, by ``evaluate``, is at most
            so much below the model's own. Found by bisection, which takes the score to fall along
            the path.
        evaluate: maps a model in eval mode to a score, the higher the better. With another rule
            than ``max_drop`` it only gives the plan's ``scores``.
        calibration: a batch like ``inputs``, or a list of them, of real data: a few dozen images.
        order: ``"row_col"`` or ``"col_row"``; None is the better one.
        multiple: ranks are multiples of this, >= 1.
        ignore: names of convolutions to leave alone, or of modules that hold some.
        grouped: whether grouped convolutions are factorized too, each group by itself.
        fold_batch_norm: whether a batch norm that alone reads a factorized convolution's output is
            folded into it before. For inference: such a layer can no longer train with it.
        measure: whether layers and model are timed, before and after.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: not exactly one rule is given, an argument is out of its range, a budget is out
            of reach, or a batch norm that should be folded is in training mode.

    Equivalent to: for each layer ``FactorizedConv2d.from_dense(conv, rank, order=order)`` where
    there is no calibration and no batch norm to fold.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 8, 1))
        >>> image = torch.zeros(1, 3, 32, 32)
        >>> plan = factorize(model, image, ratio=0.5, order="row_col", measure=False)
        >>> [(layer.name, layer.rank, layer.reason) for layer in plan.layers]
        [('0', 6, ''), ('2', 0, '1x1: there is nothing to split')]
        >>> plan.apply()
        >>> model[0]
        FactorizedConv2d(3, 16, kernel_size=(5, 5), mid_channels=6, stride=(1, 1), padding=(2, 2))

    Source: Tai, Xiao, Zhang, Wang & E (2016), arXiv 1511.06067 (weights); Zhang, Zou, He & Sun
    (2016), arXiv 1505.06798 (outputs, greedy ranks).
    """
    rules = {"rank": rank, "ratio": ratio, "energy": energy, "macs": macs}
    rule, value = _check_rule({**rules, "latency": latency, "max_drop": max_drop}, evaluate)
    check_flags(grouped=grouped, fold_batch_norm=fold_batch_norm, measure=measure)
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {shown(model)}")
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError("`model` has lazy parameters without a shape: call it once before")
    if order is not None and order not in ORDERS:
        raise ValueError(f"`order` (={shown(order)}) must be None or one of {ORDERS}")
    multiple = whole("multiple", multiple)
    if multiple < 1:
        raise ValueError(f"`multiple` (={multiple}) must be >= 1")
    if isinstance(ignore, str) or not isinstance(ignore, Collection):
        raise TypeError(f"`ignore` must be a collection of names, got {shown(ignore)}")
    sites = find_sites(model, ignore, grouped)
    explicit = _explicit(value, sites, multiple) if isinstance(value, Mapping) else None
    total, norms = probe(model, sites, inputs)
    for site in sites:
        if not site.calls:
            site.reason = site.reason or "not called with `inputs`"
        elif not any(call.shape[0] * call.height * call.width for call in site.calls):
            raise ValueError(f"`inputs`: the output of {site.name!r} is empty")
    if calibration is not None:
        batches = calibration if isinstance(calibration, list) else [calibration]
        if not batches:
            raise ValueError("`calibration` is an empty list")
        collect_moments(model, sites, batches)
    if fold_batch_norm:
        fold_norms(model, sites, norms)
    orders = ORDERS if order is None else (order,)
    layers = [_layer(site, orders, multiple) for site in sites if not site.reason]
    for layer in layers:
        if not explicit and not any(layer.most(o) for o in layer.fits):
            layer.site.reason = layer.no_gain()
    gaining = [layer for layer in layers if not layer.site.reason]
    if explicit is not None:
        _take(sites, gaining, explicit)
    elif rule in ("rank", "ratio", "energy"):
        choose: Any = {"rank": by_rank, "ratio": by_ratio, "energy": by_energy}[rule]
        for layer in gaining:
            layer.site.reason = choose(layer, value)
    elif rule == "macs":
        by_macs(gaining, total, value, calibration is not None)
    elif rule == "latency":
        by_latency(model, gaining, inputs, value)
    else:
        assert evaluate is not None
        by_score(model, gaining, evaluate, value, calibration is not None)
    for layer in gaining:
        if layer.choice is None:
            layer.site.reason = layer.site.reason or f"`{rule}` is met without it"
    return _plan(model, inputs, sites, gaining, total, evaluate, measure)


def _check_rule(rules: dict[str, Any], evaluate: Any) -> tuple[str, Any]:
    """Return the one rule that is given, and its value."""
    given = [name for name, value in rules.items() if value is not None]
    if len(given) != 1:
        names = ", ".join(f"`{name}`" for name in rules)
        raise ValueError(f"give exactly one of {names}; got {', '.join(given) or 'none'}")
    if evaluate is not None and not callable(evaluate):
        raise TypeError(f"`evaluate` must be a function of the model, got {shown(evaluate)}")
    (name,) = given
    value = rules[name]
    if name == "rank":
        if isinstance(value, Mapping):
            return name, value
        rank = whole("rank", value)
        if rank < 1:
            raise ValueError(f"`rank` (={rank}) must be >= 1")
        return name, rank
    number = check_number(name, value)
    if name == "max_drop":
        if evaluate is None:
            raise ValueError("`max_drop` needs `evaluate`")
        if number < 0:
            raise ValueError(f"`max_drop` (={shown(value)}) must be >= 0")
    elif not 0 < number < 1:
        raise ValueError(f"`{name}` (={shown(value)}) must be in (0, 1)")
    return name, number


def _explicit(
    ranks: Mapping[str, Any], sites: Sequence[Site], multiple: int
) -> dict[str, tuple[str | None, int]]:
    """Return (order or None, rank) by name, with the other sites left alone."""
    found: dict[str, tuple[str | None, int]] = {}
    named = {name: site for site in sites for name in site.names}
    for name, value in ranks.items():
        if name not in named:
            raise ValueError(f"`rank`: {shown(name)} is no convolution to factorize")
        own, rank = value if isinstance(value, tuple | list) and len(value) == 2 else (None, value)
        if own is not None and own not in ORDERS:
            raise ValueError(f"`rank[{name!r}]` (={shown(value)}): no order {shown(own)}")
        rank = whole(f"rank[{name!r}]", rank)
        if rank < 1 or rank % multiple:
            raise ValueError(f"`rank[{name!r}]` (={rank}) must be a multiple of {multiple}, >= 1")
        found[named[name].name] = own, rank
    for site in sites:
        if site.name not in found:
            site.reason = site.reason or "not named in `rank`"
    return found


def _take(
    sites: Sequence[Site], layers: Sequence[Layer], ranks: dict[str, tuple[str | None, int]]
) -> None:
    for site in sites:
        if site.name in ranks and site.reason:
            raise ValueError(
                f"`rank`: {site.name!r} is no convolution to factorize ({site.reason})"
            )
    for layer in layers:
        own, rank = ranks[layer.site.name]
        full = {o: fit.full_rank for o, fit in layer.fits.items() if own in (None, o)}
        layer.choice = layer.best({o: rank for o in full if rank <= full[o]})
        if layer.choice is None:
            name, most = layer.site.name, max(full.values(), default=0)
            limit = f"in 1 ... {most}, the full rank" if full else f"in `order`, not {own!r}"
            raise ValueError(f"`rank[{name!r}]` (={rank}) must be {limit}")


def _layer(site: Site, orders: Sequence[str], multiple: int) -> Layer:
    weight, groups = site.dense.weight, site.dense.groups
    fits = {o: Decomposition(weight, groups, o == "row_col", site.moment) for o in orders}
    return Layer(site, Shape.of(site), fits, multiple)


def _plan(
    model: nn.Module,
    inputs: Any,
    sites: Sequence[Site],
    layers: Sequence[Layer],
    total: int,
    evaluate: Callable[[nn.Module], float] | None,
    measure: bool,
) -> FactorPlan:
    """Return the plan of the layers' choices."""
    chosen = {layer.site.name: layer for layer in layers if layer.choice is not None}
    rows = [_row(site, chosen.get(site.name), measure) for site in sites]
    slim = with_pairs(model, layers)
    dense = with_pairs(model, [])
    ms = scores = None
    if measure:
        before, after = time_models([dense, slim], inputs)
        ms = 1e3 * before, 1e3 * after
    if evaluate is not None:
        scores = score(evaluate, dense), score(evaluate, slim)
    saved = sum(row.macs[0] - row.macs[1] for row in rows)
    params = _numbers(dense), _numbers(slim)
    swaps = [
        Swap.of(model, layer.site, layer.pair(layer.choice)[0])
        for layer in chosen.values()
        if layer.choice is not None
    ]
    calibrated = any(site.moment is not None for site in sites)
    return FactorPlan(model, rows, swaps, (total, total - saved), params, ms, scores, calibrated)


def _row(site: Site, layer: Layer | None, measure: bool) -> LayerPlan:
    conv = site.conv
    kernel = "x".join(str(k) for k in conv.kernel_size)
    kind = f"{conv.in_channels}->{conv.out_channels} {kernel}"
    if conv.stride != (1, 1):
        kind += f" /{conv.stride[0]}" if len(set(conv.stride)) == 1 else f" /{conv.stride}"
    shape = Shape.of(site) if site.calls else None
    macs = shape.macs if shape else 0
    params = _numbers(conv)
    if layer is None or layer.choice is None or shape is None:
        alone = (params, params), (macs, macs)
        return LayerPlan(site.name, kind, site.reason, "", 0, *alone, None, 0.0, "")
    choice = layer.choice
    pair, error = layer.pair(choice)
    ms = None
    if measure:
        before, after = time_layers(site, [site.dense, pair])
        ms = 1e3 * before, 1e3 * after
    return LayerPlan(
        name=site.name,
        kind=kind,
        reason="",
        order=choice.order,
        rank=choice.rank,
        params=(params, _numbers(pair)),
        macs=(macs, choice.rank * shape.macs_per_rank[choice.order]),
        ms=ms,
        error=error**0.5,
        norm=site.norm[0] if site.norm else "",
    )


def _numbers(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
