"""Learner: a whole fit, its validation, its interruption, its resuming."""

import copy
import signal

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from toys import same
from training import Events, loader, net, plain, seed_all

from pyphase import (
    Callback,
    Checkpoint,
    DecayType,
    Learner,
    PhaseError,
    TrainingPhase,
    phases_1cycle,
)


def mae(output, target):
    return (output - target).abs().mean()


def make(valid=True, **arguments):
    seed_all(1)
    data = (loader(12), loader(6, offset=3) if valid else None)
    return Learner(net(), data, nn.functional.mse_loss, [mae], progress=False, **arguments)


def phases():
    return [
        TrainingPhase(1.5, torch.optim.SGD, (0.01, 0.05), DecayType.LINEAR),
        TrainingPhase(1, torch.optim.Adam, 1e-3, DecayType.COSINE, opt_state="map"),
    ]


class InterruptAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, learn):
        if learn.loop.position == self.step:
            signal.raise_signal(signal.SIGINT)


def test_history_and_events():
    learn, events = make(), Events()
    history = learn.fit_opt_sched(phases(), callbacks=[events])
    assert [row["step"] for row in history.rows] == [6, 12, 15]
    assert list(history.rows[0]) == ["epoch", "step", "phase", "train_loss", "valid_loss", "mae"]
    assert len(history.losses) == 15
    first = sum(history.losses[:6]) / 6
    assert history.rows[0]["train_loss"] == pytest.approx(first)
    assert events.seen == [
        *("begin", "phase 0", 1, 2, 3, 4, 5, 6, "epoch", 7, 8, 9),
        *("phase 1", 10, 11, 12, "epoch", 13, 14, 15, "epoch", "end"),
    ]
    assert learn.sched.history is history
    for figure in (learn.sched.plot_lr(), learn.sched.plot(), learn.sched.plot_loss()):
        assert isinstance(figure, Figure)


def test_data_list_validates_the_data_that_ends():
    seen = []

    class Valid(list):
        def __iter__(self):
            seen.append(self.name)
            return super().__iter__()

    def valid(name):
        batches = Valid(list(loader(4)))
        batches.name = name
        return batches

    learn = make()
    data = [(loader(8), valid("a")), (loader(12), valid("b"))]
    history = learn.fit_opt_sched([TrainingPhase(0.5), TrainingPhase(1.5)], data)
    assert [row["step"] for row in history.rows] == [2, 8, 11]
    assert seen == ["a", "b", "b"]
    with pytest.raises(PhaseError, match="one per phase: got 1 for 2 phases"):
        learn.fit_opt_sched(phases(), data[:1])


@pytest.mark.parametrize("cut", [1, 1.5, [1, 0.25], 2.0])
def test_cut_then_resume_equals_the_whole_run(cut):
    whole = make()
    whole.fit_opt_sched(phases())
    learn = make()
    history = learn.fit_opt_sched(phases(), cut=cut)
    assert len(history.losses) == {1: 6, 1.5: 9, 2.0: 12}.get(cut if cut != [1, 0.25] else 0, 8)
    state, again = learn.state_dict(), make()
    seed_all(5)
    again.fit_opt_sched(phases(), resume=state)
    same(again.model.state_dict(), whole.model.state_dict())
    assert again.sched.history.losses == whole.sched.history.losses


@pytest.mark.parametrize("step", [1, 6, 7, 9, 12, 14])
def test_interrupted_and_resumed_from_the_file_bit_for_bit(tmp_path, step):
    whole = make()
    whole.fit_opt_sched(phases())
    file = tmp_path / "checkpoint.pt"
    handler, learn = signal.getsignal(signal.SIGINT), make()
    with pytest.raises(KeyboardInterrupt):
        learn.fit_opt_sched(phases(), callbacks=[InterruptAt(step), Checkpoint(file)])
    assert learn.loop.position == step
    assert signal.getsignal(signal.SIGINT) is handler
    again = make()
    again.fit_opt_sched(phases(), resume=file)
    same(again.model.state_dict(), whole.model.state_dict())
    rows, expected = again.sched.history.rows, whole.sched.history.rows
    same(rows, expected)


def test_fault_early_stop_without_train_end(tmp_path):
    def loss_fn(output, target):
        return nn.functional.mse_loss(output, target) * (
            float("nan") if learn.loop.position == 4 else 1
        )

    learn, events = make(), Events()
    learn.loss_fn = loss_fn
    history = learn.fit_opt_sched(phases(), stop_div=True, callbacks=[events])
    assert len(history.losses) == 4
    assert events.seen[-1] == "end"
    assert "the loss is nan" in learn.loop.stopped
    assert all(torch.isfinite(p).all() for p in learn.model.parameters())


def test_discriminative_rates():
    learn = make(groups=lambda model: [model[0], model[1:]])
    learn.fit_opt_sched(phases_1cycle(2, [0.01, 0.1], 10, 20, 0.95, 0.85))
    assert learn.sched.plan.groups == 2


