"""Compiled optimizer steps and training steps: the schedule moves, nothing is compiled anew."""

import functools

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from toys import net, same

from pyphase import LARS, DecayType, PhaseScheduler, Plan, TrainingPhase, one_cycle

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",  # dynamo's own look
)
WARM_UP = 2  # steps: the first makes the optimizer's state


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def adam(params):
    return torch.optim.Adam(params, lr=tensor(0.1), betas=(tensor(0.9), tensor(0.99)))


OPTIMIZERS = {
    "Adam": adam,
    "Adam, floats": functools.partial(torch.optim.Adam, lr=0.1),
    "SGD, floats": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "SGD, a tensor rate": lambda params: torch.optim.SGD(params, tensor(0.1), momentum=0.9),
    "LARS, nesterov": lambda params: LARS(
        params, tensor(0.1), momentum=tensor(0.9), nesterov=True, foreach=True
    ),
}


def cycle():
    """Return a 1cycle of 12 steps, then a phase of its own: two borders."""
    phases = one_cycle(0.1, total_steps=12)
    return Plan([*phases, TrainingPhase(steps=4, lr=0.01, lr_decay=DecayType.COSINE)])


def set_by_hand(group, values):
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(values["lr"])
    else:
        group["lr"] = values["lr"]
    momentum = values.get("momentum", 0.9)
    name = "betas" if "betas" in group else "momentum"
    old = group["betas"][0] if name == "betas" else group["momentum"]
    if isinstance(old, torch.Tensor):
        old.fill_(momentum)
    else:
        group[name] = (momentum, group["betas"][1]) if name == "betas" else momentum


def run(make_optimizer, plan, wrap, scheduled=True):
    """Train a model by the plan, with a scheduler or by hand; return its weights."""
    model = net().double()
    optimizer = make_optimizer(model.parameters())
    scheduler = PhaseScheduler(optimizer, plan) if scheduled else None
    step = wrap(optimizer.step)
    for k in range(plan.total_steps):
        if scheduler is None:
            set_by_hand(optimizer.param_groups[0], plan.values_at(k))
        model(torch.ones(2, 3, dtype=torch.float64)).square().mean().backward()
        if k < WARM_UP:
            step()
        else:
            with torch._dynamo.config.patch(error_on_recompile=True):
                step()
        optimizer.zero_grad()
        if scheduler is not None:
            scheduler.step()
    return model.state_dict()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_compiled_step_goes_through_a_1cycle_without_compiling_again(name):
    torch.compiler.reset()
    counter = CompileCounter()
    plan = cycle()
    compiled = run(OPTIMIZERS[name], plan, functools.partial(torch.compile, backend=counter))
    assert 1 <= counter.frame_count <= WARM_UP
    torch.compiler.reset()
    by_hand = run(
        OPTIMIZERS[name], plan, functools.partial(torch.compile, backend="eager"), scheduled=False
    )
    same(compiled, by_hand)
    if name != "Adam, floats":  # torch's compiled Adam computes with the step count in float32
        eager = run(OPTIMIZERS[name], plan, lambda step: step)
        torch.testing.assert_close(compiled, eager, rtol=1e-12, atol=1e-14)
    moved = [plan.table(key)[:, 0] for key in ("lr", "momentum")]
    assert all(len(set(values[:12])) > 8 for values in moved)


