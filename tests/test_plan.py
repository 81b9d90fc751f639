"""Plans: steps, values and tables, against oracles and against each other."""

import copy
import functools
import pickle
import tracemalloc

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD, Adam, AdamW

from pyphase import DecayType, PhaseError, Plan, TrainingPhase, curves
from pyphase.curves import Cosine, Exponential, Linear, Part, Polynomial, Rex, Table

quick = settings(deadline=None, derandomize=True, max_examples=60)

BLOCK = 2048  # rows that the core fills at a time
THREADED = 2 * 2**18 + BLOCK + 3  # enough rows for two threads, and no multiple of a block

positive = st.floats(1e-3, 1e3)


def set_size(value):
    pass


def in_steps(*lengths, **arguments):
    return Plan([TrainingPhase(steps=steps, **arguments) for steps in lengths])


def same_bits(a, b):
    a, b = np.ascontiguousarray(a, dtype=float), np.ascontiguousarray(b, dtype=float)
    assert a.shape == b.shape
    np.testing.assert_array_equal(a.view(np.int64), b.view(np.int64))


@st.composite
def plans(draw, groups=1):
    """Draw a plan and, for each phase, its length, curve name, ends and parameter."""
    rows = []
    for _ in range(draw(st.integers(1, 12))):
        name = draw(st.sampled_from(list(reference.CURVES)))
        ends = [tuple(draw(positive) for _ in range(groups)) for _ in "se"]
        param = {"Polynomial": (2.5,), "Rex": (0.5,)}.get(name, ())
        rows.append((draw(st.integers(1, 3000)), name, *ends, param))
    phases = []
    for steps, name, start, end, param in rows:
        ends = [start] if name == "Constant" else [start, end]
        phases.append(TrainingPhase(steps=steps, lr=getattr(curves, name)(*ends, *param)))
    return Plan(phases), rows


@pytest.mark.parametrize("groups", [1, 3])
@quick
@given(st.data())
def test_plans_agree_with_the_oracle(groups, data):
    plan, rows = data.draw(plans(groups))
    found = plan.table("lr")
    assert found.shape == (plan.total_steps, groups)
    begin = 0
    for steps, name, start, end, param in rows:
        for group in range(groups):
            curve, at = reference.CURVES[name], np.arange(steps)
            expected = curve(start[group], end[group], at, steps, *param)
            rows_of_phase = found[begin : begin + steps, group]
            assert reference.relative_error(rows_of_phase, expected) < 1e-14
        begin += steps


@pytest.mark.parametrize("groups", [1, 2])
@quick
@given(st.data())
def test_tables_have_the_bits_of_single_look_ups(groups, data):
    plan, _ = data.draw(plans(groups))
    last = plan.total_steps + 10
    steps = data.draw(st.lists(st.integers(0, last), max_size=50))
    found = plan.table("lr", steps)
    assert found.shape == (len(steps), groups)
    for step, row in zip(steps, found, strict=True):
        same_bits(row, np.broadcast_to(plan.values_at(step)["lr"], groups))
    inside = [step for step in steps if step < plan.total_steps]
    same_bits(plan.table("lr", inside), plan.table("lr")[inside])


SHAPES = [
    Linear(0.1, 3.0),
    Cosine(1.0, 1e-5),
    Exponential(1e-7, 10.0),
    Polynomial(1.0, 0.01, 0.9),
    curves.OneMinusSqrt(1.0),
    curves.InverseSqrt(1.0, 0.01),
    Rex(1.0),
    Table((0.0, 3.0, 1.0)),
    Part(Cosine(1.0, 0.0), 0.1, 0.7),
    Part(Linear(1.0, 0.0), 0.1, 0.7),
    Cosine([1.0, 2.0, 3.0], [0.0, 1e-9, 5.0]),
    Linear([1.0, 2.0], 0.0),
]


