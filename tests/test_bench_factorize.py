"""The benchmark of factorized networks: one command, from training to the table."""

import pytest
import torch
from digits import tensors
from scripts import load
from torch import nn

from pyphase import conv
from pyphase.demo_data import ImageSet


@pytest.fixture(scope="module")
def bench():
    return load("bench/bench_factorize.py")


def load_images(folder, *, seed):
    """Return some of scikit-learn's digits, at their size: MNIST's file takes seconds to read."""
    images, labels = tensors()
    pixels = (255 * images.reshape(-1, 1, 8, 8)).byte()
    return ImageSet(pixels[:320], labels[:320], [str(i) for i in range(10)]).split(0.4, seed)


def test_errors_are_those_of_each_layer_given_the_dense_networks_inputs(bench):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    x = torch.randn(4, 1, 8, 8)
    plan = conv.factorize(net, x, rank={"0": 2, "2": 3}, order="col_row", measure=False)
    with torch.no_grad():
        inputs = x, net[:2](x)
        pairs = [conv.FactorizedConv2d.from_dense(net[at], rank, order="col_row")
                 for at, rank in ((0, 2), (2, 3))]  # fmt: skip
        errors = [
            float((pair(given) - dense(given)).norm() / dense(given).norm())
            for pair, dense, given in zip(pairs, (net[0], net[2]), inputs, strict=True)
        ]
    assert bench.layer_errors(net, plan, x) == pytest.approx(sum(errors) / 2)
    assert type(net[0]) is nn.Conv2d


def test_a_network_is_trained_factorized_tuned_and_timed(bench, monkeypatch, capsys):
    monkeypatch.setattr(bench, "load_images", load_images)
    bench.main(["--quick", "--seeds", "2"])
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split("  ")[0]: line for line in lines if "x" in line[-5:] and "(" in line}
    assert list(rows) == ["dense", *bench.METHODS]
    numbers = [line[len(name) :].split() for name, line in rows.items()]
    shares = [float(row[0].rstrip("%")) for row in numbers]
    assert shares[0] == 100
    assert max(shares[1:]) <= 50
    errors = [float(row[1]) for row in numbers[1:]]
    assert errors[2] < 0.8 * min(errors[:2])  # outputs fitted, or weights
    assert any("output error" in line and "ms" in line for line in lines)
    assert any(line.endswith("8 px; seeds 0 to 1") for line in lines)


def test_wrong_arguments(bench, capsys):
    with pytest.raises(SystemExit):
        bench.main(["--seeds", "0"])
    assert "--seeds (=0) must be >= 1" in capsys.readouterr().err
