"""Run the Python blocks of the README; write the pictures that stand below them.

A block that is followed by ``![...](docs/NAME.png)`` leaves its figure in the variable ``figure``.

    python docs/pictures.py          # writes docs/*.png
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
_BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n!\[[^\]]*\]\((docs/[^)]+)\))?", re.DOTALL)


class Block(NamedTuple):
    """A Python block, the line at which it starts, and the picture below it ('' for none)."""

    code: str
    line: int
    picture: str


def blocks(readme: Path = ROOT / "README.md") -> list[Block]:
    """Return the Python blocks of the README in order."""
    text = readme.read_text()
    return [
        Block(match[1], text[: match.start()].count("\n") + 2, match[2] or "")
        for match in _BLOCK.finditer(text)
    ]


def run(block: Block, namespace: dict[str, Any]) -> None:
    """Run a block in a namespace, with line numbers of the README in tracebacks."""
    code = compile("\n" * (block.line - 1) + block.code, "README.md", "exec")
    exec(code, namespace)


def main() -> None:
    """Run all blocks in one namespace, as a reader would, and write every picture."""
    namespace: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:  # the blocks write files
        os.chdir(folder)
        for block in blocks():
            namespace.pop("figure", None)
            run(block, namespace)
            if block.picture:
                namespace["figure"].savefig(ROOT / block.picture)
                print(block.picture)
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
