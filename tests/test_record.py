"""``learn.sched``: pictures of what a run has done so far."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from torch import nn
from training import plain

from pyphase import DecayType, Learner, PhaseError, Plan, TrainingPhase
from pyphase.record import Record


def record(decay=DecayType.EXPONENTIAL, steps=50):
    made = Record(Plan([TrainingPhase(steps=60, lr=(1e-3, 1.0), lr_decay=decay)]))
    for step in range(steps):
        made.history.add_step(step, 2.0 + np.cos(step / 10))
    return made


@pytest.mark.parametrize("draw", ["plot_lr", "plot", "plot_loss"])
def test_nothing_trained_is_nothing_to_draw(draw):
    with pytest.raises(PhaseError, match="no step has been trained yet"):
        getattr(record(steps=0), draw)()
    for steps in (1, 2, 50, 60):
        assert isinstance(getattr(record(steps=steps), draw)(), Figure)


def test_plot_lr_draws_the_steps_that_were_done():
    for steps in (7, 60):
        axes = record(steps=steps).plot_lr().axes
        assert axes[-1].get_xlim() == (0, steps)
    assert isinstance(record().plot_lr(show_text=False, show_moms=False), Figure)


@pytest.mark.parametrize(
    ("decay", "linear", "scale"),
    [
        (DecayType.EXPONENTIAL, None, "log"),
        (DecayType.LINEAR, None, "linear"),
        (DecayType.LINEAR, False, "log"),
        (DecayType.EXPONENTIAL, True, "linear"),
    ],
)
def test_the_axis_of_rates_follows_the_curve_unless_told(decay, linear, scale):
    axes = record(decay).plot(linear=linear).axes[0]
    assert axes.get_xscale() == scale


def test_plot_draws_smoothed_losses_over_the_rates_of_their_steps():
    made = record()
    line = made.plot(n_skip=0, n_skip_end=0).axes[0].lines[0]
    np.testing.assert_array_equal(line.get_xdata(), made.plan.table("lr")[:50, 0])
    assert line.get_ydata()[0] == pytest.approx(made.history.losses[0])
    assert line.get_ydata()[1] == pytest.approx(
        (0.98 * made.history.losses[0] + made.history.losses[1]) / 1.98
    )
    assert len(made.plot().axes[0].lines[0].get_xdata()) == 35


def test_lr_find_is_the_record_until_the_next_fit():
    learn = Learner(nn.Linear(1, 1), plain(), nn.functional.mse_loss, progress=False)
    found = learn.lr_find(num_it=20, start_lr=1e-4, end_lr=0.1)
    assert learn.sched.history.losses == found.losses.tolist()
    assert learn.sched.suggestion == found.suggestion
    assert isinstance(learn.sched.plot(), Figure)
    learn.fit_opt_sched([TrainingPhase(1, lr=1e-3)])
    assert learn.sched.suggestion == {}
