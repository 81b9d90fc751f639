"""The binding of the CUDA kernels over the machine of fibers: what torch calls, on a CPU.

Everything between Python and a kernel is the real thing but the CUDA runtime.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
import sysconfig
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from typing import Any

import pytest

from emulation import build

NAME = "_cuda_emulated"
LIST = build.ROOT / "cmake" / "Cuda.cmake"


def sources() -> list[Path]:
    """Return the sources of the module, as the build lists them, the device's own replaced."""
    found = [build.ROOT / name for name in re.findall(r"csrc/\S+\.(?:cpp|cu)\b", LIST.read_text())]
    return [path for path in found if path.name != "device.cu"]


@functools.cache
def emulated() -> Any:
    """Return the module, compiled if it is not; skips where a compiler or a header is missing."""
    pybind11 = pytest.importorskip("pybind11", reason="needs pybind11's headers")
    # Of the binding itself, whose speed is of no interest: it takes long to compile.
    flags = ["-O0", '-DPYPHASE_CUDA_ARCHITECTURES="sm_80, compute_80"']
    flags += ['-DPYPHASE_CUDA_COMPILER="g++"']
    flags += [f"-DPYPHASE_CUDA_MODULE={NAME}", f"-I{pybind11.get_include()}"]
    flags += [f"-I{sysconfig.get_paths()['include']}"]
    runtime = [path for path in build.HOST.glob("*.cpp") if path.stem in build.RUNTIME]
    kernels = [path for path in sources() if path.suffix == ".cu"]
    others = [path for path in sources() if path.suffix == ".cpp"]
    others.append(build.HOST / "device_emulated.cpp")
    objects = [build.compile_object(path, ("-O2",)) for path in sorted(runtime)]
    objects += [build.compile_object(path, ("-Og",)) for path in kernels]
    for path in others:
        in_binding = path.parent.name == "bindings"
        objects.append(build.compile_object(path, tuple(flags) if in_binding else ("-O2",)))
    stem = hashlib.sha256(repr(objects).encode()).hexdigest()[:16]
    command = ["g++", "-shared", *map(str, objects), "-ldl"]
    path = build._run(command, build.CACHE / f"{NAME}-{stem}.so")
    loader = ExtensionFileLoader(NAME, str(path))
    spec = importlib.util.spec_from_loader(NAME, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
