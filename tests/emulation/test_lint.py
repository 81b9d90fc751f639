"""nvcc drops code after an unbraced branch of `if constexpr` without a word; so none is written."""

import re

import pytest

from emulation.build import KERNELS

SOURCES = sorted([*KERNELS.glob("*.cu"), *KERNELS.glob("*.cuh"), *KERNELS.glob("*.h")])
GOOD = "if constexpr (f(a) && (b)) {\n} else if constexpr (c) {\n} else {\n}\nif (x) y(); else z();"
BAD = [
    "if constexpr (a) for (;;) {}",
    "if constexpr (a)\n  b();",
    "if constexpr (f(a)) {\n} else for (;;) {}",
    "if constexpr (a) {\n} else\n  b();",
    "if constexpr (a) {\n} else if (b) {\n}",
]


def _closing(text: str, start: int) -> int:
    """The place after the bracket that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return i + 1
    raise ValueError(f"no bracket closes the one at {start}")


def unbraced(text: str) -> list[int]:
    """Return the lines of `if constexpr` where a branch has no braces."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", lambda m: " " * len(m[0]), text, flags=re.S)
    found = []
    for match in re.finditer(r"\bif\s+constexpr\s*(?=\()", text):
        rest = text[_closing(text, match.end()) :]
        line = text.count("\n", 0, match.start()) + 1
        if not rest.lstrip().startswith("{"):
            found.append(line)
            continue
        rest = rest[_closing(rest, rest.index("{")) :].lstrip()
        if rest.startswith("else") and not re.match(r"else\s*(\{|if\s+constexpr\b)", rest):
            found.append(line)
    return found


def test_lint_tells_braces():
    assert unbraced(GOOD) == []
    assert all(unbraced(text) for text in BAD)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_if_constexpr_has_braces(path):
    assert unbraced(path.read_text()) == []
