"""Plans as JSON: there and back, hashes, differences, and files that hold something else.

The round trips and the damaged files share their plans.
"""

import functools
import json
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD, Adam

from pyphase import PhaseError, Plan, TrainingPhase, curves
from pyphase.curves import Constant, Cosine, Linear, Part, Table

quick = settings(deadline=None, derandomize=True, max_examples=80)

values = st.floats(1e-12, 0.99)
grouped = values | st.lists(values, min_size=2, max_size=2)


def set_size(value):
    pass


def momentum(value):
    """A function with the name of an argument."""


def make_loader():
    return [1]


def grow(run):
    pass


@st.composite
def curve_values(draw):
    name = draw(st.sampled_from([n for n in curves.__all__ if n not in ("Curve", "Part")]))
    if name == "Table":
        return Table(tuple(draw(st.lists(values, min_size=2, max_size=5))))
    if name == "Constant":
        return Constant(draw(grouped))
    curve = getattr(curves, name)(draw(grouped), draw(grouped))
    if draw(st.booleans()):
        return Part(curve, draw(st.floats(0, 0.4)), draw(st.floats(0.5, 1)))
    return curve


single = values.map(Constant) | st.builds(Linear, values, values)
phases = st.builds(
    TrainingPhase,
    st.none(),
    opt_fn=st.sampled_from([None, SGD, Adam, functools.partial(Adam, betas=(0.8, 0.9)), max]),
    lr=curve_values(),
    momentum=st.none() | curve_values(),
    beta=st.none() | grouped,
    wds=st.none() | grouped,
    wd_loss=st.booleans(),
    steps=st.integers(1, 50),
    values=st.none()
    | st.dictionaries(st.sampled_from(["eps", "rho.1", "x #2"]), curve_values())
    | st.dictionaries(st.sampled_from([set_size, momentum, torch.cos]), single),
    data=st.sampled_from([None, make_loader, [1, 2, 3]]),
    opt_state=st.sampled_from(["fresh", "keep", "map"]),
    name=st.none() | st.text(max_size=8),
    on_enter=st.sampled_from([None, grow]),
)


@quick
@given(st.lists(phases, min_size=1, max_size=5))
def test_there_and_back(drawn):
    plan = Plan(drawn)
    text = plan.to_json()
    again = Plan.from_json(text)
    assert again.digest == plan.digest == json.loads(text)["digest"]
    assert again.to_json() == text
    assert again.diff(plan) == []
    assert again.spans == plan.spans
    assert set(again.keys.values()) == set(plan.keys.values())
    for label in plan.keys.values():
        np.testing.assert_array_equal(again.table(label), plan.table(label))


@pytest.mark.parametrize(
    "arguments",
    [
        {"epochs": 0.5},
        {"epochs": np.float32(0.5)},
        {"samples": np.int64(64)},
        {"steps": np.int32(3)},
        {"wds": [0.1, 0.2], "wd_loss": False},
        {"wds": 0.1, "beta": [0.9, 0.99]},
        {"wd_loss": False, "values": {"weight_decay": 0.1}},
        {"wd_loss": False, "values": {"weight_decay": Linear(0.1)}},
        {"values": {"decoupled_weight_decay": Cosine(0.1)}},
        {"values": {"weight_decay": 0.1}},
        {"values": {momentum: 0.1, set_size: Linear(0.0, 1.0)}, "momentum": 0.9},
        {"values": {"betas.1": Linear(0.9, 0.99)}},
        {"lr": [0.1]},
        {"opt_fn": functools.partial(torch.optim.AdamW, foreach=None, betas=[0.8, 0.9])},
        {"opt_fn": functools.partial(SGD, dampening=np.float32(0.5))},
        {"name": "\ud800 \u00e9 \U0001f600"},
    ],
    ids=", ".join,
)
def test_there_and_back_of_each_field(arguments):
    plan = Plan([TrainingPhase(**arguments)], steps_per_epoch=10, batch_size=8)
    again = Plan.from_json(plan.to_json())
    assert again.to_json() == plan.to_json()
    assert again.phases[0].tracks.keys() - {momentum, set_size} >= {"lr"}
    for step in (0, 3):
        by_label = [{p.keys[key]: v for key, v in p.values_at(step).items()} for p in (plan, again)]
        assert by_label[0] == by_label[1]


def test_string_keys_keep_their_names_beside_functions():
    """Two functions of one name and a key of that name stay three tracks."""
    eps, also_eps = types.FunctionType(set_size.__code__, {}, "eps"), lambda value: None
    also_eps.__name__ = "eps"
    plan = Plan([TrainingPhase(steps=2, values={eps: 1, also_eps: 2, "eps": 3})])
    assert list(plan.keys.values()) == ["lr", "eps #2", "eps #3", "eps"]
    again = Plan.from_json(plan.to_json())
    assert again.digest == plan.digest
    assert again.values_at(0)["eps"] == 3


