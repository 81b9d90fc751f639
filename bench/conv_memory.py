"""Peak memory of a training step: twenty depthwise pairs, the package's layers or torch's.

    python bench/conv_memory.py [--json FILE]

Two measures, each variant in a process of its own:

- allocated: the peak of what torch's allocator had handed out since the step began, from the
  profiler's allocation events. Exact, but blind to what a library takes from malloc by itself.
- resident: the peak of the process's resident memory (getrusage) over what was resident when the
  step began. It sees all, the kernels' own scratch memory included; pages make it a little coarse.

Both start after a step on a tiny input, which loads the code, and with the gradients not allocated.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from pyphase import conv

__all__ = ["measure_memory", "print_memory"]

BLOCKS, CHANNELS, KERNEL = 20, 64, 7
SHAPE = (8, CHANNELS, 56, 56)
VARIANTS = ("torch", "native")
MEASURES = ("allocated", "resident")
# Each tensor in a mapping of its own, so that what is freed is no longer resident.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def stacks() -> dict[str, nn.Sequential]:
    """Return the two stacks, with the same weights."""
    torch.manual_seed(0)
    fused, plain = nn.Sequential(), nn.Sequential()
    for _ in range(BLOCKS):
        layer = conv.FactorizedConv2d(CHANNELS, CHANNELS, KERNEL, groups=CHANNELS)
        settings = {"padding": "same", "groups": CHANNELS}
        row = nn.Conv2d(CHANNELS, CHANNELS, (1, KERNEL), bias=False, **settings)
        column = nn.Conv2d(CHANNELS, CHANNELS, (KERNEL, 1), **settings)
        twins = {tuple(p.shape): p for p in (row.weight, column.weight, column.bias)}
        with torch.no_grad():
            for parameter in layer.parameters():
                twins[tuple(parameter.shape)].copy_(parameter)
        fused.extend([layer, nn.ReLU()])
        plain.extend([row, column, nn.ReLU()])
    return {"native": fused, "torch": plain}


def run(variant: str, measure: str) -> dict[str, float]:
    """Do one step of a variant; return the peak in bytes, and the loss to compare by."""
    found = stacks()
    model = found[variant]
    x = torch.randn(SHAPE)

    def step(batch: torch.Tensor) -> float:
        loss = model(batch).square().mean()
        loss.backward()
        return float(loss.detach())

    with conv.backend("native"):
        step(x[:1, :, :8, :8])
        model.zero_grad(set_to_none=True)
        peak = allocated if measure == "allocated" else resident
        losses: list[float] = []
        value = peak(lambda: losses.append(step(x)))
    return {"peak": value, "loss": losses[0]}


def allocated(call: Callable[[], object]) -> float:
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        call()
    results = profile.profiler.kineto_results  # type: ignore[union-attr]
    events = [event for event in results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return float(peak)


def resident(call: Callable[[], object]) -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    before = pages * resource.getpagesize()
    call()
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)


def measure_memory() -> dict[str, dict[str, float]]:
    """Return the bytes by variant and measure; each in a process, which must agree on the loss."""
    found: dict[str, dict[str, float]] = {variant: {} for variant in VARIANTS}
    losses = []
    environment = {**os.environ, **GIVE_BACK}
    environment.pop("MALLOC_TOP_PAD_", None)
    for measure in MEASURES if sys.platform == "linux" else MEASURES[:1]:
        for variant in VARIANTS:
            command = [sys.executable, __file__, "--child", variant, measure]
            done = subprocess.run(
                command, env=environment, check=True, stdout=subprocess.PIPE, text=True
            )
            result = json.loads(done.stdout.splitlines()[-1])
            found[variant][measure] = result["peak"]
            losses.append(result["loss"])
    assert max(losses) - min(losses) <= 1e-5 * max(losses), losses
    return found


def print_memory(found: dict[str, dict[str, float]]) -> None:
    shape = "x".join(str(size) for size in SHAPE)
    print(f"\na training step of {BLOCKS} depthwise pairs k = {KERNEL} + ReLU on {shape}, peak MB")
    print(f"{'':34}{'torch':>10}{'native':>10}{'torch / native':>16}")
    titles = {"allocated": "allocated through torch", "resident": "resident memory of the process"}
    for measure in found["torch"]:
        torchs, ours = (found[variant][measure] / 1e6 for variant in VARIANTS)
        print(f"{titles[measure]:34}{torchs:10.1f}{ours:10.1f}{torchs / ours:16.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(run(*arguments.child)))
        return
    found = measure_memory()
    print_memory(found)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
