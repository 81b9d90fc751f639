"""The blocks of docs/factorize.md run, in order."""

import importlib.util
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


def test_blocks_run(capsys):
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "pictures.py")
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    torch.manual_seed(0)
    namespace = {}
    for block in pictures.blocks(ROOT / "docs" / "factorize.md"):
        pictures.run(block, namespace)
    assert "2 of 3 convolutions" in capsys.readouterr().out
    errors = [sum(own.energy for own in namespace[name].layers) for name in ("plan", "plain")]
    assert errors[0] > errors[1]
