"""Grow a GAN on real digits by phases, from 4x4 to 32x32 pixels, and measure every stage.

python bench/progressive_gan.py --out runs/gan [--conv dense|factorized] [--quick]

A run that was interrupted or killed goes on where its last checkpoint is, with the same command,
and ends with the same weights. The loss is that of WGAN-GP: Gulrajani, Ahmed, Arjovsky, Dumoulin &
Courville (2017), arXiv 1704.00028; the growing that of Karras, Aila, Laine & Lehtinen (2018), arXiv
1710.10196.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from gan_measure import FULL, Judge, batches, pixels
from gan_networks import CLASSES, SIZES, Critic, Generator
from matplotlib import image as image_file
from timing import keep_freed_memory, machine
from torch import Tensor, nn

from pyphase import DecayType, Linear, PhaseError, PhaseLoop, TrainingPhase
from pyphase.apply.state import load_checkpoint, remove_leftovers, save_checkpoint
from pyphase.demo_data import ImageSet, load_images
from pyphase.interrupt import DeferredInterrupt

WIDTHS = (64, 32, 16, 8)  # channels at 4, 8, 16 and 32 pixels
LATENT = 64
BATCH = 16
STEPS = ((0, 600), (400, 600), (600, 1000), (800, 3400))  # of each stage: to fade in, to go on
QUICK_STEPS = ((0, 3), (3, 3), (3, 3), (3, 3))
LR = 1e-3
EMA = 0.998  # decay a step of the generator's average: half of it is from the last 350 steps
PENALTY, DRIFT = 10.0, 1e-3  # weights of the gradient penalty, and of the squared real scores
KIND = "progressive GAN 1"  # of a checkpoint
ROWS = 8  # of a grid of samples; one column for each class


class Latents:
    """Batches of latent vectors (N, LATENT) from N(0, 1), so many an epoch."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(self.length):
            yield torch.randn(BATCH, LATENT)


