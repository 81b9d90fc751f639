"""A training process that is killed, or can't write, loses nothing: the last good file stays."""

import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn
from toys import same
from training import loader, net, seed_all

from pyphase import Callback, Checkpoint, Learner, PhaseError, TrainingPhase
from pyphase.apply.state import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and modes")
mse = nn.functional.mse_loss
PHASES = [TrainingPhase(1, torch.optim.SGD, 0.05), TrainingPhase(1, torch.optim.Adam, 1e-3)]


def test_killed_at_random_moments_it_ends_bit_for_bit(tmp_path):
    """50 kills are `python tests/kill_run.py FOLDER --kills 50`; here are a few."""
    script = Path(__file__).with_name("kill_run.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "--kills", "5", "--seed", "1"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert (counts["kills"], counts["equal"]) == (5, True)


def make(loss_fn=mse, model=None):
    seed_all(1)
    return Learner(net() if model is None else model, (loader(12), None), loss_fn, progress=False)


class Stop(Callback):
    """Press Ctrl-C once after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, learn):
        if learn.loop.position == self.step:
            signal.raise_signal(signal.SIGINT)


def ends_as_if_uninterrupted(file, stop_div=False):
    whole, again = make(), make()
    whole.fit_opt_sched(PHASES, stop_div=stop_div)
    again.fit_opt_sched(PHASES, stop_div=stop_div, resume=file)
    same(again.state_dict(), whole.state_dict())


class Limit(Callback):
    """Let no file grow beyond so many bytes, from a step on: writes fail as on a full disk."""

    def __init__(self, step, size):
        self.step, self.size = step, size

    def on_step_end(self, learn):
        if learn.loop.position == self.step:
            self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))


@pytest.mark.parametrize("size", [0, 3000])
def test_a_file_that_cannot_grow_leaves_the_last_checkpoint(tmp_path, size):
    file, limit = tmp_path / "c.pt", Limit(4, size)
    try:
        with pytest.raises(OSError, match="File too large"):
            make().fit_opt_sched(PHASES, callbacks=[limit, Checkpoint(file, every=1)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit.before)
    assert os.listdir(tmp_path) == ["c.pt"]
    assert load_checkpoint(file)["loop"]["position"] == 3
    ends_as_if_uninterrupted(file)


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_last_checkpoint(small_disk):
    file = small_disk / "c.pt"

    class Fill(Callback):
        def on_step_end(self, learn):
            if learn.loop.position == 4:
                room = shutil.disk_usage(small_disk).free
                (small_disk / "filler").write_bytes(bytes(room - 4096))

    with pytest.raises(OSError, match="No space left on device"):
        make().fit_opt_sched(PHASES, callbacks=[Fill(), Checkpoint(file, every=1)])
    assert sorted(os.listdir(small_disk)) == ["c.pt", "filler"]
    (small_disk / "filler").unlink()
    ends_as_if_uninterrupted(file)


def test_a_read_only_folder_is_said_before_the_training():
    folder = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    try:
        save_checkpoint(folder / "c.pt", {"pyphase": "test"})
        folder.chmod(0o555)
        if root:  # who writes anywhere
            os.setegid(65534)
            os.seteuid(65534)
        with pytest.raises(PhaseError, match="in a folder that can't be written to"):
            Checkpoint(folder / "c.pt")
        with pytest.raises(PermissionError):
            save_checkpoint(folder / "c.pt", {"pyphase": "other"})
    finally:
        if root:
            os.seteuid(0)
            os.setegid(0)
        folder.chmod(0o700)
    assert load_checkpoint(folder / "c.pt") == {"pyphase": "test"}
    shutil.rmtree(folder)


def test_a_resume_that_fails_leaves_the_file_and_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # errors show the begin of a long path
    good, bad = Path("c.pt"), Path("bad.pt")
    with pytest.raises(KeyboardInterrupt):
        make().fit_opt_sched(PHASES, callbacks=[Stop(4), Checkpoint(good)])
    content = good.read_bytes()
    for damage, match in (
        (content[: len(content) // 2], r"bad\.pt' is not a whole checkpoint"),
        (b"not a checkpoint", r"bad\.pt' is not a whole checkpoint"),
    ):
        bad.write_bytes(damage)
        with pytest.raises(PhaseError, match=match):
            make().fit_opt_sched(PHASES, callbacks=[Checkpoint(bad)], resume=bad)
        assert bad.read_bytes() == damage
    torch.save({"state_dict": {}}, bad)
    with pytest.raises(PhaseError, match=r"bad\.pt' is not a pyphase checkpoint"):
        make().fit_opt_sched(PHASES, resume=bad)
    other = [TrainingPhase(1, torch.optim.SGD, 0.07), PHASES[1]]
    learn = make()
    kept = {name: value.clone() for name, value in learn.model.state_dict().items()}
    with pytest.raises(PhaseError, match=r"another plan[^:]*:\s+phase 0: lr: 0.07 != 0.05"):
        learn.fit_opt_sched(other, callbacks=[Checkpoint(good)], resume=good)
    same(dict(learn.model.state_dict()), kept)
    assert good.read_bytes() == content
    ends_as_if_uninterrupted(good)


@pytest.mark.parametrize("where", ["data", "forward", "backward", "second Ctrl-C", "loss"])
@pytest.mark.parametrize("at", [0, 4, 9])
def test_cut_off_before_the_optimizers_step_it_goes_on_bit_for_bit(tmp_path, where, at):
    """Batch norm, dropout and augmentation have moved on by then: all of it is as before."""
    file = tmp_path / "c.pt"

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            fail()

    def fails():
        return learn.model.training and learn.loop.position == at

    def fail():
        torch.rand(3)
        if where == "second Ctrl-C":
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        raise ValueError("cut off")

    def loss_fn(output, target):
        loss = mse(output, target)
        if fails() and where == "backward":
            return Fails.apply(loss)
        return fail() if fails() else loss

    learn = make(loss_fn)
    if where == "data":  # after some of the batch's noise was drawn
        samples = learn.data[0].dataset
        draw, drawn = type(samples).__getitem__, itertools.count()

        def broken(self, index):
            sample = draw(self, index)
            return fail() if next(drawn) == 2 * at + 1 else sample

        samples.__class__ = type("Broken", (type(samples),), {"__getitem__": broken})
    if where == "forward":  # after batch norm has seen the batch
        learn.model[3].register_forward_pre_hook(lambda *_: fail() if fails() else None)
    with pytest.raises(KeyboardInterrupt if "Ctrl" in where else ValueError):
        learn.fit_opt_sched(PHASES, stop_div=True, callbacks=[Checkpoint(file)])
    assert load_checkpoint(file)["loop"]["position"] == at
    ends_as_if_uninterrupted(file, stop_div=True)


def test_what_killed_saves_have_left_is_removed(tmp_path):
    file = tmp_path / "c.pt"
    left = tmp_path / f".c.pt.{'0' * 32}"
    others = [tmp_path / ".c.pt.txt", tmp_path / f".d.pt.{'0' * 32}"]
    for path in (left, *others):
        path.touch()
    make().fit_opt_sched(PHASES, callbacks=[Checkpoint(file)])
    assert not left.exists()
    assert all(path.exists() for path in others)
