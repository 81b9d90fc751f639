"""Weights of published checkpoints, by their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from pyphase.errors import shown
from pyphase.nets.attention import MSCA, SpatialAttention
from pyphase.nets.dense_block import DenseBlock
from pyphase.nets.inception_resnet_v2 import InceptionResNetV2
from pyphase.nets.inception_stem import InceptionV4Stem

__all__ = ["load_published"]

Weights = dict[str, Tensor]


def load_published(module: nn.Module, state_dict: Mapping[str, Any], *, prefix: str = "") -> None:
    """Give a module the weights of a published checkpoint.

    =========================  ======================================================
    module                     checkpoint
    =========================  ======================================================
    :class:`InceptionResNetV2` timm's inception_resnet_v2, Cadene's inceptionresnetv2
    :class:`InceptionV4Stem`   timm's and Cadene's inception_v4, ``prefix="features."``
    :class:`DenseBlock`        torchvision's DenseNets, ``prefix="features.denseblock1."``
    :class:`MSCA`              SegNeXt's MSCAN, ``"block1.0.attn.spatial_gating_unit."``
    :class:`SpatialAttention`  SegNeXt's MSCAN, ``prefix="block1.0.attn."``
    =========================  ======================================================

    Inception-ResNet-v2 was published with 1001 classes, of which the first is the background: a
    network of one class less than the checkpoint takes all but the first. For other classes, load
    the published ones, then replace ``module.classif``.

    Args:
        module: one of the above.
        state_dict: names and tensors, as ``torch.load(file, weights_only=True)`` gives them.
        prefix: of the names that belong to the module; it may be followed by other modules' names
            for :class:`InceptionV4Stem` only, which takes what it knows.

    Raises:
        TypeError: the module is none of the above, or ``state_dict`` no mapping to tensors.
        ValueError: names or shapes don't fit. The module is then as it was.

    Equivalent to: ``module.load_state_dict`` with the names changed.

    Example:
        >>> block = DenseBlock(1, in_channels=4, growth_rate=2)
        >>> old = {f"b.{name}": value for name, value in block.state_dict().items()}
        >>> load_published(DenseBlock(1, in_channels=4, growth_rate=2), old, prefix="b.")

    Source: huggingface/pytorch-image-models; Cadene/pretrained-models.pytorch; pytorch/vision;
    Visual-Attention-Network/SegNeXt.
    """
    rename = _RENAMES.get(type(module))
    if rename is None:
        known = ", ".join(kind.__name__ for kind in _RENAMES)
        raise TypeError(f"`module` must be one of {known}, got a {type(module).__name__}")
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"`state_dict` must map names to tensors, got {shown(state_dict)}")
    own: Weights = {}
    for name, value in state_dict.items():
        if name.startswith(prefix):
            if not isinstance(value, Tensor):
                raise TypeError(f"`state_dict[{name!r}]` must be a tensor, got {shown(value)}")
            own[name.removeprefix(prefix)] = value
    weights = rename(module, own)
    _check(module, weights, prefix)
    module.load_state_dict(weights)


def _inception_resnet_v2(module: nn.Module, weights: Weights) -> Weights:
    renamed = {re.sub(r"^last_linear\.", "classif.", name): weights[name] for name in weights}
    classes = module.get_parameter("classif.bias").numel()
    for name in ("classif.weight", "classif.bias"):
        if name in renamed and len(renamed[name]) == classes + 1:
            renamed[name] = renamed[name][1:]  # without the background
    return renamed


def _inception_v4_stem(module: nn.Module, weights: Weights) -> Weights:
    steps = {name for name, _ in module.named_children()}
    return {name: weights[name] for name in weights if name.split(".")[0] in steps}


def _dense_block(module: nn.Module, weights: Weights) -> Weights:
    """Rename as torchvision does itself: its files are older than its names."""
    pattern = re.compile(r"^(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
    return {pattern.sub(r"\1\2", name): weights[name] for name in weights}


def _attention(module: nn.Module, weights: Weights) -> Weights:
    pattern = re.compile(r"(?<![^.])conv([012])_([12])\.(weight|bias)$")
    return {pattern.sub(r"strips.strips.\1.\3\2", name): weights[name] for name in weights}


_RENAMES: dict[type[nn.Module], Callable[[nn.Module, Weights], Weights]] = {
    InceptionResNetV2: _inception_resnet_v2,
    InceptionV4Stem: _inception_v4_stem,
    DenseBlock: _dense_block,
    MSCA: _attention,
    SpatialAttention: _attention,
}


def _check(module: nn.Module, weights: Weights, prefix: str) -> None:
    """Raise unless names and shapes are the module's, but for counters that old files lack."""
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    faults = {
        "lacks": sorted(set(wanted) - set(found) - counters),
        "has, unknown to the module,": sorted(set(found) - set(wanted)),
        "has in another shape": [
            f"{name} {found[name]} for {shape}"
            for name, shape in wanted.items()
            if found.get(name, shape) != shape
        ],
    }
    said = [f"{what} {_some(names)}" for what, names in faults.items() if names]
    if said:
        raise ValueError(
            f"`state_dict` (prefix={prefix!r}) doesn't fit a {type(module).__name__}: it "
            + "; it ".join(said)
        )


def _some(names: list[str]) -> str:
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")
