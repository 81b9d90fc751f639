"""Tracks with their own boundaries, merged into one list of phases."""

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD, Adam, AdamW
from toys import Batches, advance, make_loop

from pyphase import DecayType, PhaseError, Plan, TrainingPhase, overlay
from pyphase.curves import Constant, Cosine, Exponential, Linear, Part, Rex, Table

quick = settings(deadline=None, derandomize=True, max_examples=60)


def steps(count, **arguments):
    return TrainingPhase(steps=count, **arguments)


def set_size(value):
    pass


def cuts(total):
    """Draw the lengths of phases that add up to ``total`` steps."""
    inner = st.sets(st.integers(1, total - 1), max_size=4)
    return inner.map(lambda s: [b - a for a, b in itertools.pairwise([0, *sorted(s), total])])


CURVES = [Linear(0.1, 1.0), Cosine(1.0, 0.1), Exponential(1e-3, 1.0), Rex(1.0, 0.2),
          Table([0.1, 0.9, 0.3]), 0.25, Linear([0.1, 0.2], [0.3, 0.4]),
          Part(Cosine(1.0, 0.0), 0.25, 0.75)]  # fmt: skip


@quick
@given(st.data())
def test_values_are_those_of_the_separate_plans(data):
    rates = [steps(n, lr=data.draw(st.sampled_from(CURVES))) for n in data.draw(cuts(24))]
    sizes = data.draw(cuts(24))
    moments = [steps(n, momentum=data.draw(st.sampled_from([*CURVES[5:6], 0.9]))) for n in sizes]
    functions = [
        steps(n, values={set_size: data.draw(st.sampled_from(CURVES[:5]))})
        for n in data.draw(cuts(24))
    ]
    merged = Plan(overlay(rates, moments, functions))
    for key, track in (("lr", rates), ("momentum", moments), (set_size, functions)):
        alone = Plan(track).compile(merged.groups), merged.compile(merged.groups)
        index = [list(plan.keys).index(key) for plan in (Plan(track), merged)]
        tables = [np.asarray(core.table(i, 0, 24)) for core, i in zip(alone, index, strict=True)]
        np.testing.assert_allclose(tables[1], tables[0], rtol=1e-12)


@quick
@given(cuts(20), cuts(20), st.integers(1, 7))
def test_epochs_that_fall_on_whole_steps(one, two, per_epoch):
    """Lengths k/per_epoch as floats: sums that differ in the last bits are one border."""
    tracks = [[TrainingPhase(n / per_epoch, lr=Linear(0.0, 1.0)) for n in one],
              [TrainingPhase(n / per_epoch, momentum=0.5) for n in two]]  # fmt: skip
    merged = Plan(overlay(*tracks), steps_per_epoch=per_epoch)
    borders = {*itertools.accumulate(one), *itertools.accumulate(two)}
    assert [end for _, end in merged.spans] == sorted(borders)
    alone = Plan(tracks[0], steps_per_epoch=per_epoch)
    np.testing.assert_allclose(merged.table("lr"), alone.table("lr"), atol=1e-12)


def test_borders_that_are_odd():
    """A third and a tenth of an epoch over 7 steps: the plan rounds each border up, once."""
    merged = overlay([TrainingPhase(1 / 3)] * 3, [TrainingPhase(0.1, momentum=0.5)] * 10)
    assert len(merged) == 12
    assert [p.epochs for p in overlay([TrainingPhase(0.1)] * 3, [TrainingPhase(0.3)])] == (
        pytest.approx([0.1] * 3)
    )
    with pytest.raises(PhaseError, match="no step of its own"):
        Plan(merged, steps_per_epoch=7)
    plan = Plan(overlay([TrainingPhase(0.35), TrainingPhase(0.65)]), steps_per_epoch=7)
    assert plan.spans == ((0, 3), (3, 7))


@pytest.mark.parametrize("unit", ["steps", "samples"])
def test_long_runs_are_cut_to_the_step(unit):
    total = 10**10
    lengths = (({}, 3, total - 3), ({"momentum": 0.5}, 4, total - 4))
    tracks = [[TrainingPhase(**{unit: n}, **a) for n in (one, two)] for a, one, two in lengths]
    assert [getattr(phase, unit) for phase in overlay(*tracks)] == [3, 1, total - 4]
    with pytest.raises(PhaseError, match="all tracks must end together"):
        overlay(tracks[0], [TrainingPhase(**{unit: total - 1}, momentum=0.5)])


def test_a_decay_of_the_default_rate_is_not_lost():
    rates = [steps(4, lr_decay=DecayType.COSINE)]
    merged = overlay(rates, [steps(2, data=[1]), steps(2, data=[2])])
    np.testing.assert_allclose(Plan(merged).table("lr"), Plan(rates).table("lr"), rtol=1e-12)
    with pytest.raises(PhaseError, match="`lr` is set by two tracks"):
        overlay(rates, [steps(4, lr=0.1)])


