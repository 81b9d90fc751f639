"""Compile the kernels for the tests: host libraries by g++, PTX and cubins by nvcc.

Results lie in a folder of the temporary directory, under a hash of the command and of every source
that it reads, so that a session compiles only what has changed.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import getpass
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "csrc" / "conv" / "cuda"
HOST = Path(__file__).resolve().parent / "host"
ARCHITECTURES = (80, 90, 100, 120)
# Machine code for each of them is made of the PTX of compute_80 (cmake/Cuda.cmake), which the tests
# execute; and that of the other targets where they are named, PYPHASE_PTX_TARGETS=80,90,100,120.
PTX_TARGETS = tuple(map(int, os.environ.get("PYPHASE_PTX_TARGETS", "80").split(",")))
CACHE = Path(tempfile.gettempdir()) / f"pyphase-emulation-{getpass.getuser()}"


@functools.cache
def nvcc() -> str:
    """The path of nvcc; skips the test where there is none."""
    found = shutil.which("nvcc")
    if found is None:
        pytest.skip("needs nvcc, the compiler of the CUDA toolkit")
    return found


@functools.cache
def cuda_include() -> Path:
    """The folder of cuda_fp16.h, from the toolkit or NVIDIA's wheels; skips where there is none."""
    candidates = [Path("/usr/local/cuda/include")]
    if found := shutil.which("nvcc"):
        candidates.insert(0, Path(found).resolve().parents[1] / "include")
    if (spec := importlib.util.find_spec("nvidia")) and spec.submodule_search_locations:
        for place in spec.submodule_search_locations:
            candidates += [path.parent for path in Path(place).glob("*/include/cuda_fp16.h")]
    for folder in candidates:
        if (folder / "cuda_fp16.h").exists() and (folder / "cuda_runtime.h").exists():
            return folder
    pytest.skip("needs the headers of the CUDA toolkit (cuda_fp16.h, cuda_runtime.h)")


