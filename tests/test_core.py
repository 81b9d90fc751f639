"""The C++ writer: what it puts into parameter groups, and how it refuses bad ones."""

import copy
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyphase import PhaseError, Plan, TrainingPhase, _core
from pyphase.curves import Cosine, Linear


def plan_of(*values, key="x"):
    """One phase of four steps for each curve; None leaves the key alone."""
    return Plan([TrainingPhase(steps=4, values=None if v is None else {key: v}) for v in values])


def writer_of(plan, num_groups, key="x", name="x", element=-1, own=None):
    track = list(plan.keys).index(key)
    own = [0.0] * num_groups if own is None else own
    return plan.compile(num_groups).writer([(track, name, element, own)])


def numbers(groups, key="x"):
    return [group[key] for group in groups]


def test_writes_the_values_of_look_ups():
    plan = plan_of(Linear(1.0, 2.0), Cosine(5.0))
    write = writer_of(plan, 2)
    groups = [{"x": 0.5, "other": 1}, {"x": 0.5}]
    for step in range(plan.total_steps + 3):
        assert write(groups, step) is None
        assert numbers(groups) == [plan.values_at(step)["x"]] * 2
    assert groups[0]["other"] == 1


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.integers(0, 20), max_size=40))
def test_steps_in_any_order(steps):
    plan = plan_of(Linear(1.0, 2.0), None, Cosine([5.0, 7.0]), None, 3.0)
    write = writer_of(plan, 2, own=[0.25, 0.75])
    groups = [{"x": 0.25}, {"x": 0.75}]
    for step in steps:
        write(groups, step)
        expected = plan.values_at(step).get("x", (0.25, 0.75))
        assert numbers(groups) == list(np.broadcast_to(expected, 2))


def test_a_curve_for_each_group():
    plan = plan_of(Linear([1.0, 2.0, 3.0], 0.0))
    groups = [{"x": 0.0} for _ in range(3)]
    writer_of(plan, 3)(groups, 2)
    assert numbers(groups) == [0.5, 1.0, 1.5]


def test_several_slots():
    plan = Plan([TrainingPhase(steps=2, lr=Linear(1.0, 0.0), momentum=0.5, beta=0.75)])
    write = plan.compile(1).writer(
        [(0, "lr", -1, [0.0]), (1, "betas", 0, [0.0]), (2, "betas", 1, [0.0])]
    )
    groups = [{"lr": 0.1, "betas": (0.9, 0.999)}]
    write(groups, 1)
    assert groups == [{"lr": 0.5, "betas": (0.5, 0.75)}]


@pytest.mark.parametrize("old", [1, 0.5, True, None, "text", np.float64(2), [1], (1,)])
def test_whatever_is_no_tensor_is_replaced_by_a_float(old):
    groups = [{"x": old}]
    writer_of(plan_of(0.125), 1)(groups, 0)
    assert groups == [{"x": 0.125}]
    assert type(groups[0]["x"]) is float


def test_missing_key_is_added():
    groups = [{}]
    writer_of(plan_of(0.125), 1)(groups, 0)
    assert groups == [{"x": 0.125}]


def test_key_is_found_wherever_it_stands():
    plan = plan_of(Linear(1.0, 0.0))
    write = writer_of(plan, 3)
    groups = [{"x": 9.0, "a": 9.0}, {"a": 9.0, "x": 9.0}, {"a": 9.0, 3: 9.0, "b": 9.0}]
    for step in range(4):
        write(groups, step)
        assert numbers(groups) == [plan.values_at(step)["x"]] * 3
        groups = [dict(reversed(group.items())) for group in groups]
    assert [group["a"] for group in groups] == [9.0] * 3


# ---- nobody else's number changes


def test_numbers_that_somebody_kept_stay_as_they_were():
    plan = plan_of(Linear(1.0, 0.0))
    write = writer_of(plan, 2)
    groups = [{"x": float("2.5")}, {"x": 2.5}]
    history = []
    for step in range(4):
        write(groups, step)
        history.append(groups[0]["x"])
    assert history == [1.0, 0.75, 0.5, 0.25]
    saved = copy.deepcopy(groups)
    shallow = [dict(group) for group in groups]
    write(groups, 0)
    assert numbers(saved) == numbers(shallow) == [0.25] * 2


def test_one_number_in_two_places():
    shared = float("2.5")
    group = {"x": shared, "y": shared}
    del shared
    writer_of(plan_of(0.125), 1)([group], 0)
    assert group == {"x": 0.125, "y": 2.5}


def test_tuples_that_somebody_kept_stay_as_they_were():
    plan = plan_of(Linear(1.0, 0.0))
    write = writer_of(plan, 1, name="betas", element=1)
    groups = [{"betas": (float("0.5"), float("0.5"))}]
    kept = []
    for step in range(4):
        write(groups, step)
        kept.append(groups[0]["betas"])
    assert kept == [(0.5, 1.0), (0.5, 0.75), (0.5, 0.5), (0.5, 0.25)]
    one_element = groups[0]["betas"][1]
    del kept
    write(groups, 0)
    assert one_element == 0.25
    assert groups == [{"betas": (0.5, 1.0)}]


def test_references_are_balanced():
    plan = plan_of(Linear(1.0, 0.0), None)
    write = writer_of(plan, 1, name="betas", element=0)
    tensor = torch.tensor(0.0)
    other, groups = object(), [{"betas": (tensor, 0.5)}]
    group, replaced = groups[0], [{"betas": (0.5, other)}]
    before = [sys.getrefcount(thing) for thing in (tensor, group, other, groups)]
    for step in [*range(8)] * 50:
        write(groups, step)
        write(replaced, step)
    assert [sys.getrefcount(thing) for thing in (tensor, group, other, groups)] == before


