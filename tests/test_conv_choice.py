"""Choices by measurement: who serves, when nothing is measured, what is kept in the file.

No test takes a time: a stand-in tells how long each side took.
"""

from __future__ import annotations

import json
import types

import pytest
import torch
from conv_reference import PROBLEMS, tensors
from emulation.simulated import GPU, simulated_torch

from pyphase import conv
from pyphase.conv import choice, choice_file
from pyphase.conv.cuda import runs_on, why_not
from pyphase.conv.options import make_options
from pyphase.conv.problem import PairProblem, StripsProblem


class Clock:
    """What the two sides take, in milliseconds, and how often that was asked."""

    def __init__(self, native, torch):
        self.times, self.asked = {"native": native, "torch": torch}, 0

    def __call__(self, call, count):
        call()
        self.asked += 1
        name = "native" if "kernels" in call.__code__.co_freevars else "torch"
        return self.times[name] * count


class Kernels:
    """Kernels that note their calls, and are predicted to win backward passes alone."""

    def __init__(self):
        self.calls = []

    def wins(self, backward):
        return backward

    def forward(self, *addresses):
        self.calls.append(("forward", addresses))

    def backward(self, *addresses):
        self.calls.append(("backward", addresses))


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("PYPHASE_CACHE", str(tmp_path))
    monkeypatch.setattr(choice, "_memory", {})
    monkeypatch.setattr(choice, "_is_read", False)
    return tmp_path


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: None)  # a CUDA build asks the GPU
    with simulated_torch() as capture:
        yield capture


def pair():
    problem = PROBLEMS["depthwise"]
    options = make_options(*problem.options.values(), problem.kernel)
    found = PairProblem(*tensors(problem, torch.float32), options)
    found.device = GPU
    return found


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("native", [1.0, 3.0])
def test_the_faster_one_serves(gpu, monkeypatch, native, backward):
    clock, kernels, problem = Clock(native, 2.0), Kernels(), pair()
    monkeypatch.setattr(choice, "_milliseconds", clock)
    assert choice.measured(problem, kernels, backward) == (native < 2)
    asked = clock.asked
    assert choice.measured(problem, kernels, backward) == (native < 2)
    assert clock.asked == asked, "measured twice"
    (found,) = conv.choices()
    assert (found.native, found.torch) == (pytest.approx(native / 1e3), pytest.approx(2e-3))
    assert found.task == ("backward" if backward else "forward")
    task, addresses = kernels.calls[0]
    assert task == found.task
    assert len(addresses) == (10 if backward else 6)
    assert len(set(addresses)) == len(addresses)


def test_strips_are_one_contest(gpu, monkeypatch):
    monkeypatch.setattr(choice, "_milliseconds", Clock(1, 2))
    x, weights, biases = torch.randn(1, 3, 8, 8), [], []
    for k in (3, 5):
        weights += [torch.randn(3, 1, 1, k), torch.randn(3, 1, k, 1)]
        biases += [torch.randn(3), torch.randn(3)]
    problem, kernels = StripsProblem(x, weights, biases, True), Kernels()
    problem.device = GPU
    for backward, count in ((False, 6), (True, 10)):
        assert choice.measured(problem, kernels, backward)
        addresses = kernels.calls[-1][1]
        assert len(addresses) == count
        lists = [address for address in addresses if isinstance(address, list)]
        assert [len(some) for some in lists] == [2] * (7 if backward else 4)
    assert all("strips [(1, 3), (3, 1), (1, 5), (5, 1)]" in c.problem for c in conv.choices())


def test_nothing_is_measured_in_a_capture(gpu, monkeypatch):
    clock, problem = Clock(1, 2), pair()
    monkeypatch.setattr(choice, "_milliseconds", clock)
    gpu.on = True
    assert choice.measured(problem, Kernels(), backward=True)
    assert not choice.measured(problem, Kernels(), backward=False)
    assert clock.asked == 0
    gpu.on = False
    assert choice.measured(problem, Kernels(), backward=False)
    gpu.on = True
    assert choice.measured(problem, Kernels(), backward=False), "what was measured counts"


def test_nothing_is_measured_where_torch_is_deterministic(gpu, monkeypatch):
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert not choice.measured(pair(), Kernels(), backward=False)
    assert conv.choices() == []


def test_without_memory_the_prediction_counts(gpu, monkeypatch):
    def full(call, count):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(choice, "_milliseconds", full)
    assert choice.measured(pair(), Kernels(), backward=True)
    assert conv.choices() == []


def test_the_file_serves_later_processes(folder, monkeypatch):
    first = choice.Choice("a", "gpu", "forward", "native", 1.0, 2.0)
    second = first._replace(problem="b", backend="torch")
    for one in (first, second, first._replace(native=1.5)):
        choice_file.write_choice(one)
    assert sorted(conv.choices()) == [first._replace(native=1.5), second]
    monkeypatch.setattr(choice_file, "_software", lambda: "another torch")
    assert choice_file.read_choices() == []
    conv.clear_choices()
    assert conv.choices() == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"x": 1}'])
def test_a_broken_file_is_no_error(folder, text):
    (folder / "conv_choices.json").write_text(text)
    assert conv.choices() == []
    one = choice.Choice("a", "gpu", "forward", "native", 1.0, 2.0)
    choice_file.write_choice(one)
    found = json.loads((folder / "conv_choices.json").read_text())
    assert [list(one)] in found.values()


def test_a_folder_that_cannot_be_written_is_no_error(folder, monkeypatch):
    (folder / "file").write_text("")
    monkeypatch.setenv("PYPHASE_CACHE", str(folder / "file" / "below"))
    choice_file.write_choice(choice.Choice("a", "gpu", "forward", "native", 1.0, 2.0))
    monkeypatch.setenv("PYPHASE_CACHE", "")
    assert choice_file.choices_path() is None
    monkeypatch.delenv("PYPHASE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(choice_file.choices_path()) == "/somewhere/pyphase/conv_choices.json"


@pytest.mark.parametrize(
    ("architectures", "runs", "not_"),
    [
        ("sm_80, compute_80", (80, 86, 90, 120), (75,)),
        ("sm_80", (80, 86, 89), (75, 90)),
        ("sm_86, sm_90", (86, 89, 90), (80, 100)),
        ("compute_80", (80, 89, 90, 120), (75,)),
    ],
)
def test_where_compiled_code_runs(architectures, runs, not_):
    assert all(runs_on(architectures, capability) for capability in runs)
    assert not any(runs_on(architectures, capability) for capability in not_)


def test_why_there_is_no_module():
    missing = ModuleNotFoundError("No module named 'pyphase._cuda'", name="pyphase._cuda")
    assert "built without them: no nvcc was found" in why_not(missing)
    assert why_not(ImportError("undefined symbol: x")) == "undefined symbol: x"
    assert why_not(types.ModuleType("_cuda")) == ""
