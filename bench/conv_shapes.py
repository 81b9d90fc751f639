"""The problems of the convolution benchmark: layers of published networks, sized for two cores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

__all__ = ["PROBLEMS", "SMALL", "Problem"]


@dataclass(frozen=True)
class Problem:
    """A pair of strip convolutions, or a sum of depthwise pairs and their input ("strips").

    Padded to the input's size at stride 1. The dtypes are those that it is measured in.
    """

    name: str
    family: str  # "dense", "depthwise" or "strips"
    batch: int
    channels: tuple[int, int, int]  # of the input, the intermediate, the output
    height: int
    width: int
    kernels: tuple[int, ...]
    stride: int = 1
    dilation: int = 1
    activation: str = "none"
    row_first: bool = True
    mid_bias: bool = True
    dtypes: tuple[str, ...] = ("float32",)
    quick: bool = False

    @property
    def label(self) -> str:
        """Return name, kernels, sizes in one short text, the same for no two problems."""
        kernels = ",".join(str(k) for k in self.kernels)
        wide = "" if self.width == self.height else f"x{self.width}"
        channels = self.channels[:1] if len(set(self.channels)) == 1 else self.channels
        parts = [
            self.name,
            f"{self.batch}x{'-'.join(str(c) for c in channels)}@{self.height}{wide}",
            f"k{kernels}",
            f"d{self.dilation}" * (self.dilation > 1),
            f"s{self.stride}" * (self.stride > 1),
            "relu" * (self.activation == "relu"),
            "" if self.row_first else "col",
        ]
        return " ".join(part for part in parts if part)

    @property
    def groups(self) -> int:
        return 1 if self.family == "dense" else self.channels[0]

    @property
    def out_size(self) -> tuple[int, int]:
        return (self.height - 1) // self.stride + 1, (self.width - 1) // self.stride + 1

    @property
    def mid_size(self) -> tuple[int, int]:
        height, width = self.out_size
        return (self.height, width) if self.row_first else (height, self.width)

    @property
    def elements(self) -> tuple[int, int, int]:
        """Elements of the input, of the intermediate, of the output."""
        sizes = ((self.height, self.width), self.mid_size, self.out_size)
        found = [self.batch * c * h * w for c, (h, w) in zip(self.channels, sizes, strict=True)]
        return found[0], found[1], found[2]

    def flops(self, task: str) -> float:
        """Return the flops of the definition's sums, taps on the padding included.

        A backward pass has twice the forward's; computing the intermediate again is not counted.
        """
        _, mid, out = self.elements
        inputs = [c // self.groups for c in self.channels[:2]]
        forward = sum(2 * k * (mid * inputs[0] + out * inputs[1]) for k in self.kernels)
        if self.family == "strips":
            forward += out * len(self.kernels)
        return forward * (1 if task == "forward" else 3)

    def moved(self, task: str, itemsize: int) -> float:
        """Return the bytes of a fused pass: x in and y out; backward x and dy in and dx out."""
        x, _, y = self.elements
        return itemsize * (x + y if task == "forward" else 3 * x + 2 * y)


def dense(
    name: str,
    batch: int,
    channels: tuple[int, int, int],
    size: tuple[int, int],
    k: int,
    **more: Any,
) -> Problem:
    return replace(Problem(name, "dense", batch, channels, *size, (k,)), **more)


def both_orders(problem: Problem) -> list[Problem]:
    return [problem, replace(problem, row_first=False, quick=False)]


def depthwise(name: str, batch: int, channels: int, size: int, k: int, **more: Any) -> Problem:
    same = (channels, channels, channels)
    return replace(Problem(name, "depthwise", batch, same, size, size, (k,)), **more)


def strips(name: str, batch: int, channels: int, size: int, **more: Any) -> Problem:
    same = (channels, channels, channels)
    return replace(Problem(name, "strips", batch, same, size, size, (7, 11, 21)), **more)


RELU: dict[str, Any] = {"activation": "relu"}
ERFNET: dict[str, Any] = {"activation": "relu", "row_first": False}
LOW_RANK: dict[str, Any] = {"mid_bias": False}
# Small: without instructions for it, torch takes up to a hundred times as long as in float32.
BFLOAT16: dict[str, Any] = {"dtypes": ("bfloat16",)}
QUICK: dict[str, Any] = {"quick": True}

DENSE = [
    *both_orders(dense("Inception-v3", 8, (128, 128, 192), (17, 17), 7)),
    *both_orders(dense("Inception-v3", 8, (160, 160, 192), (17, 17), 7)),
    *both_orders(dense("Inception-v3", 8, (192, 192, 192), (17, 17), 7)),
    dense("Inception-v4", 2, (64, 64, 64), (73, 73), 7),
    *both_orders(dense("Inception-v4", 8, (192, 224, 256), (17, 17), 7)),
    dense("Inception-v4", 8, (384, 448, 512), (8, 8), 3, row_first=False),
    dense("Inception-ResNet", 8, (128, 160, 192), (17, 17), 7, **QUICK),
    dense("Inception-ResNet", 8, (192, 224, 256), (8, 8), 3),
    dense("ERFNet", 1, (64, 64, 64), (64, 128), 3, **ERFNET, **QUICK),
    *[
        dense("ERFNet", 1, (128, 128, 128), (64, 128), 3, dilation=d, **ERFNET)
        for d in (1, 2, 4, 8, 16)
    ],
    dense("ERFNet", 1, (16, 16, 16), (256, 512), 3, **ERFNET),
    dense("LEDNet", 1, (16, 16, 16), (256, 512), 3, **RELU),
    dense("LEDNet", 1, (32, 32, 32), (128, 256), 3, **RELU),
    *[dense("LEDNet", 1, (64, 64, 64), (64, 128), 3, dilation=d, **RELU) for d in (1, 2, 5)],
    dense("low rank", 8, (64, 16, 64), (56, 56), 7, **LOW_RANK, **QUICK),
    dense("low rank", 8, (64, 32, 64), (56, 56), 3, **LOW_RANK),
    dense("ResNet-50", 8, (256, 64, 256), (14, 14), 3, **LOW_RANK),
    dense("VGG", 2, (256, 64, 256), (56, 56), 3, **LOW_RANK),
    dense("stem", 4, (3, 16, 64), (224, 224), 7, stride=2),
    dense("stem", 4, (3, 64, 64), (224, 224), 7, stride=2),
    dense("small", 8, (16, 16, 16), (56, 56), 7),
]

SEGNEXT_S = [(1, 64, 128), (2, 128, 64), (2, 320, 32), (4, 512, 16)]
SEGNEXT_T = [(2, 32, 128), (4, 64, 64), (4, 160, 32), (8, 256, 16)]

DEPTHWISE = [
    depthwise("strip", 8, 64, 56, 3),
    depthwise("strip", 8, 64, 56, 7, **QUICK),
    depthwise("strip", 8, 256, 28, 7),
    depthwise("strip", 8, 512, 14, 7),
    depthwise("strip", 4, 64, 128, 11),
    depthwise("strip", 4, 64, 128, 21),
    depthwise("strip", 1, 64, 256, 21),
    depthwise("in memory", 4, 64, 256, 7),
    *[
        depthwise("SegNeXt-S", *stage, k, quick=(k, stage[1]) == (21, 320))
        for stage in SEGNEXT_S
        for k in (7, 11, 21)
    ],
    *[depthwise("SegNeXt-T", *stage, k) for stage in SEGNEXT_T for k in (7, 11, 21)],
    depthwise("Strip R-CNN", 1, 64, 256, 19),
    depthwise("Strip R-CNN", 1, 320, 64, 19),
    depthwise("PKINet", 1, 64, 256, 11),
    *[depthwise("LSKA", 8, c, 56, 5) for c in (32, 64)],
    *[depthwise("LSKA", 8, c, 56, 7, dilation=3) for c in (32, 64)],
    depthwise("GhostNetV2", 16, 120, 14, 5, mid_bias=False),
    depthwise("strided", 8, 64, 56, 7, stride=2),
    depthwise("strided", 4, 128, 28, 11, stride=2),
    depthwise("strip", 1, 64, 56, 7, **BFLOAT16, **QUICK),
    depthwise("strip", 1, 256, 28, 7, **BFLOAT16),
    depthwise("SegNeXt-T", 1, 32, 128, 11, **BFLOAT16),
    depthwise("SegNeXt-T", 1, 32, 128, 21, **BFLOAT16),
]

STRIPS = [
    *[strips("SegNeXt-S", *stage, quick=stage[1] == 128) for stage in SEGNEXT_S],
    *[strips("SegNeXt-T", *stage) for stage in SEGNEXT_T],
]

PROBLEMS = [*DENSE, *DEPTHWISE, *STRIPS]

# So small that a call's fixed cost is all of its time.
SMALL = depthwise("tiny", 1, 16, 7, 7)
