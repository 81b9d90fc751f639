"""Whatever is thrown at a public constructor, only PhaseError, ValueError or TypeError comes out.

``TARGETS`` is the table: a name, what is called, and for each argument a strategy of good values.
Every argument is drawn from its good values or from ``anything``, so that the calls also get past
the first check. A new public constructor is one more row.

One long table of targets, and the values that are thrown at them.
"""

import contextlib
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pyphase
from pyphase import DecayType, Plan, TrainingPhase, curves
from pyphase.curves import Cosine, Linear, Table

EXPECTED = (ValueError, TypeError)  # PhaseError is a ValueError

# ---- anything

SPECIAL_METHODS = [
    *["__repr__", "__str__", "__len__", "__iter__", "__getitem__", "__call__", "__bool__"],
    *["__eq__", "__lt__", "__hash__", "__float__", "__int__", "__index__", "__contains__"],
    *["__array__", "__add__", "__mul__", "__format__", "tolist", "batch_size", "dataset", "name"],
]


def _raise(self, *args, **kwargs):
    raise RuntimeError("raised by the argument")


def _names(special):
    return special if special in ("batch_size", "dataset", "name") else None


def raising(base, *specials):
    """Return an object of a fresh subclass of ``base`` whose special methods raise."""
    members = {name: property(_raise) if _names(name) else _raise for name in specials}
    return type("Raising", (base,), members)()


ONE_RAISES = [raising(object, name) for name in SPECIAL_METHODS]
ALL_RAISE = [raising(base, *SPECIAL_METHODS) for base in (object, list, dict, set)]
SOME_RAISE = [raising(list, "__len__"), raising(list, "__iter__"), raising(dict, "items")]


@dataclass
class Loader:
    """A loader with whatever length and batch size."""

    length: Any
    batch_size: Any

    def __iter__(self):
        return iter(())

    def __len__(self):
        return self.length


numbers = (
    st.booleans()
    | st.integers(-3, 3)
    | st.integers()
    | st.sampled_from([2**31, 2**53, 2**63, 2**64, 10**400, -(10**400)])
    | st.floats()
    | st.complex_numbers()
)
numpy_things = st.sampled_from(
    [
        np.float32(0.5),
        np.int64(3),
        np.bool_(True),
        np.longdouble("1e4000"),
        np.datetime64("2020"),
        np.timedelta64(3, "s"),
        np.timedelta64("NaT"),
        np.str_("x"),
        np.void(b"x"),
        np.array(1.0),
        np.array([]),
        np.array([0.5, 0.25, 0.125]),
        np.ones((2, 2)),
        np.ones((0, 3)),
        np.array([1, 2]),
        np.array([True]),
        np.array(["a", "b"]),
        np.array([None, {}], dtype=object),
        np.array([(1, 2.0)], dtype=[("a", int), ("b", float)]),
        np.array([np.nan, np.inf]),
        np.array([1 + 2j]),
        np.array(["2020"], dtype="datetime64"),
        np.array([5], dtype="timedelta64[s]"),
        np.array([2**64 - 1], dtype=np.uint64),
        np.ma.array([1.0, 2.0], mask=[True, False]),
    ]
)
tensors = st.sampled_from(
    [
        torch.tensor(0.5),
        torch.tensor([0.5, 0.25]),
        torch.ones(2, 2),
        torch.tensor([]),
        torch.tensor([1, 2]),
        torch.tensor([True]),
        torch.tensor([1j]),
        torch.tensor(math.nan),
        torch.ones(2, requires_grad=True),
        torch.ones(2, device="meta"),
        torch.ones(2).to_sparse(),
        torch.ones(2, dtype=torch.bfloat16),
    ]
)
OBJECTS = [
    *[object(), object, int, np.ndarray, torch.Tensor, torch.optim.SGD, torch.optim, math],
    *[len, max, lambda: 1, lambda x: x, lambda *a, **k: 1 / 0, NotImplemented, ..., type],
    *[range(3), range(0), iter([1.0]), b"bytes", bytearray(b"x"), memoryview(b"x")],
    *[DecayType.LINEAR, DecayType, Linear, Linear(1.0), curves.Curve(), TrainingPhase],
    *[Linear([0.5, 0.25], 0.0), TrainingPhase(steps=1), Plan([TrainingPhase(steps=1)])],
    *[torch.nn.Linear(1, 1), torch.optim.SGD([torch.zeros(1)], lr=0.1)],
    *[Loader(n, b) for n in (0, 3, -1) for b in (None, 2, 0, "x")],
    *[Loader(n, None) for n in (None, 2.5, 2**70, "x")],
    *ONE_RAISES,
    *ALL_RAISE,
    *SOME_RAISE,
]


