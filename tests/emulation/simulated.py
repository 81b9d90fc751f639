"""A machine with one GPU, for code that uses torch.cuda: its tensors are the CPU's.

Names of torch.cuda are replaced by stand-ins of the same signatures, CUDA devices in calls of torch
by the CPU, and the kernels of CPU tensors by the CUDA kernels over the machine of fibers. What runs
under it shows that the code is right in its calls, not how a GPU behaves.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode

from emulation.binding import emulated
from pyphase.conv import cuda, native, problem

GPU = torch.device("cuda", 0)


class Stream:
    """A stream in which everything is done at once."""

    cuda_stream = 0

    def wait_stream(self, stream: Any) -> None:
        assert isinstance(stream, Stream)

    def synchronize(self) -> None:
        pass

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: Any) -> None:
        pass


class Event:
    """The CPU's clock."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.enable_timing, self.at = enable_timing, 0.0

    def record(self, stream: Any = None) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        assert self.enable_timing
        assert end.enable_timing
        return 1e3 * (end.at - self.at)


class Graph:
    """A graph whose capture is a call, and whose replay is nothing."""

    replays = 0

    def replay(self) -> None:
        self.replays += 1


class Cpu(TorchFunctionMode):
    """Everything that torch is to do on a CUDA device is done on the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args = [on_cpu(value) for value in args]
        kwargs = {name: on_cpu(value) for name, value in (kwargs or {}).items()}
        if getattr(func, "__name__", "") == "cuda":  # tensor.cuda()
            return args[0]
        return func(*args, **kwargs)


def on_cpu(value: Any) -> Any:
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cpu")
    if isinstance(value, str) and value.partition(":")[0] == "cuda":
        return "cpu"
    return value


class Capture:
    """Whether a graph is being captured."""

    def __init__(self) -> None:
        self.on = False

    @contextmanager
    def graph(self, cuda_graph: Any, pool: Any = None, stream: Any = None, **_: Any) -> Any:
        assert isinstance(cuda_graph, Graph)
        self.on = True
        try:
            yield
        finally:
            self.on = False


@contextmanager
def simulated_torch() -> Iterator[Capture]:
    """Simulate torch's part of the machine: torch.cuda, and CUDA devices in calls."""
    capture = Capture()
    stand_ins: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "device": lambda device: Stream(),
        "current_stream": lambda device=None: Stream(),
        "stream": lambda stream: stream,
        "synchronize": lambda device=None: None,
        "get_device_name": lambda device=None: "a simulated A100",
        "is_current_stream_capturing": lambda: capture.on,
    }
    for name, stand_in in stand_ins.items():
        check_signature(name, stand_in)
    stand_ins |= {"Stream": Stream, "Event": Event, "CUDAGraph": Graph, "graph": capture.graph}
    cuda.device_name.cache_clear()
    with mock.patch.multiple(torch.cuda, **stand_ins), Cpu():
        try:
            yield capture
        finally:
            cuda.device_name.cache_clear()


@contextmanager
def simulated() -> Iterator[torch.device]:
    """Simulate the machine with its kernels; yields its GPU."""
    module, own_pair, own_strips = emulated(), native.make_pair, native.make_strips

    def on_gpu(make: Any) -> Any:
        def made(device: torch.device, *rest: Any) -> Any:
            found = make(GPU if device.type == "cpu" else device, *rest)
            if found is not None:  # no mode is on inside of a registered op
                found._device = torch.device("cpu", 0)
            return found

        return made

    with (
        mock.patch.object(cuda, "load", return_value=module),
        mock.patch.object(problem, "make_pair", on_gpu(own_pair)),
        mock.patch.object(problem, "make_strips", on_gpu(own_strips)),
        mock.patch.dict(problem._pairs, clear=True),
        mock.patch.dict(problem._strips, clear=True),
        simulated_torch(),
    ):
        forget()
        try:
            yield GPU
        finally:
            forget()


def check_signature(name: str, stand_in: Any) -> None:
    """Assert that torch's own name takes the arguments of its stand-in."""
    own = getattr(torch.cuda, name)
    parameters = inspect.signature(own.__init__ if inspect.isclass(own) else own).parameters
    for parameter in inspect.signature(stand_in).parameters:
        assert parameter in parameters, f"torch.cuda.{name} has no argument {parameter!r}"


def forget() -> None:
    for cached in (cuda._module_for, cuda._properties):
        cached.cache_clear()
