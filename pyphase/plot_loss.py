"""Figures of losses: over the learning rate, as a finder saw them, and over the steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyphase.errors import PhaseError, check_flags, check_positive, check_whole, shown
from pyphase.plot_layout import MEDIUM, POINTS, SMALL, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_finder", "plot_losses"]


def plot_finder(
    lrs: Any,
    losses: Any,
    *,
    suggestion: Mapping[str, float] | None = None,
    linear: bool = False,
    n_skip: int = 10,
    n_skip_end: int = 5,
) -> Figure:
    """Draw the loss over the learning rate, as a learning rate finder found it.

    Args:
        lrs: learning rates, > 0 (>= 0 if ``linear``), of shape (n,) or (n, groups): the last
            group's are drawn.
        losses: of shape (n,), in the order of ``lrs``. Infinite and NaN losses are gaps.
        suggestion: ``{name: learning rate}``, marked on the curve.
        linear: draw the learning rate on a linear axis, not on a logarithmic one.
        n_skip: points left out at the start, >= 0.
        n_skip_end: points left out at the end, >= 0. No point is left out where fewer than 10
            would stay.

    Raises:
        TypeError: an argument has the wrong type.
        PhaseError: sizes differ, or a number is out of its range.

    Example:
        >>> figure = plot_finder([1e-3, 1e-2, 1e-1], [2.0, 1.0, 3.0], suggestion={"valley": 5e-3})
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['valley: 0.005']
    """
    check_flags(linear=linear)
    rates, values = _numbers("lrs", lrs, 2), _numbers("losses", losses)
    rates = rates[:, -1] if rates.ndim == 2 else rates
    _check_pair("lrs", rates, "losses", values)
    if not np.all((rates >= 0) & np.isfinite(rates)):
        raise PhaseError(f"`lrs` (={shown(lrs)}) must be finite and >= 0")
    if not linear and not rates.all():
        raise PhaseError(f"`lrs` (={shown(lrs)}) hold a 0, which a log axis lacks: linear=True")
    begin, stop = (
        check_whole("n_skip", n_skip, least=0),
        check_whole("n_skip_end", n_skip_end, least=0),
    )
    inner = slice(begin, rates.size - stop) if rates.size - begin - stop >= 10 else slice(None)
    figure, axes = _loss_axes("learning rate" if linear else "learning rate (log scale)")
    axes.plot(rates[inner], values[inner], lw=1.5)
    if suggestion is not None:
        _mark(axes, suggestion, rates, values, linear)
    if not linear:
        axes.set_xscale("log")
    return figure


def plot_losses(
    steps: Any, losses: Any, *, val_steps: Any = None, val_losses: Any = None
) -> Figure:
    """Draw the training loss over the steps, and validation losses as points.

    Args:
        steps: of shape (n,), in increasing order.
        losses: of shape (n,). More than 4,000 are drawn as the least and the greatest of each of
            2,000 blocks. Infinite and NaN losses are gaps.
        val_steps: of shape (m,), the steps before which the model was validated.
        val_losses: of shape (m,).

    Raises:
        TypeError: an argument has the wrong type.
        PhaseError: sizes differ, or only one of ``val_steps`` and ``val_losses`` is given.

    Example:
        >>> figure = plot_losses([0, 1, 2], [2.0, 1.5, 1.2], val_steps=[3], val_losses=[1.4])
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['training', 'validation']
    """
    at, values = _numbers("steps", steps), _numbers("losses", losses)
    _check_pair("steps", at, "losses", values)
    if (val_steps is None) != (val_losses is None):
        raise PhaseError("give both of `val_steps` and `val_losses`, or neither")
    kept = _extremes(values)
    figure, axes = _loss_axes("step")
    axes.plot(at[kept], values[kept], lw=1.0, label="training")
    if val_steps is not None:
        val_at, val_values = _numbers("val_steps", val_steps), _numbers("val_losses", val_losses)
        _check_pair("val_steps", val_at, "val_losses", val_values)
        axes.plot(val_at, val_values, "o-", ms=4, lw=1.0, label="validation")
        _add_legend(axes)
    return figure


def _mark(
    axes: Axes,
    suggestion: Any,
    rates: NDArray[np.float64],
    losses: NDArray[np.float64],
    linear: bool,
) -> None:
    """Mark suggested learning rates on the curve, straight between its points as it is drawn."""
    if not isinstance(suggestion, Mapping):
        raise TypeError(f"`suggestion` must be a dict of name: rate, got {shown(suggestion)}")
    scale: Callable[[Any], Any] = np.asarray if linear else np.log
    finite = np.isfinite(losses)
    order = np.argsort(rates[finite])
    xs, ys = rates[finite][order], losses[finite][order]
    for index, (name, rate) in enumerate(suggestion.items()):
        at = check_positive(f"suggestion[{name!r}]", rate)
        loss = np.interp(scale(at), scale(xs), ys) if xs.size else np.nan
        style: dict[str, Any] = {"marker": "osD^vPX*"[index % 8], "color": f"C{1 + index % 9}"}
        size = max(4.5, 12.0 - 2.5 * index)  # the later ones, on top, leave the earlier visible
        axes.plot(at, loss, ls="", ms=size, label=f"{name}: {at:.3g}", **style)
    if suggestion:
        _add_legend(axes)


def _loss_axes(xlabel: str) -> tuple[Figure, Axes]:
    figure = new_figure()
    axes = figure.add_axes((0.12, 0.13, 0.85, 0.78))
    axes.set_xlabel(xlabel, fontsize=MEDIUM)
    axes.set_ylabel("loss", fontsize=MEDIUM)
    axes.tick_params(labelsize=SMALL)
    axes.xaxis.get_offset_text().set_fontsize(SMALL)
    axes.grid(alpha=0.3)
    return figure, axes


def _add_legend(axes: Axes) -> None:
    """Add a legend above the axes, where no curve can run into it."""
    style: dict[str, Any] = {"frameon": False, "borderaxespad": 0, "handlelength": 1.0}
    style |= {"columnspacing": 1.2, "handletextpad": 0.4}
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=4, fontsize=SMALL, **style)


def _extremes(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the indices of the least and greatest value of each of up to 2,000 blocks."""
    if values.size <= 2 * POINTS:
        return np.arange(values.size)
    kept: list[int] = []
    for block in np.array_split(np.arange(values.size), POINTS):
        low = np.where(np.isnan(values[block]), np.inf, values[block])
        high = np.where(np.isnan(values[block]), -np.inf, values[block])
        kept += sorted({int(block[low.argmin()]), int(block[high.argmax()])})
    return np.asarray(kept)


def _numbers(name: str, value: Any, most_dims: int = 1) -> NDArray[np.float64]:
    """Return an array, tensor or sequence of real numbers as float64."""
    plain = value.tolist() if hasattr(value, "tolist") else value
    try:
        array = np.asarray(plain)
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` must be an array of numbers, got {shown(value)}") from None
    if array.dtype.kind not in "iuf":
        raise TypeError(f"`{name}` must be an array of numbers, got {shown(value)}")
    if not 1 <= array.ndim <= most_dims or not array.size:
        expected = "(n,)" if most_dims == 1 else "(n,) or (n, groups)"
        raise PhaseError(f"`{name}` (shape {array.shape}) must be of shape {expected}, n > 0")
    return array.astype(np.float64)


def _check_pair(name: str, x: NDArray[Any], other: str, y: NDArray[Any]) -> None:
    if x.size != y.size:
        raise PhaseError(f"`{name}` ({x.size}) and `{other}` ({y.size}) must be equally many")
