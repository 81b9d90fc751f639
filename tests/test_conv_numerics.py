"""The layers of published networks, made small: as near to the exact result as torch's own.

Output and every gradient, in float32, bfloat16 and float16, are held to float64 by the criterion
of ``conv_errors.py``: an error of at most twice that of torch's two convolutions in the same dtype,
plus one rounding of the sum of absolute terms. There is no other tolerance. Twice, since two ways
to round the same sums differ that much by chance; the rounding, since torch's error may be 0 by
chance. In the half types, whose products are exact in float32, ours is mostly the smaller error:
the intermediate is never rounded to the half type.

Kernels, dilations, strides, orders and activations are those of the benchmark's layers
(``bench/conv_shapes.py``); batch and channels are reduced, and planes are at most 48 x 48.
"""

from __future__ import annotations

import conv_reference as reference
import pytest
import torch
from conv_errors import bound, evaluate, pair_bound, strips
from conv_reference import Problem

from pyphase import conv

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
NO_MID = (False, True)


def dense(channels, size, k, **more):
    return Problem(channels, size, (k, k), batch=2, **more)


def depthwise(channels, size, k, **more):
    return Problem((channels,) * 3, size, (k, k), batch=2, groups=(channels,) * 2, **more)


FAMILIES = {
    "Inception-v3": dense((16, 16, 24), (17, 17), 7),
    "Inception-v3, column": dense((20, 20, 24), (17, 17), 7, row_first=False),
    "Inception-v4": dense((8, 8, 8), (40, 40), 7),
    "Inception-v4, 3": dense((24, 28, 32), (8, 8), 3, row_first=False),
    "Inception-ResNet, 17": dense((16, 20, 24), (17, 17), 7),
    "Inception-ResNet, 8": dense((24, 28, 32), (8, 8), 3),
    **{
        f"ERFNet, {d}": dense((16,) * 3, (16, 32), 3, dilation=(d, d), activation="relu",
                              row_first=False)
        for d in (1, 2, 4, 8, 16)
    },
    **{
        f"LEDNet, {d}": dense((16,) * 3, (32, 24), 3, dilation=(d, d), activation="relu")
        for d in (1, 2, 5)
    },
    "low rank, 7": dense((16, 4, 16), (28, 28), 7, biases=NO_MID),
    "low rank, 3": dense((16, 8, 16), (28, 28), 3, biases=NO_MID),
    "ResNet-50": dense((32, 8, 32), (14, 14), 3, biases=NO_MID),
    "stem": dense((3, 16, 24), (48, 48), 7, stride=(2, 2), padding=(3, 3)),
    "small": dense((16,) * 3, (28, 28), 7),
    "strip, 3": depthwise(8, (28, 28), 3),
    "strip, 7": depthwise(8, (28, 28), 7),
    "strip, 21": depthwise(4, (48, 48), 21),
    **{f"SegNeXt, {k}": depthwise(12, (32, 32), k) for k in (7, 11, 21)},
    "SegNeXt, 16": depthwise(24, (16, 16), 21),
    "Strip R-CNN": depthwise(8, (32, 32), 19),
    "PKINet": depthwise(8, (48, 48), 11),
    "LSKA, 5": depthwise(8, (28, 28), 5),
    "LSKA, 7": depthwise(8, (28, 28), 7, dilation=(3, 3)),
    "GhostNetV2": depthwise(15, (14, 14), 5, biases=NO_MID),
    "gelu between": depthwise(12, (24, 24), 7, activation="gelu"),
    "silu between": depthwise(12, (24, 24), 7, activation="silu", row_first=False),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small tensors: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw_grad(shape, dtype):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_pairs_err_no_more_than_torch(name, dtype):
    problem = FAMILIES[name]
    tensors = reference.tensors(problem, dtype)
    grad = draw_grad(reference.torch_pair(problem, *tensors).shape, dtype)
    allowed = pair_bound(problem, tensors, grad)
    for channels_last in (False, True):
        tensors = reference.tensors(problem, dtype, channels_last)
        with conv.backend("native"):
            found = evaluate(
                lambda *t: conv.factorized_conv2d(*t, **problem.options), tensors, grad
            )
        allowed.hold(found, (name, channels_last))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("channels", "size"), [(8, (48, 48)), (16, (32, 32)), (20, (16, 16))])
def test_strips_err_no_more_than_torch(channels, size, dtype):
    """SegNeXt's sum of three pairs and their input."""
    kernels = ((7, 7), (11, 11), (21, 21))
    tensors = []
    for seed, kernel in enumerate(kernels):
        problem = depthwise(channels, size, kernel[0])
        x, w1, w2, b1, b2 = reference.tensors(problem, dtype, seed=seed)
        tensors += [w1, b1, w2, b2] if tensors else [x, w1, b1, w2, b2]
    grad = draw_grad(x.shape, dtype)

    def plain(*tensors):
        return strips(*tensors, kernels=kernels)

    def ours(x, *rest):
        return conv.multi_strip_conv2d(x, [rest[4 * i : 4 * i + 4] for i in range(3)])

    allowed = bound(plain, plain, tensors, grad)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        tensors[0] = tensors[0].contiguous(memory_format=memory_format)
        with conv.backend("native"):
            allowed.hold(evaluate(ours, tensors, grad), (channels, memory_format))
