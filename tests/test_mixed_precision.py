"""Mixed precision, accumulation and clipping, against loops written out by hand."""

import functools
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, TensorDataset
from toys import same
from training import net, seed_all

from pyphase import DecayType, Learner, PhaseError, PhaseLoop, PhaseScheduler, Plan, TrainingPhase
from pyphase.apply.divergence import DivergenceCheck

mse = nn.functional.mse_loss
LINEAR = DecayType.LINEAR


def data(count=14, batch_size=2):
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, generator=draw)
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size)


def model():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def finish(loop, factors=None):
    """Train to the end; return whether each batch's step was taken, and the rate before it."""
    seen = []
    for number, (x, y) in enumerate(loop):
        lr = loop.optimizer.param_groups[0]["lr"]
        loss = mse(loop.model(x), y) * (factors or {}).get(number, 1.0)
        seen.append((loop.step(loss), lr))
    return seen


def test_accumulated_steps_are_those_of_the_mean_gradient():
    """7 batches, 3 a step: 3 steps an epoch, the last one of 1 batch."""
    loop = PhaseLoop(model(), [TrainingPhase(2, SGD, (0.1, 0.4), LINEAR)], data(), accumulate=3)
    assert loop.plan.total_steps == 6
    seen = finish(loop)
    taken = [False, False, True, False, False, True, True] * 2
    assert [step for step, _ in seen] == taken
    assert [lr for step, lr in seen if step] == [loop.plan.values_at(k)["lr"] for k in range(6)]
    other = model()
    optimizer = SGD(other.parameters(), lr=0.1, momentum=0.9)
    batches = list(data())
    for step, (first, last) in enumerate(((0, 3), (3, 6), (6, 7)) * 2):
        optimizer.param_groups[0]["lr"] = loop.plan.values_at(step)["lr"]
        for x, y in batches[first:last]:
            mse(other(x), y).backward()
        for param in other.parameters():
            param.grad /= last - first
        optimizer.step()
        optimizer.zero_grad()
    same(dict(loop.model.state_dict()), dict(other.state_dict()))


def test_the_loss_of_a_step_is_the_mean_over_its_batches():
    """The history, the divergence check and the loop have the same figure."""
    phases = [TrainingPhase(2, SGD, 0.05)]
    learn = Learner(model(), (data(), None), mse, progress=False, accumulate=3)
    history = learn.fit_opt_sched(phases, stop_div=True)
    other = model()
    optimizer = SGD(other.parameters(), lr=0.05, momentum=0.9)
    batches, means, check = list(data()), [], DivergenceCheck()
    for first, last in ((0, 3), (3, 6), (6, 7)) * 2:
        losses = [mse(other(x), y) for x, y in batches[first:last]]
        means.append(sum(float(loss.detach()) for loss in losses) / len(losses))
        assert check(means[-1]) is None
        for loss in losses:
            loss.backward()
        for param in other.parameters():
            param.grad /= last - first
        optimizer.step()
        optimizer.zero_grad()
    assert history.losses == means
    assert learn.loop.loss == means[-1]
    assert learn.loop.check.state_dict() == check.state_dict()
    assert history.rows[0]["train_loss"] == pytest.approx(sum(means[:3]) / 3, rel=1e-12)


@pytest.mark.parametrize("batch", [8, 9])
def test_a_step_with_a_bad_batch_is_not_taken(batch):
    """Whichever of its batches it is; the buffers are those of before the step."""
    norm = nn.BatchNorm1d(3)
    whole = nn.Sequential(norm, model())
    phases = [TrainingPhase(steps=30, lr=1e-3)]
    loop = PhaseLoop(whole, phases, data(40), accumulate=2, stop_div=True)
    for number, (x, y) in enumerate(loop):
        if number == 8:
            kept = {name: value.clone() for name, value in whole.state_dict().items()}
        loop.step(mse(loop.model(x), y) * (float("nan") if number == batch else 1.0))
    assert number == 9
    assert loop.stopped == "stopped before step 4: the loss is nan"
    assert (loop.position, loop.pending) == (4, False)
    assert all(param.grad is None for param in whole.parameters())
    same(dict(whole.state_dict()), kept)


