"""The problems of the convolution benchmark on a GPU: layers of published networks.

Batches are such that the larger tensors are too large for an L2 cache; a few small ones show what a
launch costs.
"""

from __future__ import annotations

from typing import Any

from conv_shapes import ERFNET, LOW_RANK, Problem, dense, depthwise, strips

__all__ = ["PROBLEMS"]

ALL: dict[str, Any] = {"dtypes": ("float32", "bfloat16", "float16")}
QUICK: dict[str, Any] = {**ALL, "quick": True}
SEGNEXT_S = [(32, 64, 128), (32, 128, 64), (32, 320, 32), (32, 512, 16)]

DEPTHWISE = [
    *[depthwise("SegNeXt-S", *stage, k, **ALL) for stage in SEGNEXT_S for k in (7, 11, 21)],
    depthwise("strip", 32, 64, 112, 3, **ALL),
    depthwise("strip", 32, 64, 56, 7, **QUICK),
    depthwise("Strip R-CNN", 8, 64, 256, 19, **ALL),
    depthwise("Strip R-CNN", 8, 320, 64, 19, **ALL),
    depthwise("PKINet", 8, 64, 256, 11, **ALL),
    depthwise("LSKA", 64, 32, 56, 5, **ALL),
    depthwise("LSKA", 64, 32, 56, 7, dilation=3, **ALL),
    depthwise("GhostNetV2", 64, 120, 14, 5, mid_bias=False, **ALL),
    depthwise("one image", 1, 64, 56, 11, **ALL),
]
STRIPS = [
    *[strips("SegNeXt-S", *stage, **ALL) for stage in SEGNEXT_S],
    strips("one image", 1, 64, 128, **QUICK),
]
DENSE = [
    dense("ERFNet", 1, (64, 64, 64), (128, 256), 3, **ERFNET, **QUICK),
    *[
        dense("ERFNet", 1, (128, 128, 128), (64, 128), 3, dilation=d, **ERFNET, **ALL)
        for d in (1, 2, 16)
    ],
    dense("ERFNet", 1, (16, 16, 16), (256, 512), 3, **ERFNET, **ALL),
    dense("low rank VGG", 32, (256, 64, 256), (56, 56), 3, **LOW_RANK, **ALL),
    dense("low rank ResNet-50", 32, (64, 32, 64), (56, 56), 3, **LOW_RANK, **ALL),
    dense("stem", 32, (3, 16, 64), (224, 224), 7, stride=2, **ALL),
    dense("Inception-v4", 32, (64, 64, 64), (73, 73), 7, **ALL),
    dense("Inception-v3", 32, (128, 128, 192), (17, 17), 7, **ALL),
    dense("Inception-ResNet", 32, (128, 160, 192), (17, 17), 7, **ALL),
]

PROBLEMS: list[Problem] = [*DEPTHWISE, *STRIPS, *DENSE]
