"""Run the Python blocks of README and gallery; write the pictures that stand below them.

A block that is followed by ``![...](NAME.png)`` leaves its figure in the variable ``figure``.
What a factorized kernel is has a picture of its own.

    python docs/pictures.py          # writes docs/*.png and docs/gallery/*.png
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
README, GALLERY = ROOT / "README.md", ROOT / "docs" / "gallery.md"
_BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n!\[[^\]]*\]\(([^)]+)\))?", re.DOTALL)


class Block(NamedTuple):
    """A Python block, its page and the line at which it starts, and the picture below it, or ''."""

    code: str
    page: str
    line: int
    picture: str


class Shown(NamedTuple):
    """What a block has left: what it printed, and the figure of the picture below it, if any."""

    block: Block
    output: str
    figure: Figure | None


def blocks(page: Path = README) -> list[Block]:
    """Return the Python blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(match[1], str(page), text[: match.start()].count("\n") + 2, match[2] or "")
        for match in _BLOCK.finditer(text)
    ]


def run(block: Block, namespace: dict[str, Any]) -> None:
    """Run a block in a namespace, with line numbers of its page in tracebacks."""
    code = compile("\n" * (block.line - 1) + block.code, block.page, "exec")
    exec(code, namespace)


def run_page(page: Path, *, alone: bool) -> list[Shown]:
    """Run the blocks of a page, in one namespace as a reader would, or each ``alone``.

    Raises:
        ValueError: a block with a picture below it leaves no figure.
    """
    found: list[Shown] = []
    namespace: dict[str, Any] = {}
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:  # the blocks write files
        os.chdir(folder)
        try:
            for block in blocks(page):
                namespace = {} if alone else namespace
                namespace.pop("figure", None)
                with contextlib.redirect_stdout(io.StringIO()) as output:
                    run(block, namespace)
                figure = namespace.get("figure") if block.picture else None
                if block.picture and not isinstance(figure, Figure):
                    raise ValueError(f"{page}, line {block.line}: the block leaves no `figure`")
                found.append(Shown(block, output.getvalue(), figure))
        finally:
            os.chdir(here)
    return found


def draw_factorized(k: int = 7) -> Figure:
    """Draw a row, a column and their outer product as heat maps, with what each costs."""
    at = np.arange(k) - k // 2
    column = np.exp(-((at / 2) ** 2))
    row = -at * np.exp(-((at / 2) ** 2))
    row /= abs(row).max()
    figure = Figure(figsize=(7, 3.2), dpi=120, layout="constrained")
    parts = figure.subplots(1, 5, width_ratios=[k, 1.5, 3, 1.5, k])
    kernels = {0: row[None], 2: column[:, None], 4: np.outer(column, row)}
    for index, kernel in kernels.items():
        high, wide = kernel.shape
        axes = parts[index]
        axes.imshow(
            kernel,
            cmap="RdBu_r",
            vmin=-1,
            vmax=1,
            extent=(-wide / 2, wide / 2, -high / 2, high / 2),
        )
        axes.set(xlim=(-max(wide, 3) / 2, max(wide, 3) / 2), ylim=(-k / 2, k / 2), aspect="equal")
        axes.vlines(np.arange(1, wide) - wide / 2, -high / 2, high / 2, "white", linewidth=0.5)
        axes.hlines(np.arange(1, high) - high / 2, -wide / 2, wide / 2, "white", linewidth=0.5)
        axes.set_title(f"{high} x {wide}")
        axes.text(0, -k / 2 - 0.2, f"{kernel.size} weights", ha="center", va="top", fontsize=11)
    for index, sign in ((1, "\u00d7"), (3, "=")):
        parts[index].text(0, 0, sign, ha="center", va="center", fontsize=22)
        parts[index].set(xlim=(-1, 1), ylim=(-1, 1))
    for axes in parts:
        axes.axis("off")
    figure.supxlabel(
        f"products for each pixel and channel: 2k = {2 * k} in place of k\u00b2 = {k * k}"
    )
    return figure


def main() -> None:
    """Write every picture."""
    for page, alone in ((README, False), (GALLERY, True)):
        for shown in run_page(page, alone=alone):
            if shown.figure is not None:
                path = page.parent / shown.block.picture
                path.parent.mkdir(exist_ok=True)
                shown.figure.savefig(path)
                print(path.relative_to(ROOT))
    draw_factorized().savefig(ROOT / "docs" / "factorized.png")
    print("docs/factorized.png")


if __name__ == "__main__":
    main()