def pick(index):
    return OBJECTS[index]


objects = st.integers(0, len(OBJECTS) - 1).map(pick)  # not sampled_from: it asks for their repr
plain = st.none() | numbers | st.text(max_size=5) | st.binary(max_size=3) | numpy_things | tensors
anything = st.recursive(
    plain | objects,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.just(len), inner, max_size=2)
        | st.sets(st.integers() | st.text(max_size=2), max_size=3)
    ),
    max_leaves=6,
)

# ---- good values

number = st.floats(1e-6, 0.9)
value = number | st.lists(number, min_size=1, max_size=2) | st.just(np.array([0.5, 0.25]))
curve = st.sampled_from([Linear(0.5), Cosine([0.5, 0.25], 0.1), Table((0.1, 0.2))])
decay = st.sampled_from(list(DecayType)) | st.just((DecayType.POLYNOMIAL, 2))
phase = st.builds(TrainingPhase, lr=value) | st.builds(
    lambda steps, values: TrainingPhase(steps=steps, values=values),
    st.integers(1, 50),
    st.none() | st.dictionaries(st.sampled_from(["eps", len]), number),
)
sizes = st.none() | st.integers(1, 100) | st.lists(st.integers(1, 100), max_size=3)
PHASE = {
    "epochs": number,
    "opt_fn": st.sampled_from([None, torch.optim.SGD, lambda params, lr: None]),
    "lr": value | curve | st.tuples(value, value),
    "lr_decay": decay,
    "momentum": st.none() | value | st.tuples(value, value),
    "momentum_decay": decay,
    "beta": st.none() | value,
    "wds": st.none() | value,
    "wd_loss": st.booleans(),
    "steps": st.integers(1, 10),
    "samples": st.integers(1, 100),
    "values": st.dictionaries(st.sampled_from(["eps", "betas.1", len]), value | curve),
    "data": st.sampled_from([None, [1, 2], lambda: [1], (Loader(3, 2), Loader(2, 2))]),
    "opt_state": st.sampled_from(["fresh", "keep", "map"]),
    "name": st.none() | st.text(max_size=5),
    "on_enter": st.sampled_from([None, print]),
}
ENDS = {"start": value, "end": value}


def use_phase(**fields):
    """Declare a phase, then everything that a plan of it can be asked without training."""
    plan = Plan([TrainingPhase(**fields), TrainingPhase(steps=2)], steps_per_epoch=7, batch_size=3)
    for step in (0, 1, plan.total_steps, 2**52):
        plan.values_at(step)
    for key in plan.keys:
        plan.table(key, [0, plan.total_steps])
    assert repr(plan)
    assert Plan.from_json(plan.to_json()).digest == plan.digest


def use_plan(**arguments):
    plan = Plan(**arguments)
    assert repr(plan)
    assert plan.values_at(0)
    assert plan.table("lr", [0]).shape == (1, plan.groups)
    assert Plan.from_json(plan.to_json()).spans == plan.spans


def use_curve(kind):
    def make(at=0.5, **fields):
        made = kind(**fields)
        return made(at), made.forms(), repr(made)

    return make


def use_sample(function, num=5):
    def call(fraction):
        try:
            return function(fraction)
        except Exception as error:  # the function's own affair
            raise ValueError("raised by the function") from error

    return Table.sample(call if callable(function) else function, num=num)


def optimizers():
    made = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
    return st.builds(lambda: made)


def model():
    return torch.nn.Linear(1, 1)


def batches():
    return [(torch.ones(2, 1), torch.ones(2, 1))] * 3