def test_a_loop_has_a_loss_where_it_was_given():
    loop = PhaseLoop(model(), [TrainingPhase(steps=2)], data(), accumulate=2)
    assert loop.loss is None
    seen = []
    for (x, y), own in zip(loop, (1.0, torch.tensor([2.0]), None, 5), strict=False):
        mse(loop.model(x), y).backward()
        loop.step(own)
        seen.append(loop.loss)
    assert seen == [1.0, 1.5, None, None]


@pytest.mark.parametrize("loss", ["1", torch.ones(2), [1.0], 1j])
def test_a_loss_must_be_a_scalar(loss):
    loop = PhaseLoop(model(), [TrainingPhase(steps=2)], data())
    x, y = next(iter(loop))
    mse(loop.model(x), y).backward()
    with pytest.raises(TypeError, match="`loss` must be a scalar"):
        loop.step(loss)
    assert loop.step(1.0)  # nothing is lost


@pytest.mark.parametrize("ours", [True, False])
def test_who_calls_backward_makes_no_difference(ours):
    loop = PhaseLoop(model(), [TrainingPhase(2, SGD, 0.1)], data(), accumulate=2)
    completes = []
    for x, y in loop:
        loss = mse(loop.model(x), y)
        completes.append(loop.completes_step)
        if not ours:
            loss.backward()
        assert loop.step(loss) == completes[-1]
    assert completes == ([False, True] * 3 + [True]) * 2
    reference = PhaseLoop(model(), [TrainingPhase(2, SGD, 0.1)], data(), accumulate=2)
    finish(reference)
    same(dict(loop.model.state_dict()), dict(reference.model.state_dict()))


@pytest.mark.parametrize("cut", [1, 2, 7, 8, 13])
def test_a_state_within_an_accumulation_is_that_before_it(cut):
    """Gradients aren't saved: the batches of the step are given again, dropout included."""

    def make():
        seed_all(3)
        loader = DataLoader(data().dataset, 2, shuffle=True)
        phases = [TrainingPhase(1, SGD, 0.05), TrainingPhase(1, Adam, 0.01)]
        return PhaseLoop(net(), phases, loader, accumulate=3)

    whole, loop = make(), None
    finish(whole)
    loop = make()
    batches = iter(loop)
    for _ in range(cut):
        x, y = next(batches)
        loop.step(mse(loop.model(x), y))
    state, again = loop.state_dict(), make()
    seed_all(99)
    again.load_state_dict(state)
    finish(again)
    same(again.state_dict(), whole.state_dict())


def test_lengths_with_accumulation():
    phases = [TrainingPhase(1, data=data(20)), TrainingPhase(samples=18, data=data(20))]
    plan = Plan(phases, accumulate=3)
    assert plan.spans == ((0, 4), (4, 7))
    assert Plan.from_json(plan.to_json()).digest == plan.digest
    lengths = [TrainingPhase(1), TrainingPhase(samples=18)]
    plan = Plan(lengths, steps_per_epoch=4, batch_size=2, accumulate=3)
    assert plan.spans == pickle.loads(pickle.dumps(plan)).spans == ((0, 4), (4, 7))
    made = [TrainingPhase(1, data=lambda: data(20)), TrainingPhase(steps=1)]
    loop = PhaseLoop(model(), made, accumulate=3)
    assert loop.plan.total_steps == 5
    finish(loop)


@pytest.mark.parametrize("scaler", [False, True])
def test_clipping_comes_between_unscaling_and_the_step(scaler):
    scale = torch.amp.GradScaler("cpu", init_scale=1024.0) if scaler else None
    phases = [TrainingPhase(1, SGD, 0.1)]
    loop = PhaseLoop(model(), phases, data(), clip_grad_norm=0.05, scaler=scale)
    finish(loop)
    other = model()
    optimizer = SGD(other.parameters(), lr=0.1, momentum=0.9)
    for x, y in data():
        mse(other(x), y).backward()
        norm = clip_grad_norm_(other.parameters(), 0.05)
        assert norm > 0.05
        optimizer.step()
        optimizer.zero_grad()
    same(dict(loop.model.state_dict()), dict(other.state_dict()))  # 1024 is a power of two