def test_functions_and_loaders_come_back_by_name_only():
    arguments = {"values": {set_size: 28}, "data": make_loader, "on_enter": grow, "opt_fn": max}
    phase = Plan.from_json(Plan([TrainingPhase(steps=2, **arguments)]).to_json()).phases[0]
    (function,) = (key for key in phase.tracks if callable(key))
    for stand_in, name in [
        (function, "set_size"),
        (phase.data, "make_loader"),
        (phase.on_enter, "grow"),
        (phase.opt_fn, "max"),
    ]:
        assert "by name only" in repr(stand_in)
        with pytest.raises(PhaseError, match=rf"holds the \w+ '{name}' by name only"):
            stand_in(1)


def test_one_function_in_two_phases_stays_one():
    plan = Plan([TrainingPhase(steps=1, values={set_size: size}, opt_fn=max) for size in (1, 2)])
    again = Plan.from_json(plan.to_json())
    assert list(again.keys.values()) == ["lr", "set_size"]
    assert not again.changes_optimizer(1)


@pytest.fixture
def foreign_class(tmp_path, monkeypatch):
    """Write a module that is not imported yet, with an optimizer class of its own."""
    (tmp_path / "foreign_optimizers.py").write_text(
        "import torch\nclass Foreign(torch.optim.SGD):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "foreign_optimizers"
    sys.modules.pop("foreign_optimizers", None)


def foreign_plan(module):
    foreign = __import__(module).Foreign
    opt_fns = [foreign, functools.partial(foreign, nesterov=True), foreign]
    return Plan([TrainingPhase(steps=1, opt_fn=opt_fn) for opt_fn in opt_fns])


def test_foreign_modules_are_not_imported_on_a_files_word(foreign_class):
    plan = foreign_plan(foreign_class)
    text = plan.to_json()
    assert Plan.from_json(text).opt_fns[0] is plan.opt_fns[0]
    del sys.modules[foreign_class]
    again = Plan.from_json(text)
    assert foreign_class not in sys.modules
    assert again.digest == plan.digest
    assert again.to_json() == text
    assert [again.changes_optimizer(index) for index in range(3)] == [False, True, True]
    with pytest.raises(PhaseError, match="holds the optimizer 'Foreign' by name only"):
        again.opt_fns[0]([torch.zeros(1)])


def test_classes_of_torch_come_back_with_their_keywords():
    opt_fn = functools.partial(Adam, amsgrad=True, betas=(0.8, 0.9))
    again = Plan.from_json(Plan([TrainingPhase(steps=1, opt_fn=opt_fn)]).to_json()).opt_fns[0]
    assert (again.func, again.keywords) == (Adam, {"amsgrad": True, "betas": (0.8, 0.9)})


# ---- digest and diff


def test_digest_is_the_same_in_every_process():
    """No address of an object takes part in it."""

    def plan():
        opt_fn = functools.partial(max, key=object(), default=lambda: None)
        function = functools.partial(set_size, object())
        return Plan([TrainingPhase(steps=1, opt_fn=opt_fn, values={function: 1.0})])

    one, two = plan(), plan()
    assert one.digest == two.digest
    assert "0x" not in one.to_json()


def make_plan(**changes):
    arguments = {"steps": 10, "lr": 0.1, "momentum": 0.9, "name": "a"} | changes
    return Plan([TrainingPhase(**arguments), TrainingPhase(steps=5, lr=Cosine(0.1))])


def test_digest_and_diff_of_equal_plans():
    assert make_plan().digest == make_plan().digest == make_plan(name="b").digest
    assert make_plan().diff(make_plan(name="b")) == []
    by_epochs = [Plan([TrainingPhase(epochs=e)], 10).digest for e in (1, 1.0, np.float32(1))]
    assert {*by_epochs, Plan([TrainingPhase()], 10).digest} == {by_epochs[0]}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"lr": 0.2}, "phase 0 ('a'): lr: 0.1 != 0.2"),
        ({"lr": Linear(0.1)}, "phase 0 ('a'): lr: 0.1 != 0.1->0 lin"),
        ({"lr": 0.1000001}, "phase 0 ('a'): lr: Constant(value=0.1) != Constant(value=0.1000001)"),
        ({"momentum": None}, "phase 0 ('a'): momentum: 0.9 != not set"),
        ({"values": {"eps": 1e-6}}, "phase 0 ('a'): eps: not set != 1e-06"),
        ({"opt_state": "keep"}, "phase 0 ('a'): opt_state: fresh != keep"),
        ({"data": [1, 2]}, "phase 0 ('a'): data: None != list(2)"),
        ({"on_enter": set_size}, "phase 0 ('a'): on_enter: None != set_size"),
    ],
)
def test_digest_and_diff_of_different_plans(changes, line):
    plan, other = make_plan(), make_plan(**changes)
    assert plan.digest != other.digest
    assert line in plan.diff(other)


def test_diff_of_lengths():
    assert "phase 0 ('a'): end: 10 != 11" in make_plan().diff(make_plan(steps=11))
    assert make_plan().diff(Plan([TrainingPhase(steps=1)]))[0] == "number of phases: 2 != 1"


# ---- files that hold something else


