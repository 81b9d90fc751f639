"""Callbacks: the order of their events, and a checkpoint file that is always whole."""

import copy
import dataclasses
import signal

import pytest
import torch
from torch import nn
from toys import same
from training import Events, loader, net, seed_all

from pyphase import Callback, Checkpoint, Learner, PhaseError, TrainingPhase
from pyphase.apply.state import load_checkpoint

mse = nn.functional.mse_loss
PHASES = [TrainingPhase(1, torch.optim.SGD, 0.05), TrainingPhase(0.5, torch.optim.Adam, 1e-3)]


def make(loss_fn=mse):
    seed_all(1)
    return Learner(net(), (loader(12), loader(4)), loss_fn, progress=False)


class Saved(Callback):
    """Note the position that the file holds after each step."""

    def __init__(self, path):
        self.path, self.positions = path, []

    def on_step_end(self, learn):
        found = load_checkpoint(self.path)["loop"]["position"] if self.path.exists() else None
        self.positions.append(found)


def test_events_come_in_order():
    events = Events()
    make().fit_opt_sched(PHASES, callbacks=[events])
    assert events.seen == [
        *("begin", "phase 0", 1, 2, 3, 4, 5, 6, "epoch"),
        *("phase 1", 7, 8, 9, "epoch", "end"),
    ]


def test_the_base_class_does_nothing_at_each_event():
    learn = make()
    learn.fit_opt_sched(PHASES, callbacks=[Callback()])
    other = make()
    other.fit_opt_sched(PHASES)
    same(learn.model.state_dict(), other.model.state_dict())


def test_a_generator_of_callbacks_lasts_for_all_events():
    events = Events()
    make().fit_opt_sched(PHASES, callbacks=(c for c in [events]))
    assert events.seen[-1] == "end"


@pytest.mark.parametrize("callbacks", [Callback(), [Checkpoint], [print], 3])
def test_other_things_are_no_callbacks(callbacks):
    with pytest.raises(TypeError, match="`callbacks` must be a list of Callback"):
        make().fit_opt_sched(PHASES, callbacks=callbacks)


def test_checkpoint_every_so_many_steps_and_at_epoch_ends(tmp_path):
    file = tmp_path / "checkpoint.pt"
    saved = Saved(file)
    make().fit_opt_sched(PHASES, callbacks=[Checkpoint(file, every=4), saved])
    assert saved.positions == [None, None, None, 4, 4, 4, 6, 8, 8]
    assert load_checkpoint(file)["loop"]["position"] == 9
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize(("every", "error"), [(0, PhaseError), (1.5, TypeError), (True, TypeError)])
def test_checkpoint_checks_every(every, error):
    with pytest.raises(error, match="`every`"):
        Checkpoint("x", every=every)


