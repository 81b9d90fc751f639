"""Cost of a scheduler's step, and of a table of values, against the usual ones.

    python bench/bench_schedule.py [--quick] [--json FILE] [--plot FILE]

Every contender's values are checked before it is timed. The floors are plain Python loops that
write lr and momentum into each group: one writes two ready floats, one computes two new ones.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from timing import Timing, interleave, machine
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
)

from pyphase import DecayType, PhaseScheduler, Plan, TrainingPhase, one_cycle, phases_1cycle

TOTAL = 10**7  # longer than any measurement: nothing may run over its end
PEAK = 0.1
CHECKED = (0, 1, 5, 50)


def make_optimizer(groups: int, **keywords: Any) -> torch.optim.Optimizer:
    params = [{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(groups)]
    keywords = {"lr": PEAK, "momentum": 0.9} | keywords
    return torch.optim.SGD(params, **keywords)


def torch_one_cycle(groups: int) -> Callable[[], object]:
    scheduler = OneCycleLR(make_optimizer(groups), PEAK, total_steps=TOTAL)
    # It reaches its end in its last step: the same fractions as a plan that is one step shorter.
    share = (0.3 * TOTAL - 1) / (TOTAL - 1)
    phases = one_cycle(PEAK, total_steps=TOTAL - 1, pct_start=share)
    return checked(scheduler, Plan(phases), tolerance=1e-12)


def torch_sequential(groups: int) -> Callable[[], object]:
    optimizer = make_optimizer(groups)
    parts: list[LRScheduler] = [
        LinearLR(optimizer, 0.1, total_iters=TOTAL // 10),
        CosineAnnealingLR(optimizer, TOTAL - TOTAL // 10),
    ]
    scheduler = SequentialLR(optimizer, parts, [TOTAL // 10])
    phases = [
        TrainingPhase(steps=TOTAL // 10, lr=(PEAK / 10, PEAK), lr_decay=DecayType.LINEAR),
        TrainingPhase(steps=TOTAL - TOTAL // 10, lr=PEAK, lr_decay=DecayType.COSINE),
    ]
    return checked(scheduler, Plan(phases), tolerance=1e-12)


def torch_lambda(groups: int) -> Callable[[], object]:
    scheduler = LambdaLR(make_optimizer(groups), lambda step: 1 - step / TOTAL)
    phase = TrainingPhase(steps=TOTAL, lr=PEAK, lr_decay=DecayType.LINEAR)
    return checked(scheduler, Plan([phase]), tolerance=1e-12)


def checked(scheduler: LRScheduler, plan: Plan, *, tolerance: float) -> Callable[[], object]:
    """Step a scheduler to a few points, compare its rates with the plan's, return its step."""
    for step in range(max(CHECKED) + 1):
        if step in CHECKED:
            found = scheduler.optimizer.param_groups[-1]["lr"]
            np.testing.assert_allclose(found, plan.values_at(step)["lr"], rtol=tolerance)
        scheduler.step()
    return scheduler.step


def timm_cosine(groups: int) -> Callable[[], object]:
    from timm.scheduler import CosineLRScheduler

    scheduler = CosineLRScheduler(make_optimizer(groups), t_initial=TOTAL, t_in_epochs=False)
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        scheduler.step_update(count)

    return step


def ignite_linear(groups: int) -> Callable[[], object]:
    from ignite.handlers import LinearCyclicalScheduler

    optimizer = make_optimizer(groups)
    rate = LinearCyclicalScheduler(optimizer, "lr", 0.0, PEAK, TOTAL)
    momentum = LinearCyclicalScheduler(optimizer, "momentum", 0.95, 0.85, TOTAL)

    def step() -> None:
        rate(None)
        momentum(None)

    return step


def floor_ready(groups: int) -> Callable[[], object]:
    param_groups = make_optimizer(groups).param_groups

    def step() -> None:
        for group in param_groups:
            group["lr"] = 0.1
            group["momentum"] = 0.9

    return step


def floor_fresh(groups: int) -> Callable[[], object]:
    param_groups = make_optimizer(groups).param_groups
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        for group in param_groups:
            group["lr"] = count * 1e-8
            group["momentum"] = count * 1e-9

    return step


def phase_scheduler(groups: int, optimizer: torch.optim.Optimizer | None = None) -> PhaseScheduler:
    phases = one_cycle(PEAK, total_steps=TOTAL)
    return PhaseScheduler(optimizer or make_optimizer(groups), phases)


def ours(groups: int) -> Callable[[], object]:
    scheduler = phase_scheduler(groups)
    return checked(scheduler, scheduler.plan, tolerance=0)


def ours_per_group(groups: int) -> Callable[[], object]:
    rates = [PEAK * (1 + g) / groups for g in range(groups)]
    phases = phases_1cycle(1, rates, 10, 10, 0.95, 0.85)
    return PhaseScheduler(make_optimizer(groups), phases, steps_per_epoch=TOTAL).step


