"""Building optimizers, and carrying state over from one to the next.

Long, since each pair of optimizers and each form of state is a case of its own.
"""

import functools

import pytest
import torch
from torch.optim import LBFGS, SGD, Adagrad, Adam, AdamW, RMSprop
from toys import advance, loss_of, make_loop, net, same

from pyphase import DecayType, PhaseError, TrainingPhase
from pyphase.apply.optimizers import build_optimizer, carry_state, check_carry


def steps(count, opt_fn=None, **arguments):
    return TrainingPhase(steps=count, opt_fn=opt_fn, **arguments)


def trained(make, count=3):
    """Return a model and its optimizer after a few steps."""
    model = net()
    optimizer = make(model.parameters())
    for _ in range(count):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    return model, optimizer


def carried(policy, make_before, make_after):
    model, before = trained(make_before)
    after = make_after(model.parameters())
    carry_state(policy, before, after)
    weight = model[0].weight
    return before.state[weight], after.state.get(weight, {}), (model, after)


def test_one_group_per_list_with_its_own_rate():
    model = net()
    groups = [list(module.parameters()) for module in model]
    optimizer = build_optimizer(functools.partial(Adam, eps=1e-4), groups, [0.1, 0.2])
    assert [(g["lr"], g["eps"]) for g in optimizer.param_groups] == [(0.1, 1e-4), (0.2, 1e-4)]


@pytest.mark.parametrize(
    ("opt_fn", "momentum"),
    [(None, 0.9), (SGD, 0.9), (functools.partial(SGD, momentum=0.0), 0.0),
     (functools.partial(SGD, nesterov=True), 0.9)],
)  # fmt: skip
def test_an_sgd_has_momentum_unless_told_otherwise(opt_fn, momentum):
    optimizer = build_optimizer(opt_fn, [list(net().parameters())], [0.1])
    assert optimizer.param_groups[0]["momentum"] == momentum


def test_what_is_no_optimizer_is_refused():
    params = [list(net().parameters())]
    with pytest.raises(TypeError, match="`opt_fn` must return a torch optimizer, got None"):
        build_optimizer(lambda params, lr: None, params, [0.1])
    with pytest.raises(PhaseError, match="made 1 parameter groups of 2"):
        build_optimizer(
            lambda groups, lr: SGD([p for g in groups for p in g["params"]], lr),
            [params[0][:2], params[0][2:]],
            [0.1, 0.1],
        )
    with pytest.raises(PhaseError, match="must each hold a parameter"):
        build_optimizer(SGD, [params[0], []], [0.1, 0.1])


@pytest.mark.parametrize(
    ("policy", "before", "after", "words"),
    [
        ("keep", SGD, Adam, "needs the same class, got SGD -> Adam"),
        ("keep", Adam, AdamW, "needs the same class, got Adam -> AdamW"),
        ("map", SGD, RMSprop, "knows SGD, Adam and AdamW, got SGD -> RMSprop"),
        ("map", Adagrad, Adam, "got Adagrad -> Adam"),
    ],
)
def test_what_cannot_be_carried_is_said(policy, before, after, words):
    with pytest.raises(PhaseError, match=words):
        check_carry(policy, before, after)
    check_carry("fresh", before, after)


def test_fresh_carries_nothing():
    assert carried("fresh", Adam, Adam)[1] == {}


@pytest.mark.parametrize("dampening", [0.0, 0.25])
def test_sgd_to_adam_is_one_step_with_the_mean_gradient(dampening):
    """m = (1 - momentum) * b / (1 - dampening), checked against a step of Adam itself."""
    old, new, (model, after) = carried(
        "map",
        functools.partial(SGD, lr=0.1, momentum=0.6, dampening=dampening),
        functools.partial(Adam, lr=0.1, betas=(0.7, 0.9)),
    )
    mean = 0.4 * old["momentum_buffer"] / (1 - dampening)
    twin = net()
    adam = Adam(twin.parameters(), lr=0.1, betas=(0.7, 0.9))
    twin[0].weight.grad = mean.clone()
    adam.step()
    expected = adam.state[twin[0].weight]
    assert list(new) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(new[name], value)
    loss_of(model).backward()
    after.step()


