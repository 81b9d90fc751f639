"""The command line: its commands, its exit status, and lines that fit a terminal."""

import importlib.metadata
import re
import sys
import types

import pytest
import torch

import pyphase.demo
from pyphase import DecayType, Plan, TrainingPhase, __main__, _core
from pyphase.__main__ import main


def write_plan(path):
    phases = [
        TrainingPhase(2, torch.optim.SGD, (0.1, 1.0), DecayType.LINEAR, name="up"),
        TrainingPhase(3, torch.optim.Adam, 1e-3, DecayType.COSINE, name="down"),
    ]
    path.write_text(Plan(phases, 100).to_json())
    return str(path)


def fits(text):
    assert max(map(len, text.splitlines())) <= 80, text


def one_line(text):
    assert text.startswith("pyphase: error: ")
    assert text.count("\n") == 1, text


def test_plot(tmp_path, capsys):
    out = tmp_path / "drawn.png"
    assert main(["plot", write_plan(tmp_path / "plan.json"), "-o", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "Plan: 2 phases, 500 steps" in printed
    assert printed.endswith(f"drawn to {out}\n")
    fits(printed.replace(str(tmp_path), ""))


def test_plot_goes_to_plan_png_by_default(tmp_path, monkeypatch):
    file = write_plan(tmp_path / "plan.json")
    monkeypatch.chdir(tmp_path)
    assert main(["plot", file]) == 0
    assert (tmp_path / "plan.png").exists()


GARBAGE = [b"", b"{", b"[]", b"null", b'{"format": 3}', b"\xff\xfe\x00", b"\x00" * 9, b"[" * 10**5]


@pytest.mark.parametrize("content", GARBAGE, ids=range(len(GARBAGE)))
def test_plot_of_garbage(tmp_path, monkeypatch, capsys, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.json").write_bytes(content)
    assert main(["plot", "plan.json"]) == 1
    printed = capsys.readouterr()
    one_line(printed.err)
    assert "not a plan" in printed.err
    assert printed.out == ""
    assert not (tmp_path / "plan.png").exists()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["none.json"], "none.json"),
        (["."], r"Is a directory|Permission"),
        (["plan.json", "-o", "missing/plan.png"], "missing"),
        (["plan.json", "-o", "plan.doc"], "`--out`.*doc"),
    ],
)
def test_plot_of_missing_files(tmp_path, monkeypatch, capsys, arguments, match):
    monkeypatch.chdir(tmp_path)
    write_plan(tmp_path / "plan.json")
    assert main(["plot", *arguments]) == 1
    printed = capsys.readouterr().err
    one_line(printed)
    assert re.search(match, printed)


@pytest.mark.parametrize("installed", [True, False])
def test_info(capsys, monkeypatch, installed):
    def version(name):
        if installed and name == "pyphase-torch":
            return "1.2.3"
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(__main__, "version", version)
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert ("1.2.3" in printed) == installed
    assert ("source tree" in printed) != installed
    assert torch.__version__ in printed
    fits(printed)


def test_info_of_this_very_installation(capsys):
    assert main(["info"]) == 0
    fits(capsys.readouterr().out)


def test_info_says_what_computes_the_convolutions(capsys, monkeypatch):
    monkeypatch.delenv("PYPHASE_ISA", raising=False)
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"instruction set +{_core.isa()}, the best that runs here\n", printed)
    assert re.search(rf"PYPHASE_ISA +may be {', '.join(_core.isas())}\n", printed)
    assert re.search(rf"threads +{torch.get_num_threads()}, those of torch\n", printed)
    assert re.search(r"fused kernels +depthwise pairs and sums of them: every type\n", printed)
    assert re.search(r"pairs with one group: float32\n", printed)
    assert re.search(r"batch norm +between the two \(pyphase.nets\): folded in eval mode", printed)
    assert re.search(r"in training torch's own, unfused", printed)
    assert re.search(r"torch's own +all else", printed)
    who = "torch's own convolutions: this installation|kernels by nvcc"
    assert re.search(f"CUDA +({who})", printed)


def test_info_asks_the_kernels_themselves(capsys, monkeypatch):
    served = {"float32": "dense", "float16": "dense"}

    def pair(*, dtype, **_):
        return types.SimpleNamespace(kernel=served.get(dtype, ""))

    monkeypatch.setattr(_core, "ConvPair", pair)
    monkeypatch.setattr(_core, "isa", lambda: "sse9")
    monkeypatch.setenv("PYPHASE_ISA", "sse9")
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert "pairs with one group: float32, float16\n" in printed
    assert "sse9, as PYPHASE_ISA says\n" in printed
    served.clear()
    assert main(["info"]) == 0
    assert "pairs with one group: no type\n" in capsys.readouterr().out


def test_info_with_an_instruction_set_that_does_not_run_here(capsys, monkeypatch):
    def isa():
        raise ValueError("PYPHASE_ISA (='mmx') must be one of those that run here: sse9")

    monkeypatch.setattr(_core, "isa", isa)
    assert main(["info"]) == 1
    printed = capsys.readouterr().err
    one_line(printed)
    assert "PYPHASE_ISA (='mmx')" in printed


def test_demo_passes_its_arguments_on(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(pyphase.demo, "run_demo", lambda out, **rest: seen.append((out, rest)))
    assert main(["demo"]) == 0
    assert main(["demo", "--out", "o", "--data", "d", "--resume", "--seed", "3"]) == 0
    assert seen == [
        ("runs/demo", {"data": None, "resume": False, "seed": 0}),
        ("o", {"data": "d", "resume": True, "seed": 3}),
    ]


@pytest.mark.parametrize("saved", [True, False])
def test_demo_interrupted(monkeypatch, tmp_path, capsys, saved):
    def run_demo(out, **_):
        if saved:
            (tmp_path / "checkpoint.pt").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(pyphase.demo, "run_demo", run_demo)
    assert main(["demo", "--out", str(tmp_path)]) == 130
    printed = capsys.readouterr()
    assert ("--resume goes on" in printed.out) == saved
    assert "interrupted" in (printed.out if saved else printed.err)
    fits(printed.out + printed.err)


def test_demo_on_a_bad_folder(tmp_path, capsys):
    folder = tmp_path / "nothing"
    assert main(["demo", "--data", str(folder), "--out", str(tmp_path / "out")]) == 1
    one_line(capsys.readouterr().err)


@pytest.mark.parametrize("argv", [[], ["train"], ["plot"], ["demo", "--seed", "x"], ["--what"]])
def test_wrong_arguments(capsys, argv):
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 2
    assert "usage: pyphase" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["-h"], ["demo", "-h"], ["plot", "-h"], ["info", "-h"]])
def test_help_fits_a_terminal(capsys, monkeypatch, argv):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 0
    fits(capsys.readouterr().out)


def test_arguments_come_from_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pyphase", "info"])
    assert main() == 0


@pytest.mark.parametrize("seed", ["-1", "99999999999999999999999", "x"])
def test_seed_out_of_range(seed, capsys):
    with pytest.raises(SystemExit):
        main(["demo", "--seed", seed])
    assert "--seed" in capsys.readouterr().err
