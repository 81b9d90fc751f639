"""Run the Python blocks of a page of the documentation, in order, in one namespace."""

import re

_BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def run_page(path):
    """Run all blocks of ``path``; tracebacks name its lines."""
    text, namespace = path.read_text(encoding="utf-8"), {"__name__": path.stem}
    found = list(_BLOCK.finditer(text))
    assert found, f"{path} has no Python block"
    for match in found:
        line = text[: match.start(1)].count("\n")
        exec(compile("\n" * line + match[1], str(path), "exec"), namespace)
