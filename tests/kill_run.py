"""Train, kill the process with SIGKILL at random moments, start it again, until it is done.

The final checkpoint (weights, optimizer, history, random generators) must be that of a run that
nobody killed, bit for bit. Half of the kills wait until a checkpoint is being written.

    python tests/kill_run.py FOLDER --kills 50 --seed 0
"""

import os
import random
import signal
import time
import traceback

import kills
import numpy as np
import torch
from torch import nn
from training import seed_all

from pyphase import Callback, Checkpoint, DecayType, Learner, TrainingPhase, accuracy
from pyphase.apply.state import load_checkpoint


class Images(torch.utils.data.Dataset):
    """Four kinds of stripes, turned over and brightened by all three global generators."""

    def __init__(self, size, count):
        self.size, self.count = size, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        kind = index % 4
        at = torch.arange(self.size * self.size).reshape(1, self.size, self.size)
        image = ((at // (kind + 1)) % 2).float() + 0.3 * torch.randn(1, self.size, self.size)
        image = image.flip(-1) if random.random() < 0.5 else image
        return image * float(np.random.uniform(0.5, 1.5)), kind


def loaders(size, batch_size):
    train = Images(size, 24)
    return (
        torch.utils.data.DataLoader(train, batch_size, shuffle=True),
        torch.utils.data.DataLoader(Images(size, 8), 8),
    )


def grow(loop):
    loop.model[-1] = nn.Sequential(loop.model[-1], nn.Linear(4, 4))


class Log(Callback):
    """Note each step in a file, after the checkpoint has been written."""

    def __init__(self, path):
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def on_step_end(self, learn):
        os.write(self.file, f"{learn.loop.position}\n".encode())


def train(folder):
    """Train or go on: SGD, larger images and batches, AdamW by `map`, a grown network."""
    torch.set_num_threads(1)
    seed_all(7)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(32, 4)),
    )
    small, large = loaders(8, 4), loaders(12, 8)
    adam = torch.optim.AdamW
    phases = [
        TrainingPhase(1.5, torch.optim.SGD, (0.01, 0.1), DecayType.LINEAR, 0.9, data=small),
        TrainingPhase(1.5, torch.optim.SGD, 0.1, DecayType.COSINE, 0.9, data=large),
        TrainingPhase(1, adam, (1e-3, 2e-3), DecayType.LINEAR, opt_state="map", data=large),
        TrainingPhase(0.5, adam, 1e-3, DecayType.COSINE, data=small, on_enter=grow),
    ]
    learn = Learner(model, small, nn.CrossEntropyLoss(), [accuracy], progress=False)
    file = folder / "checkpoint.pt"
    callbacks = [Checkpoint(file, every=1), Log(folder / "log")]
    learn.fit_opt_sched(phases, callbacks=callbacks, resume=file if file.exists() else None)


def start(folder):
    """Return the id of a new process that trains."""
    pid = os.fork()
    if pid == 0:
        try:
            train(folder)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return pid


def unfinished(folder):
    """Return the temporary files of checkpoints that are being written, or were cut off."""
    return {name for name in os.listdir(folder) if name.startswith(".checkpoint.pt.")}


def ended(pid):
    """Return whether a process has ended, and how."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return found != 0, status


def kill(pid, folder, delay, draw, number):
    """Kill a process after a delay, every other time in the first write after it."""
    in_write = number % 2 == 0
    began, left = time.monotonic(), unfinished(folder)
    while time.monotonic() - began < delay + (0.5 if in_write else 0):
        done, status = ended(pid)
        if done:
            assert status == 0, f"the training failed: {status}"
            return False
        if in_write and time.monotonic() - began >= delay and unfinished(folder) - left:
            break
        time.sleep(0.0002 if in_write else 0.002)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def check_files(folder, before):
    """Check that the file is whole, behind neither the last one nor any step that was noted."""
    file, log = folder / "checkpoint.pt", folder / "log"
    noted = [int(line) for line in log.read_text().split()] if log.exists() else []
    if not file.exists():
        assert not noted
        return 0
    position = load_checkpoint(file)["loop"]["position"]
    assert position >= max([before, *noted])
    return position


def end_of(folder):
    return load_checkpoint(folder / "checkpoint.pt")


if __name__ == "__main__":
    kills.main(
        __doc__,
        kills=50,
        start=start,
        kill=kill,
        unfinished=unfinished,
        position_of=check_files,
        end_of=end_of,
    )