def test_adam_to_sgd_goes_by_the_unbiased_mean():
    """m = e / (1 - beta1^t), b = m * (1 - dampening) / (1 - momentum)."""
    old, new, _ = carried(
        "map",
        functools.partial(Adam, betas=(0.8, 0.9)),
        functools.partial(SGD, lr=0.1, momentum=0.5, dampening=0.25),
    )
    mean = old["exp_avg"] / (1 - 0.8**3)
    torch.testing.assert_close(new["momentum_buffer"], mean * 0.75 / 0.5)


def test_sgd_to_sgd_keeps_the_mean_gradient():
    old, new, _ = carried(
        "map",
        functools.partial(SGD, lr=0.1, momentum=0.9),
        functools.partial(SGD, lr=0.1, momentum=0.5),
    )
    torch.testing.assert_close(new["momentum_buffer"], old["momentum_buffer"] * 0.1 / 0.5)


def test_a_constant_gradient_has_the_same_mean_all_the_way_round():
    """After many steps of gradient g, both kinds estimate g."""
    params = [torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))]
    sgd = SGD(params, lr=0.0, momentum=0.5)
    for _ in range(60):
        params[0].grad = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
        sgd.step()
    adam, back = Adam(params, lr=0.1, betas=(0.9, 0.99)), SGD(params, lr=0.1, momentum=0.5)
    carry_state("map", sgd, adam)
    state = adam.state[params[0]]
    torch.testing.assert_close(state["exp_avg"] / (1 - 0.9), params[0].grad)
    torch.testing.assert_close(state["exp_avg_sq"] / (1 - 0.99), params[0].grad.square())
    carry_state("map", adam, back)
    buffers = [optimizer.state[params[0]]["momentum_buffer"] for optimizer in (back, sgd)]
    torch.testing.assert_close(*buffers)


def test_what_has_no_momentum_maps_to_nothing():
    plain = functools.partial(SGD, lr=0.1)
    assert carried("map", plain, Adam)[1] == {}
    assert carried("map", Adam, plain)[1] == {}


@pytest.mark.parametrize(
    ("policy", "before", "after"),
    [
        ("keep", Adam, functools.partial(Adam, amsgrad=True)),
        ("map", Adam, functools.partial(AdamW, amsgrad=True)),
        (
            "map",
            functools.partial(SGD, lr=0.1, momentum=0.9),
            functools.partial(Adam, amsgrad=True),
        ),
        ("keep", RMSprop, functools.partial(RMSprop, centered=True, momentum=0.9)),
        ("keep", functools.partial(Adam, amsgrad=True), Adam),
        ("keep", functools.partial(SGD, lr=0.1), functools.partial(SGD, lr=0.1, momentum=0.9)),
    ],
)
def test_new_keywords_find_the_state_that_they_need(policy, before, after):
    old, new, (model, optimizer) = carried(policy, before, after)
    if policy == "keep":
        same({name: new[name] for name in old}, old)
    loss_of(model).backward()
    optimizer.step()
    assert all(param.isfinite().all() for param in model.parameters())


@pytest.mark.parametrize(("policy", "count"), [("fresh", 2), ("keep", 5)])
def test_in_a_run(policy, count):
    change = functools.partial(Adam, amsgrad=True)
    loop = make_loop([steps(3, Adam), steps(2, change, opt_state=policy)])
    advance(loop)
    assert float(loop.optimizer.state[loop.model[0].weight]["step"]) == count


def test_a_run_through_three_optimizers_is_the_hand_written_one():
    phases = [steps(3, SGD, lr=0.1, momentum=0.5), steps(3, Adam, lr=0.01)]
    phases.append(steps(2, AdamW, lr=0.01, wds=0.1, opt_state="map"))
    loop = make_loop(phases)
    advance(loop)
    model = net()
    sgd = SGD(model.parameters(), 0.1, momentum=0.5)
    adam = Adam(model.parameters(), 0.01)
    adamw = AdamW(model.parameters(), 0.01, weight_decay=0.1)
    for step, optimizer in enumerate([sgd] * 3 + [adam] * 3 + [adamw] * 2):
        if step == 6:
            adamw.state.update(adam.state)
        loss_of(model).backward()
        optimizer.step()
        model.zero_grad()
    same(loop.model.state_dict(), model.state_dict())


