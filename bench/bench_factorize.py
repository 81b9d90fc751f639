"""Factorize a network trained on real images at half the MACs: accuracy before and after, speed.

python bench/bench_factorize.py [--network kxk|demo] [--share 0.5] [--quick]
"""

from __future__ import annotations

import argparse
import copy
import functools
import sys
from pathlib import Path

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


def train(model: nn.Module, loaders: tuple[object, object], phases: list[TrainingPhase]) -> float:
    learn = Learner(model, loaders, nn.CrossEntropyLoss(), [accuracy])
    learn.fit_opt_sched(phases)
    return learn.validate()["accuracy"]


def score(model: nn.Module, loaders: tuple[object, object]) -> float:
    return Learner(model, loaders, nn.CrossEntropyLoss(), [accuracy]).validate()["accuracy"]


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


def milliseconds(models: dict[str, nn.Module], images: torch.Tensor, quick: bool) -> dict[str, str]:
    """Return the time of a forward pass as median and quartiles, by name."""

    def timed(model: nn.Module) -> None:
        with torch.no_grad():
            model(images)

    calls = {name: functools.partial(timed, model.eval()) for name, model in models.items()}
    found = interleave_quiet(calls, repeats=2, rounds=3 if quick else 15, limit=3 if quick else 10)
    texts = {}
    for name, own in found.items():
        low, median, high = (1e3 * seconds for seconds in own.timing)
        speed = found["dense"].timing.median / own.timing.median
        texts[name] = f"{median:6.2f} ({low:.2f} .. {high:.2f}){own.star:1} {speed:5.2f}x"
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, default="kxk")
    parser.add_argument("--data", help="folder of images, as for `pyphase demo`; None is MNIST")
    parser.add_argument("--share", type=float, default=0.5, help="of the model's MACs")
    parser.add_argument("--quick", action="store_true", help="too short to mean anything")
    args = parser.parse_args()
    torch.manual_seed(0)
    images, held_out = load_images(args.data, seed=0)
    size = images.images.shape[-1]
    loaders = both(images, held_out, size)
    sgd = functools.partial(torch.optim.SGD, weight_decay=5e-4, nesterov=True)
    cosine = DecayType.COSINE
    epochs = 1 if args.quick else 4
    rates = [
        TrainingPhase(epochs / 3, sgd, (0.005, 0.05), cosine, momentum=0.9, name="warm-up"),
        TrainingPhase(epochs * 2 / 3, sgd, (0.05, 0.0005), cosine, momentum=0.9, name="anneal"),
    ]
    tuning = [TrainingPhase(1, sgd, (0.01, 0.0), cosine, momentum=0.9, name="fine-tune")]
    dense = NETWORKS[args.network](images.images.shape[1], len(images.classes))
    dense_score = train(dense, loaders, rates)
    dense.eval()
    training = torch.cat([batch for batch, _ in make_loader(images, size, 32, train=False)][:2])
    unseen = next(iter(make_loader(held_out, size, 128, train=False)))[0]
    one = torch.zeros(1, *training.shape[1:])
    continued = train(copy.deepcopy(dense), loaders, tuning)
    rows, models = [], {"dense": dense}
    for name, options in METHODS.items():
        chosen = dict(options)
        if chosen.get("calibration"):
            chosen["calibration"] = training[:CALIBRATION]
        model = copy.deepcopy(dense)
        plan = conv.factorize(model, one, macs=args.share, measure=False, **chosen)
        error = layer_errors(model, plan, unseen)
        plan.apply()
        before = score(model, loaders)
        models[name] = copy.deepcopy(model)
        rows.append((name, plan, error, before, train(model, loaders, tuning)))
    times = milliseconds(models, unseen[:TIMED], args.quick)
    print(
        f"\n{machine()}\n{args.network}: {len(images.labels)} images to train on, "
        f"{len(held_out.labels)} held out, {size} px\n"
    )
    print(rows[-1][1], "\n")
    width = max(len(name) for name in METHODS)
    print(f"{'':{width}}  MACs    output error  accuracy  fine-tuned  ms of {TIMED} images")
    print(
        f"{'dense':{width}}  100.0%  {'':12}  {dense_score:8.2%}  {continued:10.2%}  "
        f"{times['dense']}"
    )
    for name, plan, error, before, after in rows:
        share = plan.macs[1] / plan.macs[0]
        print(
            f"{name:{width}}  {share:6.1%}  {error:12.4f}  {before:8.2%}  {after:10.2%}  "
            f"{times[name]}"
        )


def both(images: ImageSet, held_out: ImageSet, size: int) -> tuple[object, object]:
    training = make_loader(images, size, BATCH, train=True)
    return training, make_loader(held_out, size, 4 * BATCH, train=False)


if __name__ == "__main__":
    keep_freed_memory()
    main()
