"""Training phases for any PyTorch loop."""

import torch  # noqa: F401  (first, so that one OpenMP pool serves torch and the extension)

from pyphase.errors import PhaseError
from pyphase.phase import DecayType, TrainingPhase
from pyphase.plan import Plan

__all__ = ["DecayType", "PhaseError", "Plan", "TrainingPhase"]
