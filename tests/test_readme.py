"""The README's Python blocks run, in order, and leave the pictures that it shows."""

import re

from doc_blocks import ROOT, pictures

README = pictures.README


def test_blocks_run_and_draw():
    shown = pictures.run_page(README, alone=False)  # raises for a picture without a figure
    assert len(shown) >= 10
    assert sum(one.figure is not None for one in shown) >= 8


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
