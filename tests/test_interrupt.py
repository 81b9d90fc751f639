"""Ctrl-C: the first one waits, the second one doesn't, and the old handler comes back."""

import signal
import threading

import pytest
import torch
from torch import nn
from toys import same
from training import loader, net, seed_all

from pyphase import Callback, Checkpoint, Learner, TrainingPhase
from pyphase.apply.state import load_checkpoint
from pyphase.interrupt import DeferredInterrupt


def press():
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def same_handler():
    handler = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is handler


def test_the_first_one_waits():
    with DeferredInterrupt() as interrupt:
        assert not interrupt.pending
        press()
        assert interrupt.pending


def test_the_second_one_interrupts():
    with DeferredInterrupt():
        press()
        with pytest.raises(KeyboardInterrupt):
            press()


def test_the_handler_comes_back_after_an_error():
    with pytest.raises(RuntimeError), DeferredInterrupt():
        raise RuntimeError


def test_a_handler_of_ones_own_comes_back():
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        with DeferredInterrupt() as interrupt:
            press()
        assert interrupt.pending
        assert not seen
        press()
        assert seen == [1]
    finally:
        signal.signal(signal.SIGINT, before)


def test_contexts_nest():
    with DeferredInterrupt() as outer:
        with DeferredInterrupt() as inner:
            press()
        assert (outer.pending, inner.pending) == (False, True)
        press()
        assert outer.pending


def test_other_threads_have_no_handler():
    handlers, errors = [], []

    def work():
        try:
            with DeferredInterrupt() as interrupt:
                handlers.append(signal.getsignal(signal.SIGINT))
            assert not interrupt.pending
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors
    assert handlers == [signal.getsignal(signal.SIGINT)]


mse = nn.functional.mse_loss
PHASES = [TrainingPhase(2, torch.optim.SGD, 0.05)]


def make(loss_fn=mse):
    seed_all(1)
    return Learner(net(), (loader(12), loader(4)), loss_fn, progress=False)


class Press(Callback):
    """Press Ctrl-C so often after each step from ``step`` on."""

    def __init__(self, step, times):
        self.step, self.times = step, times

    def on_step_end(self, learn):
        if learn.loop.position >= self.step:
            for _ in range(self.times):
                press()


def test_a_fit_stops_after_the_step():
    learn = make()
    with pytest.raises(KeyboardInterrupt):
        learn.fit_opt_sched(PHASES, callbacks=[Press(4, times=1)])
    assert learn.sched.history.steps == [0, 1, 2, 3]


def test_a_fit_stops_at_once_the_second_time():
    later = []

    class Later(Callback):
        def on_step_end(self, learn):
            later.append(learn.loop.position)

        def on_train_end(self, learn):
            later.append("end")

    with pytest.raises(KeyboardInterrupt):
        make().fit_opt_sched(PHASES, callbacks=[Press(2, times=2), Later()])
    assert later == [1, "end"]


def test_ctrl_c_while_the_checkpoint_is_written_waits_for_it(tmp_path):
    class PressAtEnd(Callback):
        def on_train_end(self, learn):
            press()

    learn = make()
    with pytest.raises(KeyboardInterrupt):
        learn.fit_opt_sched(PHASES, callbacks=[PressAtEnd(), Checkpoint(tmp_path / "c.pt")])
    assert load_checkpoint(tmp_path / "c.pt")["loop"]["position"] == 12


def test_a_validation_that_was_interrupted_is_still_owed(tmp_path):
    """Twice Ctrl-C in the first validation; the resumed run begins with it."""
    whole = make()
    whole.fit_opt_sched(PHASES)

    def loss_fn(output, target):
        if not learn.model.training:
            press()
            press()
        return mse(output, target)

    file, learn = tmp_path / "c.pt", make(loss_fn)
    with pytest.raises(KeyboardInterrupt):
        learn.fit_opt_sched(PHASES, callbacks=[Checkpoint(file)])
    assert learn.model.training
    assert learn.sched.history.rows == []
    again = make()
    again.fit_opt_sched(PHASES, resume=file)
    same(again.sched.history.state_dict(), whole.sched.history.state_dict())
    same(again.model.state_dict(), whole.model.state_dict())


def test_a_fit_in_another_thread_leaves_signals_alone():
    handlers, errors = [], []

    class Look(Callback):
        def on_step_end(self, learn):
            handlers.append(signal.getsignal(signal.SIGINT))

    def work():
        try:
            make().fit_opt_sched(PHASES, callbacks=[Look()])
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors
    assert handlers == [signal.getsignal(signal.SIGINT)] * 12
