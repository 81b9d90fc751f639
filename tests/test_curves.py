"""Curves against oracles in long double, at their ends, and with wrong arguments."""

import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pyphase import PhaseError, Plan, TrainingPhase, curves
from pyphase.curves import (
    Constant,
    Cosine,
    Curve,
    Exponential,
    InverseSqrt,
    Linear,
    OneMinusSqrt,
    Part,
    Polynomial,
    Rex,
    Table,
)

# Relative to the value for ends of one sign. With ends of both signs the value passes through 0,
# where any sum of two rounded terms loses its leading digits: relative to the larger end there.
TOLERANCE = 4 * 2.0**-52
TINY = 2.0**-1070  # what underflow may cost

exact = settings(deadline=None, derandomize=True, max_examples=60)

magnitudes = st.floats(-150, 150).map(lambda exponent: 10.0**exponent)
lengths = st.integers(1, 10**9) | st.sampled_from([1, 2, 3, 2047, 2048, 2049, 10**9])
powers = st.floats(-2, 1.7).map(lambda exponent: 10.0**exponent)
betas = st.floats(0, 1, exclude_max=True) | st.sampled_from([0.0, 0.5, 1 - 1e-12])


@st.composite
def curve_problems(draw, name, *, one_sign=True):
    """Draw a curve, its oracle's arguments, and how ill-conditioned it is in f."""
    start, end = draw(magnitudes), draw(magnitudes)
    if draw(st.booleans()):
        start, end = start / 10.0 ** (math.log10(start) * 0.99), end ** (1 / 100)
    if name == "InverseSqrt":
        assume(start / end < 1e149)
    sign = draw(st.sampled_from([1, -1]))
    start, end = sign * start, sign * end * (1 if one_sign else -1)
    if name == "Constant":
        return Constant(start), (start, start), 1.0
    if name == "Polynomial":
        power = draw(powers)
        return Polynomial(start, end, power), (start, end, power), 1 + power
    if name == "Rex":
        beta = draw(betas)
        return Rex(start, end, beta), (start, end, beta), 1.0
    condition = 1 + abs(math.log(end / start)) if name == "Exponential" else 1.0
    return getattr(curves, name)(start, end), (start, end), condition


def evaluate(curve, num_steps, steps):
    plan = Plan([TrainingPhase(steps=num_steps, values={"x": curve})])
    return plan.table("x", steps)[:, 0]


def oracle(curve, ends, num_steps, steps):
    start, end, *param = ends
    return reference.CURVES[type(curve).__name__](start, end, steps, num_steps, *param)


