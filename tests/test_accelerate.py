"""Phases under Accelerate: the values and weights of a hand-written loop, on one process or two."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate_run import PLAN, train
from digits import loader, loss_of, network, plain_loop, values_in
from toys import same

from pyphase import PhaseScheduler

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def forget():
    """Return what makes Accelerate forget its settings, which it keeps in singletons."""

    def reset():
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()

    reset()
    yield reset
    reset()


def plain(accumulate=1):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    data = loader(shuffle=False)
    batches = [batch for _ in range(2) for batch in data]
    seen = plain_loop(model, optimizer, PhaseScheduler(optimizer, PLAN), batches, accumulate)
    return model, seen


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("follow", [False, True])
def test_one_process(follow, accumulate):
    """With 4 batches a step, Accelerate's own count would have ended the plan at a quarter."""
    model, expected = plain(accumulate)
    _, result = train(follow, accumulate)
    assert result["seen"] == expected
    assert result["step"] == len(expected) == 16 // accumulate
    same(dict(result["weights"]), dict(model.state_dict()))


def test_a_saved_state_goes_on(tmp_path, forget):
    model, expected = plain()
    train(True, stop=1, checkpoint=tmp_path)
    forget()
    _, result = train(True, checkpoint=tmp_path)
    assert result["seen"] == expected[8:]
    same(dict(result["weights"]), dict(model.state_dict()))


def two_processes(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--standalone", HERE / "accelerate_run.py", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [torch.load(tmp_path / f"out.{rank}", weights_only=True) for rank in range(2)]


def test_two_processes_step_once(tmp_path):
    """Each step averages the gradients of two batches, one of each process."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler, batches, expected = PhaseScheduler(optimizer, PLAN), list(loader(shuffle=False)), []
    for one, two in 2 * list(zip(batches[::2], batches[1::2], strict=True)):
        ((loss_of(model, one) + loss_of(model, two)) / 2).backward()
        expected.append(values_in(optimizer))
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    for result, called in two_processes(tmp_path):
        assert result["seen"] == expected
        assert result["step"] == 8
        for name, weight in model.state_dict().items():
            torch.testing.assert_close(result["weights"][name], weight)
        # A scheduler that counts calls is stepped once for each process.
        rates = [values[0]["lr"] for values in called["seen"]]
        assert rates == [PLAN.values_at(2 * step)["lr"] for step in range(8)]
