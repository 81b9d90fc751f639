"""LARS: its two forms against each other, against numpy, and against torch.optim.SGD.

Each property is held for both forms, so the cases stand together.
"""

from __future__ import annotations

import copy
import functools
import io
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyphase.errors import PhaseError
from pyphase.opt_fn import same
from pyphase.optim import LARS
from pyphase.phase import TrainingPhase

SHAPES = [(), (1,), (5,), (0, 3), (1, 1), (3, 4), (2, 3, 1, 2), (33, 7)]
MIXED_SHAPES = [(3, 4), (4,), (2, 3, 2), ()]

groups_st = st.lists(
    st.fixed_dictionaries(
        {
            "shapes": st.lists(st.sampled_from(SHAPES), min_size=1, max_size=4),
            # lr * trust_coefficient is small: at w = 0 the ratio jumps to 1, so that one form must
            # not land there while another misses it by a rounding
            "lr": st.floats(0, 1),
            "momentum": st.sampled_from([0.0, 0.5, 0.9, 0.99]),
            "weight_decay": st.sampled_from([0.0, 1e-4, 0.3]),
            "trust_coefficient": st.sampled_from([1e-3, 0.02, 0.1]),
            "eps": st.sampled_from([0.0, 1e-8, 0.1]),
            "nesterov": st.booleans(),
            "exclude": st.sampled_from([None, True, False]),
            "maximize": st.booleans(),
            "scale": st.sampled_from([0.0, 1e-3, 1.0, 50.0]),
            "grad_scale": st.sampled_from([0.0, 1e-5, 1.0, 50.0]),
        }
    ),
    min_size=1,
    max_size=3,
)


def reference_step(w, g, b, group):
    """One step of the equations, in numpy's float64; returns the new w and b."""
    w, g = np.asarray(w, np.float64), np.asarray(g, np.float64)
    d = -g if group["maximize"] else g
    exclude = w.ndim < 2 if group["exclude"] is None else group["exclude"]
    if not exclude:
        w_norm, g_norm = np.sqrt((w**2).sum()), np.sqrt((g**2).sum())
        ratio = 1.0
        if w_norm != 0 and g_norm != 0:
            denominator = g_norm + group["weight_decay"] * w_norm + group["eps"]
            ratio = group["trust_coefficient"] * w_norm / denominator
        d = ratio * (d + group["weight_decay"] * w)
    b = group["momentum"] * b + d
    step = d + group["momentum"] * b if group["nesterov"] else b
    return w - group["lr"] * step, b


def make_params(shapes, dtype=torch.float64, seed=0, scale=1.0):
    generator = np.random.default_rng(seed)
    return [
        torch.nn.Parameter(torch.tensor(scale * generator.standard_normal(shape), dtype=dtype))
        for shape in shapes
    ]


def set_grads(params, seed, scale=1.0):
    generator = np.random.default_rng(seed)
    for param in params:
        grad = scale * generator.standard_normal(tuple(param.shape))
        param.grad = torch.tensor(grad, dtype=param.dtype)


def run(params, optimizer, num_steps, first_seed=1):
    for seed in range(first_seed, first_seed + num_steps):
        set_grads(params, seed)
        optimizer.step()


def assert_same(got, expected, **tolerance):
    tolerance = tolerance or {"rtol": 0, "atol": 0}
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), **tolerance)


def build(groups, dtype, foreach):
    made = []
    for seed, group in enumerate(groups):
        options = {k: v for k, v in group.items() if k not in ("shapes", "scale", "grad_scale")}
        options["nesterov"] = options["nesterov"] and options["momentum"] > 0
        params = make_params(group["shapes"], dtype, seed, group["scale"])
        made.append({"params": params, **options})
    return LARS(made, lr=0.1, foreach=foreach)


# Both forms, and the equations


