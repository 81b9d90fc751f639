"""The benchmark's code for a GPU, from end to end on the simulated one: no figure counts."""

from __future__ import annotations

import argparse
import json
import sys

import pytest

from emulation import build
from emulation.simulated import simulated
from pyphase.conv import choice

sys.path.insert(0, str(build.ROOT / "bench"))

import conv_cuda
from conv_shapes import dense, depthwise, strips

pytestmark = pytest.mark.emulation

TINY = [
    depthwise("tiny", 1, 2, 9, 3, dtypes=("float32", "bfloat16"), quick=True),
    strips("tiny", 1, 1, 10, dtypes=("float16",), quick=True),
    dense("tiny", 1, (8, 8, 8), (5, 6), 3, quick=True),
    dense("left out", 1, (8, 8, 8), (5, 6), 3, quick=True),
]


def test_from_end_to_end(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PYPHASE_CACHE", "")
    monkeypatch.setattr(conv_cuda, "PROBLEMS", TINY)
    monkeypatch.setattr(conv_cuda, "CAPTURED", 1)
    monkeypatch.setattr(conv_cuda, "CALLS", 5)
    monkeypatch.setattr(choice, "_ROUNDS", 1)
    small = conv_cuda.measure_peaks
    monkeypatch.setattr(conv_cuda, "measure_peaks", lambda device: small(device, 32, 1 << 10))
    arguments = argparse.Namespace(
        shapes="^tiny",
        quick=True,
        compile=False,
        layouts=["nchw", "channels_last"],
        json=str(tmp_path / "found.json"),
        picture=str(tmp_path / "found.png"),
    )
    with simulated():
        failed = conv_cuda.run(arguments)
    printed = capsys.readouterr().out
    assert not failed, printed
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["device"] == "a simulated A100"
    rows = found["rows"]
    assert len(rows) == (2 + 1 + 2) * 4  # dtypes and precisions, by layouts and tasks
    assert {row["tf32"] for row in rows if row["family"] == "dense"} == {False, True}
    for row in rows:
        assert {"torch", "native", "auto", "kxk"} == set(row["kernel"]) == set(row["call"]), row
        assert row["floor"] > 0
        assert len(row["errors"]["native"]) == (
            1 if row["task"] == "forward" else len(row["errors"]["torch"])
        )
    assert (tmp_path / "found.png").stat().st_size > 1000


def test_without_a_gpu_it_says_so():
    with pytest.raises(SystemExit, match="torch finds no GPU"):
        conv_cuda.run(argparse.Namespace())
