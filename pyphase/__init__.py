"""Training phases for any PyTorch loop, and factorized convolutions.

Declare a run as :class:`TrainingPhase` objects, or take a recipe; look at the :class:`Plan`; train
with :class:`PhaseScheduler` in a loop of your own, with :class:`PhaseLoop`, or with a
:class:`Learner`. :mod:`pyphase.conv` has the convolutions: a 1xk and a kx1 one as a fused operator;
:mod:`pyphase.nets` has networks that use them.
"""

import torch  # noqa: F401  (first, so that one OpenMP pool serves torch and the extension)

from pyphase import conv, nets
from pyphase.apply.loop import PhaseLoop
from pyphase.apply.scheduler import PhaseScheduler
from pyphase.apply.sharded import load_sharded, save_sharded
from pyphase.callbacks import Callback, Checkpoint
from pyphase.curves import (
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    Linear,
    OneMinusSqrt,
    Polynomial,
    Rex,
    Table,
)
from pyphase.errors import PhaseError
from pyphase.learner import Learner, accuracy
from pyphase.logs import CSVLog, TensorBoardLog
from pyphase.lr_finder import LRFinderResult, lr_find
from pyphase.optim import LARS
from pyphase.overlay import overlay
from pyphase.phase import DecayType, TrainingPhase
from pyphase.plan import Plan
from pyphase.recipes import (
    cyclical,
    flat_cosine,
    inverse_sqrt,
    lr_range_test,
    one_cycle,
    phases_1cycle,
    phases_sgdr,
    polynomial_decay,
    rex,
    step_decay,
    warmup_cosine,
    warmup_linear,
    wsd,
)

__all__ = [
    "LARS",
    "CSVLog",
    "Callback",
    "Checkpoint",
    "Constant",
    "Cosine",
    "DecayType",
    "Exponential",
    "InverseSqrt",
    "LRFinderResult",
    "Learner",
    "Linear",
    "OneMinusSqrt",
    "PhaseError",
    "PhaseLoop",
    "PhaseScheduler",
    "Plan",
    "Polynomial",
    "Rex",
    "Table",
    "TensorBoardLog",
    "TrainingPhase",
    "accuracy",
    "conv",
    "cyclical",
    "flat_cosine",
    "inverse_sqrt",
    "load_sharded",
    "lr_find",
    "lr_range_test",
    "nets",
    "one_cycle",
    "overlay",
    "phases_1cycle",
    "phases_sgdr",
    "polynomial_decay",
    "rex",
    "save_sharded",
    "step_decay",
    "warmup_cosine",
    "warmup_linear",
    "wsd",
]
