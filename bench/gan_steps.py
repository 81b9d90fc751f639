"""Time a training step of the progressive GAN at each size: dense against factorized convolutions.

python bench/gan_steps.py [--threads 1] [--quick]

A step is critic loss, its backward pass (twice differentiated), generator loss, its backward pass.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from gan_networks import CLASSES, SIZES, Critic, Generator
from progressive_gan import BATCH, LATENT, WIDTHS, critic_loss
from timing import interleave_quiet, keep_freed_memory, machine

from pyphase import conv

CONTESTANTS = {  # convolutions, and who computes a pair
    "dense 3x3": ("dense", "auto"),
    "pairs, auto": ("factorized", "auto"),
    "pairs, native": ("factorized", "native"),
    "pairs, torch": ("factorized", "torch"),
}


def step(generator: Generator, critic: Critic, size: int, backend: str) -> None:
    real, labels = torch.randn(BATCH, 1, size, size), torch.randint(CLASSES, (BATCH,))
    with conv.backend(backend):
        fake = generator(torch.randn(BATCH, LATENT), labels)
        critic_loss(critic, real, fake.detach(), labels).backward()
        critic.requires_grad_(False)
        (-critic(fake, labels).mean()).backward()
        critic.requires_grad_(True)
    for network in (generator, critic):
        network.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="too short to mean anything")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    kinds = {kind for kind, _ in CONTESTANTS.values()}
    networks = {kind: (Generator(WIDTHS, LATENT, kind), Critic(WIDTHS, kind)) for kind in kinds}
    print(f"{machine()}\nmilliseconds a training step of {BATCH} images, median (quartiles)\n")
    for size in SIZES:
        if size > SIZES[0]:
            for network in (part for pair in networks.values() for part in pair):
                network.grow()
                network.settle()
        calls = {
            name: functools.partial(step, *networks[kind], size, backend)
            for name, (kind, backend) in CONTESTANTS.items()
        }
        rounds, limit = (2, 2) if args.quick else (11, 9)
        found = interleave_quiet(calls, repeats=1, rounds=rounds, limit=limit)
        for name, own in found.items():
            low, median, high = (1e3 * seconds for seconds in own.timing)
            ratio = own.timing.median / found["dense 3x3"].timing.median
            quartiles = f"({low:.1f} .. {high:.1f}){own.star}"
            print(f"{size:2} px  {name:14} {median:7.1f} {quartiles:19} {ratio:5.2f}", flush=True)


if __name__ == "__main__":
    keep_freed_memory()
    main()
