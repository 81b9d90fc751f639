"""Factorized convolutions: a k x k convolution as a row and a column one.

:func:`factorized_conv2d` and :func:`multi_strip_conv2d` are the functions,
:class:`FactorizedConv2d` and :class:`MultiStripConv2d` the layers; :class:`backend` chooses what
computes them, and :func:`choices` tells what was measured on a GPU. :func:`factorize` makes rows
and columns of a trained model's convolutions, by a :class:`FactorPlan` to look at first.
"""

from pyphase.conv.backend import backend
from pyphase.conv.choice import Choice, choices, clear_choices
from pyphase.conv.factor_plan import FactorPlan
from pyphase.conv.factorize import factorize
from pyphase.conv.functional import factorized_conv2d, multi_strip_conv2d
from pyphase.conv.layers import FactorizedConv2d, MultiStripConv2d

__all__ = [
    "Choice",
    "FactorPlan",
    "FactorizedConv2d",
    "MultiStripConv2d",
    "backend",
    "choices",
    "clear_choices",
    "factorize",
    "factorized_conv2d",
    "multi_strip_conv2d",
]