def test_a_function_that_makes_an_adam_can_be_mapped():
    change = steps(1, lambda params, lr: Adam(params, lr), opt_state="map")
    loop = make_loop([steps(2, SGD), change])
    advance(loop)
    assert float(loop.optimizer.state[loop.model[0].weight]["step"]) == 2


def test_a_given_optimizer_serves_until_the_first_opt_fn():
    """Its groups are its own; what comes after has those of the loop."""
    model = net()
    given = AdamW([{"params": [m.weight, m.bias]} for m in model], lr=1.0, betas=(0.5, 0.6))
    phases = [steps(3, lr=0.01), steps(2, AdamW, lr=0.01, opt_state="keep")]
    loop = make_loop(phases, model=model, optimizer=given)
    assert loop.optimizer is given
    assert [group["lr"] for group in given.param_groups] == [0.01, 0.01]
    advance(loop)
    assert loop.optimizer is not given
    assert float(loop.optimizer.state[model[1].weight]["step"]) == 5
    with pytest.raises(PhaseError, match="needs the same class, got AdamW -> Adam"):
        make_loop([steps(1), steps(1, Adam, opt_state="keep")], model=model, optimizer=given)
    with pytest.raises(PhaseError, match="`optimizer` serves the phases before the first `opt_fn`"):
        make_loop([steps(1, AdamW)], model=model, optimizer=given)


def test_gradients_of_several_batches_can_add_up_to_one_step():
    loop, batches = make_loop([steps(3)]), []
    for batch in loop:
        batches.append(batch)
        loss_of(loop.model).backward()
        if len(batches) % 2 == 0:
            loop.step()
    assert batches == [("a", index) for index in range(6)]
    assert loop.position == 3


@pytest.mark.parametrize("opt_fn", [SGD, Adam, RMSprop])
def test_decoupled_decay_ends_with_its_phase(opt_fn):
    """Gradients are zero: what shrinks the weights is the decay alone."""
    phases = [
        steps(2, SGD, lr=0.5, wds=0.1, wd_loss=False),
        steps(2, opt_fn, lr=0.5, momentum=0.0),
        steps(1, lr=0.5, wds=0.2, wd_loss=False),
    ]
    loop = make_loop(phases)
    weights = [loop.model[0].weight.detach().clone()]
    for _ in loop:
        for param in loop.model.parameters():
            param.grad = torch.zeros_like(param)
        loop.step()
        weights.append(loop.model[0].weight.detach().clone())
    for factor, old, new in zip([0.95, 0.95, 1.0, 1.0, 0.9], weights, weights[1:], strict=False):
        torch.testing.assert_close(new, factor * old)


def test_rmsprop_takes_a_momentum_that_rises_from_zero():
    """torch makes the buffer in the first step only: at momentum 0 there is none to start from.

    The hand-written twin has momentum from the start, with buffers that stay zero as long as the
    plan's momentum is 0.
    """
    momenta = [0.0, 0.0, 0.0, 0.0, 0.0, 0.225, 0.45, 0.675]
    phases = [
        steps(4, RMSprop, lr=0.01, momentum=0.0),
        steps(4, lr=0.01, momentum=(0.0, 0.9), momentum_decay=DecayType.LINEAR),
    ]
    loop = make_loop(phases)
    advance(loop)
    twin = net()
    optimizer = RMSprop(twin.parameters(), lr=0.01)
    for momentum in momenta:
        group = optimizer.param_groups[0]
        group["momentum"] = momentum
        for state in optimizer.state.values():
            state.setdefault("momentum_buffer", torch.zeros_like(state["square_avg"]))
        loss_of(twin).backward()
        optimizer.step()
        optimizer.zero_grad()
    same(loop.model.state_dict(), twin.state_dict())


