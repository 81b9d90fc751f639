"""What `data` may be, and which loader each phase gets."""

import types

import pytest
import torch
from torch.utils.data import DataLoader
from toys import Batches, Endless, advance, make_loop

from pyphase import PhaseError, Plan, TrainingPhase
from pyphase.apply.sources import Sources

ONE = [TrainingPhase(epochs=1)]


class Maker:
    """A function that makes data and counts its calls."""

    def __init__(self, made):
        self.made, self.calls = made, 0

    def __call__(self):
        self.calls += 1
        return self.made


def names(batches):
    return "".join(name for name, _ in batches)


@pytest.mark.parametrize("form", ["loader", "pair", "trn_dl", "function", "function of a pair"])
def test_all_forms_of_data(form):
    train, valid = Batches("a", 3), Batches("v", 1)
    data = {
        "loader": train,
        "pair": (train, valid),
        "trn_dl": types.SimpleNamespace(trn_dl=train, val_dl=valid),
        "function": lambda: train,
        "function of a pair": lambda: (train, valid),
    }[form]
    loop = make_loop(ONE, data)
    assert loop.valid_data is None
    assert names(advance(loop)) == "aaa"
    assert loop.plan.steps_per_epoch == (3,)
    assert loop.valid_data is (None if form in ("loader", "function") else valid)
    assert names(advance(make_loop([TrainingPhase(data=data)]))) == "aaa"


def test_a_phases_own_data_comes_first():
    a, b = Batches("a", 2), Batches("b", 3)
    phases = [TrainingPhase(), TrainingPhase(data=b), TrainingPhase()]
    assert names(advance(make_loop(phases, a))) == "aabbbaa"
    assert names(advance(make_loop(phases, [b, a, None]))) == "bbbbbb" + "bbb"


def test_a_list_of_data_has_one_per_phase():
    data = [Batches("a", 2), Batches("b", 2)]
    for count in (1, 3):
        with pytest.raises(PhaseError, match=f"one per phase: got 2 for {count} phases"):
            make_loop(ONE * count, data)
    with pytest.raises(TypeError, match="`phases` must be a sequence of TrainingPhase"):
        make_loop(ONE[0], data)
    with pytest.raises(TypeError, match="`data` must be a loader"):
        make_loop(ONE, [3])


def test_data_must_come_from_somewhere():
    with pytest.raises(PhaseError, match="phase 0: neither the phase nor the loop has `data`"):
        Sources([TrainingPhase(), TrainingPhase(data=Batches("a", 1))], None, None, None)
    sources = Sources([TrainingPhase(data=Batches("a", 1)), TrainingPhase()], None, None, None)
    assert sources.same(0, 1)
    assert not sources.same(-1, 0)


def test_a_function_is_called_once_when_its_phase_starts():
    late, early = Maker(Batches("b", 4)), Maker(Batches("c", 2))
    phases = [
        TrainingPhase(steps=2),
        TrainingPhase(steps=3, data=late),
        TrainingPhase(epochs=1, data=early),
        TrainingPhase(steps=2, data=late),
    ]
    loop = make_loop(phases)
    assert (late.calls, early.calls) == (0, 1)  # a length in epochs needs the loader
    advance(loop, 2)
    assert late.calls == 0
    assert names(advance(loop)) == "bbb" + "cc" + "bb"
    assert (late.calls, early.calls) == (1, 1)


def test_a_function_isnt_called_early_where_its_length_is_given():
    maker = Maker(Batches("a", 4))
    loop = make_loop(ONE, maker, steps_per_epoch=4)
    assert maker.calls == 0
    assert names(advance(loop)) == "aaaa"
    loop = make_loop(ONE, Maker(Batches("a", 4)), steps_per_epoch=5)
    with pytest.raises(PhaseError, match="made a loader of 4 batches, but the plan has"):
        advance(loop)


@pytest.mark.parametrize("made", [None, len, 3, "abc"])
def test_a_function_must_make_a_loader(made):
    with pytest.raises(TypeError, match="`data`"):
        make_loop(ONE, Maker(made))


def test_a_length_that_fails_is_an_error_with_its_reason():
    class Broken(Batches):
        def __len__(self):
            raise OSError("disk gone")

    with pytest.raises(PhaseError, match="has no length: OSError: disk gone"):
        make_loop(ONE, Broken("a", 1))


def test_samples_need_a_batch_size():
    phases = [TrainingPhase(samples=10)]
    assert make_loop(phases, Batches("a", 9, batch_size=4)).plan.total_steps == 3
    assert make_loop(phases, DataLoader(torch.ones(9), batch_size=5)).plan.total_steps == 2
    assert make_loop(phases, Maker(Batches("a", 9, batch_size=2))).plan.total_steps == 5
    assert make_loop(phases, Endless("a", 9), batch_size=3).plan.total_steps == 4
    with pytest.raises(PhaseError, match="needs a `batch_size`"):
        make_loop(phases, Batches("a", 9))


def test_a_plan_keeps_its_lengths():
    plan = Plan(ONE * 2, steps_per_epoch=[2, 3])
    loop = make_loop(plan, [Batches("a", 2), Batches("b", 3)])
    assert loop.plan is plan
    assert names(advance(loop)) == "aabbb"


def test_data_lengths_of_phases_are_their_own():
    loop = make_loop([TrainingPhase(), TrainingPhase(epochs=2)], [Batches("a", 2), Batches("b", 3)])
    assert loop.plan.spans == ((0, 2), (2, 8))


def test_generators_of_all_loaders_are_saved():
    def make():
        return [
            DataLoader(range(4), shuffle=True, generator=torch.Generator().manual_seed(seed))
            for seed in (1, 2)
        ]

    phases = [TrainingPhase(steps=1), TrainingPhase(steps=1), TrainingPhase(steps=1)]
    first, second, third = make(), make(), make()
    sources = Sources(phases, [first[0], lambda: first[1], first[0]], None, None)
    assert sorted(sources.state_dict()) == [0]  # the other isn't made yet
    sources.train(1)
    [*first[0], *first[1]]
    state = sources.state_dict()
    assert sorted(state) == [0, 1]
    again = Sources(phases, [second[0], lambda: second[1], second[0]], None, None)
    again.load_state_dict(state)
    for fresh, one, two in zip(third, first, second, strict=True):
        assert [*one] == [*two]
        assert not torch.equal(fresh.generator.get_state(), one.generator.get_state())


def test_given_steps_per_epoch_count_with_one_loader_and_with_a_list():
    """Somebody who accumulates by hand takes fewer steps than the loader has batches."""
    for data in (Batches("a", 6), [Batches("a", 6), Batches("b", 9)]):
        loop = make_loop(ONE * 2, data, steps_per_epoch=3)
        assert loop.plan.spans == ((0, 3), (3, 6))


def test_an_object_may_make_its_loader_anew_each_time():
    class Data:
        @property
        def trn_dl(self):
            return Batches("new", 3)

    sources = Sources([TrainingPhase(1), TrainingPhase(1)], [Data(), Data()], None, None)
    assert sources.last_use(0)
    assert sources.last_use(1)
