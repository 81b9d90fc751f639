"""From epochs, steps and samples to steps, and where phases begin and end."""

from fractions import Fraction

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pyphase import PhaseError, Plan, TrainingPhase
from pyphase.lengths import batch_sizes, epoch_sizes, loader_length, phase_lengths

quick = settings(deadline=None, derandomize=True, max_examples=60)


class Loader:
    """A loader with a length and, where given, a batch size."""

    def __init__(self, length, batch_size=None):
        self.length = length
        if batch_size is not None:
            self.batch_size = batch_size

    def __iter__(self):
        return iter(range(self.length))

    def __len__(self):
        return self.length


class Endless(IterableDataset):
    def __iter__(self):
        return iter(int, 1)


class LengthRaises:
    def __init__(self, error):
        self.error = error

    def __iter__(self):
        return iter(())

    def __len__(self):
        raise self.error


def loader_of(samples, batch_size):
    return DataLoader(TensorDataset(torch.zeros(samples)), batch_size=batch_size)


def spans(*phases, **sizes):
    return Plan(phases, **sizes).spans


def test_each_unit_becomes_steps():
    phases = [
        TrainingPhase(epochs=1.5),
        TrainingPhase(steps=7),
        TrainingPhase(samples=100),
        TrainingPhase(),
    ]
    assert phase_lengths(phases, [10] * 4, [32] * 4) == [15.0, 7.0, 3.125, 10.0]


def test_steps_per_epoch_of_each_phase():
    phases = [TrainingPhase(epochs=1), TrainingPhase(epochs=2)]
    assert spans(*phases, steps_per_epoch=[10, 5]) == ((0, 10), (10, 20))
    assert spans(*phases, steps_per_epoch=(10, 20)) == ((0, 10), (10, 50))


def test_steps_per_epoch_of_each_data_set():
    def small():
        raise AssertionError("not called to plan")

    def large():
        raise AssertionError("not called to plan")

    phases = [TrainingPhase(data=small), TrainingPhase(data=large), TrainingPhase(data=small)]
    assert spans(*phases, steps_per_epoch=[10, 20]) == ((0, 10), (10, 30), (30, 40))


def test_a_given_length_comes_before_the_loaders():
    """An epoch has fewer steps than the loader has batches where gradients are accumulated."""
    phases = [TrainingPhase(data=loader_of(10, 4)), TrainingPhase(data=loader_of(10, 2))]
    assert spans(*phases) == ((0, 3), (3, 8))
    assert spans(*phases, steps_per_epoch=[2, None]) == ((0, 2), (2, 7))
    assert spans(*phases, TrainingPhase(), steps_per_epoch=2) == ((0, 2), (2, 4), (4, 6))


def test_samples_and_batch_sizes():
    assert spans(TrainingPhase(samples=100), batch_size=32) == ((0, 4),)
    phases = [TrainingPhase(samples=100), TrainingPhase(samples=100)]
    assert spans(*phases, batch_size=[50, 25]) == ((0, 2), (2, 6))
    # The boundary is rounded, not the length: 3.125 + 3.125 = 6.25.
    assert spans(*phases, batch_size=32) == ((0, 4), (4, 7))
    own = TrainingPhase(samples=10, data=loader_of(100, 2))
    assert spans(own) == ((0, 5),)
    assert spans(own, batch_size=[5]) == ((0, 2),)
    assert batch_sizes([own, TrainingPhase()], [None, 7]) == (2, 7)


def test_a_pair_of_loaders_counts_by_its_first():
    pair = TrainingPhase(data=(loader_of(10, 4), loader_of(100, 4)))
    assert epoch_sizes([pair], None) == (3,)
    assert batch_sizes([pair], None) == (4,)


def test_loader_without_a_length():
    endless = DataLoader(Endless(), batch_size=4)
    assert loader_length(endless) is None
    assert loader_length(lambda: endless) is None
    assert spans(TrainingPhase(steps=5, data=endless)) == ((0, 5),)
    assert spans(TrainingPhase(data=endless), steps_per_epoch=6) == ((0, 6),)
    with pytest.raises(PhaseError, match=r"phase 0: `epochs` \(=1\) needs `steps_per_epoch`"):
        Plan([TrainingPhase(data=endless)])


def test_length_that_cannot_be_known_or_fails():
    assert loader_length(LengthRaises(TypeError())) is None
    assert loader_length(LengthRaises(NotImplementedError())) is None
    with pytest.raises(PhaseError, match=r"`data` .* has no length: RuntimeError: broken"):
        loader_length(LengthRaises(RuntimeError("broken")))


def test_batch_size_of_a_loader_counts_if_it_is_an_int():
    for odd in ("32", [32], 0, True, object()):
        assert batch_sizes([TrainingPhase(data=Loader(3, odd))], 8) == (8,)