def good_recipe(recipe, **arguments):
    """Return a row: the recipe's phases, compiled."""

    def use(**given):
        return Plan(recipe(**arguments | given), steps_per_epoch=10)

    return recipe.__name__, use, {name: st.just(value) for name, value in arguments.items()}


MODELS = st.builds(model)
LOADERS = st.builds(batches).map(tuple) | st.builds(batches).map(lambda found: iter(found))
PHASES = st.lists(st.builds(TrainingPhase, steps=st.integers(1, 3), lr=number), min_size=1)
MSE = st.just(torch.nn.functional.mse_loss)


def use_scheduler(optimizer=None, phases=None, **arguments):
    optimizer = torch.optim.SGD(model().parameters(), lr=0.1) if optimizer is None else optimizer
    pyphase.PhaseScheduler(optimizer, phases, **arguments).step()


def use_lr_find(**arguments):
    good = {"model": model(), "data": batches(), "loss_fn": torch.nn.functional.mse_loss}
    pyphase.lr_find(**good | {"num_it": 3} | arguments)


def use_lars(lr=0.1, **arguments):
    pyphase.LARS(model().parameters(), lr, **arguments)


PLAN = Plan([TrainingPhase(steps=5, lr=Linear([1.0, 2.0]), values={len: 1.0})])
TEXT = PLAN.to_json()
STEPS = st.integers(0, 2**53 - 1)

# (name, callable, {argument: good values}): every argument is given by keyword.
TARGETS = [
    ("TrainingPhase", use_phase, PHASE),
    ("Plan", use_plan, {"phases": st.lists(phase), "steps_per_epoch": sizes, "batch_size": sizes}),
    ("Plan.table", PLAN.table, {"key": st.just("lr"), "steps": st.lists(STEPS)}),
    ("Plan.values_at", PLAN.values_at, {"step": STEPS}),
    ("Plan.phase_at", PLAN.phase_at, {"step": STEPS}),
    ("Plan.compile", PLAN.compile, {"groups": st.just(2)}),
    ("Plan.diff", PLAN.diff, {"other": st.just(PLAN)}),
    ("Plan.from_json", Plan.from_json, {"text": st.just(TEXT) | anything.map(str)}),
    ("Plan.check_same", PLAN.check_same, {"saved": st.just(TEXT)}),
    ("Constant", use_curve(curves.Constant), {"value": value, "at": number}),
    ("Linear", use_curve(curves.Linear), ENDS),
    ("Cosine", use_curve(curves.Cosine), ENDS),
    ("Exponential", use_curve(curves.Exponential), ENDS),
    ("Polynomial", use_curve(curves.Polynomial), ENDS | {"power": number}),
    ("OneMinusSqrt", use_curve(curves.OneMinusSqrt), ENDS),
    ("InverseSqrt", use_curve(curves.InverseSqrt), ENDS),
    ("Rex", use_curve(curves.Rex), ENDS | {"beta": number}),
    ("Table", use_curve(curves.Table), {"values": st.lists(number, min_size=2)}),
    ("Part", use_curve(curves.Part), {"curve": curve, "begin": number, "end": number}),
    (
        "Table.sample",
        use_sample,
        {"function": st.sampled_from([math.sqrt, abs]), "num": st.integers(2, 50)},
    ),
    (
        "PhaseScheduler",
        use_scheduler,
        {
            "optimizer": optimizers(),
            "phases": PHASES,
            "steps_per_epoch": sizes,
        },
    ),
    (
        "PhaseLoop",
        pyphase.PhaseLoop,
        {
            "model": MODELS,
            "phases": PHASES,
            "data": LOADERS,
            "steps_per_epoch": sizes,
            "batch_size": sizes,
            "optimizer": optimizers(),
            "groups": st.none(),
            "stop_div": st.booleans(),
            "scaler": st.none(),
        },
    ),
    (
        "Learner",
        pyphase.Learner,
        {
            "model": MODELS,
            "data": LOADERS,
            "loss_fn": MSE,
            "metrics": st.just(()),
            "groups": st.none(),
            "progress": st.booleans(),
        },
    ),
    (
        "lr_find",
        use_lr_find,
        {
            "start_lr": number,
            "end_lr": number,
            "num_it": st.integers(2, 5),
            "mode": st.sampled_from(["exp", "linear"]),
            "stop_div": st.booleans(),
            "accumulate": st.integers(1, 2),
        },
    ),
    (
        "LARS",
        use_lars,
        {
            "lr": number,
            "momentum": number,
            "weight_decay": number,
            "trust_coefficient": number,
            "eps": number,
            "nesterov": st.booleans(),
            "exclude": st.none(),
        },
    ),
    ("Checkpoint", pyphase.Checkpoint, {"path": st.just("x.pt"), "every": st.integers(1, 5)}),
    ("overlay", lambda a, b: pyphase.overlay(a, b), {"a": PHASES, "b": PHASES}),
    good_recipe(pyphase.phases_sgdr, lr=0.1, opt_fn=None, num_cycle=2, cycle_len=1, cycle_mult=2),
    good_recipe(
        pyphase.phases_1cycle, cycle_len=2, lr=0.1, div=10, pct=10, max_mom=0.95, min_mom=0.85
    ),
    good_recipe(pyphase.one_cycle, max_lr=0.1, total_steps=20),
    good_recipe(pyphase.warmup_cosine, lr=0.1, num_warmup_steps=2, num_training_steps=9),
    good_recipe(pyphase.warmup_linear, lr=0.1, num_warmup_steps=2, num_training_steps=9),
    good_recipe(pyphase.wsd, lr=0.1, num_warmup_steps=2, num_decay_steps=2, num_training_steps=9),
    good_recipe(pyphase.flat_cosine, lr=0.1, total_steps=9),
    good_recipe(pyphase.inverse_sqrt, lr=0.1, num_warmup_steps=2, num_training_steps=9),
    good_recipe(pyphase.step_decay, lr=0.1, step_size=3, total_steps=9),
    good_recipe(pyphase.cyclical, base_lr=0.1, max_lr=0.2, total_steps=9, step_size_up=2),
    good_recipe(pyphase.rex, lr=0.1, total_steps=9),
    good_recipe(
        pyphase.polynomial_decay, lr=0.1, num_warmup_steps=2, num_training_steps=9, power=2.0
    ),
    good_recipe(pyphase.lr_range_test, start_lr=0.1, end_lr=1.0, num_iter=9),
]


