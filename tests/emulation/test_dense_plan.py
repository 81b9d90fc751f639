"""Launches of the dense kernels as pure functions of problem and device."""

from __future__ import annotations

import conv_reference as reference
import pytest
import torch
from conv_reference import PROBLEMS, Problem

from emulation import dense
from emulation.dense import A100, Gpu

pytestmark = pytest.mark.emulation
GPUS = {
    "A100": A100,
    "H100": Gpu(90, 132, 2048, 228 << 10, 227 << 10),
    "B200": Gpu(100, 148, 2048, 228 << 10, 227 << 10),
    "RTX 4090": Gpu(89, 128, 1536, 100 << 10, 99 << 10),
}
USES = {  # of the networks that the kernels are for
    "low rank": Problem((64, 16, 64), (56, 56), (7, 7), batch=32),
    "low rank VGG": Problem((256, 64, 256), (56, 56), (3, 3), batch=8),
    "stem": Problem((3, 64, 64), (224, 224), (7, 7), stride=(2, 2), padding=(3, 3), batch=8),
    "ERFNet 64": Problem((64,) * 3, (128, 256), (3, 3), batch=1, row_first=False),
    "ERFNet 128": Problem((128,) * 3, (64, 128), (3, 3), batch=1, dilation=(16, 16)),
    "Inception-v3": Problem((128, 128, 192), (17, 17), (7, 7), batch=32, row_first=False),
    "Inception-ResNet": Problem((128, 160, 192), (17, 17), (7, 7), batch=32),
    "Inception-v4": Problem((192, 224, 256), (17, 17), (7, 7), batch=32),
}
EACH_USE = pytest.mark.parametrize("name", USES)
EACH_GPU = pytest.mark.parametrize("gpu", GPUS)
PASSES = pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])


def planned(problem, dtype, gpu=A100, backward=False, channels_last=True):
    """A plan without the tensors' memory."""
    weights = reference.tensors(problem._replace(batch=1, size=(1, 1)), dtype)[1:3]
    x = torch.empty(1, dtype=dtype).expand(problem.batch, problem.channels[0], *problem.size)
    numbers = dense.describe(problem, [x, *weights], channels_last=channels_last)
    return dense.plan(dense.library(), numbers, backward, gpu)


@PASSES
@EACH_GPU
@EACH_USE
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_uses_are_covered_within_the_limits_of_a_block(name, gpu, backward, dtype):
    limits = GPUS[gpu]
    found = planned(USES[name], dtype, limits, backward)
    assert found.launches
    for grid, shared, _ in found.launches:
        assert 0 < grid < 2**31
        assert shared <= limits.shared_per_block


@EACH_USE
def test_work_is_no_less_than_the_definition_needs(name):
    problem = USES[name]
    found = planned(problem, torch.bfloat16)
    sizes = [(s + d - 1) // d for s, d in zip(problem.size, problem.stride, strict=True)]
    pixels = problem.batch * sizes[0] * sizes[1]
    first, second = problem.kernel if not problem.row_first else problem.kernel[::-1]
    into, mid, out = problem.channels
    least = 2 * pixels * mid * (into * first + out * second)
    assert found.flops >= least
    compulsory = 2 * problem.batch * into * problem.size[0] * problem.size[1] + 2 * pixels * out
    assert found.bytes >= compulsory


@PASSES
def test_a_plan_is_a_function_of_its_arguments(backward):
    runs = [planned(USES["low rank"], torch.float16, backward=backward) for _ in range(2)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("name", ["dense, 1x1", "dense, more padding than kernel"])
def test_gradients_need_padding_within_the_kernel(name):
    assert planned(PROBLEMS[name], torch.float32).launches
    assert not planned(PROBLEMS[name], torch.float32, backward=True).launches


def test_what_does_not_fit_is_not_covered():
    wide = Problem((8, 4096, 8), (64, 64), (63, 63), batch=1)
    assert not planned(wide, torch.bfloat16).launches
    assert not planned(USES["low rank"], torch.float64).launches
