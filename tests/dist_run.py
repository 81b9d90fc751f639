"""Train on several processes, or go on from a checkpoint of such a run; print what came out.

torchrun --nproc-per-node 2 tests/dist_run.py FOLDER whole
torchrun --nproc-per-node 2 tests/dist_run.py FOLDER resume
python tests/dist_run.py FOLDER resume
"""

import gc
import json
import os
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from pyphase import (
    Checkpoint,
    DecayType,
    Learner,
    PhaseLoop,
    TrainingPhase,
    load_sharded,
    save_sharded,
)

KINDS = ("ddp", "fsdp")
SAVED = (5, 13)  # in the first phase; after the change of optimizer, in mid-epoch


def world():
    return dist.get_world_size() if dist.is_initialized() else 1


def loader(count, size, batch_size, seed):
    """Return a loader whose steps have the same samples for any number of processes."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, size, size, generator=draw, dtype=torch.float64)
    data = TensorDataset(x, x.mean((1, 2, 3)).unsqueeze(1), torch.arange(count))
    replica = dist.get_rank() if dist.is_initialized() else 0
    sampler = DistributedSampler(data, world(), replica, seed=3)
    return DataLoader(data, batch_size // world(), sampler=sampler)


def phases():
    small, large = loader(32, 4, 8, seed=1), loader(24, 8, 4, seed=2)
    return [
        TrainingPhase(1.75, torch.optim.SGD, (0.02, 0.1), DecayType.LINEAR, 0.9, data=small),
        TrainingPhase(0.5, torch.optim.AdamW, 1e-2, data=small, opt_state="map"),
        TrainingPhase(1.5, torch.optim.AdamW, 1e-2, DecayType.COSINE, data=large),
    ]


class Seen(nn.Module):
    """Average what this process has seen, as a batch norm does, and leave it as it is."""

    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        if self.training:
            self.average.lerp_(x.detach().mean(), 0.1)
        return x


def make_model(kind):
    torch.manual_seed(5)
    model = nn.Sequential(
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)),
        Seen(),
    ).double()
    if kind == "fsdp":
        mesh = init_device_mesh("cpu", (world(),)) if dist.is_initialized() else None
        if mesh is not None:
            fully_shard(model[2], mesh=mesh)
            fully_shard(model, mesh=mesh)
        return model
    return DistributedDataParallel(model) if dist.is_initialized() else model


def run(loop, folder=None):
    """Train to the end; return the samples and the rate of each step on this process."""
    steps = []
    for x, y, index in loop:
        lr = loop.optimizer.param_groups[0]["lr"]
        loop.step(nn.functional.mse_loss(loop.model(x), y))
        steps.append((loop.position, lr, index.tolist()))
        if folder is not None and loop.position in SAVED:
            save_sharded(loop, folder / f"at-{loop.position}")
    return steps


def weights(model):
    """Return the whole weights, gathered from their shards."""
    values = [param.detach() for param in model.parameters()]
    full = [v.full_tensor() if hasattr(v, "full_tensor") else v for v in values]
    return [number for value in full for number in value.flatten().tolist()]


def average(model):
    return next(buffer.item() for name, buffer in model.named_buffers() if "average" in name)


def gathered(value):
    if not dist.is_initialized():
        return [value]
    found = [None] * world()
    dist.all_gather_object(found, value)
    return found


def batch_loss(output, target):
    return nn.functional.mse_loss(output, target)


def without_index(data):
    sampler = data.sampler
    samples = TensorDataset(*data.dataset.tensors[:2])
    return DataLoader(samples, data.batch_size, sampler=sampler)


def learn(kind, folder):
    """Fit with a Learner in two halves, the second one resumed from the folder; and in one."""
    results = []
    for cuts in ((None,), (2.0, None)):
        for cut in cuts:
            model = make_model(kind)
            small = without_index(loader(32, 4, 8, seed=1))
            parts = [TrainingPhase(1.5, torch.optim.SGD, 0.05), TrainingPhase(1, torch.optim.Adam)]
            learner = Learner(model, (small, small), batch_loss, [batch_loss], progress=False)
            path = folder / f"learner-{len(cuts)}"
            history = learner.fit_opt_sched(
                parts, cut=cut, stop_div=True, callbacks=[Checkpoint(path, every=3)],
                resume=path if cut is None and len(cuts) > 1 else None,
            )  # fmt: skip
        results.append([weights(model), gathered([row["valid_loss"] for row in history.rows])])
    return results


def whole(kind, folder):
    """Train without an interruption; save on the way."""
    loop = PhaseLoop(make_model(kind), phases())
    return {
        "steps": gathered(run(loop, folder)),
        "weights": weights(loop.model),
        "averages": gathered(average(loop.model)),
        "learner": learn(kind, folder),
    }


def resume(kind, folder):
    """Go on from each checkpoint; on one process, the batches are twice as large."""
    results = []
    for saved in SAVED:
        loop = PhaseLoop(make_model(kind), phases())
        load_sharded(loop, folder / f"at-{saved}", accept_other_plan=world() == 1)
        results.append({"steps": gathered(run(loop)), "weights": weights(loop.model)})
        results[-1]["averages"] = gathered(average(loop.model))
    return results


def main():
    warnings.simplefilter("error")
    folder, what = Path(sys.argv[1]), {"whole": whole, "resume": resume}[sys.argv[2]]
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    result = {kind: what(kind, folder / kind) for kind in KINDS}
    if not dist.is_initialized() or dist.get_rank() == 0:
        (folder / f"{what.__name__}-{world()}.json").write_text(json.dumps(result))
    if dist.is_initialized():
        gc.collect()  # a DDP left in a cycle keeps gloo's threads, which may outlive Python
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