@pytest.mark.parametrize("curve", SHAPES, ids=repr)
@pytest.mark.parametrize("before", [0, 1, 5])
def test_vector_loops_have_the_bits_of_scalar_code(curve, before):
    """Whole blocks, a ragged end, a phase that starts anywhere; odd lengths of the remainder."""
    lengths = [1] * before + [2 * BLOCK + 7, BLOCK, BLOCK - 1, 3]
    plan = in_steps(*lengths, lr=curve)
    every = np.arange(plan.total_steps)
    same_bits(plan.table("lr"), plan.table("lr", every))
    some = every[:: 1 + plan.total_steps // 200]
    values = np.reshape([plan.values_at(step)["lr"] for step in some.tolist()], (len(some), -1))
    same_bits(plan.table("lr")[some], values)


@pytest.mark.parametrize("groups", [1, 2])
def test_threads_have_the_bits_of_one(groups):
    lengths = [BLOCK + 1, THREADED - 3 * BLOCK, 5, BLOCK]
    end = [0.25] * groups
    phases = [TrainingPhase(steps=steps, lr=Cosine(1.0, end)) for steps in lengths]
    phases[0] = TrainingPhase(steps=lengths[0], lr=0.1, values={"eps": Linear(1.0, 2.0)})
    plan = Plan(phases)
    found = plan.table("lr")
    assert len(found) >= 2 * 2**18
    same_bits(found, plan.table("lr", np.arange(plan.total_steps)))
    eps = plan.table("eps")
    assert np.isnan(eps[lengths[0] :]).all()
    assert not np.isnan(eps[: lengths[0]]).any()


def test_last_value_holds_past_the_end():
    plan = Plan([TrainingPhase(steps=3), TrainingPhase(steps=2, lr=Cosine(1.0, 0.125))])
    for step in (5, 6, 10**15):
        assert plan.values_at(step) == {"lr": 0.125}
        assert plan.phase_at(step) == 1
    np.testing.assert_array_equal(plan.table("lr", [10**15, 0]), [[0.125], [0.01]])


def test_values_that_a_phase_does_not_set_are_left_out():
    phases = [TrainingPhase(steps=2, momentum=0.5), TrainingPhase(steps=2, values={set_size: 28})]
    plan = Plan(phases)
    assert plan.values_at(1) == {"lr": 0.01, "momentum": 0.5}
    assert plan.values_at(2) == {"lr": 0.01, set_size: 28.0}
    np.testing.assert_array_equal(plan.table("set_size")[:, 0], [np.nan, np.nan, 28, 28])
    same_bits(plan.table(set_size), plan.table("set_size"))


def test_golden_values_of_fastai():
    """Batch j of a phase trains with f(j/n); the end is where the next phase starts."""
    plan = Plan(
        [
            TrainingPhase(1, lr=(1.0, 3.0), lr_decay=DecayType.LINEAR),
            TrainingPhase(1, lr=3.0, lr_decay=DecayType.COSINE),
            TrainingPhase(1, lr=(1.0, 16.0), lr_decay=DecayType.EXPONENTIAL),
            TrainingPhase(1, lr=4.0, lr_decay=(DecayType.POLYNOMIAL, 2)),
            TrainingPhase(1, lr=0.5),
        ],
        steps_per_epoch=4,
    )
    half = np.sqrt(0.5)
    expected = [
        *[1.0, 1.5, 2.0, 2.5],
        *[3.0, 1.5 * (1 + half), 1.5, 1.5 * (1 - half)],
        *[1.0, 2.0, 4.0, 8.0],
        *[4.0, 2.25, 1.0, 0.25],
        *[0.5, 0.5, 0.5, 0.5],
    ]
    np.testing.assert_allclose(plan.table("lr")[:, 0], expected, rtol=4e-16)


# ---- size


def test_a_billion_steps_cost_no_memory():
    tracemalloc.start()
    plan = in_steps(10**9, 10**9, lr=Cosine(1.0))
    found = plan.table("lr", np.linspace(0, 2 * 10**9, 1001, dtype=np.int64))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10**6
    assert found[0] == found[500] == 1.0
    assert found[1000] == 0.0
    assert plan.values_at(5 * 10**8)["lr"] == pytest.approx(0.5, rel=1e-15)
    assert plan.phase_at(10**9 - 1) == 0


def test_a_hundred_thousand_phases():
    count = 10**5
    plan = Plan([TrainingPhase(steps=1 + i % 3, lr=1.0 + i) for i in range(count)])
    assert plan.total_steps == sum(1 + i % 3 for i in range(count))
    firsts = [begin for begin, _ in plan.spans]
    np.testing.assert_array_equal(plan.table("lr", firsts)[:, 0], np.arange(count) + 1.0)
    assert len(repr(plan).splitlines()) < 40


# ---- groups


def test_number_of_groups():
    assert in_steps(1, 2).groups == 1
    assert in_steps(1, 2, lr=[0.1]).groups == 1
    assert in_steps(1, 2, lr=[0.1, 0.2], momentum=[0.5]).groups == 2
    assert in_steps(1, lr=0.1, values={"eps": Linear([1, 2, 3])}).groups == 3


def test_different_numbers_of_groups_are_named():
    phases = [
        TrainingPhase(steps=1, lr=[1, 2]),
        TrainingPhase(steps=1, momentum=[0.1, 0.2, 0.3], name="b"),
    ]
    expected = r"phase 1 \('b'\): `momentum` names 3 .* but phase 0: `lr` names 2"
    with pytest.raises(PhaseError, match=expected):
        Plan(phases)


def test_compile_for_the_optimizer_at_hand():
    assert in_steps(1).compile(7).num_groups == 7
    with pytest.raises(PhaseError, match="the plan names 2 parameter groups, the optimizer has 3"):
        in_steps(1, lr=[1, 2]).compile(3)
    for groups in (0, -1, True, 2.0, None):
        with pytest.raises((PhaseError, TypeError), match="`groups`"):
            in_steps(1).compile(groups)


# ---- optimizers


def test_changes_of_optimizer():
    opt_fns = [None, SGD, SGD, None, Adam, functools.partial(Adam), None, AdamW]
    plan = Plan([TrainingPhase(steps=1, opt_fn=opt_fn) for opt_fn in opt_fns])
    changes = [plan.changes_optimizer(index) for index in range(len(opt_fns))]
    assert changes == [False, True, False, False, True, False, False, True]
    assert plan.opt_fns[6].func is Adam


def test_fault_optimizer_keywords_are_ignored():
    """fastai 0.7 kept the old optimizer when only its keywords changed."""
    amsgrad = functools.partial(Adam, amsgrad=True)
    again = functools.partial(functools.partial(Adam, amsgrad=False), amsgrad=True)
    plan = Plan([TrainingPhase(steps=1, opt_fn=opt_fn) for opt_fn in (Adam, amsgrad, again)])
    assert [plan.changes_optimizer(index) for index in range(3)] == [False, True, False]


# ---- plans as values


def test_copies():
    opt_fn = functools.partial(Adam, amsgrad=True)
    plan = in_steps(10, 5, lr=Cosine(0.1), opt_fn=opt_fn, values={set_size: 3})
    again = pickle.loads(pickle.dumps(plan))
    assert again.digest == plan.digest
    same_bits(again.table("lr"), plan.table("lr"))
    assert copy.deepcopy(plan) is plan
    assert copy.copy(plan).digest == plan.digest
    sized = Plan([TrainingPhase(), TrainingPhase(samples=7)], [5, None], [None, 2])
    assert pickle.loads(pickle.dumps(sized)).spans == sized.spans


@pytest.mark.parametrize("phases", [None, 3, "ab", {}, TrainingPhase(), [None], [TrainingPhase]])
def test_phases_must_be_a_sequence_of_phases(phases):
    with pytest.raises(TypeError, match="TrainingPhase, got"):
        Plan(phases)


def test_wrong_look_ups():
    plan = in_steps(5, values={set_size: 1})
    with pytest.raises(PhaseError, match=r"phases` \(=\[\]\) must hold at least one"):
        Plan([])
    for look_up in (plan.values_at, plan.phase_at):
        with pytest.raises(PhaseError, match=r"`step` \(=-1\) must be >= 0"):
            look_up(-1)
        with pytest.raises(TypeError, match=r"`step` must be an int, got 1\.0"):
            look_up(1.0)
    for key in ("momentum", 3, None, [], np.array(["lr"]), print):
        with pytest.raises(PhaseError, match=r"must be one of \['lr', 'set_size'\]"):
            plan.table(key)
    for steps in (3, [1.5], [[1]], "abc", [True], [[1], [1, 2]], {1}):
        with pytest.raises(TypeError, match="`steps` must be a 1-d array of ints"):
            plan.table("lr", steps)
    for steps in ([-1], [2**53]):
        with pytest.raises(PhaseError, match=r"must be >= 0 and < 2\*\*53"):
            plan.table("lr", steps)
    assert plan.table("lr", []).shape == (0, 1)
    with pytest.raises(TypeError, match="`other` must be a Plan, got None"):
        plan.diff(None)
