"""Recipes: well-known schedules as lists of phases.

Every recipe takes absolute rates: a number, or a list or array with one per parameter group. It
returns a list of :class:`pyphase.TrainingPhase`; lists can be cut, changed and joined by ``+``.

**Lengths.** Steps are ints and make phases with a length in steps: all arguments called
``total_steps``, ``*_steps``, ``*_iter``, ``step_size_*``. Where a recipe takes ``total_steps`` or
``epochs``, give one; epochs may be fractions, and the plan then needs ``steps_per_epoch``. Borders
at a share of the length are rounded up to whole steps either way. fastai 0.7's ``phases_*`` count
in epochs. A part that comes out with no length is left out.

**Steps.** Step k of the n steps of a phase uses the fraction k/n: the first step trains with the
start, the end is where the next phase takes over, and the last value holds after the run. Others:

===================================== ========= ==================== ==========================
implementation                        fraction  last step trains at  after the end
===================================== ========= ==================== ==========================
fastai 0.7, fastai 2                  k/n       one short of the end the run is over
torch OneCycleLR                      k/(n - 1) the end              one step too far, then an
                                                                     error
torch CosineAnnealingLR               k/n       one short of the end rises again
torch LinearLR, PolynomialLR          k/n       one short of the end holds
torch StepLR, MultiStepLR, CyclicLR   as here   as here              goes on
torch CosineAnnealingWarmRestarts     k/n       one short of the end goes on
transformers cosine (also to min_lr)  k/n       one short of the end rises again
transformers linear, polynomial, WSD  k/n       one short of the end holds
transformers inverse_sqrt             as here   as here              goes on
===================================== ========= ==================== ==========================
"""

from pyphase.recipes_cyclic import cyclical, one_cycle
from pyphase.recipes_decay import flat_cosine, lr_range_test, rex, step_decay
from pyphase.recipes_fastai import phases_1cycle, phases_sgdr
from pyphase.recipes_warmup import (
    inverse_sqrt,
    polynomial_decay,
    warmup_cosine,
    warmup_linear,
    wsd,
)

__all__ = [
    "cyclical",
    "flat_cosine",
    "inverse_sqrt",
    "lr_range_test",
    "one_cycle",
    "phases_1cycle",
    "phases_sgdr",
    "polynomial_decay",
    "rex",
    "step_decay",
    "warmup_cosine",
    "warmup_linear",
    "wsd",
]
