"""Factorized convolutions: a k x k convolution as a row and a column one.

:func:`factorized_conv2d` and :func:`multi_strip_conv2d` are the functions,
:class:`FactorizedConv2d` and :class:`MultiStripConv2d` the layers; :class:`backend` chooses what
computes them.
"""

from pyphase.conv.backend import backend
from pyphase.conv.functional import factorized_conv2d, multi_strip_conv2d
from pyphase.conv.layers import FactorizedConv2d, MultiStripConv2d

__all__ = [
    "FactorizedConv2d",
    "MultiStripConv2d",
    "backend",
    "factorized_conv2d",
    "multi_strip_conv2d",
]