def drawn(name, argument, good):
    """Return the strategy of one argument: mostly good, so that the others get their turn."""
    if (name, argument) == ("Table.sample", "num"):  # 10^8 samples are allowed, and take a minute
        return good | anything.filter(lambda n: not isinstance(n, int) or n < 1000 or n > 10**9)
    return st.one_of(good, good, good, anything)


def call_safely(target, arguments):
    with contextlib.suppress(*EXPECTED):
        target(**arguments)


@pytest.mark.parametrize(("name", "target", "arguments"), TARGETS, ids=[row[0] for row in TARGETS])
@settings(
    deadline=None,
    derandomize=True,
    max_examples=80,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_only_expected_errors_come_out(name, target, arguments, data):
    given_ones = data.draw(st.sets(st.sampled_from(sorted(arguments))))
    call = {key: data.draw(drawn(name, key, arguments[key]), label=key) for key in given_ones}
    call_safely(target, call)


@pytest.mark.parametrize(("name", "target", "arguments"), TARGETS, ids=[row[0] for row in TARGETS])
@pytest.mark.parametrize("argument", [*ONE_RAISES, *ALL_RAISE, *SOME_RAISE], ids=lambda a: "")
def test_arguments_that_raise_themselves(name, target, arguments, argument):
    """Each such object in each argument, alone and inside a list, a tuple and a dict."""
    for key in arguments:
        for wrapped in (argument, [argument], (argument, argument), {"eps": argument}):
            call_safely(target, {key: wrapped})


def test_json_of_any_shape():
    for text in (json.dumps(json.loads(TEXT)["phases"]), TEXT[:-1], TEXT * 2, TEXT.upper()):
        with pytest.raises(ValueError, match="not a plan"):
            Plan.from_json(text)