@given(groups=groups_st)
@settings(max_examples=80, deadline=None)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_foreach_and_loop_follow_the_equations(dtype, groups):
    optimizers = [build(groups, dtype, foreach) for foreach in (False, True)]
    twin = optimizers[0].param_groups
    expected = [[np.array(p.data.numpy(), np.float64) for p in group["params"]] for group in twin]
    buffers = [[np.zeros(w.shape) for w in ws] for ws in expected]
    sizes = [[1.0] * len(ws) for ws in expected]  # the largest number on the way
    for step in range(3):
        for optimizer in optimizers:
            for i, group in enumerate(optimizer.param_groups):
                set_grads(group["params"], 10 * step + i, groups[i]["grad_scale"])
            optimizer.step()
        for group, ws, bs, tops in zip(twin, expected, buffers, sizes, strict=True):
            for i, param in enumerate(group["params"]):
                ws[i], bs[i] = reference_step(ws[i], param.grad.numpy(), bs[i], group)
                tops[i] = max(tops[i], float(np.abs(ws[i]).max(initial=0)))
    rtol = 1e-13 if dtype == torch.float64 else 1e-5
    for loop, together, ws, tops in zip(
        twin, optimizers[1].param_groups, expected, sizes, strict=True
    ):
        for a, b, w, top in zip(loop["params"], together["params"], ws, tops, strict=True):
            close = functools.partial(torch.testing.assert_close, rtol=0, atol=rtol * top)
            close(b, a)
            close(a.detach().double(), torch.tensor(w))


@pytest.mark.parametrize("foreach", [False, True])
def test_hand_computed(foreach):
    w = torch.nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    optimizer = LARS(
        [w], 2.0, momentum=0.5, weight_decay=0.1, trust_coefficient=0.1, eps=0.5, foreach=foreach
    )
    w.grad = torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    optimizer.step()  # ratio = 0.1 * 5 / (2 + 0.1 * 5 + 0.5) = 1/6; d = [0.3, 2.4] / 6
    assert_same([w], [torch.tensor([[2.9, 3.2]], dtype=torch.float64)], rtol=1e-14, atol=0)
    w.grad.zero_()
    optimizer.step()  # ratio = 1; b = [0.025, 0.2] + 0.1 * w = [0.315, 0.52]
    assert_same([w], [torch.tensor([[2.27, 2.16]], dtype=torch.float64)], rtol=1e-14, atol=0)


@pytest.mark.parametrize("foreach", [False, True])
def test_constant_lr_is_the_papers_form(foreach):
    params = make_params([(3, 4)])
    w, v = params[0].detach().clone(), torch.zeros(3, 4, dtype=torch.float64)
    optimizer = LARS(params, 0.7, trust_coefficient=0.1, weight_decay=0.01, foreach=foreach)
    for seed in range(5):
        set_grads(params, seed)
        g = params[0].grad
        local = 0.1 * w.norm() / (g.norm() + 0.01 * w.norm() + 1e-8)
        v = 0.9 * v + 0.7 * local * (g + 0.01 * w)
        w = w - v
        optimizer.step()
    assert_same(params, [w], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("foreach", [False, True])
def test_lr_acts_on_the_whole_step(foreach):
    params = make_params([(3, 4)])
    optimizer = LARS(params, 1.0, foreach=foreach)
    run(params, optimizer, 3)
    before = params[0].detach().clone()
    optimizer.param_groups[0]["lr"] = 0.0
    run(params, optimizer, 1)
    assert_same(params, [before])


# Which parameters


@pytest.mark.parametrize("lr", [0.3, 1])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_all_excluded_is_sgd_bit_for_bit(dtype, foreach, nesterov, lr):
    ours, theirs = make_params(MIXED_SHAPES, dtype), make_params(MIXED_SHAPES, dtype)
    lars = LARS(ours, lr, nesterov=nesterov, weight_decay=0.1, exclude=True, foreach=foreach)
    sgd = torch.optim.SGD(theirs, lr, momentum=0.9, nesterov=nesterov, foreach=foreach)
    for seed in (1, 2, 3, 4):
        run(ours, lars, 1, seed)
        run(theirs, sgd, 1, seed)
        assert_same(ours, theirs)


@pytest.mark.parametrize("foreach", [False, True])
def test_excluded_by_default_are_vectors_and_scalars(foreach):
    ours, theirs = make_params(MIXED_SHAPES), make_params(MIXED_SHAPES)
    lars = LARS(ours, 0.1, weight_decay=0.1, trust_coefficient=0.02, foreach=foreach)
    run(ours, lars, 3)
    run(theirs, torch.optim.SGD(theirs, 0.1, momentum=0.9), 3)
    assert [torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)] == [
        len(shape) < 2 for shape in MIXED_SHAPES
    ]


