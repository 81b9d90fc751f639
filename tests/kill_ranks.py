"""Kill one of two processes (DDP, gloo) with SIGKILL at random moments, start both again.

What each process ends with (weights, optimizer, history, random generators) must be that of a run
that nobody killed, bit for bit. The processes are started by torchrun's launcher, as forks.

    python tests/kill_ranks.py FOLDER --kills 20 --seed 0
"""

import copy
import gc
import os
import signal
import time
import traceback

import kills
import torch
import torch.distributed as dist
from kill_run import Images, Log
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler
from training import seed_all

from pyphase import Checkpoint, DecayType, Learner, TrainingPhase, accuracy
from pyphase.apply.state import load_checkpoint, save_checkpoint

RANKS = 2


def loaders(size, batch_size):
    train = Images(size, 48)
    sampler = DistributedSampler(train, seed=3)
    return DataLoader(train, batch_size, sampler=sampler), DataLoader(Images(size, 8), 8)


def train(folder):
    """Train or go on, in one of the processes: SGD, larger images and batches, AdamW by `map`."""
    rank = dist.get_rank()
    (folder / f"pid-{rank}").write_text(str(os.getpid()))
    seed_all(7)
    model = DistributedDataParallel(
        nn.Sequential(
            *(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2)),
            *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(32, 4)),
        )
    )
    seed_all(10 + rank)  # each draws its own noise
    small, large = loaders(8, 4), loaders(12, 8)
    sgd, adam = torch.optim.SGD, torch.optim.AdamW
    phases = [
        TrainingPhase(1.5, sgd, (0.01, 0.1), DecayType.LINEAR, 0.9, data=small),
        TrainingPhase(1.5, sgd, 0.1, DecayType.COSINE, 0.9, data=large),
        TrainingPhase(1, adam, (1e-3, 2e-3), DecayType.LINEAR, opt_state="map", data=large),
        TrainingPhase(0.5, adam, 1e-3, DecayType.COSINE, data=small),
    ]
    learn = Learner(model, small, nn.CrossEntropyLoss(), [accuracy], progress=False)
    saved = folder / "checkpoints"
    callbacks = [Checkpoint(saved, every=1), Log(folder / f"log-{rank}")]
    learn.fit_opt_sched(phases, callbacks=callbacks, resume=saved if complete(saved) else None)
    save_checkpoint(folder / f"end-{rank}.pt", copy.deepcopy(learn.state_dict()))


def run(folder):
    """Train, as a process of a group."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    train(folder)
    gc.collect()  # a DDP left in a cycle keeps gloo's threads, which may outlive Python
    dist.destroy_process_group()


def start(folder):
    """Return the id of a new process that launches those that train, once."""
    for rank in range(RANKS):
        (folder / f"pid-{rank}").unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        try:
            config = LaunchConfig(
                min_nodes=1, max_nodes=1, nproc_per_node=RANKS, max_restarts=0,
                run_id=f"kill-{os.getpid()}", rdzv_backend="c10d", rdzv_endpoint="localhost:0",
                start_method="fork", monitor_interval=0.05,
            )  # fmt: skip
            elastic_launch(config, run)(folder)
            os._exit(0)
        except ChildFailedError as error:
            os.write(2, f"{error}\n".encode())
            os._exit(3)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return pid


def complete(saved):
    """Return the numbers of the checkpoints that are whole."""
    found = [path for path in saved.glob("*") if path.name.isdigit()]
    return sorted(int(path.name) for path in found if (path / ".metadata").is_file())


def unfinished(folder):
    """Return the checkpoints that are being written, or were cut off."""
    saved = folder / "checkpoints"
    return {path.name for path in saved.glob("*")} - {f"{n:08d}" for n in complete(saved)}


def kill(pid, folder, delay, draw, number):
    """Kill one of the processes some time after it stands; False: the run had ended."""
    file, due = folder / f"pid-{draw.randrange(RANKS)}", None
    while due is None or time.monotonic() < due:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            assert status == 0, f"the training failed: {status}"
            return False
        if due is None and file.exists() and file.read_text():
            due = time.monotonic() + delay
        time.sleep(0.002)
    os.kill(int(file.read_text()), signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if status == 0:  # its last act was done
        return False
    assert os.waitstatus_to_exitcode(status) == 3, f"the launcher failed: {status}"
    return True


def check_files(folder, before):
    """Check that a whole checkpoint is behind neither the last one nor any step that was noted."""
    logs = [folder / f"log-{rank}" for rank in range(RANKS)]
    noted = [int(line) for log in logs if log.exists() for line in log.read_text().split()]
    numbers = complete(folder / "checkpoints")
    if not numbers:
        assert not noted
        return 0
    last = folder / "checkpoints" / f"{numbers[-1]:08d}"
    places = {load_checkpoint(last / f"rank-{r}.pt")["loop"]["position"] for r in range(RANKS)}
    assert len(places) == 1, f"the processes have saved other steps: {places}"
    position = places.pop()
    assert position >= max([before, *noted])
    return position


def end_of(folder):
    return [load_checkpoint(folder / f"end-{rank}.pt") for rank in range(RANKS)]


if __name__ == "__main__":
    kills.main(
        __doc__,
        kills=20,
        start=start,
        kill=kill,
        unfinished=unfinished,
        position_of=check_files,
        end_of=end_of,
    )
