"""The instructions of a cubin, by NVIDIA's cuobjdump."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path

import pytest


@cache
def cuobjdump() -> tuple[str, str]:
    """The path of cuobjdump and the folder of nvdisasm; skips where they are not installed."""
    places = [Path(found)] if (found := shutil.which("cuobjdump")) else []
    if (spec := importlib.util.find_spec("nvidia")) and spec.submodule_search_locations:
        for folder in spec.submodule_search_locations:
            places += Path(folder).glob("*/bin/cuobjdump")
    for place in places:
        if (place.parent / "nvdisasm").exists():
            return str(place), str(place.parent)
    pytest.skip(
        "needs cuobjdump and nvdisasm: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
    )


@cache
def instructions(cubin: Path) -> dict[str, Counter[str]]:
    """Return for each kernel how often each opcode stands in it, without its modifiers."""
    program, folder = cuobjdump()
    env = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([program, "-sass", str(cubin)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    found = {}
    for part in re.split(r"Function : ", done.stdout)[1:]:
        name = part.split(None, 1)[0]
        codes = re.findall(r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)", part)
        found[name] = Counter(codes)
    return found
