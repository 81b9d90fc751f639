"""The command line: ``pyphase demo | plot | info``."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import textwrap
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from pyphase import _core
from pyphase.conv import choices, cuda
from pyphase.conv.choice_file import choices_path
from pyphase.errors import PhaseError
from pyphase.plan import Plan

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 for an error, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (PhaseError, OSError) as error:
        print(f"pyphase: error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pyphase", description="Training phases and factorized convolutions for PyTorch."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    demo = commands.add_parser("demo", help="train a small network on real images")
    demo.add_argument("--data", metavar="DIR", help="CIFAR-10's batches, or folders of classes")
    demo.add_argument("--out", metavar="DIR", default="runs/demo", help="default: %(default)s")
    demo.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt")
    demo.add_argument("--seed", type=_seed, default=0, help="default: %(default)s")
    demo.set_defaults(run=_demo)
    plot = commands.add_parser("plot", help="draw a plan that was written as JSON")
    plot.add_argument("plan", metavar="PLAN.json")
    plot.add_argument(
        "-o", "--out", metavar="FILE", default="plan.png", help="default: %(default)s"
    )
    plot.set_defaults(run=_plot)
    info = commands.add_parser("info", help="versions, threads, and what runs how")
    info.set_defaults(run=_info)
    return parser


def _seed(text: str) -> int:
    seed = int(text)
    if not 0 <= seed < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 2**63)")
    return seed


def _demo(arguments: argparse.Namespace) -> int:
    from pyphase.demo import run_demo

    try:
        run_demo(arguments.out, data=arguments.data, resume=arguments.resume, seed=arguments.seed)
    except KeyboardInterrupt:
        checkpoint = Path(arguments.out) / "checkpoint.pt"
        if checkpoint.exists():
            print("\ninterrupted; the same command with --resume goes on from here")
            return 130
        raise
    return 0


def _plot(arguments: argparse.Namespace) -> None:
    try:
        plan = Plan.from_json(Path(arguments.plan).read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise PhaseError(f"{arguments.plan} is not a plan: it is no text") from None
    figure = plan.plot()
    try:
        figure.savefig(arguments.out)
    except ValueError as error:  # a suffix that matplotlib doesn't know
        raise PhaseError(f"`--out` (={arguments.out}): {error}") from None
    print(f"{plan}\n\ndrawn to {arguments.out}")


def _info(_: argparse.Namespace) -> None:
    print(f"pyphase  {_version()}")
    print(f"torch    {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"python   {platform.python_version()}, {platform.machine()}")
    print("schedule core: C++ (CPU); no part of it runs on a GPU")
    print("\n".join(_conv_lines()))


def _conv_lines() -> list[str]:
    """Return what computes the factorized convolutions here, as the kernels themselves tell it."""
    try:
        isa = _core.isa()
    except ValueError as error:  # PYPHASE_ISA names none that runs here
        raise PhaseError(str(error)) from None
    source = "as PYPHASE_ISA says" if os.environ.get("PYPHASE_ISA") else "the best that runs here"
    return [
        "factorized convolutions:",
        f"  instruction set  {isa}, {source}",
        f"  PYPHASE_ISA      may be {', '.join(_core.isas())}",
        f"  threads          {torch.get_num_threads()}, those of torch",
        f"  fused kernels    depthwise pairs and sums of them: {_served(groups=4)}",
        f"                   pairs with one group: {_served(groups=1)}",
        "  batch norm       between the two (pyphase.nets): folded in eval mode, so that",
        "                   the fused kernels serve; in training torch's own, unfused,",
        "                   since the norm needs the whole intermediate",
        "  torch's own      all else, since no kernel is there: other groups and types,",
        "                   torch.func, forward-mode gradients, other devices; and,",
        "                   unless backend('native') is set, where torch is faster",
        *_cuda_lines(),
    ]


def _cuda_lines() -> list[str]:
    """Return what computes them on GPUs, and what was measured there."""
    module = cuda.load()
    if reason := cuda.why_not(module):
        return textwrap.wrap(
            f"  CUDA             torch's own convolutions: {reason}",
            width=80,
            subsequent_indent=" " * 19,
            break_long_words=False,
        )
    lines = [f"  CUDA             kernels by {module.COMPILER} for {module.ARCHITECTURES}"]
    for index in range(torch.cuda.device_count()):
        properties = module.query_device(index)
        served = cuda.runs_on(module.ARCHITECTURES, properties.capability)
        who = "kernels and torch, the faster one" if served else "torch's own convolutions"
        lines.append(f"  GPU {index}            {torch.cuda.get_device_name(index)}: {who}")
    if not torch.cuda.device_count():
        lines.append("  GPU              none that torch finds; the kernels have never run on one")
    found = choices()
    if found:
        native = sum(choice.backend == "native" for choice in found)
        lines.append(f"  measured         {len(found)} passes, {native} of them for the kernels,")
        lines.append(f"                   in {choices_path() or 'memory'}")
    return lines


def _served(groups: int) -> str:
    """Return the types in which a pair of four channels has a fused kernel."""
    served = [
        name
        for name in ("float32", "float64", "bfloat16", "float16")
        if _core.ConvPair(
            input_shape=(1, 4, 8, 8),
            weight1_shape=(4, 4 // groups, 1, 3),
            weight2_shape=(4, 4 // groups, 3, 1),
            stride=(1, 1),
            padding=(1, 1, 1, 1),
            dilation=(1, 1),
            groups=(groups, groups),
            activation="none",
            dtype=name,
            channels_last=False,
        ).kernel
    ]
    return "every type" if len(served) == 4 else ", ".join(served) or "no type"


def _version() -> str:
    try:
        return version("pyphase-torch")
    except PackageNotFoundError:
        return "not installed: it runs from its source tree"


if __name__ == "__main__":
    sys.exit(main())
