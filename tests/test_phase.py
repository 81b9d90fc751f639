"""A phase checks itself, once, when it is declared."""

import copy
import dataclasses
import math
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from torch.optim import SGD, Adam

from pyphase import DecayType, PhaseError, TrainingPhase
from pyphase.curves import (
    Constant,
    Cosine,
    Curve,
    Exponential,
    Linear,
    Part,
    Polynomial,
    Rex,
    Table,
)


def set_dropout(value):
    pass


def test_defaults():
    phase = TrainingPhase()
    assert (phase.epochs, phase.steps, phase.samples) == (1, None, None)
    assert phase.tracks == {"lr": Constant(0.01)}
    assert phase.opt_fn is None
    assert phase.opt_state == "fresh"


def test_decay_types_are_numbered_as_in_fastai():
    assert [kind.value for kind in DecayType] == [1, 2, 3, 4, 5]
    assert [kind.name for kind in DecayType] == [
        "NO",
        "LINEAR",
        "COSINE",
        "EXPONENTIAL",
        "POLYNOMIAL",
    ]


def test_signature_of_fastai():
    phase = TrainingPhase(
        2, SGD, (0.1, 0.01), DecayType.LINEAR, (0.95, 0.85), DecayType.COSINE, 0.99, 1e-4, False
    )
    assert phase.tracks == {
        "lr": Linear(0.1, 0.01),
        "momentum": Cosine(0.95, 0.85),
        "beta": Constant(0.99),
        "weight_decay": Constant(0.0),
        "decoupled_weight_decay": Constant(1e-4),
    }


@pytest.mark.parametrize(
    ("value", "decay", "curve"),
    [
        (0.1, DecayType.NO, Constant(0.1)),
        ([0.1, 0.2], DecayType.NO, Constant([0.1, 0.2])),
        (np.array([0.1, 0.2]), DecayType.NO, Constant([0.1, 0.2])),
        (torch.tensor([0.5, 0.25]), DecayType.NO, Constant([0.5, 0.25])),
        (0.1, DecayType.LINEAR, Linear(0.1, 0.0)),
        ([0.1, 0.2], DecayType.COSINE, Cosine([0.1, 0.2], 0.0)),
        ((0.1, 0.2), DecayType.LINEAR, Linear(0.1, 0.2)),
        (([0.1, 0.2], [1, 2]), DecayType.COSINE, Cosine([0.1, 0.2], [1, 2])),
        ((1, np.array([0.1, 0.2])), DecayType.EXPONENTIAL, Exponential(1, [0.1, 0.2])),
        (0.1, (DecayType.POLYNOMIAL, 2), Polynomial(0.1, 0.0, 2)),
        ((0.1, 1), (DecayType.POLYNOMIAL, 0.5), Polynomial(0.1, 1, 0.5)),
        (Rex(1.0), DecayType.NO, Rex(1.0)),
        (Part(Linear(1.0), 0.0, 0.5), DecayType.NO, Part(Linear(1.0), 0.0, 0.5)),
    ],
)
def test_what_a_value_means(value, decay, curve):
    assert TrainingPhase(lr=value, lr_decay=decay).tracks["lr"] == curve
    low = TrainingPhase(lr=1.0, values={"x": curve})
    assert low.tracks["x"] == curve


def test_lengths_are_kept_as_plain_numbers():
    phase = TrainingPhase(epochs=np.float32(0.5))
    assert type(phase.epochs) is float
    assert type(TrainingPhase(steps=np.int64(5)).steps) is int
    assert type(TrainingPhase(samples=np.uint8(5)).samples) is int
    assert TrainingPhase(steps=5).epochs is None


def test_replace_copy_and_pickle():
    phase = TrainingPhase(lr=(0.1, 1.0), lr_decay=DecayType.LINEAR, values={set_dropout: 0.5})
    assert dataclasses.replace(phase, steps=7).steps == 7
    for same in (pickle.loads(pickle.dumps(phase)), copy.deepcopy(phase)):
        assert same.tracks == phase.tracks
        assert same.epochs == 1


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainingPhase().lr = 0.1


@pytest.mark.parametrize("key", ["eps", "betas.1", "weight_decay", "alpha", "a.0", set_dropout])
def test_keys_of_values(key):
    assert TrainingPhase(values={key: Linear(0.0, 0.5)}).tracks[key] == Linear(0.0, 0.5)
    assert TrainingPhase(values={key: 0.5}).tracks[key] == Constant(0.5)


