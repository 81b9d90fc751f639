"""Kill a training again and again: every run must end as one that nobody disturbed."""

import argparse
import json
import os
import random
import time
from pathlib import Path

from toys import same


def main(text, *, kills, start, kill, unfinished, position_of, end_of):
    """Read the arguments of the command, kill so many times, compare, and print the counts.

    Args:
        text: the command's documentation.
        kills: the default number of kills.
        start: returns the id of a process that trains in a folder, or goes on there.
        kill: ``kill(pid, folder, delay, draw, number)`` kills it after a delay; returns False where
            it had ended. ``draw`` gives random numbers; ``number``: of kills before.
        unfinished: returns the names of what saves that were cut off have left in a folder.
        position_of: ``position_of(folder, before)`` returns the step of the last whole checkpoint,
            after checks of its own.
        end_of: returns what a run has left in a folder.
    """
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=kills)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    whole = arguments.folder / "whole"
    whole.mkdir()
    began = time.monotonic()
    assert os.waitpid(start(whole), 0)[1] == 0
    length = time.monotonic() - began
    expected = end_of(whole)
    counts = {"kills": 0, "in a write": 0, "before the first step": 0, "runs": 0}
    while counts["kills"] < arguments.kills:
        folder = arguments.folder / f"run-{counts['runs']}"
        folder.mkdir()
        counts["runs"] += 1
        position = 0
        while True:
            left, pid = unfinished(folder), start(folder)
            if counts["kills"] >= arguments.kills:
                assert os.waitpid(pid, 0)[1] == 0
                break
            if not kill(pid, folder, draw.uniform(0, length), draw, counts["kills"]):
                break
            counts["kills"] += 1
            counts["in a write"] += bool(unfinished(folder) - left)
            position = position_of(folder, position)
            counts["before the first step"] += position == 0
        same(end_of(folder), expected)
        assert not unfinished(folder)  # what a killed write leaves is removed
    steps = position_of(whole, 0)
    print(json.dumps(counts | {"steps": steps, "equal": True}))