def test_the_sgd_of_the_first_phases_goes_on_where_sgd_is_asked_for():
    loop = make_loop([steps(3, lr=0.1), steps(3, SGD, lr=0.1)])
    first = loop.optimizer
    advance(loop)
    assert loop.optimizer is first
    given = SGD((model := net()).parameters(), lr=0.1)
    loop = make_loop([steps(3, lr=0.1), steps(3, SGD, lr=0.1)], model=model, optimizer=given)
    advance(loop)
    assert loop.optimizer is not given


# Implementations, groups, growing models


KINDS = {
    "single": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}


def sgd_adamw_and_back(options):
    sgd = functools.partial(SGD, momentum=0.5, **options)
    adamw = functools.partial(AdamW, betas=(0.8, 0.9), **options)
    phases = [
        steps(3, sgd, lr=[0.1, 0.05], wds=[0.1, 0.0], wd_loss=False),
        steps(3, adamw, lr=[0.01, 0.02], wds=[0.1, 0.2], opt_state="map"),
        steps(3, sgd, lr=[0.1, 0.05], wds=[0.0, 0.3], wd_loss=False, opt_state="map"),
    ]
    return phases


def by_formulas(model):
    """Train with textbook formulas: SGD, AdamW, SGD; one group per layer, mapped states."""
    rates = {0: (0.1, 0.05), 1: (0.01, 0.02), 2: (0.1, 0.05)}
    decays = {0: (0.1, 0.0), 1: (0.1, 0.2), 2: (0.0, 0.3)}
    state = {}
    for step in range(9):
        phase = step // 3
        loss_of(model).backward()
        with torch.no_grad():
            for group, layer in enumerate(model):
                lr, decay = rates[phase][group], decays[phase][group]
                for w in layer.parameters():
                    g = w.grad
                    w.mul_(1 - lr * decay)
                    b, m, v, t = state.get(w, (None, None, None, 0))
                    if step == 3:  # one step of Adam with the mean gradient
                        mean = b * 0.5
                        m, v, t = 0.2 * mean, 0.1 * mean**2, 1
                    if step == 6:
                        b = m / (1 - 0.8**t) / 0.5
                    if phase == 1:
                        t += 1
                        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
                        w -= lr * (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-8)
                    else:
                        b = g.clone() if b is None else 0.5 * b + g
                        w -= lr * b
                    state[w] = (b, m, v, t)
        model.zero_grad()
    return model.state_dict()


