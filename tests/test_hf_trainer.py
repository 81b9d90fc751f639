"""Phases under the Trainer of transformers: the values and weights of a hand-written loop."""

import pytest
import torch
import transformers
from digits import loss_of, network, plain_loop, samples, values_in
from torch.utils.data import DataLoader
from toys import same

from pyphase import PhaseScheduler, Plan, one_cycle

PLAN = Plan(one_cycle(0.5, total_steps=16))


class Model(torch.nn.Module):
    """A small network that answers as the Trainer asks for it."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, images, labels):
        return {"loss": loss_of(self.net, (images, labels))}


class Note(transformers.TrainerCallback):
    """Note the values of each step."""

    def __init__(self):
        self.seen = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **_):
        self.seen.append(values_in(optimizer.optimizer))


def collate(batch):
    images, labels = zip(*batch, strict=True)
    return {"images": torch.stack(images), "labels": torch.stack(labels)}


def make(folder, accumulate=1, **arguments):
    model, note = Model(), Note()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    arguments = {
        "output_dir": str(folder),
        "max_steps": PLAN.total_steps // accumulate,
        "per_device_train_batch_size": 50,
        "gradient_accumulation_steps": accumulate,
        "train_sampling_strategy": "sequential",
        "max_grad_norm": 0.0,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "dataloader_pin_memory": False,
        **arguments,
    }
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(**arguments),
        data_collator=collate,
        train_dataset=samples(400),
        callbacks=[note],
        optimizers=(optimizer, PhaseScheduler(optimizer, PLAN)),
    )
    return trainer, note


def plain(accumulate=1):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    data = DataLoader(samples(400), 50)
    batches = [batch for _ in range(2) for batch in data]
    seen = plain_loop(model, optimizer, PhaseScheduler(optimizer, PLAN), batches, accumulate)
    return model, seen


@pytest.mark.parametrize("accumulate", [1, 2])
def test_optimizer_and_scheduler_as_arguments(tmp_path, accumulate):
    model, expected = plain(accumulate)
    trainer, note = make(tmp_path, accumulate)
    trainer.train()
    assert note.seen == expected
    assert trainer.lr_scheduler.last_epoch == len(expected) == 16 // accumulate
    same(dict(trainer.model.net.state_dict()), dict(model.state_dict()))


def test_it_resumes_from_a_checkpoint(tmp_path):
    model, expected = plain()
    make(tmp_path, save_strategy="steps", save_steps=5)[0].train()
    assert (tmp_path / "checkpoint-5" / "scheduler.pt").is_file()
    trainer, note = make(tmp_path)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert note.seen == expected[5:]
    same(dict(trainer.model.net.state_dict()), dict(model.state_dict()))
