"""Images for the demo: where they come from, and what is refused."""

import contextlib
import io
import os
import pickle
import random
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from pyphase import PhaseError
from pyphase.demo_data import ImageSet, _load_mnist, load_images, make_loader


class OldPickler(pickle._Pickler):
    """Write bytes as Python 2 wrote its strings, as CIFAR-10's files hold them."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012 (as in the base class)

    def save_bytes(self, text):
        self.write(pickle.BINSTRING + struct.pack("<i", len(text)) + text)

    dispatch[bytes] = save_bytes


def old_pickle(content):
    file = io.BytesIO()
    OldPickler(file, protocol=2).dump(content)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def batch(count, seed):
    rng = np.random.default_rng(seed)
    labels = [i % 10 for i in range(count)]
    pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    return {b"data": pixels, b"labels": labels, b"batch_label": b"x", b"filenames": [b"a"] * count}


NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def write_cifar(folder, dumps=old_pickle, count=12):
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(NAMES):
        (folder / name).write_bytes(dumps(batch(count, seed)))
    return str(folder)


def write_classes(root, counts, size=(40, 24)):
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return str(root)


def test_digits():
    train, valid = load_images(None, seed=0)
    assert train.images.shape == (4000, 1, 28, 28)
    assert valid.images.shape == (1000, 1, 28, 28)
    assert train.images.dtype == torch.uint8
    assert torch.bincount(valid.labels).tolist() == [100] * 10


@pytest.mark.parametrize("dumps", [old_pickle, lambda b: pickle.dumps(b, protocol=4)])
@pytest.mark.parametrize("below", ["", "cifar-10-batches-py"])
def test_cifar(tmp_path, dumps, below):
    write_cifar(tmp_path / below, dumps)
    train, valid = load_images(str(tmp_path), seed=0)
    assert train.images.shape == (60, 3, 32, 32)
    assert valid.images.shape == (12, 3, 32, 32)
    assert len(train.classes) == len(valid.classes) == 10
    expected = batch(12, 1)[b"data"].reshape(-1, 3, 32, 32)
    assert torch.equal(train.images[12:24], torch.from_numpy(expected))
    assert train.labels.tolist() == 5 * (batch(12, 0)[b"labels"])


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


class Sneaky:
    """Reach for a function below numpy."""

    def __reduce__(self):
        return np.load, ("/dev/null",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_fault_a_pickle_that_runs_code(tmp_path, protocol):
    folder = write_cifar(tmp_path / "cifar")
    for content in (Evil(str(tmp_path / "owned")), {b"data": Sneaky(), b"labels": []}):
        (tmp_path / "cifar" / "data_batch_2").write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(PhaseError, match=r"data_batch_2 .* is not a part of"):
            load_images(folder, seed=0)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "content",
    [
        {},
        [1, 2],
        None,
        {b"data": np.zeros((2, 3072), np.uint8)},
        {b"data": np.zeros((2, 3071), np.uint8), b"labels": [0, 1]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]},
        {b"data": np.zeros((1, 3072), np.uint8), b"labels": ["cat"]},
    ],
)
def test_pickles_of_something_else(tmp_path, content):
    folder = write_cifar(tmp_path)
    (tmp_path / "test_batch").write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(PhaseError, match="test_batch is not a batch of CIFAR-10"):
        load_images(folder, seed=0)


def test_damaged_pickles(tmp_path):
    """Whatever is cut or flipped: read, or refused with a PhaseError."""
    folder, rng = write_cifar(tmp_path), random.Random(0)
    whole = old_pickle({b"data": np.zeros((1, 3072), np.uint8), b"labels": [0]})
    head = whole.index(bytes(100))
    for _ in range(150):
        damaged = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.3 else whole)
        for _ in range(rng.randrange(3)):
            if damaged:
                damaged[rng.randrange(min(len(damaged), head))] = rng.randrange(256)
        (tmp_path / "data_batch_1").write_bytes(damaged)
        with contextlib.suppress(PhaseError):
            load_images(folder, seed=0)


def test_missing_batches(tmp_path):
    folder = write_cifar(tmp_path)
    (tmp_path / "data_batch_4").unlink()
    with pytest.raises(PhaseError, match="data_batch_4"):
        load_images(folder, seed=0)


def test_folder_of_classes(tmp_path):
    folder = write_classes(tmp_path, {"cat": 10, "dog": 5})
    Image.fromarray(np.full((8, 9), 7, np.uint8)).save(tmp_path / "dog" / "grey.jpg")
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    (tmp_path / "README").write_text("no class")
    train, valid = load_images(folder, seed=0)
    assert train.classes == ["cat", "dog"]
    assert train.images.shape == (13, 3, 32, 32)
    assert torch.bincount(train.labels).tolist() == [8, 5]
    assert torch.bincount(valid.labels).tolist() == [2, 1]


def test_folders_without_images_are_no_classes(tmp_path):
    folder = write_classes(tmp_path, {"cat": 5, "dog": 5})
    for name in (".git", "bats"):
        (tmp_path / name).mkdir()
    train, _ = load_images(folder, seed=0)
    assert train.classes == ["cat", "dog"]
    assert sorted(set(train.labels.tolist())) == [0, 1]


@pytest.mark.parametrize(
    ("counts", "match"),
    [({}, "neither CIFAR-10"), ({"cat": 3}, "two folders"), ({"cat": 0, "dog": 3}, "two folders")],
)
def test_bad_folders(tmp_path, counts, match):
    with pytest.raises(PhaseError, match=match):
        load_images(write_classes(tmp_path, counts), seed=0)


def test_no_folder(tmp_path):
    (tmp_path / "file").touch()
    for name in ("none", "file"):
        with pytest.raises(PhaseError, match=f"{name}.* is not a folder"):
            load_images(str(tmp_path / name), seed=0)


def test_a_broken_image_is_named(tmp_path):
    folder = write_classes(tmp_path, {"cat": 5, "dog": 5})
    (tmp_path / "dog" / "3.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(OSError, match=r"3\.png"):
        load_images(folder, seed=0)


def test_too_few_images_to_hold_some_out(tmp_path):
    with pytest.raises(PhaseError, match="too few images"):
        load_images(write_classes(tmp_path, {"cat": 2, "dog": 2}), seed=0)


def test_split_is_stratified_complete_and_seeded():
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] * 5)
    images = torch.arange(65, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    whole = ImageSet(images, labels, ["a", "b", "c"])
    train, valid = whole.split(0.2, seed=3)
    assert torch.bincount(valid.labels).tolist() == [10, 2, 1]
    both = torch.cat([train.images, valid.images]).flatten()
    assert sorted(both.tolist()) == list(range(65))
    again, other = whole.split(0.2, seed=3)[1], whole.split(0.2, seed=4)[1]
    assert torch.equal(again.images, valid.images)
    assert not torch.equal(other.images, valid.images)


def some_images():
    torch.manual_seed(0)
    images = torch.randint(0, 256, (70, 3, 32, 32), dtype=torch.uint8)
    images[:, 2] = 0  # a channel that is empty
    return ImageSet(images, torch.arange(70) % 7, list("abcdefg"))


@pytest.mark.parametrize("train", [True, False])
def test_batches(train):
    batches = list(make_loader(some_images(), 16, 32, train=train))
    assert [tuple(images.shape) for images, _ in batches] == [
        (32, 3, 16, 16), (32, 3, 16, 16), (6, 3, 16, 16)
    ]  # fmt: skip
    assert all(torch.isfinite(images).all() for images, _ in batches)
    labels = torch.cat([labels for _, labels in batches])
    assert torch.bincount(labels).tolist() == [10] * 7
    assert torch.equal(labels, some_images().labels) != train


def test_held_out_images_are_always_the_same_and_training_images_are_moved():
    valid = make_loader(some_images(), 32, 70, train=False)
    assert torch.equal(next(iter(valid))[0], next(iter(valid))[0])
    train = make_loader(some_images(), 32, 70, train=True)
    assert not torch.equal(next(iter(train))[0].sort()[0], next(iter(train))[0].sort()[0])


def test_digits_are_read_once_and_not_shared():
    (first, _), (second, _) = load_images(None, seed=0), load_images(None, seed=0)
    assert _load_mnist() is _load_mnist()
    first.images.zero_()
    assert second.images.any()
