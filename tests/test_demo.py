"""The demo on a few real digits, interrupted and resumed."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from toys import same

from pyphase import PhaseError, Plan, demo
from pyphase.apply.state import load_checkpoint, save_checkpoint
from pyphase.conv import FactorizedConv2d
from pyphase.demo_data import load_images

FILES = ["checkpoint.pt", "history.csv", "lr_find.png", "plan.json", "plan.png"]


@pytest.fixture(scope="module")
def digits():
    """Return a twenty-fifth of the digits, cropped to 16 x 16: 3 steps an epoch."""
    parts = load_images(None, seed=0)
    for part in parts:
        part.images, part.labels = part.images[::25, :, 6:22, 6:22], part.labels[::25]
    return parts


@pytest.fixture
def few(digits, monkeypatch):
    monkeypatch.setattr(demo, "load_images", lambda *_, **__: digits)


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """Return the folder of a run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "load_images", lambda *_, **__: digits)
        assert 0 <= demo.run_demo(folder) <= 1
    return folder


def same_run(folder, other):
    one, two = (load_checkpoint(path / "checkpoint.pt") for path in (folder, other))
    same(one["loop"]["model"], two["loop"]["model"])
    same(one["history"], two["history"])


def test_writes_everything(whole):
    assert sorted(path.name for path in whole.iterdir()) == FILES
    assert len((whole / "history.csv").read_text().splitlines()) == 1 + 15
    plan = Plan.from_json((whole / "plan.json").read_text())
    assert [plan.changes_optimizer(i) for i in range(5)] == [False] * 4 + [True]


def test_resumes_bit_for_bit(few, whole, tmp_path, monkeypatch, capsys):
    class Interrupting(demo.Checkpoint):
        def on_step_end(self, learn):
            if learn.loop.position == 20:
                signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(demo, "Checkpoint", Interrupting)
        with pytest.raises(KeyboardInterrupt):
            demo.run_demo(tmp_path)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["loop"]["position"] == 20
    torch.manual_seed(77)
    demo.run_demo(tmp_path, resume=True)
    same_run(tmp_path, whole)
    assert "going on from step 20" in capsys.readouterr().out


def test_resume_without_a_checkpoint_starts_anew(few, tmp_path, capsys):
    demo.run_demo(tmp_path, resume=True)
    demo.run_demo(tmp_path)
    out = capsys.readouterr().out
    assert "starting from the beginning" in out
    assert "is now checkpoint.old.pt" in out
    assert max(len(line) for line in out.splitlines() if str(tmp_path) not in line) <= 80


SCRIPT = """
import sys
import torch
from pyphase import demo
from pyphase.__main__ import main
from pyphase.demo_data import ImageSet

torch.set_num_threads(1)
parts = [ImageSet(*part, list("0123456789")) for part in torch.load(sys.argv[1])]
demo.load_images = lambda *_, **__: parts
sys.exit(main(["demo", "--out", sys.argv[2]]))
"""


def test_ctrl_c_from_outside_and_resume_bit_for_bit(few, digits, whole, tmp_path):
    """A real SIGINT, wherever in the third epoch it meets the run."""
    images = tmp_path / "images.pt"
    torch.save([(part.images, part.labels) for part in digits], images)
    command = [sys.executable, "-c", SCRIPT, str(images), str(tmp_path)]
    # Not the working directory, where the source tree would shadow the installed package.
    places = map(os.path.abspath, filter(None, sys.path))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Where the tests run in the background, SIGINT is ignored, and so in their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        for line in process.stdout:
            if line.split()[:1] == ["1"] and line.count(".") == 3:  # the second epoch's results
                os.kill(process.pid, signal.SIGINT)
                break
        rest = process.stdout.read()
    assert process.returncode == 130
    assert "--resume goes on from here" in rest
    stopped = load_checkpoint(tmp_path / "checkpoint.pt")["loop"]["position"]
    assert 6 <= stopped < 45
    demo.run_demo(tmp_path, resume=True)
    same_run(tmp_path, whole)


def test_the_peak_comes_from_the_checkpoint(few, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(demo, "_find_peak", lambda *_: 0.123)
        demo.run_demo(tmp_path)
    text = (tmp_path / "plan.json").read_text()
    monkeypatch.setattr(demo, "_find_peak", lambda *_: pytest.fail("searched again"))
    before = load_checkpoint(tmp_path / "checkpoint.pt")
    assert 0 <= demo.run_demo(tmp_path, resume=True, seed=5) <= 1  # of a run that was complete
    same(load_checkpoint(tmp_path / "checkpoint.pt")["loop"]["model"],
                 before["loop"]["model"])  # fmt: skip
    assert (tmp_path / "plan.json").read_text() == text
    assert Plan.from_json(text).table("lr").max() == 0.123


def test_fault_another_seed_resumes_on_images_it_was_trained_on(tmp_path, monkeypatch):
    """Images are held out by class alone, whatever the seed of the weights."""
    seen = []

    def note(folder, seed):
        seen.append(seed)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "load_images", note)
    for seed in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            demo.run_demo(tmp_path, seed=seed)
    assert seen[0] == seen[1]


def test_a_checkpoint_of_something_else(few, tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt", {"pyphase": "model 1", "model": {}})
    with pytest.raises(PhaseError, match="not a checkpoint of the demo"):
        demo.run_demo(tmp_path, resume=True)
    (tmp_path / "checkpoint.pt").write_bytes(b"PK damaged")
    with pytest.raises(PhaseError, match="checkpoint"):
        demo.run_demo(tmp_path, resume=True)


def test_the_stem_is_factorized_and_trained(whole):
    trained = load_checkpoint(whole / "checkpoint.pt")["loop"]["model"]
    torch.manual_seed(0)
    fresh = demo.SmallResNet(1, 10)
    assert isinstance(fresh[0], FactorizedConv2d)
    assert fresh[0].kernel_size == (7, 7)
    for name in ("weight1", "weight2"):
        assert (trained[f"0.{name}"] - getattr(fresh[0], name)).abs().min() > 0


@pytest.mark.parametrize("size", [8, 9, 14, 28, 33])
def test_the_network_takes_images_of_any_size(size):
    model = demo.SmallResNet(3, 7)
    assert model(torch.rand(2, 3, size, size)).shape == (2, 7)
