"""Factorize a network trained on real images at half the MACs: accuracy before and after, speed.

python bench/bench_factorize.py [--network kxk|demo] [--share 0.5] [--seeds 3] [--quick]
"""

from __future__ import annotations

import argparse
import copy
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import torch
from timing import interleave_quiet, keep_freed_memory, machine
from torch import nn

from pyphase import DecayType, Learner, TrainingPhase, accuracy, conv
from pyphase.demo import SmallResNet
from pyphase.demo_data import ImageSet, load_images, make_loader

BATCH, CALIBRATION, TIMED = 64, 64, 32  # images: of a step, to fit outputs on, in a timed pass
METHODS = {
    "plain SVD, column first (as AIMET's spatial SVD)": {"order": "col_row"},
    "plain SVD, the better order": {},
    "outputs fitted on 64 training images": {"calibration": True},
}


def kxk_network(in_channels: int, num_classes: int) -> nn.Module:
    """Return a network of 7x7 and 5x5 convolutions, 16 M MACs at 28 pixels, one channel."""
    layers: list[nn.Module] = []
    for before, width, kernel in ((in_channels, 32, 7), (32, 64, 5), (64, 64, 5)):
        layers += [nn.Conv2d(before, width, kernel, padding=kernel // 2, bias=False)]
        layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes))


NETWORKS = {"kxk": kxk_network, "demo": SmallResNet}


class Result(NamedTuple):
    """What a method made of one trained network; the dense one has no plan and no error."""

    model: nn.Module  # before it is tuned
    plan: conv.FactorPlan | None
    error: float
    accuracy: float
    tuned: float  # accuracy


def train(model: nn.Module, loaders: tuple[object, object], phases: list[TrainingPhase]) -> float:
    learn = Learner(model, loaders, nn.CrossEntropyLoss(), [accuracy])
    learn.fit_opt_sched(phases)
    return learn.validate()["accuracy"]


def score(model: nn.Module, loaders: tuple[object, object]) -> float:
    return Learner(model, loaders, nn.CrossEntropyLoss(), [accuracy]).validate()["accuracy"]


def measure(
    network: str, images: ImageSet, held_out: ImageSet, share: float, seed: int, epochs: int
) -> dict[str, Result]:
    """Train a network and factorize it in each way; return what came out, the dense one first."""
    torch.manual_seed(seed)
    size = images.images.shape[-1]
    loaders = both(images, held_out, size)
    sgd = functools.partial(torch.optim.SGD, weight_decay=5e-4, nesterov=True)
    cosine = DecayType.COSINE
    rates = [
        TrainingPhase(epochs / 3, sgd, (0.005, 0.05), cosine, momentum=0.9, name="warm-up"),
        TrainingPhase(epochs * 2 / 3, sgd, (0.05, 0.0005), cosine, momentum=0.9, name="anneal"),
    ]
    tuning = [TrainingPhase(1, sgd, (0.01, 0.0), cosine, momentum=0.9, name="fine-tune")]
    dense = NETWORKS[network](images.images.shape[1], len(images.classes))
    reached = train(dense, loaders, rates)
    dense.eval()
    training = torch.cat([batch for batch, _ in make_loader(images, size, 32, train=False)][:2])
    unseen = next(iter(make_loader(held_out, size, 128, train=False)))[0]
    one = torch.zeros(1, *training.shape[1:])
    tuned = train(copy.deepcopy(dense), loaders, tuning)
    results = {"dense": Result(dense, None, 0.0, reached, tuned)}
    for name, options in METHODS.items():
        chosen = dict(options)
        if chosen.get("calibration"):
            chosen["calibration"] = training[:CALIBRATION]
        model = copy.deepcopy(dense)
        plan = conv.factorize(model, one, macs=share, **chosen)
        error = layer_errors(model, plan, unseen)
        plan.apply()
        before, slim = score(model, loaders), copy.deepcopy(model)
        results[name] = Result(slim, plan, error, before, train(model, loaders, tuning))
    return results