def test_a_default_that_somebody_wrote_is_set():
    with pytest.raises(
        PhaseError, match=r"`lr` is set by two tracks over the same span \(1 to 3\)"
    ):
        overlay([steps(1), steps(3, lr=0.01)], [steps(3, lr=0.1), steps(1)])
    assert [p.lr for p in overlay([steps(2, lr=0.01), steps(2)], [steps(2), steps(2, lr=0.1)])] == [
        Constant(0.01), Constant(0.1)]  # fmt: skip


CONFLICTS = [
    ("opt_fn", {"opt_fn": SGD}, {"opt_fn": Adam}),
    ("momentum", {"momentum": 0.9}, {"momentum": 0.8}),
    ("beta", {"beta": 0.9}, {"beta": 0.9}),
    ("wds", {"wds": 0.1}, {"wds": 0.1, "wd_loss": False}),
    ("data", {"data": [1]}, {"data": [2]}),
    ("on_enter", {"on_enter": print}, {"on_enter": set_size}),
    ("eps", {"values": {"eps": 0.1}}, {"values": {"eps": 0.2}}),
    ("weight_decay", {"wds": 0.1}, {"values": {"weight_decay": 0.2}}),
]


@pytest.mark.parametrize(("field", "one", "two"), CONFLICTS)
def test_a_field_set_twice_is_an_error(field, one, two):
    with pytest.raises(PhaseError, match=field):
        overlay([steps(2), steps(2, **one)], [steps(2), steps(2, **two)])
    assert len(overlay([steps(2, **one), steps(2)], [steps(2), steps(2, **two)])) == 2


def test_wd_loss_may_come_from_another_track():
    (merged,) = overlay([steps(2, wds=0.1)], [steps(2, wd_loss=False)])
    assert (merged.wds, merged.wd_loss) == (0.1, False)


def test_what_happens_at_the_start_happens_there_only():
    optimizers = [steps(4, opt_fn=Adam), steps(6, opt_fn=AdamW, opt_state="map", on_enter=set_size)]
    merged = overlay(optimizers, [steps(2, momentum=0.5), steps(5, momentum=0.6), steps(3)])
    assert [p.steps for p in merged] == [2, 2, 3, 3]
    assert [p.opt_fn for p in merged] == [Adam, Adam, AdamW, AdamW]
    assert [p.opt_state for p in merged] == ["fresh", "fresh", "map", "fresh"]
    assert [p.on_enter for p in merged] == [None, None, set_size, None]
    loose = "".join(["fr", "esh"])  # equal, but another object than the default
    overlay([steps(1, opt_state=loose)], [steps(1, opt_state=loose)])


def test_names_are_joined():
    merged = overlay([steps(2, name="warm"), steps(2)], [steps(1, name="small"), steps(3)])
    assert [p.name for p in merged] == ["warm + small", "warm", None]


def test_a_curve_is_cut_and_a_constant_is_not():
    merged = overlay([steps(4, lr=Linear(0.0, 1.0), momentum=0.9)], [steps(1), steps(1), steps(2)])
    assert [p.lr for p in merged] == [Part(Linear(0.0, 1.0), *w) for w in
                                      ((0.0, 0.25), (0.25, 0.5), (0.5, 1.0))]  # fmt: skip
    assert [p.momentum for p in merged] == [Constant(0.9)] * 3
    (whole,) = overlay([steps(4, lr=Linear(0.0, 1.0))])
    assert whole.lr == Linear(0.0, 1.0)
    again = overlay(merged, [steps(3, beta=0.5), steps(1, beta=0.6)])
    assert again[-1].lr == Part(Linear(0.0, 1.0), 0.75, 1.0)


def test_cut_phases_share_optimizer_and_data():
    data = Batches("a", 10)
    entered = []
    make = functools.partial(Adam, eps=1e-6)
    phases = overlay([steps(6, opt_fn=make, on_enter=lambda run: entered.append(run.position))],
                     [steps(4, data=data), steps(2, data=data)], [steps(3), steps(3)])  # fmt: skip
    loop = make_loop(phases)
    first = loop.optimizer
    assert advance(loop) == [("a", index) for index in range(6)]
    assert loop.optimizer is first
    assert entered == [0]


@pytest.mark.parametrize(
    ("tracks", "error", "words"),
    [
        ([], PhaseError, "at least one list"),
        ([[]], TypeError, r"tracks\[0\] must be a list of phases"),
        ([[steps(1)], steps(1)], TypeError, r"tracks\[1\] must be a list of phases"),
        ([[steps(1), 3]], TypeError, r"tracks\[0\] must hold TrainingPhase, got 3"),
        ([[steps(1)], [TrainingPhase(1)]], PhaseError, r"one unit .* \['epochs', 'steps'\]"),
        ([[steps(1), TrainingPhase(samples=1)]], PhaseError, "one unit of length"),
        (
            [[steps(3)], [steps(1), steps(1)]],
            PhaseError,
            r"tracks\[1\] is 2 steps long, tracks\[0\]",
        ),
        ([[TrainingPhase(1)], [TrainingPhase(1.001)]], PhaseError, "must end together"),
    ],
)
def test_wrong_tracks(tracks, error, words):
    with pytest.raises(error, match=words):
        overlay(*tracks)
