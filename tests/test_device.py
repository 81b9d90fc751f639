"""A plan as tensors: the values of every step, in the tensors that the optimizer was given."""

import pytest
import torch
from toys import net

from pyphase import DecayType, PhaseError, PhaseScheduler, Plan, TrainingPhase


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def optimizer_of(count=1, **options):
    groups = [
        {"params": list(m.parameters()), "lr": tensor(0.0), "betas": (tensor(0.9), tensor(0.99))}
        for m in net()[:count]
    ]
    return torch.optim.Adam(groups, **options)


PHASES = [
    TrainingPhase(steps=5, lr=(0.1, 1.0), lr_decay=DecayType.LINEAR, momentum=0.8),
    TrainingPhase(steps=4, lr=1.0, lr_decay=DecayType.COSINE, values={"eps": 1e-6}),
]


@pytest.mark.parametrize("lr", [(0.1, 1.0), ([0.1, 0.2], [1.0, 3.0])])
def test_values_are_the_schedulers_to_the_bit(lr):
    phases = [
        TrainingPhase(steps=5, lr=lr, lr_decay=DecayType.LINEAR, momentum=0.8),
        TrainingPhase(steps=4, lr=1.0, lr_decay=DecayType.COSINE),
    ]
    plan = Plan(phases)
    ours, theirs = optimizer_of(2), optimizer_of(2)
    kept = [(group["lr"], group["betas"]) for group in ours.param_groups]
    schedule, scheduler = plan.to("cpu"), PhaseScheduler(theirs, plan)
    schedule.attach(ours)
    for _ in range(plan.total_steps + 3):
        for one, two, (rate, betas) in zip(
            ours.param_groups, theirs.param_groups, kept, strict=True
        ):
            assert torch.equal(one["lr"], two["lr"])
            assert torch.equal(one["betas"][0], two["betas"][0])
            assert one["lr"] is rate
            assert one["betas"] is betas
        schedule.advance()
        scheduler.step()


def test_seek_goes_to_any_step():
    plan = Plan(PHASES[:1])
    optimizer = optimizer_of()
    schedule = plan.to("cpu", torch.float32)
    schedule.attach(optimizer)
    for step in (3, 0, 5, 7):
        schedule.seek(step)
        rate = torch.tensor(plan.values_at(step)["lr"], dtype=torch.float32)
        assert float(optimizer.param_groups[0]["lr"]) == float(rate)
    with pytest.raises(PhaseError, match="`step`"):
        schedule.seek(-1)


def test_a_float_that_stays_is_set_once_and_one_that_moves_is_refused():
    optimizer = torch.optim.SGD(net().parameters(), lr=tensor(0.1), momentum=0.5)
    Plan([TrainingPhase(steps=3, lr=(0.1, 1.0), lr_decay=DecayType.LINEAR, momentum=0.8)]).to(
        "cpu"
    ).attach(optimizer)
    assert optimizer.param_groups[0]["momentum"] == 0.8
    moving = TrainingPhase(steps=3, lr=0.1, momentum=(0.8, 0.9), momentum_decay=DecayType.LINEAR)
    with pytest.raises(PhaseError, match=r"`momentum` moves, but SGD holds it as the float 0\.8"):
        Plan([moving]).to("cpu").attach(optimizer)
    fixed = torch.optim.SGD(net().parameters(), lr=0.1)
    with pytest.raises(PhaseError, match=r"`lr` moves, but SGD holds it as the float 0\.1"):
        Plan(PHASES[:1]).to("cpu").attach(fixed)
    # Setting a float to its own phase's constant counts as a move where a later phase drops it.
    with pytest.raises(PhaseError, match="`eps` moves"):
        Plan(PHASES).to("cpu").attach(optimizer_of())


def test_what_takes_the_host_or_does_not_fit_is_refused():
    step = {"steps": 1}
    for phases, words in (
        ([TrainingPhase(**step, opt_fn=kind) for kind in (torch.optim.Adam, torch.optim.SGD)],
         "phase 1 changes the optimizer"),
        ([TrainingPhase(**step, on_enter=print)], "phase 0 has `on_enter`"),
        ([TrainingPhase(**step, values={print: 1.0})], "phase 0 calls a function"),
        ([TrainingPhase(**step, wds=0.1, wd_loss=False)], "phase 0 decouples the weight decay"),
    ):  # fmt: skip
        with pytest.raises(PhaseError, match=words):
            Plan(phases).to("cpu")
    plan = Plan([TrainingPhase(steps=1, lr=[0.1, 0.2, 0.3])])
    with pytest.raises(PhaseError, match="names 3 parameter groups, but Adam has 2"):
        plan.to("cpu").attach(optimizer_of(2))
    shared = optimizer_of(2)
    shared.param_groups[1]["lr"] = shared.param_groups[0]["lr"]
    with pytest.raises(PhaseError, match="parameter groups share a tensor"):
        Plan(PHASES[:1]).to("cpu").attach(shared)
    with pytest.raises(PhaseError, match="SGD has nothing for `beta` to set"):
        Plan([TrainingPhase(steps=1, beta=0.9)]).to("cpu").attach(
            torch.optim.SGD(net().parameters(), lr=0.1)
        )
    with pytest.raises(PhaseError, match="on cpu; a schedule on meta"):
        Plan(PHASES[:1]).to("meta").attach(optimizer_of())
    with pytest.raises(PhaseError, match="fewer than 134217728"):
        Plan([TrainingPhase(steps=2**27)]).to("cpu")
    with pytest.raises(TypeError, match="`dtype` must be a floating"):
        Plan(PHASES).to("cpu", torch.int64)
    with pytest.raises(TypeError, match="`optimizer` must be a torch optimizer"):
        Plan(PHASES).to("cpu").attach(None)