def layer_errors(dense: nn.Module, plan: conv.FactorPlan, images: torch.Tensor) -> float:
    """Return the mean relative error of the layers' outputs on held-out images.

    Each pair is given what its convolution was given in the dense model.
    """
    errors: list[float] = []
    model = copy.deepcopy(dense).eval()
    plan.apply()
    slim = {name: copy.deepcopy(dense.get_submodule(name)) for name in plan.ranks}
    plan.undo()
    for name, pair in slim.items():

        def compare(module, args, output, pair=pair):
            errors.append(((pair(args[0]) - output).norm() / output.norm()).item())

        model.get_submodule(name).register_forward_hook(compare)
    with torch.no_grad():
        model(images)
    return sum(errors) / len(errors)


def milliseconds(models: dict[str, nn.Module], images: torch.Tensor, rounds: int) -> dict[str, str]:
    """Return the time of a forward pass as median and quartiles, by name."""

    def timed(model: nn.Module) -> None:
        with torch.no_grad():
            model(images)

    calls = {name: functools.partial(timed, model.eval()) for name, model in models.items()}
    found = interleave_quiet(calls, repeats=2, rounds=rounds, limit=rounds)
    texts = {}
    for name, own in found.items():
        low, median, high = (1e3 * seconds for seconds in own.timing)
        speed = found["dense"].timing.median / own.timing.median
        texts[name] = f"{median:6.2f} ({low:.2f} .. {high:.2f}){own.star:1} {speed:5.2f}x"
    return texts


def spread(values: Sequence[float]) -> str:
    """Return mean, least and most of accuracies, in percent."""
    mean, least, most = (100 * value for value in (fmean(values), min(values), max(values)))
    return f"{mean:.2f} ({least:.1f} .. {most:.1f})"


def table(runs: Sequence[dict[str, Result]], times: dict[str, str]) -> str:
    width = max(map(len, METHODS))
    heads = ["MACs", "output error", "accuracy, %", "fine-tuned, %"]
    lines = [f"{'':{width}}  {heads[0]:>6}  {heads[1]}  {heads[2]:>21}  {heads[3]:>21}  "]
    lines[0] += f"ms of {TIMED} images"
    for name in runs[0]:
        own = [run[name] for run in runs]
        shares = [result.plan.macs[1] / result.plan.macs[0] for result in own if result.plan]
        error = f"{fmean(result.error for result in own):.4f}" if shares else ""
        lines.append(
            f"{name:{width}}  {max(shares, default=1.0):6.1%}  {error:>12}  "
            f"{spread([result.accuracy for result in own]):>21}  "
            f"{spread([result.tuned for result in own]):>21}  {times[name]}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, default="kxk")
    parser.add_argument("--data", help="folder of images, as for `pyphase demo`; None is MNIST")
    parser.add_argument("--share", type=float, default=0.5, help="of the model's MACs")
    parser.add_argument("--seeds", type=int, default=3, help="networks that are trained")
    parser.add_argument("--quick", action="store_true", help="too short to mean anything")
    args = parser.parse_args(arguments)
    if args.seeds < 1:
        parser.error(f"--seeds (={args.seeds}) must be >= 1")
    images, held_out = load_images(args.data, seed=0)
    size = images.images.shape[-1]
    runs = [
        measure(args.network, images, held_out, args.share, seed, 1 if args.quick else 4)
        for seed in range(args.seeds)
    ]
    unseen = next(iter(make_loader(held_out, size, TIMED, train=False)))[0]
    models = {name: result.model for name, result in runs[0].items()}
    times = milliseconds(models, unseen, rounds=3 if args.quick else 15)
    print(
        f"\n{machine()}\n{args.network}: {len(images.labels)} images to train on, "
        f"{len(held_out.labels)} held out, {size} px; seeds 0 to {args.seeds - 1}\n\n"
        f"{list(runs[0].values())[-1].plan}\n\n{table(runs, times)}"
    )


def both(images: ImageSet, held_out: ImageSet, size: int) -> tuple[object, object]:
    training = make_loader(images, size, BATCH, train=True)
    return training, make_loader(held_out, size, 4 * BATCH, train=False)


if __name__ == "__main__":
    keep_freed_memory()
    main()
