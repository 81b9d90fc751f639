"""Phases under Lightning's Trainer give the values and the weights of a hand-written loop."""

import functools

import pytest
import torch
from digits import accuracy_of, loader, loss_of, network, phase_loop, plain_loop, samples, values_in
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from torch.utils.data import DataLoader
from toys import same

from pyphase import PhaseError, PhaseLoop, PhaseScheduler, Plan, TrainingPhase, one_cycle
from pyphase.lightning import PhaseCallback

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers:UserWarning",
    "ignore:Be aware that when using `ckpt_path`, callbacks:UserWarning",
    "ignore:The number of training batches:UserWarning",
    "ignore:You defined a `validation_step` but have no:UserWarning",
    "ignore:Checkpoint directory .* exists:UserWarning",
)

QUIET = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
    "num_sanity_val_steps": 0,
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Without a logger, a Trainer writes its checkpoints where it stands."""
    monkeypatch.chdir(tmp_path)


PLAN = Plan(one_cycle(0.5, total_steps=20, cycle_momentum=True))


class Module(LightningModule):
    """A small network that notes the optimizer and the values of each step."""

    def __init__(self, configure, dropout=0.0):
        super().__init__()
        self.net = network(dropout)
        self.configure, self.seen, self.validated = [configure], [], []

    def training_step(self, batch, batch_idx):
        return loss_of(self.net, batch)

    def validation_step(self, batch, batch_idx):
        self.validated.append((self.global_step, float(loss_of(self.net, batch))))

    def on_before_optimizer_step(self, optimizer):
        inner = self.trainer.strategy.optimizers[0]
        self.seen.append((type(inner).__name__, values_in(inner)))

    def configure_optimizers(self):
        return self.configure[0](self)


def scheduled(module, **arguments):
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    scheduler = PhaseScheduler(optimizer, PLAN, **arguments)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def plain(accumulate=1, epochs=3):
    model, data = network(), loader(shuffle=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = [batch for _ in range(epochs) for batch in data]
    seen = plain_loop(model, optimizer, PhaseScheduler(optimizer, PLAN), batches, accumulate)
    return model, seen


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("follow", [False, True])
def test_a_scheduler_from_configure_optimizers(accumulate, follow):
    """24 batches of a plan of 20 steps: past its end, or half through it."""
    model, expected = plain(accumulate)
    module = Module(functools.partial(scheduled, follow_optimizer=follow))
    trainer = Trainer(max_epochs=3, accumulate_grad_batches=accumulate, **QUIET)
    trainer.fit(module, loader(shuffle=False))
    assert [values for _, values in module.seen] == expected
    assert [v[0]["lr"] for v in expected] == [
        PLAN.values_at(step)["lr"] for step in range(24 // accumulate)
    ]
    same(module.net.state_dict(), model.state_dict())
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 24 // accumulate


def test_a_scheduler_goes_on_from_a_checkpoint(tmp_path):
    model, _ = plain()
    trainer = Trainer(max_epochs=1, **QUIET)
    data = loader(shuffle=False)
    trainer.fit(Module(scheduled), data)
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    module = Module(scheduled)
    Trainer(max_epochs=3, **QUIET).fit(module, data, ckpt_path=tmp_path / "c.ckpt")
    same(module.net.state_dict(), model.state_dict())
    assert module.seen[0][1][0]["lr"] == PLAN.values_at(8)["lr"]


def changing():
    """Return an optimizer change amid an epoch, a data change amid the next, and the data."""
    first, second = loader(), loader(240, 40, begin=400, seed=1)
    adam = functools.partial(torch.optim.AdamW, weight_decay=0.05)
    return [
        TrainingPhase(1.5, torch.optim.SGD, PLAN.phases[0].tracks["lr"], data=first),
        TrainingPhase(0.75, adam, 3e-3, opt_state="map", momentum=0.85, data=first, name="map"),
        TrainingPhase(2, torch.optim.SGD, 0.05, data=second, on_enter=halve_dropout),
    ]


def halve_dropout(run):
    for part in run.model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p /= 2


def reference():
    model = network(0.2)
    torch.manual_seed(9)
    seen = phase_loop(PhaseLoop(model, changing()))
    return model, seen


def fit(tmp_path=None, checkpoint=None, every=None, accumulate=1):
    phased = PhaseCallback(changing())
    module = Module(phased.configure, dropout=0.2)
    callbacks = [phased]
    if every:
        name = {"filename": "{step}", "save_top_k": -1, "every_n_train_steps": every}
        callbacks.append(ModelCheckpoint(tmp_path, **name))
    more = {"enable_checkpointing": bool(every), "accumulate_grad_batches": accumulate}
    trainer = Trainer(max_epochs=-1, callbacks=callbacks, **more, **QUIET)
    torch.manual_seed(9)
    own = torch.Generator()  # without one, a loader draws from the global generator
    validation = DataLoader(samples(100, begin=700), 100, generator=own)
    trainer.fit(module, phased.loader, validation, ckpt_path=checkpoint)
    return trainer, module


def test_a_plan_that_changes_optimizer_and_data(tmp_path):
    model, expected = reference()
    trainer, module = fit()
    assert module.seen == expected
    assert [name for name, _ in expected] == ["SGD"] * 12 + ["AdamW"] * 6 + ["SGD"] * 12
    same(module.net.state_dict(), model.state_dict())
    assert trainer.global_step == 30
    # The first data's epochs end at 8 and 16, other data comes at 18, its epochs end at 24 and 30.
    assert [step for step, _ in module.validated] == [8, 16, 18, 24, 30]
    assert accuracy_of(module.net) > 0.5 > 4 * accuracy_of(network())


def test_it_goes_on_from_each_checkpoint_bit_for_bit(tmp_path):
    """Amid an epoch, at a change of optimizer, at an epoch's end, at a change of data."""
    model, expected = reference()
    fit(tmp_path, every=1)
    for step in (3, 12, 16, 18):
        _, module = fit(checkpoint=tmp_path / f"step={step}.ckpt")
        assert module.seen == expected[step:]
        same(module.net.state_dict(), model.state_dict())