@pytest.mark.parametrize("foreach", [False, True])
def test_a_group_chooses_for_itself(foreach):
    ours, theirs = make_params([(2, 2), (2, 2)]), make_params([(2, 2), (2, 2)])
    groups = [{"params": ours[:1], "exclude": True}, {"params": ours[1:]}]
    run(ours, LARS(groups, 0.1, foreach=foreach), 2)
    run(theirs, torch.optim.SGD(theirs, 0.1, momentum=0.9), 2)
    assert torch.equal(ours[0], theirs[0])
    assert not torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("foreach", [False, True])
def test_none_excluded_adapts_scalars(foreach):
    w = torch.nn.Parameter(torch.tensor(-3.0))
    w.grad = torch.tensor(100.0)
    LARS([w], 1.0, trust_coefficient=0.1, exclude=False, eps=0.0, foreach=foreach).step()
    assert w.item() == pytest.approx(-3.3, rel=1e-6)


@pytest.mark.parametrize("foreach", [False, True])
def test_ratio_is_1_at_zero_norms(foreach):
    zero_weight, zero_grad, both = (torch.nn.Parameter(torch.zeros(2, 2)) for _ in range(3))
    zero_grad.data.fill_(1.0)
    zero_weight.grad = torch.ones(2, 2)
    zero_grad.grad, both.grad = torch.zeros(2, 2), torch.zeros(2, 2)
    params = [zero_weight, zero_grad, both]
    LARS(params, 0.5, weight_decay=0.5, eps=0.0, foreach=foreach).step()
    expected = [torch.full((2, 2), value) for value in (-0.5, 0.75, 0.0)]
    assert_same(params, expected)


@pytest.mark.parametrize("foreach", [False, True])
def test_without_grad_is_skipped(foreach):
    used, unused = make_params([(2, 3), (2, 3)])
    before = unused.detach().clone()
    optimizer = LARS([used, unused], 0.1, foreach=foreach)
    optimizer.step()
    assert not optimizer.state
    used.grad = torch.ones_like(used)
    optimizer.step()
    assert_same([unused], [before])
    assert list(optimizer.state) == [used]
    optimizer.zero_grad()
    assert used.grad is None


@pytest.mark.parametrize("foreach", [False, True])
def test_grads_stay_as_they_are(foreach):
    for options in ({}, {"maximize": True}, {"nesterov": True}, {"momentum": 0.0}):
        params = make_params(MIXED_SHAPES)
        set_grads(params, 1)
        grads = [p.grad.clone() for p in params]
        LARS(params, 0.1, weight_decay=0.1, foreach=foreach, **options).step()
        assert_same([p.grad for p in params], grads)


@pytest.mark.parametrize("foreach", [False, True])
def test_empty_parameters(foreach):
    params = make_params([(0,), (0, 3), (2, 2)])
    alone = make_params([(0,), (0, 3), (2, 2)])[2:]
    set_grads(params, 1)
    alone[0].grad = params[2].grad
    optimizer = LARS(params, 0.1, exclude=False, foreach=foreach)
    optimizer.step()
    LARS(alone, 0.1, exclude=False, foreach=foreach).step()
    assert list(optimizer.state) == params[2:]
    assert_same(params[2:], alone)


# Types and layouts


