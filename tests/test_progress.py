"""What a fit shows: one bar per epoch, one line per result, all within 80 columns."""

import io
import re

import pytest
import torch
import tqdm.auto
from torch import nn
from training import loader, net, plain, seed_all

import pyphase.bars
from pyphase import Callback, Learner, TrainingPhase

mse = nn.functional.mse_loss


class Terminal(io.StringIO):
    """Standard error as a terminal of 80 columns."""

    encoding = "utf-8"

    def isatty(self):
        return True

    def frames(self):
        """Return each state of the bar; `\\r` goes back to the start of its line."""
        return [frame for frame in self.getvalue().split("\r") if frame.strip()]


@pytest.fixture
def terminal(monkeypatch):
    """Let each bar refresh at each step, into a terminal of 80 columns."""
    shown = Terminal()

    class Bar(tqdm.auto.tqdm):
        def __init__(self, *args, **kwargs):
            kwargs |= {"file": shown, "mininterval": 0, "miniters": 1, "ncols": 80}
            kwargs.pop("dynamic_ncols", None)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    monkeypatch.setattr(pyphase.bars, "redraws", lambda: True)
    return shown


def make(loss_fn=mse, progress=True, metrics=()):
    seed_all(1)
    return Learner(net(), (loader(12), loader(4)), loss_fn, metrics, progress=progress)


def test_quiet_without_progress(terminal, capsys):
    make(progress=False).fit_opt_sched([TrainingPhase(1)])
    make(progress=False).lr_find(num_it=5)
    assert terminal.getvalue() == ""
    assert capsys.readouterr() == ("", "")


def test_bars_fit_a_terminal_and_leave_nothing(terminal, capsys):
    names = ["warm-up", "a name that is far too long for a bar of 80 columns", None]
    phases = [TrainingPhase(steps=4, lr=1e-3, name=name) for name in names]
    make().fit_opt_sched(phases)
    frames = terminal.frames()
    assert all(len(frame) <= 80 for frame in frames)
    assert any(frame.startswith("phase 0 warm-up:  67%|") for frame in frames)
    assert any(frame.startswith("phase 1 a name that") for frame in frames)
    for frame in frames:
        if "/6 [" in frame and "loss" in frame:
            assert re.search(r"loss \d+\.\d{4}, lr \d\.\de-\d\d\]$", frame), frame
            assert frame.count("█") or "  0%" in frame or " 17%" in frame, frame
    assert terminal.getvalue().endswith("\r")


def test_the_table_grows_by_a_line_per_epoch(terminal, capsys):
    def accuracy_of_a_kind(output, target):
        return (output - target).abs().mean()

    make(metrics=[accuracy_of_a_kind]).fit_opt_sched([TrainingPhase(3, lr=1e-3)])
    lines = capsys.readouterr().out.splitlines()
    head = ["epoch", "step", "phase", "train_loss", "valid_loss", "accuracy_of_a_kind"]
    assert lines[0].split() == head
    assert [line.split()[:3] for line in lines[1:]] == [
        ["0", "6", "0"], ["1", "12", "0"], ["2", "18", "0"]
    ]  # fmt: skip
    assert {len(line) for line in lines} == {len(lines[0])}
    assert len(lines[0]) <= 80


def test_the_head_comes_again_with_other_columns(capsys):
    learn = Learner(net(), None, mse)
    data = [loader(4), (loader(4), loader(4))]
    learn.fit_opt_sched([TrainingPhase(1), TrainingPhase(1)], data)
    heads = [line for line in capsys.readouterr().out.splitlines() if "epoch" in line]
    assert [("valid_loss" in head) for head in heads] == [False, True]


def test_a_stop_is_said(terminal, capsys):
    def loss_fn(output, target):
        return mse(output, target) * (float("inf") if learn.loop.position == 2 else 1)

    learn = make(loss_fn)
    learn.fit_opt_sched([TrainingPhase(1, lr=1e-3)], stop_div=True)
    assert capsys.readouterr().out == "stopped before step 2: the loss is inf\n"


def test_a_resumed_bar_starts_where_the_run_stopped(terminal):
    learn = make()
    learn.fit_opt_sched([TrainingPhase(1)], cut=0.5)
    again = make()
    terminal.truncate(0)
    terminal.seek(0)
    again.fit_opt_sched([TrainingPhase(1)], resume=learn.state_dict())
    assert " 3/6 [" in terminal.frames()[0]
    assert any(" 6/6 [" in frame for frame in terminal.frames())


def test_loaders_without_a_length(terminal, capsys):
    class Endless:
        def __iter__(self):
            return iter(plain(4))

    learn = Learner(nn.Linear(1, 1), Endless(), mse)
    learn.fit_opt_sched([TrainingPhase(steps=5, lr=1e-3)])
    assert any("/5 [" in frame for frame in terminal.frames())
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_bars_are_closed_when_a_run_ends_early(terminal, error):
    class Raise(Callback):
        def on_step_end(self, learn):
            if learn.loop.position == 3:
                raise error

    def raise_late(output, target):
        if len(terminal.frames()) > 3:
            raise error
        return mse(output, target)

    with pytest.raises(error) as _:  # the traceback keeps the frames alive
        make().fit_opt_sched([TrainingPhase(1, torch.optim.SGD)], callbacks=[Raise()])
    assert terminal.getvalue().endswith("\r")
    terminal.truncate(0)
    terminal.seek(0)
    with pytest.raises(error) as _:
        make(raise_late).lr_find()
    assert "LR range test" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r")


def test_accumulated_batches_count_as_one_step(terminal):
    seed_all(1)
    learn = Learner(net(), (loader(12), loader(4)), mse, accumulate=2)  # 6 batches
    learn.fit_opt_sched([TrainingPhase(2, torch.optim.SGD, 0.05)])
    totals = set(re.findall(r"\d+/(\d+) \[", terminal.getvalue()))
    assert totals == {"3"}
