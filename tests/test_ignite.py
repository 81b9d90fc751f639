"""Phases under ignite: an engine's event steps the scheduler, or drives a whole PhaseLoop."""

import torch
from digits import loader, loss_of, network, phase_loop, plain_loop, values_in
from ignite.engine import Engine, Events
from toys import same

from pyphase import PhaseLoop, PhaseScheduler, Plan, TrainingPhase, one_cycle

PLAN = Plan(one_cycle(0.5, total_steps=16))


def make():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, optimizer, PhaseScheduler(optimizer, PLAN)


def test_an_event_steps_the_scheduler():
    model, optimizer, scheduler = make()
    expected = plain_loop(model, optimizer, scheduler, 2 * list(loader(shuffle=False)))
    other, other_optimizer, other_scheduler = make()
    seen = []

    def train_step(engine, batch):
        seen.append(values_in(other_optimizer))
        loss_of(other, batch).backward()
        other_optimizer.step()
        other_optimizer.zero_grad()

    trainer = Engine(train_step)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: other_scheduler.step())
    trainer.run(loader(shuffle=False), max_epochs=2)
    assert seen == expected
    same(dict(other.state_dict()), dict(model.state_dict()))


def test_an_engine_runs_the_batches_of_a_loop():
    phases = [
        TrainingPhase(1.5, torch.optim.SGD, 0.2),
        TrainingPhase(1, torch.optim.AdamW, 1e-3, data=loader(240, 40, begin=400, seed=1)),
    ]
    plain = PhaseLoop(network(), phases, loader())
    expected = phase_loop(plain)
    phases[1].data.generator.manual_seed(1)
    loop, seen = PhaseLoop(network(), phases, loader()), []

    def train_step(engine, batch):
        loss = loss_of(loop.model, batch)
        loss.backward()
        seen.append((type(loop.optimizer).__name__, values_in(loop.optimizer)))
        loop.step(loss)

    Engine(train_step).run(loop, max_epochs=1, epoch_length=loop.plan.total_steps)
    assert seen == expected
    same(dict(loop.model.state_dict()), dict(plain.model.state_dict()))