@pytest.mark.parametrize("foreach", [False, True])
def test_mixed_dtypes(foreach):
    dtypes = [torch.float64, torch.bfloat16, torch.float32, torch.float16, torch.complex64] * 2
    mixed, alone = [], []
    for made in (mixed, alone):
        for seed, dtype in enumerate(dtypes):
            torch.manual_seed(seed)
            made.append(torch.nn.Parameter(torch.randn(3, 4, dtype=dtype)))
            made[-1].grad = torch.randn(3, 4, dtype=dtype)
    LARS(mixed, 0.1, trust_coefficient=0.1, foreach=foreach).step()
    for param in alone:
        LARS([param], 0.1, trust_coefficient=0.1, foreach=foreach).step()
    assert_same(mixed, alone)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_norms_are_float32(dtype, foreach):
    """The norms overflow float16, and their squares do in the sum long before."""
    w = torch.nn.Parameter(torch.full((40, 40), 2000.0, dtype=dtype))
    w.grad = torch.full((40, 40), 3000.0, dtype=dtype)
    LARS([w], 1.0, momentum=0.0, trust_coefficient=0.25, foreach=foreach).step()
    assert_same([w], [torch.full((40, 40), 1500.0, dtype=dtype)], rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_forms_agree(dtype):
    forms = []
    for foreach in (False, True):
        forms.append(make_params(MIXED_SHAPES, dtype))
        run(forms[-1], LARS(forms[-1], 0.3, weight_decay=0.1, foreach=foreach), 3)
    resolution = torch.finfo(dtype).eps
    assert_same(*forms, rtol=4 * resolution, atol=4 * resolution)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
def test_complex_is_its_real_and_imaginary_parts(maximize, foreach):
    torch.manual_seed(0)
    start = torch.randn(3, 4, dtype=torch.complex128)
    z, pair = torch.nn.Parameter(start), torch.nn.Parameter(torch.view_as_real(start).clone())
    optimizers = [
        LARS([p], 0.3, weight_decay=0.1, nesterov=True, maximize=maximize, foreach=foreach)
        for p in (z, pair)
    ]
    for _ in range(3):
        z.grad = torch.randn_like(z)
        pair.grad = torch.view_as_real(z.grad).clone()
        for optimizer in optimizers:
            optimizer.step()
    assert_same([torch.view_as_real(z.detach())], [pair], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("foreach", [False, True])
def test_strided_parameters(foreach):
    shape = (2, 3, 4, 5)
    plain, strided = make_params([shape]), make_params([shape])
    strided[0].data = strided[0].data.to(memory_format=torch.channels_last)
    for params in (plain, strided):
        run(params, LARS(params, 0.1, foreach=foreach), 3)
    assert strided[0].is_contiguous(memory_format=torch.channels_last)
    assert_same(strided, plain, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensor_lr_is_read_at_each_step(dtype, foreach):
    lr = torch.tensor(0.5)
    numbers, tensors = make_params(MIXED_SHAPES, dtype), make_params(MIXED_SHAPES, dtype)
    by_number = LARS(numbers, 0.5, foreach=foreach)
    by_tensor = LARS(tensors, lr, foreach=foreach)
    for seed, value in enumerate((0.5, 0.25, 2.0)):
        by_number.param_groups[0]["lr"] = value
        lr.fill_(value)
        run(numbers, by_number, 1, seed)
        run(tensors, by_tensor, 1, seed)
    assert by_tensor.param_groups[0]["lr"] is lr
    rtol = 1e-14 if dtype == torch.float64 else 1e-5
    assert_same(tensors, numbers, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("foreach", [False, True])
def test_momentum_may_come_later(foreach):
    params = make_params([(2, 3)])
    optimizer = LARS(params, 0.1, momentum=0.0, foreach=foreach)
    run(params, optimizer, 1)
    assert not optimizer.state
    optimizer.param_groups[0]["momentum"] = 0.9
    run(params, optimizer, 1)
    assert optimizer.state[params[0]]["momentum_buffer"].shape == (2, 3)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, on its import
@pytest.mark.parametrize("foreach", [False, True, None])
def test_compiles_to_the_same_bits(foreach):
    eager, compiled = make_params(MIXED_SHAPES), make_params(MIXED_SHAPES)
    for params, wrap in (
        (eager, lambda step: step),
        (compiled, functools.partial(torch.compile, backend="eager", fullgraph=True)),
    ):
        lr = torch.tensor(0.3)
        optimizer = LARS(params, lr, weight_decay=0.1, foreach=foreach)
        step = wrap(optimizer.step)
        for seed in (1, 2, 3):
            set_grads(params, seed)
            step()
            lr.mul_(0.5)
    assert_same(compiled, eager)


# An optimizer like torch's


def test_defaults_and_signature():
    optimizer = LARS(make_params([(2, 2)]), 0.1)
    assert optimizer.defaults == {
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "trust_coefficient": 0.001,
        "eps": 1e-8,
        "nesterov": False,
        "exclude": None,
        "maximize": False,
        "foreach": None,
    }
    assert "trust_coefficient: 0.001" in repr(optimizer)


def test_named_parameters():
    model = torch.nn.Linear(2, 2)
    optimizer = LARS(model.named_parameters(), 0.1)
    assert optimizer.param_groups[0]["params"] == list(model.parameters())


def test_closure():
    w = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([w], 0.1)

    def closure():
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert w.max().item() < 1.0
    assert optimizer.step() is None
    assert w.requires_grad
    assert w.is_leaf


def through_torch_save(optimizer):
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("stop", [0, 1, 3, 5])
def test_state_dict_goes_on_bit_for_bit(stop, foreach):
    def fresh():
        params = make_params(MIXED_SHAPES)
        groups = [{"params": params[:2], "exclude": False, "lr": 0.2}, {"params": params[2:]}]
        return params, groups

    whole, groups = fresh()
    optimizer = LARS(groups, 0.1, weight_decay=0.1, foreach=foreach)
    run(whole, optimizer, 5)

    first, groups = fresh()
    optimizer = LARS(groups, 0.1, weight_decay=0.1, foreach=foreach)
    run(first, optimizer, stop)
    saved = through_torch_save(optimizer)

    second = [torch.nn.Parameter(p.detach().clone()) for p in first]
    loaded = LARS([{"params": second[:2]}, {"params": second[2:]}], lr=5.0)
    loaded.load_state_dict(saved)
    assert loaded.param_groups[0]["exclude"] is False
    run(second, loaded, 5 - stop, first_seed=1 + stop)
    assert_same(second, whole)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_go_on_bit_for_bit(copier):
    params = make_params(MIXED_SHAPES)
    optimizer = LARS(params, torch.tensor(0.1), exclude=False)
    run(params, optimizer, 2)
    other = copier(optimizer)
    run(params, optimizer, 2, first_seed=7)
    copied = other.param_groups[0]["params"]
    run(copied, other, 2, first_seed=7)
    assert_same(copied, params)
    assert other.param_groups[0]["lr"].item() == pytest.approx(0.1)


def test_sgd_carries_on_from_the_buffers():
    ours, theirs = make_params([(4,)]), make_params([(4,)])
    lars, sgd = LARS(ours, 0.1), torch.optim.SGD(theirs, 0.1, momentum=0.9)
    run(ours, lars, 2)
    run(theirs, sgd, 2)
    buffer = lars.state[ours[0]]["momentum_buffer"]
    assert_same([buffer], [sgd.state[theirs[0]]["momentum_buffer"]])


def test_is_an_opt_fn():
    phase = TrainingPhase(opt_fn=functools.partial(LARS, trust_coefficient=0.02), lr=1.0)
    optimizer = phase.opt_fn(make_params([(2, 2)]), lr=1.0)
    assert optimizer.param_groups[0]["trust_coefficient"] == 0.02
    assert same(phase.opt_fn, functools.partial(LARS, trust_coefficient=0.02))
    assert not same(phase.opt_fn, LARS)


@pytest.mark.parametrize("foreach", [False, True, None])
def test_trains(foreach):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    inputs = torch.randn(64, 2)
    targets = inputs.prod(dim=1, keepdim=True)
    vectors = [p for p in model.parameters() if p.ndim == 1]
    matrices = [p for p in model.parameters() if p.ndim > 1]
    optimizer = LARS([{"params": matrices}, {"params": vectors, "lr": 0.05}], 1.0, foreach=foreach)
    optimizer.param_groups[0]["trust_coefficient"] = 0.005
    losses = []
    for step in range(150):
        optimizer.param_groups[0]["lr"] = 1 - step / 150
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


# Wrong declarations


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": -0.1}, PhaseError, r"LARS: `lr` \(=-0.1\) must be >= 0"),
        ({"lr": float("nan")}, PhaseError, r"`lr` \(=nan\) must be finite"),
        ({"lr": "0.1"}, TypeError, r"`lr` must be a number, got '0.1'"),
        ({"lr": torch.tensor([0.1])}, PhaseError, r"`lr` must be .* 0-d tensor, got shape \(1,\)"),
        ({"lr": torch.tensor(-1.0)}, PhaseError, r"`lr` \(=tensor\(-1.\)\) must be >= 0"),
        ({"momentum": 1.0}, PhaseError, r"`momentum` \(=1.0\) must be in \[0, 1\)"),
        ({"momentum": None}, TypeError, r"`momentum` must be a number, got None"),
        ({"weight_decay": -1}, PhaseError, r"`weight_decay` \(=-1\) must be >= 0"),
        ({"trust_coefficient": 0}, PhaseError, r"`trust_coefficient` \(=0\) must be > 0"),
        ({"eps": -1e-8}, PhaseError, r"`eps` \(=-1e-08\) must be >= 0"),
        ({"nesterov": 1}, TypeError, r"`nesterov` must be a bool, got 1"),
        ({"maximize": "no"}, TypeError, r"`maximize` must be a bool, got 'no'"),
        ({"exclude": 1}, TypeError, r"`exclude` must be None or a bool, got 1"),
        ({"foreach": "yes"}, TypeError, r"`foreach` must be None or a bool, got 'yes'"),
        ({"nesterov": True, "momentum": 0}, PhaseError, r"`nesterov` .* needs a `momentum` > 0"),
    ],
)
def test_wrong_arguments(options, error, message):
    params = make_params([(2, 2)])
    with pytest.raises(error, match=message):
        LARS(params, **{"lr": 0.1, **options})
    with pytest.raises(error, match=message.replace("LARS: ", "LARS: param group 0: ")):
        LARS([{"params": params, **options}], lr=0.1)


def test_wrong_group_is_named_and_not_added():
    first, second = make_params([(2, 2), (2, 2)])
    optimizer = LARS([first], 0.1)
    with pytest.raises(PhaseError, match="LARS: param group 1: `eps`"):
        optimizer.add_param_group({"params": [second], "eps": -1.0})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [second], "weight_decay": 0.5})
    assert optimizer.param_groups[1]["weight_decay"] == 0.5
    run([first, second], optimizer, 1)
    with pytest.raises(TypeError, match="must be a dict"):
        optimizer.add_param_group([second])


def test_needs_lr():
    with pytest.raises(TypeError, match="lr"):
        LARS(make_params([(2, 2)]))


@pytest.mark.parametrize("foreach", [False, True])
def test_sparse_grads_are_refused_before_any_update(foreach):
    table = torch.nn.Embedding(5, 3, sparse=True)
    dense = make_params([(2, 2)])
    set_grads(dense, 1)
    before = [dense[0].detach().clone(), table.weight.detach().clone()]
    table(torch.tensor([1, 2])).sum().backward()
    optimizer = LARS([{"params": dense}, {"params": table.weight}], 0.1, foreach=foreach)
    with pytest.raises(RuntimeError, match=r"sparse gradients, .* shape \(5, 3\)"):
        optimizer.step()
    assert_same([dense[0], table.weight], before)