class Foreign(Curve):
    """Somebody's subclass, whose closed form the core does not know."""

    ends = (0.0, 1.0)


NO, LINEAR, EXPONENTIAL = DecayType.NO, DecayType.LINEAR, DecayType.EXPONENTIAL

WRONG = [
    ({"epochs": 0}, PhaseError, r"`epochs` \(=0\) must be > 0"),
    ({"epochs": -1.5}, PhaseError, r"`epochs` \(=-1.5\) must be > 0"),
    ({"epochs": math.nan}, PhaseError, "must be finite"),
    ({"epochs": "1"}, TypeError, "`epochs` must be a number, got '1'"),
    ({"epochs": True}, TypeError, "`epochs` must be a number, got True"),
    ({"epochs": None}, PhaseError, "give one of `epochs`, `steps` and `samples`"),
    ({"epochs": 1, "steps": 5}, PhaseError, "give one of"),
    ({"steps": 5, "samples": 5}, PhaseError, "give one of"),
    ({"steps": 0}, PhaseError, r"`steps` \(=0\) must be >= 1"),
    ({"steps": 1.0}, TypeError, "`steps` must be an int, got 1.0"),
    ({"samples": 2**53}, PhaseError, "`samples` .* must be >= 1 and < 2"),
    ({"opt_fn": "SGD"}, TypeError, "`opt_fn` must be an optimizer class"),
    ({"opt_fn": SGD([torch.zeros(1)], lr=0.1)}, TypeError, "`opt_fn` must be"),
    ({"lr": None}, TypeError, "`lr` must be a number, got None"),
    ({"lr": -0.1}, PhaseError, r"`lr` \(=-0.1\) must be >= 0"),
    ({"lr": [0.1, -0.1]}, PhaseError, r"`lr` \(=-0.1\) must be >= 0"),
    ({"lr": Table((0.1, -0.1, 0.1))}, PhaseError, r"`lr` \(=-0.1\) must be >= 0"),
    ({"lr": Part(Linear(0.1, -0.1), 0.0, 0.9)}, PhaseError, "must be >= 0"),
    ({"lr": (0.1, 0.2, 0.3)}, PhaseError, r"must be \(start, end\)"),
    ({"lr": (0.1, 0.2)}, PhaseError, "`lr` .* has an end, but no decay leads to it"),
    ({"lr": Linear(1.0), "lr_decay": LINEAR}, PhaseError, "`lr` is a curve already"),
    ({"lr": Curve()}, TypeError, "Curve has no closed form"),
    ({"lr": Foreign()}, TypeError, "Foreign has no closed form: use Table.sample"),
    ({"lr_decay": 2}, TypeError, r"`lr_decay` must be a DecayType or \(DecayType.POLYNOMIAL"),
    ({"lr_decay": (LINEAR, 2)}, PhaseError, "only DecayType.POLYNOMIAL takes a power"),
    ({"lr_decay": (DecayType.POLYNOMIAL, 0)}, PhaseError, r"`lr_decay\[1\]` \(=0\) must be > 0"),
    ({"momentum": 1}, PhaseError, r"`momentum` \(=1.0\) must be in \[0, 1\)"),
    ({"momentum": (0.9, 1.0), "momentum_decay": LINEAR}, PhaseError, "`momentum` .=1.0. must be"),
    ({"momentum_decay": LINEAR}, PhaseError, "`momentum_decay` is given, but `momentum` is None"),
    ({"momentum_decay": np.ones(3)}, TypeError, "`momentum_decay` must be a DecayType"),
    ({"beta": -0.1}, PhaseError, r"`beta` \(=-0.1\) must be in \[0, 1\)"),
    ({"beta": [0.9, 0.99, 1.0]}, PhaseError, r"`beta` \(=1.0\)"),
    ({"wds": [-1]}, PhaseError, r"`wds` \(=-1.0\) must be >= 0"),
    ({"wds": Linear(1.0)}, TypeError, "`wds` must be a number"),
    ({"wd_loss": 1}, TypeError, "`wd_loss` must be a bool, got 1"),
    ({"opt_state": "new"}, PhaseError, r"`opt_state` \(='new'\) must be one of \('fresh'"),
    ({"opt_state": ["keep"]}, PhaseError, "`opt_state`"),
    ({"name": 3}, TypeError, "`name` must be a str, got 3"),
    ({"on_enter": 3}, TypeError, "`on_enter` must be callable, got 3"),
    ({"data": 3}, TypeError, "`data` must be a loader"),
    ({"data": "mnist"}, TypeError, "`data` must be a loader"),
    ({"values": [("eps", 1)]}, TypeError, "`values` must be a dict of key: curve"),
    ({"values": {3: 1.0}}, TypeError, "a key is a str or a function, got 3"),
    ({"values": {"lr": 1.0}}, PhaseError, "'lr' has an argument of its own, `lr`"),
    ({"values": {"betas.0": 1.0}}, PhaseError, "an argument of its own, `momentum`"),
    ({"values": {"betas.1": 1.0}, "beta": 0.9}, PhaseError, "set by `wds` or `beta` already"),
    ({"values": {"weight_decay": 1.0}, "wds": 0.1}, PhaseError, "set by `wds` or `beta` already"),
    ({"values": {"params": 1.0}}, PhaseError, "must be 'key' or 'key.index'"),
    ({"values": {"": 1.0}}, PhaseError, "must be 'key' or 'key.index'"),
    ({"values": {"betas.x": 1.0}}, PhaseError, "must be 'key' or 'key.index'"),
    ({"values": {"betas.01": 1.0}}, PhaseError, "must be 'key' or 'key.index'"),
    ({"values": {"betas.": 1.0}}, PhaseError, "must be 'key' or 'key.index'"),
    ({"values": {"eps": (1.0, 2.0)}}, PhaseError, r"values\['eps'\]` .* has an end"),
    ({"values": {"eps": "x"}}, TypeError, r"`values\['eps'\]` must be a number"),
    ({"values": {set_dropout: [1.0, 2.0]}}, PhaseError, "a function takes one value, not a list"),
]