# ---- tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_are_filled_in_place(dtype):
    tensor = torch.tensor(0.0, dtype=dtype)
    groups = [{"x": tensor}, {"x": 0.0}]
    write = writer_of(plan_of(Linear(1.0, 0.0), None), 2, own=[0.375, 0.5])
    for step, expected in ((1, 0.75), (3, 0.25), (4, 0.375), (0, 1.0)):
        write(groups, step)
        assert groups[0]["x"] is tensor
        assert tensor.item() == expected
    assert groups[1]["x"] == 1.0


def test_tensors_inside_betas_are_filled_in_place():
    first, second = torch.tensor(0.9), torch.tensor(0.999)
    groups = [{"betas": (first, second)}]
    betas = groups[0]["betas"]
    writer_of(plan_of(Linear(1.0, 0.0)), 1, name="betas", element=1)(groups, 2)
    assert groups[0]["betas"] is betas
    assert (first.item(), second.item()) == (pytest.approx(0.9), 0.5)


class Broken:
    def fill_(self, value):
        raise KeyError("broken fill_")


@pytest.mark.parametrize("element", [-1, 0])
def test_error_of_fill_comes_out_and_the_next_call_works(element):
    groups = [{"x": Broken() if element < 0 else (Broken(),)}, {"x": 0.5}]
    write = writer_of(plan_of(Linear(1.0, 0.0), None), 2, element=element, own=[0.1, 0.2])
    for step in (0, 1, 4, 7):
        with pytest.raises(KeyError, match="broken fill_"):
            write(groups, step)
    good = [{"x": 0.5 if element < 0 else (0.5,)} for _ in range(2)]
    write(good, 7)
    assert numbers(good) == ([0.1, 0.2] if element < 0 else [(0.1,), (0.2,)])


class Evil:
    """A thing whose fill_ changes what is being written."""

    def __init__(self, act):
        self.act = act

    def fill_(self, value):
        self.act()


@pytest.mark.parametrize("act", ["clear", "grow", "empty group", "write again"])
def test_changes_from_inside_fill_do_no_harm(act):
    plan = plan_of(Linear([1.0, 2.0], 0.0), None)
    write = writer_of(plan, 2, own=[0.1, 0.2])
    groups = []
    acts = {
        "clear": groups.clear,
        "grow": lambda: groups.extend([{"x": 0.0}] * 50),
        "empty group": lambda: groups[0].clear(),
        "write again": lambda: write([{"x": 0.0}, {"x": 0.0}], 6),
    }
    groups += [{"x": Evil(acts[act])}, {"x": 0.5}]
    if act == "write again":
        with pytest.raises(RuntimeError, match="called from inside itself"):
            write(groups, 1)
    else:
        write(groups, 1)
    fresh = [{"x": 0.0}, {"x": 0.0}]
    write(fresh, 1)
    assert numbers(fresh) == [0.75, 1.5]


# ---- what is refused


@pytest.mark.parametrize("count", [0, 1, 3])
def test_wrong_number_of_groups(count):
    write = writer_of(plan_of(0.5), 2)
    expected = f"bound to 2 parameter groups .* the optimizer has {count} groups"
    with pytest.raises(ValueError, match=expected):
        write([{"x": 0.0}] * count, 0)


@pytest.mark.parametrize(
    "arguments", [(), (0,), ([{}],), ([{}], 0, 0), (({},), 0), (None, 0), ({}, 0), ("a", 0)]
)
def test_groups_must_be_a_list(arguments):
    with pytest.raises(TypeError, match="groups must be a list of dicts"):
        writer_of(plan_of(0.5), 1)(*arguments)


@pytest.mark.parametrize("group", [None, 3, [], "x", object()])
def test_groups_must_be_dicts(group):
    with pytest.raises(TypeError, match="param_groups must be a list of dicts"):
        writer_of(plan_of(0.5), 1)([group], 0)


@pytest.mark.parametrize("entry", [None, 0.9, [0.9, 0.99], (0.9,), ()])
def test_an_element_needs_its_tuple(entry):
    groups = [{} if entry is None else {"betas": entry}]
    write = writer_of(plan_of(0.5), 1, name="betas", element=1)
    with pytest.raises(TypeError, match=r"\['betas'\] must be a tuple of at least 2 values"):
        write(groups, 0)


@pytest.mark.parametrize(
    ("step", "error"),
    [(-1, ValueError), (2**70, OverflowError), (1.5, TypeError), (None, TypeError)],
)
def test_wrong_steps(step, error):
    groups = [{"x": 0.0}]
    with pytest.raises(error):
        writer_of(plan_of(0.5), 1)(groups, step)
    assert groups == [{"x": 0.0}]


def test_plan_for_other_groups_is_not_compiled():
    with pytest.raises(PhaseError, match="the plan names 2 parameter groups"):
        plan_of(Linear([1.0, 2.0], 0.0)).compile(1)


def test_writer_outlives_its_plan():
    write = writer_of(plan_of(Linear(1.0, 0.0)), 1)
    groups = [{"x": 0.0}]
    write(groups, 2)
    assert groups == [{"x": 0.5}]


@pytest.mark.parametrize(
    ("lengths", "ends"),
    [([], []), ([0.5], [1]), ([1.0, 1.0], [1, 2]), ([1 / 3 * 100] * 3, [34, 67, 100])],
)
def test_phase_ends(lengths, ends):
    assert _core.phase_ends(lengths) == ends
