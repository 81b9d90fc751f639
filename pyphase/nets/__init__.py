"""Blocks of networks that use factorized convolutions, and one such network whole.

Inception-ResNet-v2 (:func:`inception_resnet_v2`, its blocks :class:`Block35`, :class:`Block17`,
:class:`Block8`), Inception-v4's stem (:class:`InceptionV4Stem`, :func:`replace_stem`), SegNeXt's
attention (:class:`MSCA`, :class:`SpatialAttention`), DenseNet's :class:`DenseBlock`, and
:class:`FadeIn` for growing networks; :func:`load_published` takes the usual checkpoints.
"""

from pyphase.nets.attention import MSCA, SpatialAttention
from pyphase.nets.basic import BasicConv2d, Branch
from pyphase.nets.dense_block import DenseBlock
from pyphase.nets.fade_in import FadeIn
from pyphase.nets.inception import Block8, Block17, Block35
from pyphase.nets.inception_resnet_v2 import InceptionResNetV2, inception_resnet_v2
from pyphase.nets.inception_stem import InceptionV4Stem
from pyphase.nets.published import load_published
from pyphase.nets.replace_stem import replace_stem

__all__ = [
    "MSCA",
    "BasicConv2d",
    "Block8",
    "Block17",
    "Block35",
    "Branch",
    "DenseBlock",
    "FadeIn",
    "InceptionResNetV2",
    "InceptionV4Stem",
    "SpatialAttention",
    "inception_resnet_v2",
    "load_published",
    "replace_stem",
]
