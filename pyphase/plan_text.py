"""Plans as text: the names of keys, curves and data, and the table that ``repr`` shows."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyphase.curves import Curve, Part, Table
from pyphase.lengths import train_part
from pyphase.opt_fn import argument_text, name_of
from pyphase.phase import Key

if TYPE_CHECKING:
    from pyphase.plan import Plan

__all__ = ["curve_text", "data_name", "key_name", "render"]

_HEAD, _TAIL = 24, 6  # phases shown of a long plan
_SHAPES = {
    "Linear": "lin",
    "Cosine": "cos",
    "Exponential": "exp",
    "Polynomial": "poly",
    "OneMinusSqrt": "1-sqrt",
    "InverseSqrt": "invsqrt",
    "Rex": "rex",
    "Table": "table",
}
_HEADERS = {"weight_decay": "wds"}
_DECOUPLED = "decoupled_weight_decay"  # shown in the column of weight_decay


def key_name(key: Key) -> str:
    """Return the name of a track: the key itself, or the function's name."""
    return key if isinstance(key, str) else _function_name(key)


def data_name(data: Any) -> str | None:
    """Return a short name for a phase's data: its ``name``, or what it is made of."""
    if data is None:
        return None
    data = train_part(data)
    name = _attribute(data, "name")
    if isinstance(name, str):
        return name
    dataset = _attribute(data, "dataset")
    if dataset is not None:
        batch = _attribute(data, "batch_size")
        size = "" if batch is None else f", batch {argument_text(batch)}"
        return f"{data_name(dataset) or 'data'}{size}"
    if callable(data) and not hasattr(data, "__getitem__"):
        return _function_name(data)
    try:
        return f"{type(data).__name__}({len(data)})"
    except Exception:  # no length, or not yet
        return type(data).__name__


def curve_text(curve: Curve) -> str:
    """Return a curve in a few characters: ``0.01``, ``0.1->0 cos``."""
    start, end = curve.ends
    whole = curve.curve if isinstance(curve, Part) else curve
    if start == end and not isinstance(whole, Table):
        return _number_text(start)
    return f"{_number_text(start)}->{_number_text(end)} {_SHAPES[type(whole).__name__]}"


def render(plan: Plan) -> str:
    """Return the table of phases: steps, optimizer, values, data."""
    labels = [label for label in plan.keys.values() if label != _DECOUPLED]
    header = ["#", "name", "steps", "opt", *[_HEADERS.get(k, k) for k in labels], "data"]
    indices = list(range(len(plan.phases)))
    if len(indices) > _HEAD + _TAIL:
        indices = indices[:_HEAD] + indices[-_TAIL:]
    rows = [_row(plan, index) for index in indices]
    used = [i for i in range(len(header)) if i == 2 or any(row[i] for row in rows)]
    lines = _align([[row[i] for i in used] for row in [header, *rows]])
    if len(indices) < len(plan.phases):
        lines.insert(1 + _HEAD, f"... {len(plan.phases) - len(indices)} more phases")
    full = dict.fromkeys(name_of(opt_fn) for opt_fn in plan.opt_fns if opt_fn is not None)
    lines += [f"optimizer: {name}" for name in full if "(" in name]
    phases = "1 phase" if len(plan.phases) == 1 else f"{len(plan.phases)} phases"
    return "\n".join([f"Plan: {phases}, {plan.total_steps} steps", *lines])


def _row(plan: Plan, index: int) -> list[str]:
    phase, (begin, end), opt_fn = plan.phases[index], plan.spans[index], plan.opt_fns[index]
    cells = {plan.keys[key]: curve_text(curve) for key, curve in phase.tracks.items()}
    if _DECOUPLED in cells:
        cells["weight_decay"] = f"{cells[_DECOUPLED]} decoupled"
    return [
        str(index),
        phase.name or "",
        f"{begin}..{end - 1}",
        "" if opt_fn is None else name_of(opt_fn).partition("(")[0],
        *[cells.get(label, "") for label in plan.keys.values() if label != _DECOUPLED],
        data_name(phase.data) or "",
    ]


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _number_text(value: float | tuple[float, ...]) -> str:
    if not isinstance(value, tuple):
        return f"{value:.3g}"
    if len(value) > 3:
        return f"[{value[0]:.3g}..{value[-1]:.3g}]"
    return f"[{' '.join(f'{item:.3g}' for item in value)}]"


def _function_name(function: Any) -> str:
    if isinstance(function, functools.partial):
        given = [argument_text(arg) for arg in function.args]
        given += [f"{key}={argument_text(value)}" for key, value in function.keywords.items()]
        return f"{_function_name(function.func)}({', '.join(given)})"[:60]
    name = getattr(function, "__name__", type(function).__name__)
    return str(name).replace("<lambda>", "lambda")


def _attribute(data: Any, name: str) -> Any:
    try:
        return getattr(data, name, None)
    except Exception:  # a property of somebody's loader
        return None