def host_flags() -> list[str]:
    """What g++ needs to compile a kernel's source with the host's imitation of CUDA."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    warnings = ["-Wall", "-Wextra", "-Wno-unknown-pragmas"]
    paths = [f"-I{HOST}", f"-I{KERNELS}", "-isystem", str(cuda_include())]
    return ["-std=c++20", "-fPIC", *paths, *warnings]


@functools.cache
def _sources(source: Path, defined: tuple[str, ...]) -> bytes:
    """The source and the headers of this project that it includes, one after the other."""
    compiler = ["g++", "-x", "c++", *host_flags(), *defined]
    rules = subprocess.run([*compiler, "-MM", str(source)], capture_output=True, text=True)
    if rules.returncode:
        raise AssertionError(rules.stderr)
    names = rules.stdout.split(":", 1)[1].replace("\\\n", " ").split()
    return b"".join(Path(name).read_bytes() for name in names)


def _digest(source: Path, flags: list[str]) -> str:
    """A hash of what a compilation reads: flags, the source, and the headers of this project."""
    text = hashlib.sha256(repr(flags).encode() + MUTANT.read_bytes())
    text.update(_sources(source, tuple(flag for flag in flags if flag.startswith("-D"))))
    return f"{source.stem}-{text.hexdigest()[:16]}"


def _run(command: list[str], result: Path) -> Path:
    """Run a compiler, one process at a time; its result appears whole or not at all."""
    result.parent.mkdir(exist_ok=True)
    with result.with_suffix(result.suffix + "-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            part = result.with_name(f"{os.getpid()}-{result.name}")
            done = subprocess.run([*command, "-o", str(part)], capture_output=True, text=True)
            if done.returncode:
                raise AssertionError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
            result.with_suffix(result.suffix + "-log").write_text(done.stdout + done.stderr)
            part.replace(result)
    return result


def compile_object(source: Path, flags: tuple[str, ...]) -> Path:
    every = [*flags, "-c"]
    command = ["g++", "-x", "c++", *host_flags(), *every, str(source)]
    return _run(command, CACHE / f"{_digest(source, every)}.o")


@functools.cache
def host_library(
    sources: tuple[Path, ...],
    *,
    checked: bool = False,
    mutable: Path | None = None,
) -> ctypes.CDLL:
    """Link sources with the machine of fibers; `checked`: with every detector on.

    `mutable`: the source whose faults `machine.mutate` turns on; its code is that of the other
    builds while none is on.
    """
    flags = ("-Og", "-fsanitize=thread") if checked else ("-Og",)
    runtime = sorted(path for path in HOST.glob("*.cpp") if path.stem in RUNTIME)
    if checked:
        runtime += [HOST / "instrument.cpp", HOST / "shadow.cpp", HOST / "tensors.cpp"]
    plain = [source for source in sources if source.suffix == ".cpp"]
    objects = [compile_object(path, ("-O2",)) for path in [*runtime, *plain]]
    for path in sources:
        if path.suffix == ".cu":
            faults = ("-DPYPHASE_MUTANT=::cuda_host::mutant()",) if path == mutable else ()
            objects.append(compile_object(path, flags + faults))
    names = " ".join(str(path) for path in objects)
    stem = hashlib.sha256(names.encode()).hexdigest()[:16]
    command = ["g++", "-shared", *map(str, objects), "-ldl"]
    library = ctypes.CDLL(str(_run(command, CACHE / f"lib{stem}.so")))
    _libraries.append(library)
    return library


def loaded() -> list[ctypes.CDLL]:
    """Return every library of this session."""
    return _libraries


_libraries: list[ctypes.CDLL] = []
MUTANT = HOST / "mutant.h"
RUNTIME = ("fiber", "machine", "copies", "matrices", "runtime", "control")


@functools.cache
def ptx_file(source: Path, architecture: int, mutable: bool = False) -> Path:
    """What nvcc emits for a source and a target; `mutable`: with every fault, none turned on.

    PYPHASE_PTX names a folder where the build of the package has kept that of its target, sm_80.
    """
    kept = Path(os.environ.get("PYPHASE_PTX", os.devnull)) / f"{source.stem}.ptx"
    if architecture == 80 and not mutable and kept.exists():
        return kept
    flags = ["-std=c++20", "-O3", f"-arch=sm_{architecture}", f"-I{KERNELS}"]
    if mutable:
        flags += ["-DPYPHASE_MUTANT=pyphase_mutant()", "-include", str(MUTANT)]
    command = [nvcc(), *flags, "-ptx", str(source)]
    return _run(command, CACHE / f"{_digest(source, flags)}.ptx")


def ptx_text(source: Path, architecture: int) -> str:
    return ptx_file(source, architecture).read_text()


def mutant_text(source: Path, architecture: int, number: int) -> str:
    """PTX with one fault turned on, or none for 0: with its number where mutant.h leaves a mark."""
    marked = ptx_file(source, architecture, mutable=True).read_text()
    mark = re.findall(r'"mov.u32 %0, (\w+);"', MUTANT.read_text())[0]
    assert mark in marked
    return marked.replace(mark, str(number))


@functools.cache
def cubin(source: Path, architecture: int) -> tuple[Path, str]:
    """Machine code for a target, and what ptxas says of its registers and spills."""
    ptx = ptx_file(source, 80)
    ptxas = str(Path(nvcc()).resolve().parent / "ptxas")
    command = [ptxas, "-v", "-O3", f"-arch=sm_{architecture}", str(ptx)]
    result = _run(command, ptx.with_suffix(f".sm_{architecture}.cubin"))
    return result, result.with_suffix(".cubin-log").read_text()


def ahead(*compilations: Callable[[], object]) -> None:
    """Compile several things at once, two at a time; each is then found in the cache."""
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(each) for each in compilations]:
            done.result()
