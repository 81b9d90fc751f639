"""A plan's layers, and the table of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyphase.conv.factor_plan import FactorPlan

__all__ = ["LayerPlan", "render"]


@dataclass(frozen=True)
class LayerPlan:
    """What becomes of one convolution; before and after are the same where it is left alone."""

    name: str
    kind: str  # such as "64->128 3x3 /2"
    reason: str  # why it is left alone, or ""
    order: str  # "row_col" or "col_row", "" where it is left alone
    rank: int  # channels between the two, per group; 0 where it is left alone
    params: tuple[int, int]
    macs: tuple[int, int]  # of all calls in a forward pass
    ms: tuple[float, float] | None  # of all calls
    error: float  # ||change|| / ||whole||, of the weights or of the calibration's outputs
    norm: str  # name of the batch norm that is folded in, or ""

    @property
    def energy(self) -> float:
        """The share of the squares that is kept."""
        return 1 - self.error**2


def render(plan: FactorPlan, fits_outputs: bool) -> str:
    """Return the plan as a table, with a summary above."""
    chosen = [layer for layer in plan.layers if not layer.reason]
    lines = [f"{len(chosen)} of {len(plan.layers)} convolutions, {_summary(plan)}"]
    error = "output error" if fits_outputs else "weight error"
    columns = ["layer", "convolution", "order", "rank", "params", "MACs", "ms", error, "energy"]
    rows = [columns, *(_row(layer) for layer in plan.layers)]
    numbers = [row for row in rows if len(row) == len(columns)]
    widths = [max(len(row[i]) for row in numbers) for i in range(len(columns))]
    for i in (0, 1):
        widths[i] = max(len(row[i]) for row in rows)
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        if len(row) < len(columns):
            cells[-1] = row[-1]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _summary(plan: FactorPlan) -> str:
    before, after = plan.macs
    text = f"MACs {_count(before)} -> {_count(after)} ({after / max(before, 1):.1%})"
    text += f", parameters {_count(plan.params[0])} -> {_count(plan.params[1])}"
    if plan.ms is not None:
        text += f", {plan.ms[0]:.3g} -> {plan.ms[1]:.3g} ms"
    if plan.scores is not None:
        text += f", score {plan.scores[0]:.6g} -> {plan.scores[1]:.6g}"
    return text


def _row(layer: LayerPlan) -> Sequence[str]:
    if layer.reason:
        return [layer.name, layer.kind, f"left alone: {layer.reason}"]
    row = [
        layer.name,
        layer.kind,
        layer.order,
        str(layer.rank),
        " -> ".join(_count(count) for count in layer.params),
        " -> ".join(_count(count) for count in layer.macs),
        "" if layer.ms is None else " -> ".join(f"{ms:.3g}" for ms in layer.ms),
        f"{layer.error:.4f}",
        f"{layer.energy:.4f}",
    ]
    if layer.norm:
        row[1] += f" + {layer.norm.rpartition('.')[2]}"
    return row


def _count(count: int) -> str:
    for size, unit in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
