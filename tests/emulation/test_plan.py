"""Plans are pure functions: for real GPUs' properties, on a machine that has none of them."""

from __future__ import annotations

import sys
from functools import partial

import pytest

from emulation import build
from emulation.binding import emulated

sys.path.insert(0, str(build.ROOT / "bench"))

import roofline_cuda
from conv_cuda_shapes import PROBLEMS
from conv_shapes import dense, depthwise, strips

pytestmark = pytest.mark.emulation
DEVICES = roofline_cuda.DEVICES


def planned(problem, dtype, channels_last, device):
    module = emulated()
    at = module.Device(**DEVICES[device])
    return roofline_cuda.plan(module, problem, dtype, channels_last, at)


@pytest.mark.parametrize("device", DEVICES)
def test_launches_fit_the_device(device):
    limits = DEVICES[device]
    covered = 0
    for problem in PROBLEMS:
        for dtype in problem.dtypes:
            for channels_last in (False, True):
                for backward in (False, True):
                    found = planned(problem, dtype, channels_last, device)
                    covered += found.covers(backward)
                    for kernel, grid, block, shared, _ in found.launches(backward):
                        where = f"{problem.label}, {dtype}, {kernel}: {grid}, {block}, {shared}"
                        threads = block[0] * block[1] * block[2]
                        assert 0 < threads <= 1024, where
                        assert 0 < grid[0] < 2**31, where
                        assert all(0 < size < 2**16 for size in grid[1:]), where
                        assert 0 <= shared <= limits["shared_per_block"], where
                        assert kernel, where
    assert covered > len(PROBLEMS)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.label)
def test_work_is_no_less_than_the_definitions(problem):
    for dtype in problem.dtypes:
        itemsize = 4 if dtype == "float32" else 2
        for channels_last in (False, True):
            found = planned(problem, dtype, channels_last, "H100 SXM")
            for backward, task in ((False, "forward"), (True, "backward")):
                if not found.covers(backward):
                    continue
                moved, flops, _ = found.work(backward)
                least = problem.moved("forward", itemsize)
                operations = problem.flops("forward")
                if backward:
                    least = problem.moved("training", itemsize) - least
                    operations = problem.flops("training") - operations
                assert moved >= least, (task, dtype, channels_last)
                # Additions of strips are not counted.
                assert flops >= 0.98 * operations, (task, dtype, channels_last)
                native, torch = found.floors(backward)
                assert native > 0
                assert torch > 0


def test_what_is_planned_for():
    pair = depthwise("x", 8, 64, 56, 7)
    sum_ = strips("x", 8, 64, 64)
    low = dense("x", 8, (64, 16, 64), (56, 56), 3)
    for channels_last in (False, True):
        for dtype in ("float32", "bfloat16", "float16"):
            for problem, kernel in ((pair, "depthwise"), (sum_, "strips"), (low, "dense")):
                found = planned(problem, dtype, channels_last, "A100 SXM 80GB")
                assert found.kernel == kernel
                assert found.covers(False)
                assert found.covers(True)
        for problem in (pair, sum_, low):
            found = planned(problem, "float64", channels_last, "A100 SXM 80GB")
            assert found.kernel == ""
            assert not found.wins(False)
            assert found.launches(True) == []


def test_plans_are_the_same_each_time():
    problem = strips("x", 8, 64, 64)
    one, two = (planned(problem, "float16", False, "H100 SXM") for _ in range(2))
    assert one.launches(True) == two.launches(True)
    assert one.floors(True) == two.floors(True)
    assert one.workspace(True) == two.workspace(True)