def test_save_and_load(tmp_path):
    learn, other = make(), make()
    learn.fit_opt_sched(phases(), cut=1)
    learn.save(tmp_path / "model.pt")
    other.load(tmp_path / "model.pt")
    same(learn.model.state_dict(), other.model.state_dict())


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"model": 3}, "`model` must be"),
        ({"data": 3}, "`data` must be"),
        ({"loss_fn": None}, "`loss_fn` must be"),
        ({"metrics": 3}, "`metrics` must be"),
        ({"metrics": ["mae"]}, "`metrics` must be"),
    ],
)
def test_wrong_types(arguments, match):
    with pytest.raises(TypeError, match=match):
        Learner(**{"model": net(), "data": loader(), "loss_fn": mae} | arguments)


def test_before_any_fit():
    with pytest.raises(PhaseError, match="no fit yet"):
        _ = make().loop
    with pytest.raises(PhaseError, match="no run yet"):
        _ = make().sched
    for cut in (0, -1, [], float("nan")):
        with pytest.raises(PhaseError, match="cut"):
            make().fit_opt_sched(phases(), cut=cut)


def test_fault_fractional_epochs_with_a_change_of_data():
    """Half an epoch of one data set, one and a half of another: nothing is cut short."""
    first, second = plain(20), plain(20, start=3.0)
    learn = Learner(nn.Linear(1, 1), None, nn.functional.mse_loss, progress=False)
    run = [TrainingPhase(0.5, lr=1e-4), TrainingPhase(1.5, lr=1e-4)]
    history = learn.fit_opt_sched(run, [first, second])
    assert len(history.losses) == 5 + 15
    assert [(row["step"], row["phase"]) for row in history.rows] == [(5, 0), (15, 1), (20, 1)]


def test_cut_leaves_the_schedule_as_it_was():
    whole, learn = make(), make()
    whole.fit_opt_sched(phases())
    learn.fit_opt_sched(phases(), cut=1)
    assert learn.sched.plan.digest == whole.sched.plan.digest
    lr = learn.loop.optimizer.param_groups[0]["lr"]
    assert lr == learn.sched.plan.values_at(6)["lr"] == pytest.approx(0.01 + 0.04 * 6 / 9)


@pytest.mark.parametrize("step", [0, 3])
def test_stops_at_a_loss_that_is_not_finite_before_the_step(step):
    def loss_fn(output, target):
        good = nn.functional.mse_loss(output, target)
        return good * (float("inf") if learn.loop.position == step else 1)

    learn = make()
    learn.loss_fn, before = loss_fn, copy.deepcopy(dict(learn.model.named_parameters()))
    history = learn.fit_opt_sched(phases(), stop_div=True)
    assert history.steps == list(range(step))
    assert history.rows == []
    assert learn.loop.stopped == f"stopped before step {step}: the loss is inf"
    if step == 0:
        same(dict(learn.model.named_parameters()), before)


def test_a_batch_of_several_inputs():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, a, b):
            return self.scale * (a + b)

    x = torch.arange(8.0).reshape(4, 2)
    data = [(x, x + 1, 4 * x), (x, x, 4 * x)]
    learn = Learner(Sum(), (data, data), nn.functional.mse_loss, progress=False)
    history = learn.fit_opt_sched([TrainingPhase(4, lr=1e-4)])
    assert history.rows[-1]["valid_loss"] < history.rows[0]["valid_loss"]
    with pytest.raises(TypeError, match=r"a batch must be \(\*inputs, target\)"):
        Learner(Sum(), [x], mae, progress=False).fit_opt_sched([TrainingPhase(1)])


def test_metrics_need_names_of_their_own():
    with pytest.raises(PhaseError, match="names of their own"):
        Learner(net(), loader(), mae, [mae, mae])


@pytest.mark.parametrize(
    ("resume", "error", "match"),
    [
        (5, TypeError, "`resume` must be a path or a state_dict, got 5"),
        ([], TypeError, "`resume` must be a path or a state_dict"),
        ({"pyphase": "learner 1"}, PhaseError, "not a state of a Learner's fit"),
        ({}, PhaseError, "not a state of a Learner's fit"),
    ],
)
def test_states_that_are_none(resume, error, match):
    with pytest.raises(error, match=match):
        make().fit_opt_sched(phases(), resume=resume)


def test_groups_are_checked_at_construction():
    model = net()
    for groups, words in (([], "at least one group"), ([model, model], "of an earlier group")):
        with pytest.raises(PhaseError, match=words):
            Learner(model, loader(), nn.functional.mse_loss, groups=groups)
    with pytest.raises(TypeError, match="must be a list of modules"):
        Learner(model, loader(), nn.functional.mse_loss, groups=3)


def linear_fit(phases):
    seed_all()
    model = nn.Linear(1, 1)
    learn = Learner(model, (plain(), plain()), nn.functional.mse_loss, progress=False)
    return learn, learn.fit_opt_sched(phases)


def test_lbfgs_fits_a_line():
    _, history = linear_fit([TrainingPhase(3, torch.optim.LBFGS, lr=1.0)])
    assert history.rows[-1]["valid_loss"] < 1e-6


def test_schedule_free_is_validated_and_left_with_its_averaged_weights():
    schedulefree = pytest.importorskip("schedulefree")
    learn, history = linear_fit([TrainingPhase(3, schedulefree.SGDScheduleFree, lr=0.001)])
    optimizer = learn.loop.optimizer
    assert optimizer.param_groups[0]["train_mode"] is False
    assert learn.validate()["valid_loss"] == history.rows[-1]["valid_loss"]
    averaged = learn.model.weight.detach().clone()
    optimizer.train()
    assert not torch.equal(learn.model.weight, averaged)
