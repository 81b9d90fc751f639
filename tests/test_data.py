"""The stream of batches: epochs, changes of data, positions that are saved."""

import functools
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, RandomSampler
from toys import Batches, Endless, Epochs, advance, make_loop

from pyphase import PhaseError, TrainingPhase, overlay
from pyphase.apply.data import Feed, generators

quick = settings(deadline=None, derandomize=True, max_examples=40)


def epochs(*lengths):
    return [TrainingPhase(epochs=length) for length in lengths]


def counts(batches):
    """Return how many batches in a row came from each data set."""
    return [
        (name, len(list(run))) for name, run in itertools.groupby(list(batches), lambda b: b[0])
    ]


def test_fractional_epochs_with_a_data_switch_are_not_truncated():
    batches = advance(make_loop(epochs(0.5, 1.5), [Batches("a", 100), Batches("b", 100)]))
    assert counts(batches) == [("a", 50), ("b", 150)]
    assert [index for _, index in batches] == [*range(50), *range(100), *range(50)]


def test_three_parts_of_an_epoch_on_three_data_sets_are_all_trained():
    data = [Batches(name, 100) for name in "abc"]
    assert counts(advance(make_loop(epochs(0.25, 0.25, 0.5), data))) == [
        ("a", 25), ("b", 25), ("c", 50)]  # fmt: skip


@quick
@given(
    st.lists(
        st.tuples(st.integers(1, 20), st.fractions(1, 4, max_denominator=16), st.booleans()),
        min_size=1,
        max_size=5,
    )
)
def test_no_batch_is_lost_or_repeated(rows):
    """The batches of each run of phases with the same data count on without a gap."""
    data = []
    for index, (size, _, fresh) in enumerate(rows):
        data.append(Batches(index, size) if fresh or not data else data[-1])
    loop = make_loop(epochs(*(float(length) for _, length, _ in rows)), data)
    batches = advance(loop)
    assert len(batches) == loop.plan.total_steps
    for (begin, end), loader in zip(loop.plan.spans, data, strict=True):
        assert {name for name, _ in batches[begin:end]} == {loader.name}
    for _, run in itertools.groupby(list(batches), lambda batch: batch[0]):
        indices = [index for _, index in run]
        size = next(loader for loader in data if loader.name == batches[0][0]).count
        del batches[: len(indices)]
        assert indices == [step % size for step in range(len(indices))]


def test_the_same_data_goes_on_across_phases():
    data = Batches("a", 10)
    for given_data in (data, [data] * 3, [(data, None), (data, 1), (data, None)]):
        data.started = 0
        batches = advance(make_loop(epochs(0.25, 0.5, 1.0), given_data))
        assert [index for _, index in batches] == [*range(10), *range(8)]
        assert data.started == 2


def test_data_that_comes_back_starts_a_new_epoch():
    a, b = Batches("a", 4), Batches("b", 4)
    batches = advance(make_loop(epochs(0.5, 0.5, 1.0), [a, b, a]))
    assert batches == [("a", 0), ("a", 1), ("b", 0), ("b", 1), *[("a", k) for k in range(4)]]


def test_an_iterable_without_a_length():
    with pytest.raises(PhaseError, match=r"phase 0: `epochs` \(=1\) needs `steps_per_epoch`"):
        make_loop(epochs(1), Endless("a", 4))
    loop = make_loop([TrainingPhase(steps=10)], Endless("a", 4))
    assert [index for _, index in advance(loop)] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert loop.feed.epoch == 2
    assert not loop.feed.at_epoch_end  # nobody knows
    assert len(advance(make_loop(epochs(2), Endless("a", 4), steps_per_epoch=3))) == 6


def test_a_generator_that_ends_says_so():
    loop = make_loop([TrainingPhase(steps=5)], (number for number in range(3)))
    with pytest.raises(PhaseError, match=r"gave no batch in epoch 1; a generator can be read only"):
        advance(loop)
    assert loop.position == 3


def test_an_empty_loader_says_so():
    with pytest.raises(PhaseError, match="must have at least one batch"):
        make_loop(epochs(1), Batches("a", 0))
    loop = make_loop([TrainingPhase(steps=1)], Endless("a", 0))
    for _ in range(2):
        with pytest.raises(PhaseError, match="gave no batch in epoch 0"):
            next(iter(loop))