@pytest.mark.parametrize("where", ["on the device", "beside the step"])
def test_a_whole_training_step_with_its_schedule(where):
    torch.compiler.reset()
    plan = cycle()

    def train(wrap):
        model = net().double()
        optimizer = adam(model.parameters())
        if where == "on the device":
            schedule, scheduler = plan.to("cpu"), None
            schedule.attach(optimizer)
        else:
            schedule, scheduler = None, PhaseScheduler(optimizer, plan)
        rates = []

        def step(x):
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if schedule is not None:
                schedule.advance()
            return loss.detach()

        step = wrap(step)
        for k in range(plan.total_steps + 2):
            rates.append(float(optimizer.param_groups[0]["lr"]))
            x = torch.ones(2, 3, dtype=torch.float64)
            if k < WARM_UP:
                step(x)
            else:
                with torch._dynamo.config.patch(error_on_recompile=True):
                    step(x)
            if scheduler is not None:
                scheduler.step()
        return model.state_dict(), rates

    counter = CompileCounter()
    compiled, rates = train(functools.partial(torch.compile, backend=counter))
    eager, eager_rates = train(lambda step: step)
    assert counter.frame_count >= 1
    expected = plan.table("lr", range(plan.total_steps + 2))[:, 0].tolist()
    assert rates == eager_rates == expected
    torch.testing.assert_close(compiled, eager, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_advance_is_one_graph_whose_values_arrive(dtype):
    """torch's AOT autograd lost the values that were copied one by one."""
    torch.compiler.reset()
    plan = cycle()
    optimizer = torch.optim.Adam(
        net().parameters(),
        lr=torch.tensor(0.1, dtype=dtype),
        betas=(torch.tensor(0.9, dtype=dtype), torch.tensor(0.99, dtype=dtype)),
    )
    schedule = plan.to("cpu")
    schedule.attach(optimizer)
    backend = "inductor" if dtype is torch.float64 else "aot_eager"
    advance = torch.compile(schedule.advance, fullgraph=True, backend=backend)
    group = optimizer.param_groups[0]
    for step in range(plan.total_steps):
        values = plan.values_at(step)
        expected = values["lr"], values.get("momentum", float(torch.tensor(0.9, dtype=dtype)))
        for found, value in zip((group["lr"], group["betas"][0]), expected, strict=True):
            assert torch.equal(found, torch.tensor(value, dtype=dtype))
        advance()
    assert int(schedule.step) == plan.total_steps


@pytest.mark.parametrize(
    ("weight_decay", "compilations"), [(0.1, [1] * 2 + [2] * 4), (tensor(0.1), [1] * 6)]
)
def test_a_float_weight_decay_compiles_once_more_at_its_first_border(weight_decay, compilations):
    """From the second value on torch reads the float as a number; a tensor is filled."""
    torch.compiler.reset()
    counter = CompileCounter()
    weight = torch.nn.Parameter(torch.ones(3))
    betas = torch.tensor(0.9), torch.tensor(0.99)
    optimizer = torch.optim.AdamW([weight], torch.tensor(0.1), betas, weight_decay=weight_decay)
    phases = [TrainingPhase(steps=2, lr=0.1, wds=decay) for decay in (0.1, 0.2, 0.3)]
    scheduler = PhaseScheduler(optimizer, phases)
    step = torch.compile(optimizer.step, backend=counter)
    found = []
    for _ in range(6):
        weight.grad = torch.ones_like(weight)
        step()
        scheduler.step()
        found.append(counter.frame_count)
    assert found == compilations


@pytest.mark.parametrize("name", ["momentum", "weight_decay"])
def test_a_tensor_momentum_or_decay_keeps_torchs_sgd_from_being_compiled(name):
    """It asks on the host whether it is 0: the whole step runs uncompiled."""
    torch.compiler.reset()
    counter = CompileCounter()
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], torch.tensor(0.1), **{name: torch.tensor(0.5)})
    step = torch.compile(optimizer.step, backend=counter)
    for _ in range(3):
        weight.grad = torch.ones_like(weight)
        step()
    assert counter.frame_count == 0


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_lars_without_ratios_is_the_sgd_whose_momentum_compiles(nesterov):
    """torch.optim.SGD with floats, by hand, is the reference."""
    plan = cycle()
    ours = net().double()
    optimizer = LARS(
        ours.parameters(), tensor(0.1), momentum=tensor(0.9), exclude=True, nesterov=nesterov
    )
    theirs = net().double()
    sgd = torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9, nesterov=nesterov)
    schedulers = PhaseScheduler(optimizer, plan), PhaseScheduler(sgd, plan)
    for _ in range(plan.total_steps):
        for model, each, scheduler in zip(
            (ours, theirs), (optimizer, sgd), schedulers, strict=True
        ):
            model(torch.ones(2, 3, dtype=torch.float64)).square().mean().backward()
            each.step()
            each.zero_grad()
            scheduler.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-12, atol=1e-15)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: nothing to capture on")
def test_a_captured_step_moves_its_own_schedule():
    plan = cycle()
    weight = torch.nn.Parameter(torch.ones(3, device="cuda"))
    weight.grad = torch.ones_like(weight)
    lr = torch.tensor(0.0, device="cuda", dtype=torch.float64)
    betas = tuple(torch.tensor(b, device="cuda", dtype=torch.float64) for b in (0.9, 0.99))
    optimizer = torch.optim.Adam([weight], lr=lr, betas=betas, capturable=True, foreach=True)
    schedule = plan.to("cuda")
    schedule.attach(optimizer)

    def step():
        optimizer.step()
        schedule.advance()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    schedule.seek(0)
    kept = optimizer.param_groups[0]["lr"]
    for k in range(plan.total_steps):
        assert float(kept) == plan.values_at(k)["lr"]
        assert float(optimizer.param_groups[0]["betas"][0]) == float(betas[0])
        graph.replay()
    assert optimizer.param_groups[0]["lr"] is kept is lr
    same(schedule.step.cpu(), torch.tensor(plan.total_steps))
