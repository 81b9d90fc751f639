"""Another stem for a ResNet or DenseNet of torchvision's layout."""

from __future__ import annotations

from typing import NamedTuple, TypeVar, cast

from torch import nn

from pyphase.conv import FactorizedConv2d
from pyphase.conv.options import pair_of, whole
from pyphase.errors import shown
from pyphase.nets.inception_stem import quarter_stem

__all__ = ["replace_stem"]

KINDS = ("inception", "factorized")

Model = TypeVar("Model", bound=nn.Module)


def replace_stem(model: Model, kind: str, *, rank: int | None = None) -> Model:
    """Give a ResNet or DenseNet another stem in place of its 7x7 convolution; return the model.

    The new stem's output has the shape of the old one's, so that the rest of the network, and what
    it has learned, stays as it is.

    ``"factorized"`` puts the nearest 1 x k and k x 1 convolutions in the place of the k x k one:
    :meth:`pyphase.conv.FactorizedConv2d.from_dense`, with the convolution's stride, padding and
    bias. It starts from the weights that are there, and is exact at full rank.

    ``"inception"`` puts Inception-v4's stem in the place of convolution, norm, ReLU and pool, with
    random weights: :class:`InceptionV4Stem` up to a quarter of the image's size, padded, then a 1x1
    :class:`BasicConv2d` to the old stem's channels.

    Args:
        model: has ``conv1, bn1, relu, maxpool`` as torchvision's ResNet, or ``features`` with
            ``conv0, norm0, relu0, pool0`` as its DenseNet. It is changed in place.
        kind: ``"inception"`` or ``"factorized"``.
        rank: channels between row and column, for ``"factorized"`` only. None: the most at which
            the pair has at most half of the convolution's multiplications, and at least 1: with C
            to K channels, a k x k kernel and strides s, the pair has rank * (C k s + K k) for each
            of the C K k k. Full rank is min(C, K) * k.

    Raises:
        TypeError: ``model`` is no module, or ``rank`` no int.
        ValueError: ``kind`` is neither; ``rank`` is out of its range, or given for
            ``"inception"``; the model has no such stem. The model is then as it was.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        ...         self.bn1, self.relu = nn.BatchNorm2d(64), nn.ReLU()
        ...         self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        >>> replace_stem(Net(), "factorized").conv1.mid_channels
        9
        >>> stem = replace_stem(Net(), "inception").conv1
        >>> stem(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 64, 8, 8])

    Source: Szegedy, Ioffe, Vanhoucke & Alemi (2017), arXiv 1602.07261, figure 3; Tai, Xiao, Zhang,
    Wang & E (2016), arXiv 1511.06067.
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` (={shown(kind)}) must be one of {KINDS}")
    stem = _find_stem(model)
    if kind == "factorized":
        _set(stem, _factorized(stem.conv, rank))
        return model
    if rank is not None:
        raise ValueError(f"`rank` (={shown(rank)}) is for kind='factorized' only")
    _check_quarters(stem)
    new = quarter_stem(stem.conv.in_channels, stem.conv.out_channels)
    new.to(stem.conv.weight.device, stem.conv.weight.dtype)
    parts = (new, nn.Identity(), nn.Identity(), nn.Identity())
    _set(stem, *(part.train(model.training) for part in parts))
    return model


class _Stem(NamedTuple):
    """Where a stem is: the module that has it, the names of its four parts, two of the parts."""

    owner: nn.Module
    names: tuple[str, str, str, str]
    conv: nn.Conv2d
    pool: nn.Module


_LAYOUTS = {
    "": ("conv1", "bn1", "relu", "maxpool"),  # ResNet
    "features": ("conv0", "norm0", "relu0", "pool0"),  # DenseNet
}


def _find_stem(model: nn.Module) -> _Stem:
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {shown(model)}")
    for place, names in _LAYOUTS.items():
        owner = model if not place else getattr(model, place, None)
        parts = [getattr(owner, name, None) for name in names]
        if not all(isinstance(part, nn.Module) for part in parts):
            continue
        conv, _, _, pool = parts
        if not isinstance(conv, nn.Conv2d) or conv.groups != 1 or min(conv.kernel_size) < 2:
            where = ".".join(filter(None, (place, names[0])))
            raise ValueError(
                f"`model`: its stem, {where}, must be a Conv2d with one group and a kernel of at "
                f"least 2 x 2, got {shown(conv)}"
            )
        return _Stem(cast(nn.Module, owner), names, conv, cast(nn.Module, pool))
    raise ValueError(
        f"`model` ({type(model).__name__}) must have the stem of torchvision's ResNet (conv1, bn1, "
        "relu, maxpool) or DenseNet (features.conv0, norm0, relu0, pool0)"
    )


def _set(stem: _Stem, *parts: nn.Module) -> None:
    for name, part in zip(stem.names, parts, strict=False):
        setattr(stem.owner, name, part)


def _factorized(conv: nn.Conv2d, rank: int | None) -> FactorizedConv2d:
    if rank is None:
        high, wide = conv.kernel_size
        row = conv.in_channels * wide * conv.stride[0]  # it makes the rows that the column skips
        column = conv.out_channels * high
        dense = conv.in_channels * conv.out_channels * high * wide
        rank = max(1, dense // (2 * (row + column)))
    return FactorizedConv2d.from_dense(conv, whole("rank", rank))


def _check_quarters(stem: _Stem) -> None:
    """Raise unless convolution and pool halve the size each, as the padded Inception stem does."""
    conv, pool = stem.conv, stem.pool
    halves = conv.stride == (2, 2) and _keeps_the_border(conv)
    quarters = isinstance(pool, nn.MaxPool2d | nn.AvgPool2d) and not pool.ceil_mode
    if quarters:
        stride = pair_of("stride", cast(nn.MaxPool2d, pool).stride, least=1)
        quarters = stride == (2, 2) and _keeps_the_border(cast(nn.MaxPool2d, pool))
    if not (halves and quarters):
        raise ValueError(
            "`model`: an Inception stem takes the place of a convolution and a pool that halve the "
            f"size, each padded by half of its kernel, got {shown(conv)} and {shown(pool)}"
        )


def _keeps_the_border(layer: nn.Conv2d | nn.MaxPool2d) -> bool:
    """Return whether the padding is half of an odd kernel, so that size n becomes ceil(n / 2)."""
    if isinstance(layer.padding, str) or getattr(layer, "dilation", 1) not in (1, (1, 1)):
        return False
    kernel = pair_of("kernel_size", layer.kernel_size, least=1)
    padding = pair_of("padding", layer.padding, least=0)
    return all(k % 2 == 1 and p == k // 2 for k, p in zip(kernel, padding, strict=True))
