"""The time-to-accuracy benchmark: on digits, on CIFAR-10's and ImageNet's layouts, by plan files.

The images of the layouts are made here, a few of each, and shared by all tests of this long file;
the digits are real.
"""

import importlib
import json
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from scripts import ROOT, load

from pyphase import PhaseError, Plan, TrainingPhase

BENCH = ROOT / "bench"


@pytest.fixture(scope="module")
def bench():
    return load("bench/time_to_accuracy.py")


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """A folder with CIFAR-10's python batches: 60 images to train on, 20 held out."""
    folder, draw = tmp_path_factory.mktemp("cifar"), np.random.default_rng(0)
    for name, count in {**{f"data_batch_{i}": 12 for i in range(1, 6)}, "test_batch": 20}.items():
        labels = [index % 10 for index in range(count)]
        pixels = draw.integers(0, 256, (count, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({b"data": pixels, b"labels": labels}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """ImageNet's layout: two classes of the same images, so that half of the answers is right."""
    root, draw = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(1)
    shapes = [(40, 60), (60, 40), (33, 33), (90, 30)]
    for part, count in (("train", 4), ("val", 4)):
        for index, (high, wide) in enumerate(shapes[:count]):
            image = Image.fromarray(draw.integers(0, 256, (high, wide, 3), dtype=np.uint8))
            for label in ("cat", "dog"):
                place = root / part / label
                place.mkdir(parents=True, exist_ok=True)
                image.convert("RGBA" if index else "L").save(place / f"{index}.png")
    return root


def small_plan(bench, path):
    """Write a plan of two sizes and batches, 8 images an epoch."""
    images = bench.bind.__globals__["Images"]
    phases = [
        TrainingPhase(1, lr=0.01, wds=[0.0, 1e-4], data=images(16, 8, 8, 0.08)),
        TrainingPhase(2, lr=0.02, wds=[0.0, 1e-4], data=images(24, 4, 8, 0.5, rectangular=True)),
    ]
    path.write_text(Plan(phases).to_json())
    return path


def test_digits_reach_a_low_target(bench, tmp_path, capsys):
    record = tmp_path / "out.json"
    bench.main(["--quick", "--only", "torch OneCycleLR", "--target", "0.3", "--json", str(record)])
    (run,) = json.loads(record.read_text())["runs"]
    assert [row["accuracy"] >= 0.3 for row in run["rows"]][-1]
    assert [row["accuracy"] >= 0.3 for row in run["rows"]].count(True) == 1  # it stops there
    assert run["rows"][-1]["images"] == 4000 * len(run["rows"])
    assert "4000 images to train on, 1000 held out" in capsys.readouterr().out


def test_table_picture_and_json_of_all_configs(bench, cifar, tmp_path, capsys):
    record, picture = tmp_path / "out.json", tmp_path / "out.png"
    arguments = ["--quick", "--data", str(cifar), "--target", "1", "--batch", "3"]
    bench.main([*arguments, "--json", str(record), "--picture", str(picture)])
    lines = capsys.readouterr().out.splitlines()
    begin = next(i for i, line in enumerate(lines) if "reached" in line)
    assert max(map(len, lines[begin:])) <= 80
    names = list(bench.CONFIGS)
    assert [line[:29].rstrip() for line in lines[begin + 1 : begin + 1 + len(names)]] == names
    found = json.loads(record.read_text())
    assert [run["config"] for run in found["runs"]] == names
    for run in found["runs"]:
        rows, epoch = run["rows"], 25 if run["config"].startswith("fine") else 60
        assert rows[-1]["accuracy"] == 1 or rows[-1]["images"] == 3 * epoch
        assert 0 < rows[0]["seconds"] < rows[-1]["seconds"] or len(rows) == 1
        assert all(row["images"] == row["epochs"] * epoch for row in rows)
    with Image.open(picture) as image:
        assert min(image.size) > 300


def test_sweep_writes_the_choice_that_costs_least(bench, cifar, tmp_path, capsys):
    path = tmp_path / "choices.json"
    path.write_text('{"other": {"lr": 1.0, "epochs": 2.0}}')
    arguments = ["--tune", "--quick", "--data", str(cifar), "--choices", str(path)]
    options = ["--target", "0.001", "--only", "constant", "--batch", "30"]
    bench.main([*arguments, *options, "--seeds", "2"])
    found = json.loads(path.read_text())
    grid = [choice._asdict() for choice in bench.CONFIGS["constant rate"].grid]
    assert found["other"] == {"lr": 1.0, "epochs": 2.0}
    with pytest.raises(SystemExit):
        bench.main([*arguments[1:], "--only", "step decay"])
    assert found["constant rate"] in grid
    out = capsys.readouterr().out
    assert out.count("chosen") == 1
    assert sum(out.count(f" {reached}/2 ") for reached in range(3)) == len(grid)


def test_planned_epochs_in_place_of_the_choices(bench, cifar, tmp_path):
    record = tmp_path / "out.json"
    arguments = [
        "--only",
        "step",
        "--epochs",
        "2",
        "--seeds",
        "1",
        "--target",
        "1",
        "--batch",
        "10",
    ]
    bench.main([*arguments, "--data", str(cifar), "--json", str(record)])
    found = json.loads(record.read_text())
    assert found["choices"]["step decay"]["epochs"] == 2
    assert found["runs"][0]["rows"][-1]["images"] == 2 * 60


def test_quartiles_with_runs_that_do_not_reach(bench):
    quartiles = bench.table.__globals__["quartiles"]
    inf = float("inf")
    assert quartiles([3.0, 1.0, 2.0, 4.0]) == pytest.approx(
        np.percentile([1, 2, 3, 4], (25, 50, 75))
    )
    assert quartiles([1.0, inf, 2.0]) == (1.5, 2.0, inf)
    assert quartiles([inf, inf, 1.0, 2.0]) == (1.75, inf, inf)


# --- plan files -----------------------------------------------------------------------------------


def imagenet18_lr(phases, epoch, part):
    """Return the rate as imagenet18's Scheduler has it, ``part`` of the epoch into it."""
    phase = [p for p in phases if epoch >= np.ravel(p["ep"])[0]][-1]
    begin, end = (np.ravel(phase["ep"])[0], np.ravel(phase["ep"])[-1])
    start, stop = (np.ravel(phase["lr"])[0], np.ravel(phase["lr"])[-1])
    return start + (stop - start) * (epoch - begin + part) / max(end - begin, 1)


ONE, SIXTEEN = 1.0, 0.24 * 8
RATES = {
    "imagenet_8gpus": [
        {"ep": (0, 5), "lr": (ONE, ONE * 2)},
        {"ep": 5, "lr": ONE},
        {"ep": 14, "lr": ONE * 224 / 512},
        {"ep": 16, "lr": ONE / 10 * 224 / 512},
        {"ep": 27, "lr": ONE / 100 * 224 / 512},
        {"ep": 32, "lr": ONE / 100 * 128 / 512},
        {"ep": (33, 35), "lr": ONE / 1000 * 128 / 512},
    ],
    "imagenet_128gpus": [
        {"ep": (0, 6), "lr": (SIXTEEN, SIXTEEN * 2)},
        {"ep": 6, "lr": SIXTEEN * 2},
        {"ep": (11, 14), "lr": (SIXTEEN * 2, SIXTEEN)},
        {"ep": 14, "lr": SIXTEEN},
        {"ep": (17, 23), "lr": (SIXTEEN, SIXTEEN / 10 * 224 / 64)},
        {"ep": (23, 29), "lr": (SIXTEEN / 10 * 224 / 64, SIXTEEN / 100 * 224 / 64)},
        {"ep": (29, 37), "lr": (SIXTEEN / 100, SIXTEEN / 1000)},
        {"ep": (37, 40), "lr": SIXTEEN / 1000},
    ],
}
SIZES = {
    "imagenet_8gpus": {0: (128, 512 * 8), 14: (224, 224 * 8), 32: (288, 128 * 8)},
    "imagenet_128gpus": {
        0: (128, 64 * 128),
        6: (128, 128 * 128),
        14: (224, 64 * 128),
        17: (224, 224 * 128),
        29: (288, 128 * 128),
    },
}


@pytest.mark.parametrize("name", RATES)
def test_imagenet_plans_have_the_rates_and_sizes_of_imagenet18(bench, name):
    plan = Plan.from_json((BENCH / "plans" / f"{name}.json").read_text())
    rate, step = plan.table("lr")[:, 0], 0
    for epoch in range({"imagenet_8gpus": 35, "imagenet_128gpus": 40}[name]):
        index = plan.phase_at(step)
        size, batch = SIZES[name][max(e for e in SIZES[name] if e <= epoch)]
        assert plan.phases[index].data.name.startswith(f"{size} px")
        assert plan.batch_sizes[index] == batch
        count = -(-1_281_167 // batch)
        expected = [imagenet18_lr(RATES[name], epoch, k / count) for k in range(count)]
        # Where a ramp's last part is cut off by rounding, a step may differ.
        np.testing.assert_allclose(rate[step : step + count], expected, rtol=2e-3)
        step += count
    assert plan.total_steps == step


def test_cifar_plan_has_fastais_cycle(bench):
    plan = Plan.from_json((BENCH / "plans" / "cifar10.json").read_text())
    epoch = -(-50_000 // 512)
    total = 30 * epoch
    half = int(total * (1 - 20 / 100) / 2)  # CircularLR_beta of fastai 0.7
    expected = []
    for step in range(total):
        if step > 2 * half:
            part = (step - 2 * half) / (total - 2 * half)
            expected.append(1.5 * (1 - part * 99 / 100) / 20)
        else:
            part = step / half if step <= half else 2 - step / half
            expected.append(1.5 * (1 + part * 19) / 20)
    np.testing.assert_allclose(plan.table("lr")[:, 0], expected, rtol=1e-9)
    assert set(plan.batch_sizes) == {512}
    assert plan.phases[0].opt_fn.keywords == {"weight_decay": 1e-4}


@pytest.mark.parametrize("name", ["cifar10", "imagenet_8gpus", "imagenet_128gpus"])
def test_plan_files_are_as_their_recipes_and_plot(bench, name):
    plan = Plan.from_json((BENCH / "plans" / f"{name}.json").read_text())
    assert plan.diff(Plan(bench.RECIPES[name].make())) == []
    assert isinstance(plan.plot(), Figure)


def test_cifar_plan_runs_on_python_batches(bench, cifar, tmp_path, capsys):
    record = tmp_path / "out.json"
    arguments = ["--plan", "cifar10", "--data", str(cifar), "--target", "1", "--json", str(record)]
    bench.main([*arguments, "--quick", "--autocast", "bfloat16", "--accumulate", "2"])
    found = json.loads(record.read_text())
    (run,) = found["runs"]
    assert [row["images"] for row in run["rows"]] == [60 * epoch for epoch in range(1, 31)]
    assert found["plan"]["phases"][0]["batch_size"] == 512
    out = capsys.readouterr().out
    assert "60 images to train on, 20 held out" in out
    assert "the target was not reached" in out


def test_folder_of_imagenets_layout_by_worker_processes(bench, folder, tmp_path):
    record = tmp_path / "out.json"
    plan = small_plan(bench, tmp_path / "plan.json")
    arguments = ["--plan", str(plan), "--data", str(folder), "--target", "1", "--workers", "1"]
    bench.main([*arguments, "--threads", "1", "--json", str(record)])
    (run,) = json.loads(record.read_text())["runs"]
    assert [row["images"] for row in run["rows"]] == [8, 16, 24]
    assert [row["accuracy"] for row in run["rows"]] == pytest.approx([0.5] * 3, abs=1e-6)


@pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform != "linux", reason="gloo on Linux"
)
def test_two_processes_share_the_images(bench, folder, tmp_path):
    record = tmp_path / "out.json"
    plan = small_plan(bench, tmp_path / "plan.json")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [
        str(BENCH / "time_to_accuracy.py"),
        "--plan",
        str(plan),
        "--data",
        str(folder),
        "--target",
        "1",
    ]
    done = subprocess.run(
        [*command, "--workers", "0", "--json", str(record)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("images to train on") == 1  # the first process speaks
    (run,) = json.loads(record.read_text())["runs"]
    assert [row["images"] for row in run["rows"]] == [8, 16, 24]
    assert [row["accuracy"] for row in run["rows"]] == pytest.approx([0.5] * 3, abs=1e-6)


# --- images ---------------------------------------------------------------------------------------


def test_rectangular_batches_hold_each_image_once_in_one_shape(bench, folder):
    source = bench.open_source(str(folder), size=32)
    _, valid = source.pair(32, 1, rectangular=True)
    batches = list(valid)
    assert sum(len(labels) for _, labels in batches) == 8
    shapes = {tuple(images.shape[2:]) for images, _ in batches}
    assert len(shapes) > 1
    assert all(min(shape) == 32 and max(shape) % 8 == 0 for shape in shapes)


def test_crops_lie_inside_and_cover_at_least_the_least_area(bench, folder):
    module = importlib.import_module("tta_folder")
    torch.manual_seed(0)
    areas = []
    for _ in range(300):
        left, upper, right, lower = module.random_crop(80, 50, 0.25)
        assert 0 <= left < right <= 80
        assert 0 <= upper < lower <= 50
        areas.append((right - left) * (lower - upper) / 4000)
        assert 0.7 < (right - left) / (lower - upper) < 1.4
    assert 0.24 < min(areas) < 0.3
    assert max(areas) > 0.7
    assert module.middle(100, 50, (32, 32))[1] == pytest.approx((50 - 50 / 1.14) / 2)


def test_a_jpeg_is_cropped_where_it_was_asked(bench, tmp_path):
    """A ramp from black to white, decoded at a part of its size, keeps its place."""
    module = importlib.import_module("tta_folder")
    ramp = np.tile(np.linspace(0, 255, 512, dtype=np.uint8), (256, 1))
    Image.fromarray(np.stack([ramp] * 3, -1)).save(tmp_path / "ramp.jpg", quality=95)
    with Image.open(tmp_path / "ramp.jpg") as image:
        small = module.resized(image, (256, 0, 512, 256), (32, 32))
        assert image.size[0] < 512
    assert small.shape == (32, 32, 3)
    np.testing.assert_allclose(small[16, :, 0], 127.5 + 127.5 * (np.arange(32) + 0.5) / 32, atol=3)


def test_resnet50_has_the_published_size(bench):
    assert sum(p.numel() for p in bench.NETWORKS["resnet50"](3, 1000).parameters()) == 25_557_032


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "1.5"], r"--target \(=1.5\) must be in \(0, 1\]"),
        (["--target", "-0.1"], r"--target \(=-0.1\) must be in"),
        (["--data", "nowhere"], r"--data \(=nowhere\) is not a folder"),
        (["--target", "0"], r"--target \(=0\) must be in"),
        (["--seeds", "0"], r"--seeds \(=0\) must be >= 1"),
        (["--epochs", "0.5"], r"--epochs \(=0.5\) must be >= 1"),
        (["--epochs", "nan"], r"--epochs \(=nan\) must be >= 1"),
        (["--epochs", "7", "--tune"], "--epochs takes the place of what --tune chooses"),
        (["--plan", "cifar10", "--epochs", "7"], "--plan runs one plan"),
        (["--threads", "0"], r"--threads \(=0\) must be >= 1"),
        (["--json", "nowhere/x.json"], r"--json \(=nowhere/x.json\): there is no folder nowhere"),
        (["--seeds", "-1"], r"--seeds \(=-1\) must be >= 1"),
        (["--only", "sgdr"], r"--only \(=sgdr\): no config"),
        (["--plan", "nowhere.json"], r"--plan: .*nowhere.json"),
        (["--plan", "cifar10", "--tune"], "--plan runs one plan"),
        (["--accumulate", "2"], "for a --plan"),
        (["--choices", "nowhere.json"], r"--choices: .*nowhere.json"),
        (["--plan", "cifar10", "--accumulate", "3", "CIFAR"], "a batch of 512 can't be shared out"),
        (["--top", "10", "CIFAR"], r"--top \(=10\) must be below the 10 classes"),
    ],
)
def test_wrong_arguments_are_named(bench, cifar, capsys, arguments, message):
    if arguments[-1] == "CIFAR":
        arguments = [*arguments[:-1], "--data", str(cifar)]
    with pytest.raises(SystemExit) as stopped:
        bench.main(arguments)
    assert stopped.value.code
    assert re.search(message, capsys.readouterr().err)


def test_folders_that_do_not_fit_are_named(bench, folder, tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(PhaseError, match="cat holds no image"):
        bench.open_source(str(tmp_path))
    for label in ("cat", "dog"):
        (tmp_path / "train" / label).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "train" / label / "0.png")
    with pytest.raises(PhaseError, match="val is not a folder"):
        bench.open_source(str(tmp_path))
    for label in ("cat", "bird"):
        (tmp_path / "val" / label).mkdir(parents=True)
        (tmp_path / "val" / label / "0.png").write_bytes(b"not an image")
    with pytest.raises(PhaseError, match=r"differ in the classes \['bird', 'dog'\]"):
        bench.open_source(str(tmp_path))
    (tmp_path / "val" / "bird").rename(tmp_path / "val" / "dog")
    _, valid = bench.open_source(str(tmp_path)).pair(8, 2)
    with pytest.raises(PhaseError, match=r"0.png can't be read as an image"):
        list(valid)