def test_empty_loader():
    with pytest.raises(PhaseError, match="must have at least one batch, it has none"):
        Plan([TrainingPhase(data=[])])


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({}, PhaseError, r"phase 0: `epochs` \(=1\) needs `steps_per_epoch`"),
        ({"steps_per_epoch": 0}, PhaseError, r"`steps_per_epoch` \(=0\) must be >= 1"),
        ({"steps_per_epoch": 1.5}, TypeError, "`steps_per_epoch` must be an int, got 1.5"),
        ({"steps_per_epoch": "10"}, TypeError, "`steps_per_epoch` must be an int"),
        ({"steps_per_epoch": [5, True]}, TypeError, r"`steps_per_epoch\[1\]` must be an int"),
        ({"steps_per_epoch": [5, None]}, PhaseError, r"phase 1 \('b'\): `samples`|`epochs`"),
        ({"steps_per_epoch": [1, 2, 3]}, PhaseError, r"an int, or one per phase \(2\)$"),
        ({"steps_per_epoch": 5, "batch_size": -1}, PhaseError, r"`batch_size` \(=-1\)"),
    ],
)
def test_wrong_sizes(arguments, error, match):
    with pytest.raises(error, match=match):
        Plan([TrainingPhase(), TrainingPhase(name="b")], **arguments)


def test_samples_need_a_batch_size():
    with pytest.raises(PhaseError, match=r"phase 0 \('a'\): `samples` \(=9\) needs a `batch_size`"):
        Plan([TrainingPhase(samples=9, name="a")])


def test_sizes_of_data_sets_are_counted():
    phases = [TrainingPhase(data=lambda: None), TrainingPhase(), TrainingPhase(data=lambda: None)]
    with pytest.raises(PhaseError, match=r"one per phase \(3\), or one per data set \(2\)"):
        Plan(phases, steps_per_epoch=[1, 2, 3, 4])


@pytest.mark.parametrize(
    ("epochs", "steps_per_epoch", "sizes"),
    [
        ([1 / 3] * 3, 100, [34, 33, 33]),
        ([0.1] * 3, 10, [1, 1, 1]),
        ([0.5, 0.5], 3, [2, 1]),
        ([0.05, 0.95, 2], 100, [5, 95, 200]),
        ([0.1] * 30, 10, [1] * 30),
        ([1.1] * 10, 10, [11] * 10),
        ([1e-3], 1, [1]),
        ([1.00000005], 10, [10]),
        ([1.0000002], 10, [11]),
    ],
)
def test_boundaries_are_the_cumulative_length_rounded_up(epochs, steps_per_epoch, sizes):
    plan = Plan([TrainingPhase(epochs=e) for e in epochs], steps_per_epoch=steps_per_epoch)
    assert [end - begin for begin, end in plan.spans] == sizes
    assert plan.total_steps == sum(sizes)


@quick
@given(
    st.lists(st.fractions(Fraction(1, 20), 50, max_denominator=60), min_size=1, max_size=60),
    st.integers(21, 5000),
)
def test_boundaries_agree_with_exact_fractions(epochs, steps_per_epoch):
    phases = [TrainingPhase(epochs=float(length)) for length in epochs]
    ends = [end for _, end in Plan(phases, steps_per_epoch=steps_per_epoch).spans]
    assert ends == reference.boundaries(length * steps_per_epoch for length in epochs)


@quick
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=60))
def test_whole_lengths_are_never_rounded(lengths):
    plan = Plan([TrainingPhase(steps=steps) for steps in lengths])
    assert [end - begin for begin, end in plan.spans] == lengths
    for index, (begin, end) in enumerate(plan.spans):
        assert plan.phase_at(begin) == plan.phase_at(end - 1) == index


def test_phase_without_a_step_is_named():
    phases = [
        TrainingPhase(epochs=0.15, name="a"),
        TrainingPhase(epochs=0.01, name="too short"),
        TrainingPhase(epochs=1),
    ]
    with pytest.raises(PhaseError, match=r"phase 1 \('too short'\): its length of 0.1 steps"):
        Plan(phases, steps_per_epoch=10)


@pytest.mark.parametrize(
    "phases",
    [
        [TrainingPhase(epochs=1e300)],
        [TrainingPhase(epochs=1e308)],
        [TrainingPhase(steps=2**52), TrainingPhase(steps=2**52)],
        [TrainingPhase(steps=2**52)] * 4096,
    ],
)
def test_plans_too_long_to_count_are_refused(phases):
    with pytest.raises(PhaseError, match=r"it must have fewer than 2\*\*53"):
        Plan(phases, steps_per_epoch=10**10)