@pytest.mark.parametrize("kind", KINDS)
def test_sgd_to_adamw_and_back_is_the_textbook(kind):
    def groups(model):
        return list(model)

    loop = make_loop(sgd_adamw_and_back(KINDS[kind]), model=net().double(), groups=groups)
    kinds = []
    while not loop.done:
        next(iter(loop))
        kinds.append(type(loop.optimizer).__name__)
        loop.step(loop.model(torch.ones(2, 3, dtype=torch.float64)).square().mean())
    assert kinds == ["SGD"] * 3 + ["AdamW"] * 3 + ["SGD"] * 3
    twin = net().double()
    twin.register_forward_pre_hook(lambda _, args: (args[0].double(),))
    torch.testing.assert_close(loop.model.state_dict(), by_formulas(twin), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_rmsprop_to_sgd_starts_afresh(kind):
    options = KINDS[kind] if kind != "fused" else {}  # torch has no fused RMSprop
    rms = functools.partial(RMSprop, **options)
    sgd = functools.partial(SGD, momentum=0.9, **KINDS[kind])
    loop = make_loop([steps(3, rms, lr=0.01), steps(2, sgd, lr=0.1)])
    advance(loop)
    model = net()
    first = rms(model.parameters(), lr=0.01)
    second = sgd(model.parameters(), lr=0.1)
    for step in range(5):
        loss_of(model).backward()
        (first if step < 3 else second).step()
        model.zero_grad()
    same(loop.model.state_dict(), model.state_dict())


def test_a_frozen_parameter_has_no_state_to_map_and_one_that_thaws_starts_afresh():
    model = net()
    model[0].requires_grad_(False)

    def thaw(loop):
        loop.model[0].requires_grad_(True)

    phases = [steps(3, SGD, lr=0.1), steps(2, Adam, lr=0.01, opt_state="map", on_enter=thaw)]
    loop = make_loop(phases, model=model)
    frozen = model[0].weight.detach().clone()
    advance(loop, 3)
    assert torch.equal(model[0].weight, frozen)
    advance(loop)
    assert not torch.equal(model[0].weight, frozen)
    counts = [float(loop.optimizer.state[m.weight]["step"]) for m in model]
    assert counts == [2, 3]  # the mapped one begins at step 1


def test_a_parameter_that_is_added_at_the_change_starts_afresh():
    def grow(loop):
        loop.model.append(torch.nn.Linear(1, 1))

    phases = [steps(3, Adam, lr=0.01), steps(2, AdamW, lr=0.01, opt_state="map", on_enter=grow)]
    loop = make_loop(phases)
    advance(loop)
    assert [float(loop.optimizer.state[m.weight]["step"]) for m in loop.model] == [5, 5, 2]


def test_a_step_count_goes_where_the_new_implementation_has_it():
    param = torch.nn.Parameter(torch.zeros(2, device="meta"))
    before = Adam([param])
    before.state[param] = {
        "step": torch.tensor(3.0), "exp_avg": torch.zeros_like(param),
        "exp_avg_sq": torch.zeros_like(param),
    }  # fmt: skip
    after = AdamW([param], capturable=True)
    carry_state("map", before, after)
    assert after.state[param]["step"].device.type == "meta"


# Third-party optimizers, closures


def test_lbfgs_takes_its_step_by_a_closure():
    phases = [steps(2, SGD, lr=0.1), steps(3, functools.partial(LBFGS, max_iter=4), lr=0.5)]
    loop = make_loop(phases)
    for _ in loop:

        def closure():
            loop.optimizer.zero_grad()
            loss = loss_of(loop.model)
            loss.backward()
            return loss

        loss = loss_of(loop.model)
        loop.step(loss, closure=closure if loop.phase_index == 1 else None)
    model = net()
    sgd = SGD(model.parameters(), 0.1, momentum=0.9)
    lbfgs = LBFGS(model.parameters(), lr=0.5, max_iter=4)

    def evaluate():
        lbfgs.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    for step in range(5):
        if step < 2:
            evaluate()
            sgd.step()
        else:
            lbfgs.step(evaluate)
    same(loop.model.state_dict(), model.state_dict())


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_lbfgs_searches_from_the_decayed_weights(search):
    """It compares losses and gradients within a step: the decay comes before all of them."""
    lbfgs = functools.partial(LBFGS, max_iter=4, line_search_fn=search)
    phases = [steps(4, lbfgs, lr=0.5, wds=0.2, wd_loss=False)]
    loop, model = make_loop(phases), net()
    optimizer = lbfgs(model.parameters(), lr=0.5)
    for each in (loop.model, model):
        each[0].bias.requires_grad_(False)
    kept = model[0].bias.clone()

    def evaluate(model, optimizer):
        optimizer.zero_grad()
        loss = (loss_of(model) - 1).square()
        loss.backward()
        return loss

    for _ in loop:
        loop.step(closure=lambda: evaluate(loop.model, loop.optimizer))
        with torch.no_grad():
            for param in model.parameters():
                param.mul_(1 - 0.5 * 0.2 if param.requires_grad else 1)
        optimizer.step(lambda: evaluate(model, optimizer))
    same(loop.model.state_dict(), model.state_dict())
    assert torch.equal(loop.model[0].bias, kept)


def test_a_closure_that_is_missing_is_said_and_nothing_is_lost():
    loop = make_loop([steps(2, LBFGS, lr=0.5)])
    next(iter(loop))
    with pytest.raises(PhaseError, match=r"LBFGS needs step\(closure=...\)"):
        loop.step(loss_of(loop.model))
    with pytest.raises(TypeError, match="`closure` must be a function"):
        loop.step(closure=3)
    loss = loss_of(loop.model)
    loss.backward(retain_graph=True)
    assert loop.step(closure=lambda: loss)
    scaled = make_loop([steps(2, LBFGS)], scaler=torch.amp.GradScaler("cpu"))
    next(iter(scaled))
    with pytest.raises(PhaseError, match="`closure` and a GradScaler"):
        scaled.step(closure=lambda: loss)


def test_schedule_free_changes_mode_where_its_phase_begins_and_ends():
    schedulefree = pytest.importorskip("schedulefree")
    free = functools.partial(schedulefree.AdamWScheduleFree, warmup_steps=2)
    loop = make_loop([steps(4, free, lr=0.05), steps(3, SGD, lr=0.01)])
    advance(loop)
    model = net()
    first = free(model.parameters(), lr=0.05)
    second = SGD(model.parameters(), 0.01, momentum=0.9)
    first.train()
    for step in range(7):
        if step == 4:
            first.eval()
        loss_of(model).backward()
        (first if step < 4 else second).step()
        model.zero_grad()
    same(loop.model.state_dict(), model.state_dict())


def test_schedule_free_that_is_kept_goes_on_from_the_weights_that_it_trained():
    schedulefree = pytest.importorskip("schedulefree")
    free = schedulefree.AdamWScheduleFree
    phases = [steps(4, free, lr=0.05)]
    phases += [steps(2, functools.partial(free, eps=1e-6), lr=0.05, opt_state="keep")]
    loop = make_loop(phases)
    before = None
    for number, _ in enumerate(loop):
        now = [p.detach().clone() for p in loop.model.parameters()]
        if number == 4:
            for trained, found in zip(before, now, strict=True):
                torch.testing.assert_close(found, trained)
        loss_of(loop.model).backward()
        loop.step()
        loop.optimizer.zero_grad()
        before = [p.detach().clone() for p in loop.model.parameters()]


@pytest.mark.parametrize("name", ["AdamWScheduleFree", "SGDScheduleFree", "RAdamScheduleFree"])
def test_schedule_free_that_is_kept_goes_on_counting(name):
    free = getattr(pytest.importorskip("schedulefree"), name)
    kept = functools.partial(free, weight_decay=0.0)  # its default: the same optimizer, built anew
    loop = make_loop([steps(4, free, lr=0.05), steps(4, kept, lr=0.05, opt_state="keep")])
    whole = make_loop([steps(8, free, lr=0.05)])
    first = loop.optimizer
    advance(loop)
    advance(whole)
    assert loop.optimizer is not first
    torch.testing.assert_close(loop.model.state_dict(), whole.model.state_dict())
    one, other = (each.optimizer.param_groups[0] for each in (loop, whole))
    assert one["k"] == other["k"] == 8
    assert one["weight_sum"] == pytest.approx(other["weight_sum"])


def test_an_optimizer_of_another_package_has_its_phase():
    """transformers' Adafactor: no momentum, one beta by another name, its own weight decay."""
    optimization = pytest.importorskip("transformers.optimization")
    factor = functools.partial(
        optimization.Adafactor, relative_step=False, scale_parameter=False, warmup_init=False
    )
    falling = {"lr": (0.05, 0.01), "lr_decay": DecayType.LINEAR}
    phases = [steps(2, SGD, lr=0.1), steps(3, factor, wds=0.1, **falling), steps(2, SGD)]
    loop, model = make_loop(phases), net()
    advance(loop)
    optimizers = [
        SGD(model.parameters(), 0.1, momentum=0.9),
        factor(model.parameters(), lr=0.0, weight_decay=0.1),
        SGD(model.parameters(), 0.01, momentum=0.9),
    ]
    for step, optimizer in enumerate(optimizers[n] for n in (0, 0, 1, 1, 1, 2, 2)):
        optimizer.param_groups[0]["lr"] = loop.plan.values_at(step)["lr"]
        loss_of(model).backward()
        optimizer.step()
        model.zero_grad()
    same(loop.model.state_dict(), model.state_dict())


def test_keywords_of_the_new_optimizer_win_over_the_kept_ones():
    class Plain(torch.optim.AdamW):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)

    changed = functools.partial(Plain, eps=1e-4)
    loop = make_loop([steps(2, Plain, lr=0.05), steps(2, changed, lr=0.01, opt_state="keep")])
    advance(loop)
    group = loop.optimizer.param_groups[0]
    assert (group["eps"], group["lr"]) == (1e-4, 0.01)
    assert {int(state["step"]) for state in loop.optimizer.state.values()} == {4}
