"""What each process of tests/test_accelerate.py trains; writes its values and weights to a file.

python accelerate_run.py OUT (alone, or under torch.distributed.run): OUT.0, OUT.1 for the processes
"""

import sys

import torch
from accelerate import Accelerator
from digits import loader, loss_of, network, values_in

from pyphase import PhaseScheduler, Plan, one_cycle

PLAN = Plan(one_cycle(0.5, total_steps=16))


def train(follow, accumulate=1, stop=None, checkpoint=None):
    """Train two epochs the way Accelerate's documentation does; return values, weights, step."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = PhaseScheduler(optimizer, PLAN, follow_optimizer=follow)
    model, optimizer, data, scheduler = accelerator.prepare(
        model, optimizer, loader(shuffle=False), scheduler
    )
    begin = 0
    if checkpoint is not None and stop is None:
        accelerator.load_state(checkpoint)
        begin = 1
    seen = []
    for _ in range(begin, 2):
        for batch in data:
            with accelerator.accumulate(model):
                values = values_in(optimizer.optimizer)
                accelerator.backward(loss_of(model, batch))
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                if accelerator.sync_gradients:
                    seen.append(values)
        if stop is not None:
            accelerator.save_state(checkpoint)
            break
    weights = accelerator.unwrap_model(model).state_dict()
    result = {"seen": seen, "weights": weights, "step": scheduler.scheduler.last_epoch}
    return accelerator, result


if __name__ == "__main__":
    accelerator, followed = train(follow=True)
    _, called = train(follow=False)
    torch.save([followed, called], f"{sys.argv[1]}.{accelerator.process_index}")
    accelerator.end_training()
