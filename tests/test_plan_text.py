"""Plans as text: names of curves, keys and data, and the table of phases."""

import functools

import pytest
import torch
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from pyphase import DecayType, Plan, TrainingPhase
from pyphase.curves import Constant, Cosine, Exponential, Linear, Part, Table
from pyphase.plan_text import curve_text, data_name, key_name


def set_dropout(value, scale=1.0):
    pass


def test_ordinary_plan_fits_eighty_columns():
    linear, cosine = DecayType.LINEAR, DecayType.COSINE
    phases = [
        TrainingPhase(1, SGD, (1e-3, 1e-2), linear, (0.95, 0.85), linear, name="warm"),
        TrainingPhase(2, lr=1e-2, momentum=0.85, wds=1e-4, name="train"),
        TrainingPhase(2.5, lr=1e-2, lr_decay=cosine, momentum=0.85, name="cool"),
        TrainingPhase(1, functools.partial(Adam, amsgrad=True), lr=1e-4, name="tail"),
    ]
    text = repr(Plan(phases, steps_per_epoch=100))
    assert text.splitlines() == [
        "Plan: 4 phases, 650 steps",
        "#  name   steps     opt   lr               momentum        wds",
        "0  warm   0..99     SGD   0.001->0.01 lin  0.95->0.85 lin",
        "1  train  100..299  SGD   0.01             0.85            0.0001",
        "2  cool   300..549  SGD   0.01->0 cos      0.85",
        "3  tail   550..649  Adam  0.0001",
        "optimizer: Adam(amsgrad=True)",
    ]
    assert max(len(line) for line in text.splitlines()) <= 80


def test_plan_of_rates_fits_a_terminal():
    phases = [
        TrainingPhase(1, SGD, (1e-3, 1e-2), DecayType.LINEAR, (0.95, 0.85), DecayType.LINEAR),
        TrainingPhase(1, SGD, (1e-2, 1e-3), DecayType.LINEAR, (0.85, 0.95), DecayType.LINEAR),
        TrainingPhase(1, SGD, (1e-3, 1e-5), DecayType.LINEAR, 0.95),
        TrainingPhase(1, Adam, 1e-4, DecayType.COSINE),
    ]
    text = repr(Plan(phases, steps_per_epoch=1000))
    assert max(len(line) for line in text.splitlines()) <= 80


def test_columns_that_no_phase_uses_are_left_out():
    assert repr(Plan([TrainingPhase(steps=5)])).splitlines() == [
        "Plan: 1 phase, 5 steps",
        "#  steps  lr",
        "0  0..4   0.01",
    ]


def test_decoupled_decay_stands_in_the_column_of_weight_decay():
    text = repr(Plan([TrainingPhase(steps=5, wds=[0.1, 0.2], wd_loss=False)]))
    assert text.splitlines()[1:] == [
        "#  steps  lr    wds",
        "0  0..4   0.01  [0.1 0.2] decoupled",
    ]


def test_long_plans_show_their_ends():
    lines = repr(Plan([TrainingPhase(steps=1)] * 1000)).splitlines()
    assert len(lines) == 2 + 24 + 1 + 6
    assert lines[26] == "... 970 more phases"
    assert lines[25].startswith("23 ")
    assert lines[27].startswith("994 ")
    assert len(repr(Plan([TrainingPhase(steps=1)] * 30)).splitlines()) == 32


@pytest.mark.parametrize(
    ("curve", "text"),
    [
        (Constant(0.01), "0.01"),
        (Constant([0.1, 0.2]), "[0.1 0.2]"),
        (Constant([1, 2, 3, 4]), "[1..4]"),
        (Linear(0.5, 0.5), "0.5"),
        (Cosine(0.123456), "0.123->0 cos"),
        (Exponential(1e-7, [1.0, 10.0]), "1e-07->[1 10] exp"),
        (Table((1.0, 0.0, 1.0)), "1->1 table"),
        (Part(Table((1.0, 0.0, 1.0)), 0.25, 0.75), "0.5->0.5 table"),
        (Part(Linear(1.0, 0.0), 0.25, 0.5), "0.75->0.5 lin"),
    ],
)
def test_curves(curve, text):
    assert curve_text(curve) == text


class Method:
    def set(self, value):
        pass

    def __call__(self, value):
        pass


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("betas.1", "betas.1"),
        (set_dropout, "set_dropout"),
        (lambda value: None, "lambda"),
        (Method().set, "set"),
        (Method(), "Method"),
        (functools.partial(set_dropout, scale=0.5), "set_dropout(scale=0.5)"),
    ],
)
def test_keys(key, name):
    assert key_name(key) == name


class Images(Dataset):
    name = "images of 28 px"

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index


class NoLength:
    def __iter__(self):
        return iter(())

    def __len__(self):
        raise RuntimeError("not yet")


def make_loader():
    return []


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (None, None),
        ([1, 2, 3], "list(3)"),
        (make_loader, "make_loader"),
        (DataLoader(TensorDataset(torch.zeros(10)), batch_size=4), "TensorDataset(10), batch 4"),
        (DataLoader(Images(), batch_size=2), "images of 28 px, batch 2"),
        (DataLoader(Subset(Images(), [0, 1])), "images of 28 px, batch 1"),
        ((DataLoader(Images()), DataLoader(Images())), "images of 28 px, batch 1"),
        (NoLength(), "NoLength"),
        (iter(()), "tuple_iterator"),
    ],
)
def test_data(data, name):
    assert data_name(data) == name


def test_fault_partial_has_no_name():
    """fastai 0.7's plot asked a functools.partial for its __name__."""
    opt_fn = functools.partial(Adam, amsgrad=True)
    plan = Plan([TrainingPhase(steps=1, opt_fn=opt_fn, values={functools.partial(print): 1})])
    assert "Adam(amsgrad=True)" in repr(plan)
    assert "print()" in repr(plan)


def test_functions_of_one_name_are_numbered():
    functions = [lambda value: None for _ in range(3)]
    plan = Plan([TrainingPhase(steps=1, values={f: i}) for i, f in enumerate(functions)])
    assert list(plan.keys.values()) == ["lr", "lambda", "lambda #2", "lambda #3"]
    assert [plan.values_at(i)[f] for i, f in enumerate(functions)] == [0, 1, 2]
