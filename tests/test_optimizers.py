"""Building optimizers, and carrying state over from one to the next."""

import functools

import pytest
import torch
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop
from toys import advance, loss_of, make_loop, net, same

from pyphase import PhaseError, TrainingPhase
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