@pytest.mark.parametrize(("arguments", "error", "match"), WRONG)
def test_wrong_arguments_are_named(arguments, error, match):
    with pytest.raises(error, match=match) as caught:
        TrainingPhase(**arguments)
    assert type(caught.value) is error
    assert str(caught.value).startswith("TrainingPhase: ")


def test_messages_name_the_phase():
    with pytest.raises(PhaseError, match=r"phase 'cool': `epochs` \(=0\) must be > 0"):
        TrainingPhase(epochs=0, name="cool")


def test_fault_exponential_without_end_fails_only_after_a_batch():
    """fastai 0.7 raised a TypeError after the first batch."""
    with pytest.raises(PhaseError, match=r"`lr` \(=0.1\): an exponential needs \(start, end\)"):
        TrainingPhase(lr=0.1, lr_decay=EXPONENTIAL)
    with pytest.raises(PhaseError, match=r"`momentum` .* an exponential needs"):
        TrainingPhase(momentum=0.9, momentum_decay=EXPONENTIAL)
    with pytest.raises(PhaseError, match="both must be non-zero"):
        TrainingPhase(lr=(0.1, 0.0), lr_decay=EXPONENTIAL)


def test_fault_polynomial_without_power_fails_only_after_a_batch():
    for decay in (DecayType.POLYNOMIAL, (DecayType.POLYNOMIAL, None)):
        with pytest.raises(PhaseError, match=r"give \(DecayType.POLYNOMIAL, power\)"):
            TrainingPhase(lr=0.1, lr_decay=decay)


def test_fault_decay_of_a_list_of_groups_fails():
    """fastai 0.7 did its arithmetic on the list itself."""
    curve = TrainingPhase(lr=[0.1, 0.2], lr_decay=LINEAR).tracks["lr"]
    assert curve(0.5) == (0.05, 0.1)


def test_fault_end_without_a_decay_is_ignored():
    with pytest.raises(PhaseError, match="has an end, but no decay leads to it"):
        TrainingPhase(lr=(0.1, 0.2), lr_decay=NO)


def test_functools_partial_as_opt_fn():
    opt_fn = partial(Adam, amsgrad=True)
    assert TrainingPhase(opt_fn=opt_fn).opt_fn is opt_fn


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("betas.1", 2.0, r"`values\['betas.1'\]` \(=2.0\) must be in \[0, 1\)"),
        ("betas.1", Linear(0.9, 1.0), r"`values\['betas.1'\]` \(=1.0\) must be in \[0, 1\)"),
        ("eps", [1e-8, -1.0], r"`values\['eps'\]` \(=-1.0\) must be >= 0"),
        ("weight_decay", -0.1, r"`values\['weight_decay'\]` \(=-0.1\) must be >= 0"),
    ],
)
def test_values_with_a_known_meaning_have_its_range(key, value, words):
    with pytest.raises(PhaseError, match=words):
        TrainingPhase(values={key: value})
