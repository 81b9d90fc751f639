"""The demo on a few real digits, interrupted and resumed."""

import signal

import pytest
import torch
from training import same_tensors

from pyphase import Plan, demo
from pyphase.apply.state import load_checkpoint
from pyphase.demo_data import load_images

FILES = ["checkpoint.pt", "history.csv", "lr_find.png", "plan.json", "plan.png"]


@pytest.fixture
def few(monkeypatch):
    train, valid = load_images(None, seed=0)
    for part in (train, valid):
        part.images, part.labels = part.images[::25], part.labels[::25]
    monkeypatch.setattr(demo, "load_images", lambda *_, **__: (train, valid))


def test_writes_everything_and_resumes_bit_for_bit(few, tmp_path, monkeypatch, capsys):
    reached = demo.run_demo(tmp_path / "whole")
    assert 0 <= reached <= 1
    assert sorted(p.name for p in (tmp_path / "whole").iterdir()) == FILES
    plan = Plan.from_json((tmp_path / "whole" / "plan.json").read_text())
    assert [plan.changes_optimizer(i) for i in range(5)] == [False] * 4 + [True]
    whole = load_checkpoint(tmp_path / "whole" / "checkpoint.pt")

    class Interrupting(demo.Checkpoint):
        def on_step_end(self, learn):
            if learn.loop.position == 20:
                signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(demo, "Checkpoint", Interrupting)
        with pytest.raises(KeyboardInterrupt):
            demo.run_demo(tmp_path / "cut")
    assert load_checkpoint(tmp_path / "cut" / "checkpoint.pt")["loop"]["position"] == 20
    torch.manual_seed(77)
    demo.run_demo(tmp_path / "cut", resume=True)
    resumed = load_checkpoint(tmp_path / "cut" / "checkpoint.pt")
    same_tensors(resumed["loop"]["model"], whole["loop"]["model"])
    assert "going on from step 20" in capsys.readouterr().out


def test_resume_without_a_checkpoint_starts_anew(few, tmp_path, capsys):
    demo.run_demo(tmp_path, resume=True)
    demo.run_demo(tmp_path)
    out = capsys.readouterr().out
    assert "starting from the beginning" in out
    assert "is now checkpoint.old.pt" in out
    assert max(len(line) for line in out.splitlines() if str(tmp_path) not in line) <= 80
