"""The Python blocks of a Markdown file, and a way to run them as a reader would."""

import re

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def run_blocks(path):
    """Run a file's blocks in order in one namespace; return how many there are."""
    text = path.read_text(encoding="utf-8")
    namespace, count = {"__name__": "__main__"}, 0
    for match in _BLOCK.finditer(text):
        line = text[: match.start(1)].count("\n")
        exec(compile("\n" * line + match[1], str(path), "exec"), namespace)
        count += 1
    return count