def test_accumulated_batches_are_no_steps(tmp_path):
    """Epochs of 8 and of 6 batches, 4 a step: 2 steps each, the last one of 4 and of 2.

    Lightning divides each loss by 4, a PhaseLoop the gradients by their number: half of that loss
    is the same there.
    """
    model, steps = network(0.2), []
    torch.manual_seed(9)
    loop = PhaseLoop(model, changing(), accumulate=4)
    for batch in loop:
        values = type(loop.optimizer).__name__, values_in(loop.optimizer)
        is_short = loop.feed.length == 6 and loop.feed.batch > 4
        if loop.step(loss_of(model, batch) * (0.5 if is_short else 1.0)):
            steps.append(values)
    assert [name for name, _ in steps] == ["SGD"] * 3 + ["AdamW"] * 2 + ["SGD"] * 4
    trainer, module = fit(tmp_path, every=1, accumulate=4)
    assert module.seen == steps
    assert trainer.global_step == 9
    same(module.net.state_dict(), model.state_dict())
    # The first data's epoch ends at 2 and 4, other data comes at 5, its epochs end at 7 and 9.
    assert [step for step, _ in module.validated] == [2, 4, 5, 7, 9]
    for step in (3, 5):  # amid an epoch; where other data takes over
        _, again = fit(checkpoint=tmp_path / f"step={step}.ckpt", accumulate=4)
        assert again.seen == steps[step:]
        same(again.net.state_dict(), model.state_dict())


def test_what_it_refuses():
    phased = PhaseCallback([TrainingPhase(1)], loader())
    with pytest.raises(PhaseError, match="no fit yet"):
        _ = phased.loop
    several = GradientAccumulationScheduler({0: 1, 2: 4})
    trainer = Trainer(callbacks=[phased, several], max_epochs=-1, **QUIET)
    with pytest.raises(PhaseError, match=r"say Trainer\(accumulate_grad_batches=...\), one number"):
        trainer.fit(Module(phased.configure), phased.loader)
    with pytest.raises(TypeError, match=r"got \['clip_grad_norm'\]; .* Trainer\(gradient_clip_val"):
        PhaseCallback([TrainingPhase(1)], loader(), clip_grad_norm=1.0)
    with pytest.raises(TypeError, match=r"got \['speed'\]$"):
        PhaseCallback([TrainingPhase(1)], loader(), speed=1)
    with pytest.raises(TypeError, match="`phases` must be a sequence of TrainingPhase"):
        PhaseCallback(None)