def example_record():
    phases = [
        TrainingPhase(
            steps=3,
            opt_fn=functools.partial(Adam, amsgrad=True),
            lr=Cosine([0.1, 0.2]),
            momentum=Part(Linear(0.9), 0.0, 0.5),
            beta=0.9,
            wds=0.1,
            wd_loss=False,
            values={set_size: 28.0, "eps": Table((1.0, 2.0))},
            data=make_loader,
            name="a",
            on_enter=grow,
        ),
        TrainingPhase(samples=7),
    ]
    return json.loads(Plan(phases, batch_size=2).to_json())


def places(record, path=()):
    yield path
    items = record.items() if isinstance(record, dict) else enumerate(record)
    for key, value in items if isinstance(record, dict | list) else ():
        yield from (
            places(value, (*path, key)) if isinstance(value, dict | list) else [(*path, key)]
        )


PLACES = [path for path in places(example_record()) if path]
JUNK = [None, True, -1, 0, 1.5, 1e308, 10**400, "", "x", [], [1], [[]], {}, {"a": 1}, [None, "x"]]


def changed(path, change):
    record = example_record()
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    change(inner, path[-1])
    return json.dumps(record)


def read_or_refuse(text):
    try:
        plan = Plan.from_json(text)
    except PhaseError:
        return
    assert len(plan.digest) == 64
    assert repr(plan)
    Plan.from_json(plan.to_json())


@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(map(str, path)))
def test_junk_anywhere_is_read_or_refused(path):
    for junk in JUNK:
        read_or_refuse(changed(path, lambda inner, key, junk=junk: inner.__setitem__(key, junk)))
    read_or_refuse(changed(path, lambda inner, key: inner.__delitem__(key)))


@pytest.mark.parametrize(
    ("path", "junk", "match"),
    [
        (("format",), "pyphase plan 99", "`format` must be 'pyphase plan 1'"),
        (("phases",), None, "not a plan: TypeError"),
        (("phases",), [], "must hold at least one phase"),
        (("phases", 0), [], "not a plan: TypeError"),
        (("phases", 0, "steps_per_epoch"), "x", r"`steps_per_epoch\[0\]` must be an int"),
        (("phases", 0, "batch_size"), [3], r"`batch_size\[0\]` must be an int"),
        (("phases", 0, "length"), {}, "give one of `epochs`"),
        (("phases", 0, "length"), {"epochs": 1, "steps": 1}, "give one of `epochs`"),
        (("phases", 0, "length"), {"epochs": 1}, "needs `steps_per_epoch`"),
        (("phases", 0, "values", "lr"), {}, "not a plan: KeyError"),
        (("phases", 0, "values", "lr", "shape"), "Curve", "there is no curve 'Curve'"),
        (("phases", 0, "values", "lr", "shape"), "check_numbers", "there is no curve"),
        (("phases", 0, "values", "lr", "shape"), [], r"there is no curve \[\]"),
        (("phases", 0, "values", "lr", "start"), "1", "`start` must be a number"),
        (("phases", 0, "values", "lr", "start"), -1, r"`lr` \(=-1.0\) must be >= 0"),
        (
            ("phases", 0, "values", "beta"),
            {"shape": "Linear", "start": 0.1, "end": 0.2, "function": False},
            "`beta` must be constant",
        ),
        (("phases", 0, "data"), 3, "the name of a data must be a str, got 3"),
        (("phases", 0, "optimizer", "keywords"), [], "AttributeError"),
    ],
)
def test_what_is_wrong_is_said(path, junk, match):
    text = changed(path, lambda inner, key: inner.__setitem__(key, junk))
    with pytest.raises(PhaseError, match=match):
        Plan.from_json(text)


@pytest.mark.parametrize(
    "text",
    ["", "null", "3", "[]", "{}", '"x"', "{", "NaN", "[" * 10**5, '{"format": "pyphase plan 1"}'],
    ids=lambda text: text[:30] or "empty",
)
def test_other_texts_are_refused(text):
    with pytest.raises(PhaseError, match="not a plan"):
        Plan.from_json(text)


@pytest.mark.parametrize("text", [None, 3, b"{}", {}, []])
def test_other_types_are_refused(text):
    with pytest.raises(TypeError, match="`text` must be a str of JSON"):
        Plan.from_json(text)


@pytest.mark.parametrize(
    "name",
    ["torch.optim.no_such", "torch.optim.", "torch.optim..x", "pyphase.optim", "os", "", "\0"],
)
def test_unknown_classes_come_back_by_name(name):
    def change(inner, key):
        inner[key] = f"{name}:system"

    plan = Plan.from_json(changed(("phases", 0, "optimizer", "class"), change))
    with pytest.raises(PhaseError, match="by name only"):
        plan.opt_fns[0]([])


@quick
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    ),
    st.sampled_from(PLACES),
)
def test_any_json_is_read_or_refused(junk, path):
    read_or_refuse(json.dumps(junk))
    read_or_refuse(changed(path, lambda inner, key: inner.__setitem__(key, junk)))
