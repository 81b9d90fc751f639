"""What is written about each step: a CSV file, and TensorBoard's events."""

import csv

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from training import loader, net, seed_all

from pyphase import CSVLog, DecayType, Learner, PhaseError, TensorBoardLog, TrainingPhase

PHASES = [
    TrainingPhase(1, torch.optim.SGD, ([0.01, 0.1], [0.1, 0.2]), DecayType.LINEAR, momentum=0.8),
    TrainingPhase(0.5, torch.optim.Adam, [1e-3, 1e-2]),
]


def make():
    seed_all(1)
    model = net()
    return Learner(
        model, (loader(12), loader(4)), nn.functional.mse_loss, groups=[model[:2], model[3]],
        progress=False,
    )  # fmt: skip


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_line_per_step(tmp_path):
    learn = make()
    history = learn.fit_opt_sched(PHASES, callbacks=[CSVLog(tmp_path / "log.csv")])
    found, plan = rows(tmp_path / "log.csv"), learn.loop.plan
    assert list(found[0]) == ["step", "phase", "loss", "lr.0", "lr.1", "momentum"]
    assert {row["momentum"] for row in found} == {"0.8", ""}
    assert [float(row["loss"]) for row in found] == history.losses
    for step, row in enumerate(found):
        values = plan.values_at(step)
        assert (int(row["step"]), int(row["phase"])) == (step, plan.phase_at(step))
        assert (float(row["lr.0"]), float(row["lr.1"])) == values["lr"]
        assert row["momentum"] == str(values.get("momentum", ""))


def test_csv_goes_on_where_a_resumed_fit_does(tmp_path):
    path = tmp_path / "log.csv"
    make().fit_opt_sched(PHASES, callbacks=[CSVLog(path)])
    whole = path.read_text()
    first = make()
    first.fit_opt_sched(PHASES, cut=0.5, callbacks=[CSVLog(path)])
    state = first.state_dict()
    with path.open("a") as file:
        file.write("3,0,0.1,9,9,9\n4,0,0.")  # a crash came after the checkpoint
    make().fit_opt_sched(PHASES, resume=state, callbacks=[CSVLog(path)])
    assert path.read_text() == whole
    assert [p.name for p in tmp_path.iterdir()] == ["log.csv"]


def test_every_so_many_steps(tmp_path):
    make().fit_opt_sched(PHASES, callbacks=[CSVLog(tmp_path / "log.csv", every=4)])
    assert [row["step"] for row in rows(tmp_path / "log.csv")] == ["0", "4", "8"]
    with pytest.raises(PhaseError, match="`every`"):
        TensorBoardLog(tmp_path, every=0)
    with pytest.raises(PhaseError, match="must be in a folder that exists"):
        CSVLog(tmp_path / "none" / "log.csv")


def test_tensorboard_reads_values_and_results(tmp_path):
    learn = make()
    history = learn.fit_opt_sched(PHASES, callbacks=[TensorBoardLog(tmp_path)])
    events = EventAccumulator(str(tmp_path)).Reload()
    losses = {event.step: event.value for event in events.Scalars("train/loss")}
    assert losses == pytest.approx(dict(enumerate(history.losses)), rel=1e-6)
    rates = {event.step: event.value for event in events.Scalars("plan/lr.1")}
    table = learn.loop.plan.table("lr")[:, 1]
    assert rates == pytest.approx(dict(enumerate(table)), rel=1e-6)
    ends = {event.step: event.value for event in events.Scalars("epoch/valid_loss")}
    wanted = {row["step"]: row["valid_loss"] for row in history.rows}
    assert ends == pytest.approx(wanted, rel=1e-6)
