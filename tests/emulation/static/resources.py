"""What ptxas says of each kernel of a cubin."""

from __future__ import annotations

import re
from typing import NamedTuple


class Resources(NamedTuple):
    """Of one kernel on one target; bytes of stack and spills, of one thread."""

    registers: int
    stack: int
    spills: int
    static_shared: int


def read_log(log: str) -> dict[str, Resources]:
    """Return the resources by kernel, from the output of `ptxas -v`."""
    found = {}
    for part in re.split(r"Compiling entry function '", log)[1:]:
        name = part.split("'", 1)[0]
        stack = re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part
        )
        used = re.search(r"Used (\d+) registers", part)
        shared = re.search(r"(\d+) bytes smem", part)
        assert stack, part
        assert used, part
        spills = int(stack[2]) + int(stack[3])
        found[name] = Resources(
            int(used[1]), int(stack[1]), spills, int(shared[1]) if shared else 0
        )
    return found