def stated(shape, kernel, groups=None, **more):
    """A pair of `groups` (as many as channels: depthwise) that keeps the number of channels."""
    channels = shape[1]
    groups = groups or channels
    sides = [n * d for k, d in zip(kernel, more.get("dilation", (1, 1)), strict=True)
             for n in ((k - 1) // 2, k // 2)]  # fmt: skip
    request = {
        "input_shape": shape,
        "weight1_shape": (channels, channels // groups, 1, kernel[1]),
        "weight2_shape": (channels, channels // groups, kernel[0], 1),
        "stride": (1, 1),
        "padding": sides,
        "dilation": (1, 1),
        "groups": (groups, groups),
        "activation": "none",
        "dtype": "bfloat16",
        "channels_last": False,
    }
    return emulated().Pair(**request | more)


HUGE = {
    "more blocks than a grid has": partial(stated, (3328, 551862, 5, 96), (41, 1)),
    "more images than a grid has": partial(stated, (1 << 30, 4, 2, 2), (3, 3)),
    "an image of 2^31 elements": partial(stated, (1, 1, 1 << 16, 1 << 15), (3, 3)),
    "a row of 2^30": partial(stated, (1, 1, 1, 1 << 30), (63, 3)),
    "more weights than 2^31": partial(stated, (1, 1 << 29, 1, 1), (255, 255)),
    "more weights than 2^31, dense": partial(stated, (1, 1 << 15, 1, 1), (3, 3), 1),
    "more lines than tiles can hold": partial(stated, (1, 8, 1 << 24, 2), (3, 3), 1),
    "strides beyond all tiles": partial(stated, (1, 8, 3, 3), (3, 3), 1, stride=(1 << 29, 1 << 29)),
    "a dilation beyond all tiles": partial(
        stated, (1, 8, 1, 1), (3, 3), 1, dilation=(1 << 20, 1 << 26), activation="relu"
    ),
    "more images than a grid's y": partial(stated, (70000, 8, 7, 7), (7, 7)),
    "more channels than a grid's y": partial(stated, (2, 70000, 7, 7), (7, 7)),
}
COVERED = {"more images than a grid's y", "more channels than a grid's y"}


@pytest.mark.parametrize("device", ["A100 SXM 80GB", "RTX 5090"])
@pytest.mark.parametrize("name", HUGE)
def test_launches_of_huge_problems_fit_or_there_are_none(name, device):
    """And a plan takes no time that grows with the image."""
    module = emulated()
    found = module.PlannedPair(HUGE[name](), module.Device(**DEVICES[device]), True)
    for backward in (False, True):
        assert found.covers(backward) or name not in COVERED
        assert found.workspace(backward) < 2**44
        for kernel, grid, block, shared, _ in found.launches(backward):
            where = f"{kernel}: {grid}, {block}, {shared}"
            assert 0 < grid[0] < 2**31, where
            assert grid[1:] == [1, 1], where
            assert 0 < block[0] <= 1024, where
            assert 0 <= shared <= DEVICES[device]["shared_per_block"], where


PAIR = {
    "input_shape": (8, 64, 56, 56),
    "weight1_shape": (16, 64, 1, 3),
    "weight2_shape": (64, 16, 3, 1),
    "stride": (1, 1),
    "padding": (1, 1, 1, 1),
    "dilation": (1, 1),
    "groups": (1, 1),
    "activation": "none",
    "dtype": "float32",
    "channels_last": False,
}


def test_float32_goes_to_tensor_cores_only_as_tf32():
    module = emulated()
    at = module.Device(**DEVICES["H100 SXM"])
    pair = module.Pair(**PAIR)
    assert not module.PlannedPair(pair, at, False).work(False)[2]


def test_fusing_a_whole_attention_is_expected_to_pay():
    """21 tensor passes become 2: if the planner did not see that, it would see nothing."""
    for device in DEVICES:
        found = planned(strips("SegNeXt-S", 32, 64, 128), "bfloat16", False, device)
        native, torch = found.floors(False)
        assert found.wins(False)
        assert torch / native > 1.5, device


def test_wrong_problems_are_errors():
    module = emulated()
    with pytest.raises(ValueError, match="one weight must be"):
        module.Pair(
            **PAIR
            | {
                "input_shape": (1, 2, 4, 4),
                "weight1_shape": (2, 1, 1, 3),
                "weight2_shape": (2, 1, 1, 3),
                "padding": (0, 0, 0, 0),
                "groups": (2, 2),
            }
        )


def test_the_table_on_paper(capsys, monkeypatch):
    monkeypatch.setattr(roofline_cuda.cuda, "load", emulated)
    roofline_cuda.main(["--device", "H100 SXM", "--shapes", "one image"])
    printed = capsys.readouterr().out
    assert "2 us from one kernel to the next" in printed
    assert "nothing here ran on a GPU" in printed
    assert "one image 1x64@56 k11" in printed
