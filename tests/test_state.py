"""Random-number states, and checkpoint files: whole or not at all."""

import errno
import os
import pickle
import random
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import same

from pyphase import PhaseError
from pyphase.apply import state as module
from pyphase.apply.state import get_rng_state, load_checkpoint, save_checkpoint, set_rng_state

GOOD = {"pyphase": "test 1", "weights": torch.arange(300.0), "step": 3, "rng": (1, None, "x")}


def draw():
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(),
            torch.rand(()).item(), torch.randn(5).sum().item()]  # fmt: skip


@pytest.mark.parametrize("drawn", [0, 1, 7])
def test_random_states_come_back(tmp_path, drawn):
    """Also in the middle of a pair of normal numbers, and through a file."""
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    for _ in range(drawn):
        draw()
    save_checkpoint(tmp_path / "rng", {"pyphase": "rng", "rng": get_rng_state()})
    expected = [draw() for _ in range(3)]
    set_rng_state(load_checkpoint(tmp_path / "rng")["rng"])
    assert [draw() for _ in range(3)] == expected


def test_states_of_gpus_that_are_not_there_are_left_out():
    state = get_rng_state() | {"cuda": [torch.zeros(16, dtype=torch.uint8)] * 64}
    if not torch.cuda.is_available():
        set_rng_state(state)


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    for path in (tmp_path / "a.pt", str(tmp_path / "b.pt")):
        save_checkpoint(path, GOOD)
        save_checkpoint(path, GOOD)
        same(load_checkpoint(path), GOOD)
    assert sorted(os.listdir(tmp_path)) == ["a.pt", "b.pt"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_a_checkpoint_has_the_permissions_of_any_new_file(tmp_path):
    save_checkpoint(tmp_path / "a.pt", GOOD)
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.pt").stat().st_mode == (tmp_path / "plain").stat().st_mode


class Full:
    """A file on a disk with little room."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        self.room -= memoryview(data).nbytes
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(data)


def check_old_file(folder):
    assert os.listdir(folder) == ["a.pt"]
    same(load_checkpoint(folder / "a.pt"), GOOD)


@pytest.mark.parametrize("room", [0, 100, 1500, 2500])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, room):
    save_checkpoint(tmp_path / "a.pt", GOOD)

    def open_full(*arguments):
        return Full(open(*arguments), room)

    monkeypatch.setattr(module, "open", open_full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path / "a.pt", GOOD | {"step": 4})
    check_old_file(tmp_path)


@pytest.mark.parametrize("error", [RuntimeError("shapes"), KeyboardInterrupt(), MemoryError()])
def test_a_save_that_breaks_off_leaves_the_old_file(tmp_path, monkeypatch, error):
    save_checkpoint(tmp_path / "a.pt", GOOD)

    def broken(state, file):
        file.write(b"half")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", broken)
        with pytest.raises(type(error)):
            save_checkpoint(tmp_path / "a.pt", GOOD | {"step": 4})
    check_old_file(tmp_path)


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_disk_that_fails_late_leaves_the_old_file(tmp_path, monkeypatch, name):
    save_checkpoint(tmp_path / "a.pt", GOOD)

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, broken)
        with pytest.raises(OSError, match="Input/output"):
            save_checkpoint(tmp_path / "a.pt", GOOD | {"step": 4})
    check_old_file(tmp_path)


def test_what_cannot_be_saved_leaves_the_old_file(tmp_path):
    save_checkpoint(tmp_path / "a.pt", GOOD)
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        save_checkpoint(tmp_path / "a.pt", GOOD | {"step": lambda: 4})
    check_old_file(tmp_path)


@pytest.mark.parametrize("value", [np.arange(3), random.Random])
def test_what_could_not_be_read_back_leaves_the_old_file(tmp_path, value):
    file = tmp_path / "c.pt"
    save_checkpoint(file, GOOD)
    with pytest.raises(PhaseError, match=r"can't be saved: it holds objects .* other than tensors"):
        save_checkpoint(file, {**GOOD, "sampler": value})
    same(load_checkpoint(file), GOOD)
    assert os.listdir(tmp_path) == ["c.pt"]


def test_folders_that_cannot_be_written_to(tmp_path):
    with pytest.raises(FileNotFoundError):
        save_checkpoint(tmp_path / "nowhere" / "a.pt", GOOD)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        save_checkpoint(tmp_path / "folder", GOOD)
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder_keeps_its_file(tmp_path):
    save_checkpoint(tmp_path / "a.pt", GOOD)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            save_checkpoint(tmp_path / "a.pt", GOOD | {"step": 4})
        check_old_file(tmp_path)
    finally:
        tmp_path.chmod(0o700)


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("kind", ["torch", "legacy torch", "pickle", "zip"])
def test_no_code_in_a_file_is_run(tmp_path, kind):
    evil, path = Evil(str(tmp_path / "evil")), tmp_path / "file"
    if kind == "torch":
        torch.save({"pyphase": "loop 1", "evil": evil}, path)
    elif kind == "legacy torch":
        torch.save(evil, path, _use_new_zipfile_serialization=False)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(evil))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(evil, 2))
            archive.writestr("archive/version", "3")
    with pytest.raises(PhaseError, match=r"is not a (whole|pyphase) checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "content", [b"", b"hello\nworld", b"PK\x03\x04", bytes(1000), b"\x80\x04", pickle.dumps({})]
)
def test_files_that_are_something_else(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)  # errors show the begin of a long path
    Path("file").write_bytes(content)
    with pytest.raises(PhaseError, match="'file' is not a whole checkpoint: "):
        load_checkpoint(Path("file"))


@pytest.mark.parametrize("content", [torch.ones(2), [1, 2], {"weights": torch.ones(2)}, 3])
def test_files_that_torch_can_read_but_are_none_of_ours(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "file")
    with pytest.raises(PhaseError, match="'file' is not a pyphase checkpoint"):
        load_checkpoint(Path("file"))


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    save_checkpoint(tmp_path / "a.pt", GOOD)
    whole = (tmp_path / "a.pt").read_bytes()
    for length in range(0, len(whole), 53):
        (tmp_path / "a.pt").write_bytes(whole[:length])
        with pytest.raises(PhaseError, match="is not a whole checkpoint"):
            load_checkpoint(tmp_path / "a.pt")


def test_a_damaged_byte_is_never_read_as_another_number(tmp_path):
    save_checkpoint(tmp_path / "a.pt", GOOD)
    whole = (tmp_path / "a.pt").read_bytes()
    refused = 0
    for place in range(0, len(whole), 17):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        (tmp_path / "a.pt").write_bytes(damaged)
        try:
            same(load_checkpoint(tmp_path / "a.pt"), GOOD)  # the byte was padding
        except PhaseError:
            refused += 1
    assert refused > 60


def test_a_missing_file_is_said_as_such(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(IsADirectoryError):
        load_checkpoint(tmp_path)
