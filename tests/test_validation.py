"""Validation: means over samples, and no trace in the run."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from toys import same
from training import loader, net, plain, seed_all

from pyphase import Callback, Learner, PhaseError, TrainingPhase


def mae(output, target):
    return (output - target).abs().mean()


def make(valid=True):
    seed_all(1)
    data = (loader(12), loader(6, offset=3) if valid else None)
    return Learner(net(), data, nn.functional.mse_loss, [mae], progress=False)


def test_validation_is_a_mean_over_samples_and_leaves_no_trace():
    trained = []
    for valid in (True, False):
        learn = make(valid)
        learn.fit_opt_sched([TrainingPhase(1.5, torch.optim.SGD, 0.01)])
        trained.append(learn.model.state_dict())
    same(*trained)
    model = nn.Linear(1, 1)
    learn = Learner(model, (plain(), plain(5, 2)), nn.functional.mse_loss, [mae], progress=False)
    x = torch.arange(5.0).reshape(-1, 1)
    expected = mae(model(x), 3 * x).detach()
    assert learn.validate()["mae"] == pytest.approx(float(expected))
    assert Learner(model, plain(), mae, progress=False).validate() == {}


def test_validation_leaves_modes_and_the_generators_of_the_data():
    learn, own = make(), torch.Generator().manual_seed(3)
    learn.data = (loader(12, generator=own), loader(6, generator=own))
    learn.model.train()
    learn.model[1].eval()
    before, modes = own.get_state(), [m.training for m in learn.model.modules()]
    assert learn.validate().keys() == {"valid_loss", "mae"}
    assert torch.equal(own.get_state(), before)
    assert [m.training for m in learn.model.modules()] == modes
    learn.data = (loader(), [])
    with pytest.raises(PhaseError, match="holds no sample"):
        learn.validate()


def test_a_loader_that_trains_is_validated_amid_its_epoch():
    """Persistent workers have one iterator: the epoch under way, or begun ahead, goes on."""
    seen = []

    class Note(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x):
            if self.training:
                seen.extend(x.flatten().tolist())
            return self.layer(x)

    class Validate(Callback):
        def on_step_end(self, learn):
            learn.validate()

    first, second = (
        DataLoader(plain(6, start=k).dataset, 2, num_workers=1, persistent_workers=True)
        for k in (0.0, 10.0)
    )
    learn = Learner(Note(), first, mae, progress=False)
    phases = [TrainingPhase(1, lr=1e-3, data=(first, second), name="second is begun ahead")]
    phases += [TrainingPhase(1, lr=1e-3, data=(second, second), name="itself")]
    learn.fit_opt_sched(phases, callbacks=[Validate()])
    assert seen == [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15]


@pytest.mark.parametrize(
    "pack",
    [lambda y: y, lambda y: {"y": y, "again": y}, lambda y: [{"y": one} for one in y]],
    ids=["tensor", "dict", "a dict for each sample"],
)
def test_batches_weigh_by_their_samples(pack):
    def loss_fn(output, target):
        if isinstance(target, list):
            target = torch.stack([one["y"] for one in target])
        return mae(output, target["y"] if isinstance(target, dict) else target)

    model, x = nn.Linear(1, 1), torch.arange(5.0).reshape(-1, 1)
    valid = [(part, pack(3 * part)) for part in (x[:4], x[4:])]
    learn = Learner(model, (plain(), valid), loss_fn, progress=False)
    expected = mae(model(x), 3 * x).detach()
    assert learn.validate()["valid_loss"] == pytest.approx(float(expected))


def test_a_batch_may_be_one_sample():
    """As batch_size=None has it: the target is a number."""
    valid = [(torch.tensor([k]), torch.tensor(2 * k)) for k in (1.0, 2.0)]
    learn = Learner(nn.Linear(1, 1), (plain(), valid), mae, progress=False)
    with torch.no_grad():
        expected = [float(mae(learn.model(x), y)) for x, y in valid]
    assert learn.validate()["valid_loss"] == pytest.approx(sum(expected) / 2)