def ours_betas(groups: int) -> Callable[[], object]:
    params = [{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(groups)]
    return phase_scheduler(groups, torch.optim.AdamW(params)).step


def ours_tensor(groups: int) -> Callable[[], object]:
    return phase_scheduler(groups, make_optimizer(groups, lr=torch.tensor(PEAK))).step


CONTENDERS: dict[str, Callable[[int], Callable[[], object]]] = {
    "pyphase PhaseScheduler": ours,
    "  a rate per group": ours_per_group,
    "  AdamW's betas": ours_betas,
    "  one tensor rate": ours_tensor,
    "torch OneCycleLR": torch_one_cycle,
    "torch SequentialLR": torch_sequential,
    "torch LambdaLR (lr only)": torch_lambda,
    "timm CosineLRScheduler (lr only)": timm_cosine,
    "ignite LinearCyclical x 2": ignite_linear,
    "floor: ready floats": floor_ready,
    "floor: new floats": floor_fresh,
}


def bench_steps(rounds: int, budget: int) -> dict[int, dict[str, Timing]]:
    results: dict[int, dict[str, Timing]] = {}
    for groups in (1, 10, 160):
        calls: dict[str, Callable[[], object]] = {}
        for name, make in CONTENDERS.items():
            try:
                calls[name] = make(groups)
            except (ImportError, RuntimeError) as error:
                print(f"{name.strip()} left out: {type(error).__name__}: {str(error)[:50]}")
        repeats = {
            name: max(budget // (10 if "torch" in name else 1) // groups, 20) for name in calls
        }
        results[groups] = interleave(calls, repeats=repeats, rounds=rounds)
        base = results[groups]["pyphase PhaseScheduler"].median
        print(f"\n{groups} parameter group{'s' * (groups > 1)}, microseconds a step")
        print(f"{'':34}{'median':>9}{'quartiles':>20}{'x pyphase':>12}")
        for name, timing in results[groups].items():
            low, median, high = (1e6 * value for value in timing)
            spread = f"{low:.3f} .. {high:.3f}"
            print(f"{name:34}{median:9.3f}{spread:>20}{timing.median / base:12.2f}")
    return results


def numpy_linear(phases: list[tuple[int, float, float]]) -> np.ndarray:
    return np.concatenate([s + (e - s) * (np.arange(n) / n) for n, s, e in phases])


def numpy_cosine(phases: list[tuple[int, float, float]]) -> np.ndarray:
    return np.concatenate(
        [e + (s - e) / 2 * (1 + np.cos(np.pi * (np.arange(n) / n))) for n, s, e in phases]
    )


def bench_table(rounds: int, steps: int) -> dict[str, dict[str, Timing]]:
    results = {}
    third = 3 * steps // 10
    spans = [(third, 0.01, 0.1), (third, 0.1, 0.01), (steps - 2 * third, 0.01, 0.0001)]
    print(f"\ntable of {steps} steps of a three-phase 1cycle, milliseconds")
    print(f"{'':34}{'pyphase':>9}{'numpy':>9}{'numpy / pyphase':>24}")
    for name, decay, formula in (
        ("linear (fastai 0.7)", DecayType.LINEAR, numpy_linear),
        ("cosine (torch's three_phase)", DecayType.COSINE, numpy_cosine),
    ):
        plan = Plan([TrainingPhase(steps=n, lr=(s, e), lr_decay=decay) for n, s, e in spans])
        np.testing.assert_allclose(plan.table("lr")[:, 0], formula(spans), rtol=0, atol=1e-16 * 4)
        calls = {"pyphase": lambda p=plan: p.table("lr"), "numpy": lambda f=formula: f(spans)}
        results[name] = interleave(calls, repeats=1, rounds=rounds)
        ours_, theirs = (results[name][key] for key in ("pyphase", "numpy"))
        print(
            f"{name:34}{ours_.median * 1e3:9.1f}{theirs.median * 1e3:9.1f}"
            f"{theirs.median / ours_.median:24.1f}"
        )
    return results


def bench_long_plan(rounds: int) -> dict[str, Timing]:
    count = 10**5
    phase = TrainingPhase(steps=10**4, lr=(1e-3, 1e-2), lr_decay=DecayType.LINEAR)
    plan = Plan([phase] * count)
    steps = iter(np.random.default_rng(0).integers(0, plan.total_steps, 10**6).tolist())
    calls = {
        "compile": lambda: Plan([phase] * count),
        "look up one step": lambda: plan.values_at(next(steps)),
    }
    results = interleave(calls, repeats={"compile": 1, "look up one step": 1000}, rounds=rounds)
    print(f"\na plan of {count} phases and {plan.total_steps} steps")
    print(f"compile {results['compile'].median:.2f} s, ", end="")
    print(f"look up one step {1e6 * results['look up one step'].median:.2f} microseconds")
    return results


def draw(results: dict[int, dict[str, Timing]], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=100, layout="constrained")
    axes = figure.subplots()
    for name in results[1]:
        if not name.startswith(" "):
            medians = [1e6 * found[name].median for found in results.values()]
            style = {"lw": 2.5, "color": "black"} if name.startswith("pyphase") else {"lw": 1.2}
            axes.loglog(list(results), medians, "o-", label=name, **style)
    axes.set_xlabel("parameter groups")
    axes.set_ylabel("microseconds a step")
    axes.set_xticks(list(results), [str(groups) for groups in results])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7.5)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds: does it run at all?")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # torch's advice on stepping a scheduler without optimizer
    print(machine())
    rounds = 3 if arguments.quick else 21
    steps = bench_steps(rounds, 2_000 if arguments.quick else 20_000)
    tables = bench_table(rounds, 10**6 if arguments.quick else 10**7)
    long_plan = bench_long_plan(1 if arguments.quick else 5)
    if arguments.json:
        record = {"machine": machine(), "steps": steps, "tables": tables, "long_plan": long_plan}
        with open(arguments.json, "w") as file:
            json.dump(record, file, indent=1)
    if arguments.plot:
        draw(steps, arguments.plot)


if __name__ == "__main__":
    main()