def steps_of(data, num_steps):
    drawn = data.draw(st.lists(st.integers(0, num_steps), max_size=20))
    return np.array(sorted({0, num_steps // 2, num_steps - 1, num_steps, *drawn}))


@pytest.mark.parametrize("name", reference.CURVES)
@exact
@given(data=st.data(), num_steps=lengths)
def test_agrees_with_the_oracle_relative_to_the_value(name, data, num_steps):
    curve, ends, condition = data.draw(curve_problems(name))
    steps = steps_of(data, num_steps)
    expected = oracle(curve, ends, num_steps, steps)
    error = np.abs(evaluate(curve, num_steps, steps) - expected)
    assert np.all(error <= TOLERANCE * condition * np.abs(expected) + TINY)


@pytest.mark.parametrize("name", ["Linear", "Cosine", "Polynomial", "OneMinusSqrt", "Rex"])
@exact
@given(data=st.data(), num_steps=lengths)
def test_agrees_with_the_oracle_where_the_sign_changes(name, data, num_steps):
    curve, ends, condition = data.draw(curve_problems(name, one_sign=False))
    steps = steps_of(data, num_steps)
    expected = oracle(curve, ends, num_steps, steps)
    scale = max(abs(ends[0]), abs(ends[1]))
    error = reference.relative_error(evaluate(curve, num_steps, steps), expected, scale)
    assert error <= TOLERANCE * condition


@pytest.mark.parametrize("name", reference.CURVES)
@exact
@given(data=st.data(), num_steps=lengths)
def test_both_ends_are_exact_and_hold(name, data, num_steps):
    curve, (start, end, *_), _ = data.draw(curve_problems(name))
    steps = np.array([0, num_steps, num_steps + 1, num_steps + 2**40])
    np.testing.assert_array_equal(evaluate(curve, num_steps, steps), [start, end, end, end])
    assert curve(0.0) == start
    assert curve(1.0) == end


@pytest.mark.parametrize("name", reference.CURVES)
@exact
@given(data=st.data(), num_steps=lengths)
def test_stays_between_its_ends(name, data, num_steps):
    curve, (start, end, *_), condition = data.draw(curve_problems(name))
    values = evaluate(curve, num_steps, steps_of(data, num_steps))
    low, high = sorted((abs(start), abs(end)))
    slack = TOLERANCE * condition
    assert np.all(np.abs(values) >= low * (1 - slack))
    assert np.all(np.abs(values) <= high * (1 + slack))


@pytest.mark.parametrize("name", ["Linear", "Cosine", "Polynomial", "OneMinusSqrt", "Rex"])
@exact
@given(st.data())
def test_decays_to_zero_without_loss_of_digits(name, data):
    num_steps, start = data.draw(lengths), data.draw(st.floats(1e-8, 1e8))
    curve = getattr(curves, name)(start)
    steps = np.array([0, num_steps // 2, num_steps - 1, num_steps])
    expected = oracle(curve, (start, 0.0), num_steps, steps)
    error = np.abs(evaluate(curve, num_steps, steps) - expected)
    assert np.all(error <= TOLERANCE * expected)


@exact
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40), st.data(), st.integers(1, 10**7))
@example([1.0, 2.0], None, 1)
def test_table_interpolates_between_its_samples(knots, data, num_steps):
    steps = np.array([0, num_steps]) if data is None else steps_of(data, num_steps)
    expected = [reference.table(knots, step, num_steps) for step in steps]
    # The place among the knots is rounded once: an error of (knots - 1) ulp of f times their span.
    scale = len(knots) * max(abs(knot) for knot in knots)
    found = evaluate(Table(tuple(knots)), num_steps, steps)
    assert reference.relative_error(found, expected, scale or 1.0) <= TOLERANCE
    assert (found[0], found[-1]) == (knots[0], knots[-1])


@pytest.mark.parametrize("name", ["Linear", "Cosine", "OneMinusSqrt"])
@exact
@given(data=st.data(), num_steps=st.integers(1, 10**6))
def test_part_continues_the_curve_it_was_cut_from(name, data, num_steps):
    """A phase of n steps and its pieces [0, k) and [k, n) give the same values."""
    curve, (start, end, *_), _ = data.draw(curve_problems(name))
    cut = data.draw(st.integers(1, num_steps))
    steps = np.unique(np.linspace(0, cut - 1, 20, dtype=np.int64))
    head = Part(curve, 0.0, cut / num_steps)
    expected = oracle(curve, (start, end), num_steps, steps)
    scale = max(abs(start), abs(end))
    assert reference.relative_error(evaluate(head, cut, steps), expected, scale) <= TOLERANCE
    if cut < num_steps:
        tail = Part(curve, cut / num_steps, 1.0)
        found = evaluate(tail, num_steps - cut, np.arange(min(20, num_steps - cut)))
        shifted = cut + np.arange(len(found))
        expected = oracle(curve, (start, end), num_steps, shifted)
        assert reference.relative_error(found, expected, scale) <= TOLERANCE


# (curve, number of steps, [value of the first, the middle and the last step, one past the end])
BY_HAND = [
    (Constant(0.3), 4, [0.3, 0.3, 0.3, 0.3]),
    (Linear(1.0, 0.0), 4, [1.0, 0.5, 0.25, 0.0]),
    (Linear(0.0, 8.0), 4, [0.0, 4.0, 6.0, 8.0]),
    (Cosine(1.0, 0.0), 4, [1.0, 0.5, (1 - math.sqrt(0.5)) / 2, 0.0]),
    (Exponential(1.0, 16.0), 4, [1.0, 4.0, 8.0, 16.0]),
    (Polynomial(1.0, 0.0, 2), 4, [1.0, 0.25, 0.0625, 0.0]),
    (Polynomial(0.0, 1.0, 2), 4, [0.0, 0.75, 0.9375, 1.0]),
    (OneMinusSqrt(1.0, 0.0), 4, [1.0, 1 - math.sqrt(0.5), 1 - math.sqrt(0.75), 0.0]),
    (InverseSqrt(1.0, 0.5), 4, [1.0, math.sqrt(0.4), math.sqrt(4 / 13), 0.5]),
    (Rex(1.0, 0.0), 4, [1.0, 2 / 3, 0.4, 0.0]),
    (Table((0.0, 1.0, 0.0)), 4, [0.0, 1.0, 0.5, 0.0]),
    (Linear(-1.0, 1.0), 4, [-1.0, 0.0, 0.5, 1.0]),
]


@pytest.mark.parametrize(("curve", "num_steps", "expected"), BY_HAND)
def test_values_by_hand(curve, num_steps, expected):
    steps = np.array([0, num_steps // 2, num_steps - 1, num_steps])
    np.testing.assert_allclose(evaluate(curve, num_steps, steps), expected, rtol=1e-15, atol=1e-16)
    called = [curve(step / num_steps) for step in steps.tolist()]
    np.testing.assert_allclose(called, expected, rtol=1e-15, atol=1e-16)


@pytest.mark.parametrize("curve", [row[0] for row in BY_HAND], ids=lambda c: type(c).__name__)
def test_phase_of_one_step_trains_with_the_start(curve):
    start, end = curve.ends
    np.testing.assert_array_equal(evaluate(curve, 1, np.array([0, 1, 2])), [start, end, end])


@pytest.mark.parametrize(
    "make", [list, tuple, np.array, torch.tensor, lambda v: np.array(v, dtype=np.float32)]
)
def test_one_curve_per_group(make):
    curve = Linear(make([1.0, 2.0, 4.0]), make([0.0, 1.0, 8.0]))
    assert curve.width == 3
    assert curve(0.5) == (0.5, 1.5, 6.0)
    shared_end = Cosine(make([1.0, 2.0, 4.0]))
    assert shared_end(0.0) == (1.0, 2.0, 4.0)
    assert shared_end(1.0) == (0.0, 0.0, 0.0)


def test_fault_one_element_array_with_three_groups():
    """fastai 0.7 multiplied np.array([x]) where it meant to repeat it, then failed."""
    curve = Linear(np.array([1.0]), [1.0, 2.0, 4.0])
    assert curve(0.5) == (1.0, 1.5, 2.5)
    plan = Plan([TrainingPhase(steps=2, lr=np.array([0.5]), momentum=[0.1, 0.2, 0.3])])
    np.testing.assert_array_equal(plan.table("lr"), np.full((2, 3), 0.5))


def test_curves_are_values():
    assert Linear(1, 0) == Linear(1.0, 0.0)
    assert Linear(1, 0) != Cosine(1, 0)
    assert len({Linear([1, 2], 0), Linear((1.0, 2.0), 0.0)}) == 1
    assert repr(Polynomial(np.float32(0.5), 0, power=np.int64(2))) == (
        "Polynomial(start=0.5, end=0.0, power=2.0)"
    )


def test_sample_takes_the_function_at_equal_distances():
    assert Table.sample(lambda f: f**2, num=3) == Table((0.0, 0.25, 1.0))
    assert len(Table.sample(math.sin).values) == 1025


WRONG = [
    (lambda: Linear("1"), TypeError, "`start` must be a number, got '1'"),
    (lambda: Linear(True), TypeError, "`start` must be a number, got True"),
    (lambda: Linear(1j), TypeError, "`start` must be a number, got 1j"),
    (lambda: Linear(np.complex64(1)), TypeError, "`start` must be a real number"),
    (lambda: Linear(np.timedelta64(1, "s")), TypeError, "`start` must be a number"),
    (lambda: Linear(math.nan), PhaseError, r"`start` \(=nan\) must be finite"),
    (lambda: Linear(1, -math.inf), PhaseError, r"`end` \(=-inf\) must be finite"),
    (lambda: Linear(10**400), PhaseError, "must fit a float"),
    (lambda: Linear([]), PhaseError, r"`start` \(=\[\]\) must not be empty"),
    (lambda: Linear([1, None]), TypeError, r"`start\[1\]` must be a number, got None"),
    (lambda: Linear([[1, 2], [3, 4]]), TypeError, r"`start\[0\]` must be a number"),
    (lambda: Linear({1, 2}), TypeError, "`start` must be a number"),
    (lambda: Linear(torch.ones(2, device="meta")), TypeError, "`start` must"),
    (lambda: Linear([1, 2], [1, 2, 3]), PhaseError, r"same number of groups, got \[2, 3\]"),
    (lambda: Exponential(1, 0), PhaseError, "Exponential from 1.0 to 0.0: both must be non-zero"),
    (lambda: Exponential(1, -1), PhaseError, "of one sign"),
    (lambda: Exponential(1e-300, 1e300), PhaseError, "end/start finite"),
    (lambda: Exponential([1, 2], [1, 0]), PhaseError, "Exponential from 2.0 to 0.0"),
    (lambda: Exponential(1), TypeError, "end"),
    (lambda: InverseSqrt(0, 1), PhaseError, "InverseSqrt from 0.0 to 1.0: both must be non-zero"),
    (lambda: InverseSqrt(1e200, 1e-5), PhaseError, r"\(start/end\)\^2 finite"),
    (lambda: Polynomial(1, 0, 0), PhaseError, r"`power` \(=0\) must be > 0"),
    (lambda: Polynomial(1, 0, [1, 2]), TypeError, "`power` must be a number"),
    (lambda: Rex(1, 0, 1), PhaseError, r"`beta` \(=1\) must be in \[0, 1\)"),
    (lambda: Rex(1, 0, -0.1), PhaseError, r"`beta` \(=-0.1\) must be in \[0, 1\)"),
    (lambda: Table(3.0), PhaseError, r"`values` \(=3.0\) must hold at least 2 numbers"),
    (lambda: Table([1]), PhaseError, "at least 2 numbers"),
    (lambda: Table.sample(3), TypeError, "`function` must be callable, got 3"),
    (lambda: Table.sample(abs, num=1), PhaseError, r"`num` \(=1\) must be in \[2, 1e8\]"),
    (lambda: Table.sample(abs, num=2.0), TypeError, "`num` must be an int, got 2.0"),
    (lambda: Table.sample(str, num=2), TypeError, r"`values\[0\]` must be a number"),
    (lambda: Part(Linear(1), 0.5, 0.5), PhaseError, r"`begin` \(=0.5\) must be < `end`"),
    (lambda: Part(3, 0, 1), TypeError, "`curve` must be a curve other than Part, got 3"),
    (lambda: Linear(1)(1.5), PhaseError, r"`fraction` \(=1.5\) must be in \[0, 1\]"),
    (lambda: Linear(1)(None), TypeError, "`fraction` must be a number, got None"),
    (lambda: Curve()(0.5), TypeError, "Curve has no closed form"),
]


@pytest.mark.parametrize(("make", "error", "match"), WRONG)
def test_wrong_arguments_are_named(make, error, match):
    with pytest.raises(error, match=match) as caught:
        make()
    assert type(caught.value) is error