def test_the_sampler_is_told_growing_epochs():
    samplers = [Epochs(4), Epochs(6)]
    loaders = [DataLoader(range(6), batch_size=2, sampler=sampler) for sampler in samplers]
    loop = make_loop(epochs(2, 1.5, 1), [loaders[0], loaders[1], loaders[0]])
    advance(loop)
    assert [sampler.epochs for sampler in samplers] == [[0, 1, 4], [2, 3]]


def test_a_sampler_within_a_batch_sampler_is_told_too():
    sampler = Epochs(4)
    loader = DataLoader(range(4), batch_sampler=BatchSampler(sampler, 2, drop_last=False))
    advance(make_loop(epochs(2), loader))
    assert sampler.epochs == [0, 1]


def test_a_loader_may_have_code_after_its_last_batch():
    class Counting:
        epochs = 0

        def __len__(self):
            return 3

        def __iter__(self):
            yield from range(3)
            self.epochs += 1

    loader = Counting()
    advance(make_loop(epochs(2.5), loader))
    assert loader.epochs == 2


def images(size, batch_size=2):
    return DataLoader(torch.ones(4, 1, size, size), batch_size=batch_size)


def test_growing_images_by_list_by_phase_and_by_overlay_are_the_same():
    rates = [TrainingPhase(epochs=0.5, lr=0.1), TrainingPhase(epochs=2.5, lr=0.2)]
    sizes = [(8, 2), (16, 2), (24, 1)]
    loaders = [images(*size) for size in sizes]
    by_list = make_loop([TrainingPhase(lr=0.1) for _ in sizes], loaders)
    own = [TrainingPhase(data=loader) for loader in loaders]
    made = [TrainingPhase(data=functools.partial(images, *size)) for size in sizes]
    loops = [by_list, make_loop(own), make_loop(made), make_loop(overlay(rates, own))]
    shapes = [[tuple(batch.shape) for batch in advance(loop)] for loop in loops]
    assert shapes[0] == [(2, 1, 8, 8)] * 2 + [(2, 1, 16, 16)] * 2 + [(1, 1, 24, 24)] * 4
    assert shapes[1:] == shapes[:1] * 3


def test_where_an_epoch_ends():
    loop = make_loop(epochs(1.5, 1.0), [Batches("a", 4), Batches("b", 2)])
    ends = []
    assert not loop.feed_ends
    for _ in range(loop.plan.total_steps):
        advance(loop, 1)
        ends.append((loop.feed_ends, loop.feed.epoch))
    assert ends == [(False, 0)] * 3 + [(True, 0), (False, 1), (True, 1), (False, 2), (True, 2)]


def test_generators_are_found_wherever_they_are():
    ours, theirs = torch.Generator(), torch.Generator()
    plain = DataLoader(range(4), shuffle=True, generator=ours)
    assert generators(plain) == [ours]
    inner = BatchSampler(RandomSampler(range(4), generator=theirs), 2, drop_last=False)
    assert generators(DataLoader(range(4), batch_sampler=inner, generator=ours)) == [ours, theirs]
    assert generators(None) == generators(range(3)) == []


@pytest.mark.parametrize("own", [False, True])
def test_a_position_is_found_again(own):
    def make():
        generator = torch.Generator().manual_seed(5) if own else None
        return DataLoader(range(7), batch_size=2, shuffle=True, generator=generator)

    torch.manual_seed(1)
    feed, batches, states = Feed(make()), [], []
    for _ in range(10):
        batches.append(feed.next().tolist())
        states.append((feed.state_dict(), torch.get_rng_state()))
    for step, (state, rng) in enumerate(states):
        again = Feed(make())
        again.load_state_dict(state)
        torch.set_rng_state(rng)
        expected = batches[step + 1 :]
        assert [again.next().tolist() for _ in expected] == expected
        assert (again.epoch, again.batch) == (feed.epoch, feed.batch)


def test_other_data_than_the_saved_is_refused():
    feed = Feed(Batches("a", 5))
    for _ in range(4):
        feed.next()
    shorter = Feed(Batches("b", 3))
    with pytest.raises(PhaseError, match=r"ended after 3 batches, .* saved position is after 4"):
        shorter.load_state_dict(feed.state_dict())