@pytest.mark.parametrize("accumulate", [1, 2])
def test_skipped_steps_do_not_advance_the_plan(accumulate):
    """The scaler skips the steps of two batches whose gradients overflow, the first one too."""
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    phases = [TrainingPhase(steps=6, lr=(0.1, 0.4), lr_decay=LINEAR)]
    loop = PhaseLoop(model(), phases, data(), scaler=scaler, accumulate=accumulate)
    seen = finish(loop, {0: float("inf"), 4: float("inf")})
    rates = [lr for step, lr in seen if step]
    assert rates == [loop.plan.values_at(step)["lr"] for step in range(6)]
    tried = [step for number, (step, _) in enumerate(seen) if number % 7 % 2 or accumulate == 1]
    assert not tried[0]
    assert scaler.get_scale() == 16.0
    assert all(param.isfinite().all() for param in loop.model.parameters())


@pytest.mark.parametrize("fused", [False, True])
def test_a_run_that_overflows_for_good_is_stopped(fused):
    """Once the scale is 0 all steps are skipped: none of them counts, and the loop ends."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-140)
    phases = [TrainingPhase(steps=3, opt_fn=functools.partial(SGD, fused=fused))]
    loop = PhaseLoop(model(), phases, data(), scaler=scaler)
    kept = {name: value.clone() for name, value in loop.model.state_dict().items()}
    seen = finish(loop, dict.fromkeys(range(1000), float("nan")))
    assert 5 < len(seen) < 20
    assert loop.position == 0
    assert loop.stopped == "stopped before step 0: the scaler's scale has come to 0"
    same(dict(loop.model.state_dict()), kept)


def test_a_scheduler_beside_a_scaler_that_skips_its_first_step_gives_no_warning():
    """Warnings are errors here: torch's own schedulers say "lr_scheduler.step() before ..."."""
    net_, scaler = model(), torch.amp.GradScaler("cpu", init_scale=64.0)
    optimizer = SGD(net_.parameters(), lr=0.1)
    scheduler = PhaseScheduler(optimizer, [TrainingPhase(steps=6, lr=(0.1, 0.4), lr_decay=LINEAR)])
    rates = []
    for number, (x, y) in enumerate(data()):
        loss = mse(net_(x), y) * (float("inf") if number == 0 else 1.0)
        scaler.scale(loss).backward()
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if scaler.get_scale() >= before:
            rates.append(optimizer.param_groups[0]["lr"])
            scheduler.step()
    assert rates == [scheduler.plan.values_at(step)["lr"] for step in range(6)]


def test_a_learner_in_bfloat16_is_the_loop_written_by_hand():
    types = []

    def loss_fn(output, target):
        types.append(output.dtype)
        return mse(output.float(), target)

    phases = [TrainingPhase(2, SGD, 0.05), TrainingPhase(1, Adam, 0.01, opt_state="map")]
    learn = Learner(
        model(), (data(), data()), loss_fn, progress=False,
        autocast=torch.bfloat16, accumulate=2, clip_grad_norm=1.0,
    )  # fmt: skip
    history = learn.fit_opt_sched(phases)
    assert set(types) == {torch.bfloat16}
    assert history.rows[-1]["valid_loss"] < 0.5 * history.rows[0]["valid_loss"]
    loop = PhaseLoop(model(), phases, data(), accumulate=2, clip_grad_norm=1.0)
    for x, y in loop:
        with torch.autocast("cpu", torch.bfloat16):
            loss = mse(loop.model(x).float(), y)
        loop.step(loss)
    same(dict(loop.model.state_dict()), dict(learn.model.state_dict()))
    assert len(history.losses) == loop.position == 12


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"accumulate": 0}, PhaseError, r"`accumulate` \(=0\) must be >= 1"),
        ({"accumulate": 1.5}, TypeError, "`accumulate` must be an int"),
        ({"clip_grad_norm": 0}, PhaseError, r"`clip_grad_norm` \(=0\) must be > 0"),
        ({"clip_grad_norm": "1"}, TypeError, "`clip_grad_norm` must be"),
        ({"prefetch": -1}, PhaseError, r"`prefetch` \(=-1\) must be >= 0"),
    ],
)
def test_wrong_arguments(arguments, error, match):
    with pytest.raises(error, match=match):
        PhaseLoop(model(), [TrainingPhase(1)], data(), **arguments)


def test_a_learner_says_which_options_it_has():
    with pytest.raises(TypeError, match="`autocast` must be"):
        Learner(model(), data(), mse, autocast="bfloat16")
    with pytest.raises(TypeError, match=r"must be of .*'accumulate'.* got \['fp16'\]"):
        Learner(model(), data(), mse, fp16=True)
