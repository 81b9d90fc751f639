"""Runs on two processes by torchrun and gloo: DDP and FSDP2, saved in shards, resumed on 2 and 1.

The processes start three times in all; the tests look at what they have written.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import dist_run
import pytest
import torch
from toys import make_loop, same

from pyphase import PhaseError, TrainingPhase, load_sharded, save_sharded

SCRIPT = Path(__file__).with_name("dist_run.py")
pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform != "linux", reason="gloo on Linux"
)


def torchrun(folder, what):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(SCRIPT), str(folder), what],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / f"{what}-2.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def whole(folder):
    return torchrun(folder, "whole")


@pytest.fixture(scope="module")
def resumed(folder, whole):
    return torchrun(folder, "resume")


def samples(steps, at):
    return sorted(index for process in steps for index in process[at][2])


@pytest.mark.parametrize("kind", dist_run.KINDS)
def test_all_processes_have_the_same_rates_and_no_sample_is_lost(whole, kind):
    steps = whole[kind]["steps"]
    positions = [[(at, lr) for at, lr, _ in process] for process in steps]
    assert positions[0] == positions[1]
    assert len(positions[0]) == 18
    for first, last, count in ((0, 4, 32), (4, 8, 32), (9, 15, 24)):
        epoch = [samples(steps, at) for at in range(first, last)]
        assert sorted(index for step in epoch for index in step) == list(range(count))


@pytest.mark.parametrize("kind", dist_run.KINDS)
def test_resumed_on_as_many_processes_it_ends_bit_for_bit(whole, resumed, kind):
    for saved, result in zip(dist_run.SAVED, resumed[kind], strict=True):
        assert result["steps"] == [process[saved:] for process in whole[kind]["steps"]]
        assert result["weights"] == whole[kind]["weights"]
        assert result["averages"] == whole[kind]["averages"]  # a buffer is each process's own
        assert len(set(result["averages"])) == 2


@pytest.mark.parametrize("kind", dist_run.KINDS)
def test_resumed_on_one_process_it_sees_the_same_samples_and_ends_alike(whole, folder, kind):
    for saved, result in zip(dist_run.SAVED, dist_run.resume(kind, folder / kind), strict=True):
        assert len(result["steps"]) == 1
        for at, step in enumerate(result["steps"][0]):
            position, lr, _ = whole[kind]["steps"][0][saved + at]
            assert list(step[:2]) == [position, lr]
            assert sorted(step[2]) == samples(whole[kind]["steps"], saved + at)
        # float64: only the order of sums differs
        torch.testing.assert_close(result["weights"], whole[kind]["weights"], rtol=1e-9, atol=1e-12)


def test_fsdp_and_ddp_train_alike(whole):
    one, two = (whole[kind]["weights"] for kind in dist_run.KINDS)
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", dist_run.KINDS)
def test_a_learner_resumes_and_its_results_are_those_of_all(whole, kind):
    once, halves = whole[kind]["learner"]
    assert halves[0] == once[0]
    for losses in (once[1], halves[1]):
        assert losses[0] == losses[1] == once[1][0]
        assert len(losses[0]) == 3


def make(**arguments):
    return make_loop([TrainingPhase(steps=5)], **arguments)


@pytest.fixture
def saved(tmp_path):
    loop = make()
    for _ in loop:
        loop.step(loop.model(torch.ones(2, 3)).square().mean())
        if loop.position == 2:
            save_sharded(loop, tmp_path)
            break
    return tmp_path


def test_only_the_last_one_is_kept_and_an_unfinished_one_is_not_read(saved):
    loop = make()
    load_sharded(loop, saved)
    save_sharded(loop, saved)
    assert os.listdir(saved) == ["00000002"]
    shutil.copytree(saved / "00000002", saved / "00000003")
    (saved / "00000003" / ".metadata").unlink()
    again = make()
    load_sharded(again, saved)
    same(again.state_dict(), loop.state_dict())
    save_sharded(again, saved)
    assert os.listdir(saved) == ["00000004"]


def test_states_that_are_no_good(saved, tmp_path, monkeypatch):
    with pytest.raises(PhaseError, match="holds no complete sharded checkpoint"):
        load_sharded(make(), tmp_path / "nowhere")
    with pytest.raises(PhaseError, match="another plan"):
        load_sharded(make_loop([TrainingPhase(steps=9)]), saved)
    (part,) = (saved / "00000001").glob("*.distcp")
    part.write_bytes(part.read_bytes()[:100])
    monkeypatch.chdir(saved.parent)  # messages cut long paths
    with pytest.raises(PhaseError, match="00000001' is not a whole checkpoint"):
        load_sharded(make(), saved.name)
    loop = make()
    next(iter(loop))
    with pytest.raises(PhaseError, match="a batch is under way"):
        save_sharded(loop, tmp_path)


def test_a_full_disk_leaves_the_last_one(saved, monkeypatch):
    import pyphase.apply.sharded as module

    def full(*_):
        raise OSError(28, "No space left on device")

    loop = make()
    load_sharded(loop, saved)
    monkeypatch.setattr(module, "save_checkpoint", full)
    with pytest.raises(OSError, match="No space left"):
        save_sharded(loop, saved)
    again = make()
    load_sharded(again, saved)
    assert again.position == 2