class ProgressiveGAN:
    """A critic and a generator, each in a :class:`PhaseLoop` of its own, taken step by step.

    The two loops have phases of the same lengths: the first stage; then, for each doubling, one
    phase whose ``on_enter`` adds layers to both networks and whose scheduled value fades them in,
    and one that begins by dropping the old layers. The critic's phases switch the digits' size.

    Args:
        digits: the training digits.
        steps: for each stage, the steps to fade in and to go on.
        kind: "dense" or "factorized" 3x3 convolutions.
    """

    def __init__(self, digits: ImageSet, steps: tuple[tuple[int, int], ...], kind: str) -> None:
        self.critic, self.generator = Critic(WIDTHS, kind), Generator(WIDTHS, LATENT, kind)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.alpha = 1.0
        sets = [batches(pixels(digits, size), digits.labels, BATCH) for size in SIZES[: len(steps)]]
        critic = make_phases(steps, self.set_alpha, self.grow_critic, self.settle_critic, sets)
        generator = make_phases(
            steps, self.generator.set_alpha, self.grow_generator, self.settle_generator
        )
        self.critic_loop = PhaseLoop(self.critic, critic)
        self.generator_loop = PhaseLoop(self.generator, generator, Latents(len(sets[0])))
        ends = [end for _, end in self.critic_loop.plan.spans]
        self.ends = dict(zip(SIZES, ends[::2], strict=False))  # step at which each stage ends

    def set_alpha(self, value: float) -> None:
        """Set the share of the critic's new layers, and of the new size in the real digits."""
        self.alpha = value
        self.critic.set_alpha(value)

    def grow_critic(self, _: PhaseLoop) -> None:
        self.critic.grow()

    def settle_critic(self, _: PhaseLoop) -> None:
        self.critic.settle()
        self.alpha = 1.0

    def grow_generator(self, _: PhaseLoop) -> None:
        self.generator.grow()
        self.average.grow()
        self.average.head.new.load_state_dict(self.generator.head.new.state_dict())
        self.average.requires_grad_(False)

    def settle_generator(self, _: PhaseLoop) -> None:
        self.generator.settle()
        self.average.settle()

    @property
    def position(self) -> int:
        """Number of steps that both networks have taken."""
        return self.generator_loop.position

    def train(self, end: int) -> Iterator[int]:
        """Train to step ``end``; give the position after each step."""
        if self.position >= end:
            return
        for (real, labels), latents in zip(self.critic_loop, self.generator_loop, strict=False):
            fake = self.generator(latents, labels)
            real = self.blend(real)
            self.critic_loop.step(critic_loss(self.critic, real, fake.detach(), labels))
            self.critic.requires_grad_(False)  # a gradient here would pass for the next batch's
            self.generator_loop.step(-self.critic(fake, labels).mean())
            self.critic.requires_grad_(True)
            self.update_average()
            yield self.position
            if self.position >= end:
                return

    def blend(self, real: Tensor) -> Tensor:
        """Fade the digits over from half the size as the layers are: (N, 1, S, S) to the same."""
        if self.alpha == 1.0:
            return real
        half = nn.functional.avg_pool2d(real, 2)
        return torch.lerp(nn.functional.interpolate(half, scale_factor=2.0), real, self.alpha)

    @torch.no_grad()
    def update_average(self) -> None:
        for own, new in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            own.lerp_(new, 1 - EMA)
        for own, new in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            own.copy_(new)

    @torch.no_grad()
    def sample(self, labels: Tensor, seed: int) -> Tensor:
        """Return the averaged generator's images for labels (N,); a seed has its latents."""
        latents = torch.randn(len(labels), LATENT, generator=torch.Generator().manual_seed(seed))
        parts = zip(latents.split(250), labels.split(250), strict=True)
        return torch.cat([self.average(*part) for part in parts])

    def state_dict(self) -> dict[str, Any]:
        return {
            "critic": self.critic_loop.state_dict(),
            "generator": self.generator_loop.state_dict(),
            "average": self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state: the loops grow the networks again, then fill in what was saved."""
        self.critic_loop.load_state_dict(state["critic"])
        self.generator_loop.load_state_dict(state["generator"])
        self.average.load_state_dict(state["average"])


def make_phases(
    steps: tuple[tuple[int, int], ...],
    set_alpha: Callable[[float], None],
    grow: Callable[[PhaseLoop], None],
    settle: Callable[[PhaseLoop], None],
    data: list[Any] | None = None,
) -> list[TrainingPhase]:
    """Return the phases of one network; the rate of the last one falls to a tenth."""
    adam = functools.partial(torch.optim.Adam, betas=(0.0, 0.99), eps=1e-8)
    phases = []
    for stage, (fade, go_on) in enumerate(steps):
        common: dict[str, Any] = {"opt_fn": adam, "data": None if data is None else data[stage]}
        name = f"{SIZES[stage]} px"
        if stage:
            values = {set_alpha: Linear(0.0, 1.0)}
            phases.append(
                TrainingPhase(
                    **common, steps=fade, lr=LR, values=values, on_enter=grow, name=f"fade {name}"
                )
            )
        last = stage == len(steps) - 1
        lr: dict[str, Any] = {"lr": (LR, LR / 10), "lr_decay": DecayType.COSINE}
        phases.append(
            TrainingPhase(
                **common,
                **(lr if last else {"lr": LR}),
                steps=go_on,
                on_enter=settle if stage else None,
                name=name,
            )
        )
    return phases


def critic_loss(critic: nn.Module, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
    """Return E[D(fake)] - E[D(real)] + 10 E[(|grad D(mixed)| - 1)^2] + 0.001 E[D(real)^2].

    mixed lies at random on the line from a fake to a real image. The third term's gradient is a
    second derivative of the critic; the fourth keeps scores near 0 (Karras et al.).
    """
    share = torch.rand(len(real), 1, 1, 1)
    mixed = torch.lerp(fake, real, share).requires_grad_()
    scores = critic(mixed, labels).sum()
    (slope,) = torch.autograd.grad(scores, mixed, create_graph=True)
    penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    on_real = critic(real, labels)
    distance = critic(fake, labels).mean() - on_real.mean()
    return distance + PENALTY * penalty + DRIFT * on_real.square().mean()


class Run:
    """A training run in a folder: checkpoint, grids of samples, results."""

    def __init__(self, out: Path, settings: dict[str, Any], every: int) -> None:
        self.out, self.settings, self.every = out, settings, every
        self.checkpoint = out / "checkpoint.pt"
        self.rows: list[dict[str, Any]] = []
        self.wall = self.cpu = 0.0
        seed, quick = settings["seed"], settings["quick"]
        saved = self._read()
        train, self.held_out = load_images(None, seed=0)
        if quick:
            train, self.held_out = (part.split(0.9, seed=0)[0] for part in (train, self.held_out))
        self.judge = Judge(train, self.held_out, out / "classifier.pt", epochs=6, seed=seed)
        torch.manual_seed(seed)
        self.gan = ProgressiveGAN(train, QUICK_STEPS if quick else STEPS, settings["conv"])
        if saved is not None:
            self.gan.load_state_dict(saved["gan"])
            self.rows, self.wall, self.cpu = saved["rows"], saved["wall"], saved["cpu"]
            print(f"going on from step {self.gan.position} of {self.total}")

    @property
    def total(self) -> int:
        return self.gan.critic_loop.plan.total_steps

    def _read(self) -> dict[str, Any] | None:
        remove_leftovers(self.checkpoint)
        if not self.checkpoint.exists():
            return None
        state = load_checkpoint(self.checkpoint)
        if state["pyphase"] != KIND:
            raise PhaseError(f"{self.checkpoint} is not a checkpoint of a progressive GAN")
        if state.get("settings") != self.settings:
            raise PhaseError(
                f"{self.out} holds a run with {state.get('settings')}, not {self.settings}: "
                "give `--out` another folder"
            )
        return state

    def save(self) -> None:
        state = {"settings": self.settings, "rows": self.rows, "wall": self.wall, "cpu": self.cpu}
        state |= {"pyphase": KIND, "gan": self.gan.state_dict()}
        save_checkpoint(self.checkpoint, state)

    def go(self) -> bool:
        """Train and measure each stage; return False where Ctrl-C came before the end."""
        with DeferredInterrupt() as interrupt:
            for size, end in self.gan.ends.items():
                wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
                for position in self.gan.train(end):
                    self.wall, self.cpu = time.perf_counter() - wall, time.process_time() - cpu
                    if position % self.every == 0 or position == end or interrupt.pending:
                        self.save()
                    if interrupt.pending:
                        return False
                if self.gan.position == end and len(self.rows) < SIZES.index(size) + 1:
                    self.rows.append(self.measure(size))
                    self.save()
                    print(row_text(self.rows[-1]), flush=True)
        return True

    def measure(self, size: int) -> dict[str, Any]:
        """Judge as many samples as digits are held out, with their labels; draw a grid."""
        labels = self.held_out.labels
        grid = self.gan.sample(torch.arange(CLASSES).repeat(ROWS), seed=1)
        draw_grid(grid, self.out / f"samples_{size:02}.png")
        return {
            "size": size,
            "steps": self.gan.position,
            "wall": self.wall,
            "cpu": self.cpu,
            "samples": self.judge(self.gan.sample(labels, seed=2), labels),
            "real": self.judge.of_real(size),
        }

    def report(self) -> str:
        """Write results.json and return the table."""
        held_out = self.judge.of_held_out()
        results = {"machine": machine(), "settings": self.settings, "stages": self.rows}
        results |= {"held_out": held_out}
        (self.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        title = f"{self.settings['conv']} convolutions, seed {self.settings['seed']}"
        classifier = f"the classifier reads {held_out['accuracy']:.1%} of held-out digits"
        total = f"training took {self.wall / 60:.1f} minutes, {self.cpu / 60:.1f} of a core"
        rows = map(row_text, self.rows)
        return "\n".join(["", machine(), f"{title}; {classifier}", "", HEADER, *rows, total])


HEADER = """\
                   core-  generated digits                real ones of that size
stage       steps  min    accuracy  confidence  Frechet   accuracy  Frechet"""


def row_text(row: dict[str, Any]) -> str:
    made, real = row["samples"], row["real"]
    return (
        f"{row['size']:2} px  {row['steps']:9}  {row['cpu'] / 60:5.2f}  {made['accuracy']:8.1%}  "
        f"{made['confidence']:10.3f}  {made['frechet']:7.2f}  {real['accuracy']:9.1%}  "
        f"{real['frechet']:7.2f}"
    )


def draw_grid(images: Tensor, path: Path) -> None:
    """Write images (rows * CLASSES, 1, S, S) in [-1, 1] as a PNG with 64 pixels an image."""
    scale = 2 * FULL // images.shape[-1]
    big = images.clamp(-1, 1).repeat_interleave(scale, -2).repeat_interleave(scale, -1)
    big = nn.functional.pad(big, (1, 1, 1, 1), value=-0.5)
    side = big.shape[-1]
    grid = big.reshape(-1, CLASSES, side, side).transpose(1, 2).reshape(-1, CLASSES * side)
    image_file.imsave(path, np.asarray((grid + 1) / 2), cmap="gray", vmin=0, vmax=1)


def draw_stages(folder: Path, path: Path, rows: int = 2) -> None:
    """Join the first rows of each stage's grid, which have the same latents, in one picture."""
    grids = [image_file.imread(folder / f"samples_{size:02}.png") for size in SIZES]
    height = grids[0].shape[0] // ROWS
    image_file.imsave(path, np.concatenate([grid[: rows * height] for grid in grids]))


def whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be >= 1, got {value}")
    return value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--conv", choices=("dense", "factorized"), default="dense")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=whole, default=1, help="other numbers may change bits")
    parser.add_argument("--every", type=whole, default=100, help="steps between checkpoints")
    parser.add_argument("--picture", type=Path, help="file for samples of all stages in one")
    parser.add_argument("--quick", action="store_true", help="seconds; too short to mean anything")
    args = parser.parse_args()
    if args.out.exists() and not args.out.is_dir():
        parser.error(f"argument --out: {args.out} is not a folder")
    if args.picture is not None and not args.picture.parent.is_dir():
        parser.error(f"argument --picture: there is no folder {args.picture.parent}")
    torch.set_num_threads(args.threads)
    settings = {"seed": args.seed, "conv": args.conv, "quick": args.quick}
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        run = Run(args.out, settings, args.every)
        done = run.go()
    except (PhaseError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        done = False
    if not done:
        print("interrupted; the same command goes on from the last checkpoint")
        return 130
    print(run.report())
    if args.picture is not None:
        draw_stages(args.out, args.picture)
    return 0


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