def test_checkpoint_into_a_missing_folder_says_which(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # errors show the begin of a long path
    with pytest.raises(PhaseError, match=r"missing.* must be in a folder that exists"):
        Checkpoint("missing/c.pt")
    with pytest.raises(PhaseError, match="is a folder, but a single process writes a file"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_step_cut_off_half_way_is_not_saved(tmp_path, monkeypatch, error):
    """The optimizer has updated some weights: the file keeps the last whole step."""
    file, step = tmp_path / "checkpoint.pt", torch.optim.SGD.step
    whole = make()
    whole.fit_opt_sched(PHASES)
    learn = make()

    def half(self, *arguments):
        if learn.loop.position == 4:
            self.param_groups[0]["params"][0].data.add_(1)
            raise error("half way")
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", half)
        with pytest.raises(error):
            learn.fit_opt_sched(PHASES, callbacks=[Checkpoint(file, every=3)])
    assert learn.in_step
    assert load_checkpoint(file)["loop"]["position"] == 3
    again = make()
    again.fit_opt_sched(PHASES, callbacks=[Checkpoint(file)], resume=file)
    same(again.model.state_dict(), whole.model.state_dict())
    learn.fit_opt_sched(PHASES)
    assert not learn.in_step


@pytest.mark.parametrize("twice", [False, True])
def test_an_on_enter_that_is_cut_off_leaves_the_last_good_file(tmp_path, twice):
    """Ctrl-C waits for the step after it, the second one doesn't wait."""
    file = tmp_path / "c.pt"

    def grow(run):
        run.model.append(nn.Linear(1, 1))
        for _ in range(1 + twice):
            signal.raise_signal(signal.SIGINT) if presses else None

    phases = [PHASES[0], dataclasses.replace(PHASES[1], on_enter=grow)]
    presses, whole = False, make()
    whole.fit_opt_sched(phases)
    presses = True
    with pytest.raises(KeyboardInterrupt):
        make().fit_opt_sched(phases, callbacks=[Checkpoint(file)])
    presses = False
    assert load_checkpoint(file)["loop"]["position"] == (6 if twice else 7)
    again = make()
    again.fit_opt_sched(phases, resume=file)
    same(again.model.state_dict(), whole.model.state_dict())


def test_a_callback_that_fails_at_the_end_keeps_no_other_from_its_own(tmp_path):
    class Fails(Callback):
        def on_step_end(self, learn):
            if learn.loop.position == 4:
                raise ValueError("amid")

        def on_train_end(self, learn):
            raise ValueError("at the end")

    file, events = tmp_path / "c.pt", Events()
    with pytest.raises(ValueError, match="at the end") as caught:
        make().fit_opt_sched(PHASES, callbacks=[Fails(), events, Checkpoint(file)])
    assert "amid" in str(caught.value.__context__)
    assert events.seen[-1] == "end"
    assert load_checkpoint(file)["loop"]["position"] == 4


def test_an_error_in_the_loss_saves_the_steps_before_it(tmp_path):
    def loss_fn(output, target):
        if learn.model.training and learn.loop.position == 4:
            raise ValueError("boom")
        return mse(output, target)

    learn = make(loss_fn)
    with pytest.raises(ValueError, match="boom"):
        learn.fit_opt_sched(PHASES, callbacks=[Checkpoint(tmp_path / "c.pt")])
    again = make()
    again.fit_opt_sched(PHASES, resume=tmp_path / "c.pt")
    assert again.sched.history.steps == list(range(9))


def test_a_stopped_run_is_saved_and_resuming_says_why(tmp_path, capsys):
    def loss_fn(output, target):
        return mse(output, target) * (float("nan") if learn.loop.position == 4 else 1)

    learn = make(loss_fn)
    learn.fit_opt_sched(PHASES, stop_div=True, callbacks=[Checkpoint(tmp_path / "c.pt")])
    again = make()
    again.progress = True
    again.fit_opt_sched(PHASES, stop_div=True, resume=tmp_path / "c.pt")
    assert again.sched.history.steps == [0, 1, 2, 3]
    assert "stopped before step 4: the loss is nan" in capsys.readouterr().out


def test_one_state_resumes_many_times():
    """Optimizers go on with the tensors that they load: the state must not change under them."""
    learn = make()
    learn.fit_opt_sched(PHASES, cut=1)
    state = copy.deepcopy(learn.state_dict())
    kept, ends = copy.deepcopy(state), []
    for _ in range(2):
        again = make()
        again.fit_opt_sched(PHASES, resume=state)
        ends.append(again.model.state_dict())
    same(*ends)
    same(state, kept)


def test_states_that_do_not_fit(tmp_path):
    learn = make()
    learn.fit_opt_sched(PHASES, cut=1)
    state = copy.deepcopy(learn.state_dict())
    with pytest.raises(PhaseError, match="another plan"):
        make().fit_opt_sched([TrainingPhase(3)], resume=state)
    for wrong in ({}, state["loop"], {"pyphase": "model 1"}):
        with pytest.raises(PhaseError, match="not a state of a Learner's fit"):
            make().fit_opt_sched(PHASES, resume=wrong)
    with pytest.raises(FileNotFoundError):
        make().fit_opt_sched(PHASES, resume=tmp_path / "none.pt")
    learn.save(tmp_path / "model.pt")
    with pytest.raises(PhaseError, match="not a state of a Learner's fit"):
        make().fit_opt_sched(PHASES, resume=tmp_path / "model.pt")


def test_load_reads_a_checkpoint_too(tmp_path):
    learn, other = make(), make()
    learn.fit_opt_sched(PHASES, cut=1, callbacks=[Checkpoint(tmp_path / "c.pt")])
    other.load(tmp_path / "c.pt")
    same(learn.model.state_dict(), other.model.state_dict())


class Processes:
    """Stand in for a second process; note the steps at which all of them would save."""

    def __init__(self, monkeypatch):
        self.saved = []
        monkeypatch.setattr("pyphase.callbacks.world_size", lambda: 2)
        save = lambda learn, path: self.saved.append(learn.loop.position)  # noqa: E731
        monkeypatch.setattr("pyphase.callbacks.save_sharded", save)


def test_several_processes_save_during_the_fit(tmp_path, monkeypatch):
    processes = Processes(monkeypatch)
    make().fit_opt_sched(PHASES, callbacks=[Checkpoint(tmp_path / "c", every=4)])
    assert processes.saved == [4, 6, 8, 9, 9]


def test_one_process_goes_on_in_the_folder_of_several(tmp_path, monkeypatch):
    """torchrun with one process, after a run with more: ``path`` is a folder by then."""
    monkeypatch.setenv("WORLD_SIZE", "1")
    whole, folder = make(), tmp_path / "c"
    whole.fit_opt_sched(PHASES)
    folder.mkdir()
    make().fit_opt_sched(PHASES, cut=1, callbacks=[Checkpoint(folder, every=4)])
    again = make()
    again.fit_opt_sched(PHASES, callbacks=[Checkpoint(folder)], resume=folder)
    same(again.model.state_dict(), whole.model.state_dict())
    assert len(list(folder.iterdir())) == 1


def test_a_failing_process_does_not_wait_for_the_others(tmp_path, monkeypatch):
    processes = Processes(monkeypatch)
    losses = iter(range(6))

    def loss_fn(output, target):
        if next(losses) == 5:
            raise RuntimeError("broken")
        return mse(output, target)

    with pytest.raises(RuntimeError, match="broken"):
        make(loss_fn).fit_opt_sched(PHASES, callbacks=[Checkpoint(tmp_path / "c", every=4)])
    assert processes.saved == [4]
