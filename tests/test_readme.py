"""The README's Python blocks run, in order, and leave the pictures that it shows."""

import re

from doc_blocks import ROOT, pictures
from matplotlib.figure import Figure

README = ROOT / "README.md"


def test_blocks_run_and_draw(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = pictures.blocks(README)
    assert len(found) >= 10
    namespace = {}
    for block in found:
        namespace.pop("figure", None)
        pictures.run(block, namespace)
        if block.picture:
            assert isinstance(namespace["figure"], Figure), f"README.md:{block.line}"


def test_every_picture_is_there():
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README.read_text())
    assert shown
    assert [name for name in shown if not (ROOT / name).is_file()] == []


def test_first_example_is_short_and_stands_alone(capsys):
    first = pictures.blocks(README)[0]
    assert len([line for line in first.code.splitlines() if line.strip()]) <= 12
    pictures.run(first, {})
    assert capsys.readouterr().out.strip()


def test_picture_of_a_factorized_kernel():
    figure = pictures.draw_factorized(5)
    row, column, product = (axes.images[0].get_array() for axes in figure.axes[::2])
    assert (row.shape, column.shape, product.shape) == ((1, 5), (5, 1), (5, 5))
    assert abs(product - column * row).max() == 0
    assert "2k = 10 in place of k² = 25" in figure.get_supxlabel()
