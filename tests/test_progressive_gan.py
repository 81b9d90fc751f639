"""The growing GAN of bench/: networks, phases, and a run that is killed and goes on."""

import importlib
import os
import signal
import subprocess
import sys

import pytest
import torch
from digits import tensors
from scripts import ROOT, load
from torch import nn
from toys import same

from pyphase import PhaseError, conv
from pyphase.apply.state import load_checkpoint
from pyphase.demo_data import ImageSet

WIDTHS = (8, 8, 4, 4)
STEPS = ((0, 2), (2, 2), (2, 2))  # to 16 pixels


def load_images(folder=None, *, seed=0):
    """Return scikit-learn's digits as if they were MNIST's: its file takes seconds to read."""
    images, labels = tensors()
    large = nn.functional.interpolate(255 * images.reshape(-1, 1, 8, 8), size=(28, 28))
    return ImageSet(large.byte(), labels, [str(i) for i in range(10)]).split(0.3, seed)


@pytest.fixture(scope="module")
def gan():
    module = load("bench/progressive_gan.py")
    module.load_images = load_images
    return module


@pytest.fixture
def few():
    return load_images()[1].split(0.5, 0)[0]


def start(gan, digits, kind="dense"):
    torch.manual_seed(0)
    return gan.ProgressiveGAN(digits, STEPS, kind)


def test_growing_does_not_jump(gan):
    """With alpha 0, images are the old ones, doubled; scores are those of halved images."""
    torch.manual_seed(0)
    generator, critic = gan.Generator(WIDTHS, 5, "dense"), gan.Critic(WIDTHS, "factorized")
    latents, labels = torch.randn(3, 5), torch.tensor([0, 4, 9])
    for size in (4, 8, 16):
        small = generator(latents, labels)
        scores = critic(small, labels)
        generator.grow()
        critic.grow()
        large = generator(latents, labels)
        assert large.shape == (3, 1, 2 * size, 2 * size)
        assert torch.equal(large, small.repeat_interleave(2, -1).repeat_interleave(2, -2))
        torch.testing.assert_close(critic(large, labels), scores)
        for network in (generator, critic):
            network.set_alpha(1.0)
        images, grown = generator(latents, labels), critic(large, labels)
        assert not torch.equal(images, large)
        for network in (generator, critic):
            network.settle()
        assert torch.equal(generator(latents, labels), images)
        assert torch.equal(critic(large, labels), grown)


def test_weights_in_use_have_the_equalised_scale(gan):
    networks = importlib.import_module("gan_networks")
    torch.manual_seed(0)
    layer = networks.conv3(64, 64, "dense")
    assert layer.parametrizations.weight.original.std().item() == pytest.approx(1, rel=0.05)
    assert layer.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    x = torch.randn(8, 64, 16, 16)
    for kind in ("dense", "factorized"):
        inside = networks.conv3(64, 64, kind)(x)[..., 1:-1, 1:-1]
        assert inside.var().item() == pytest.approx(2, rel=0.1)  # what a ReLU halves again


def test_pixel_norm_and_minibatch_deviation_by_hand(gan):
    networks = importlib.import_module("gan_networks")
    x = torch.tensor([[3.0, 4.0]]).reshape(1, 2, 1, 1)
    expected = x / 12.5**0.5
    torch.testing.assert_close(networks.PixelNorm()(x), expected)
    y = torch.tensor([1.0, 5.0]).reshape(2, 1, 1, 1)
    torch.testing.assert_close(
        networks.MinibatchDeviation()(y), torch.tensor([[1.0, 2.0], [5.0, 2.0]])[..., None, None]
    )


def test_the_penalty_differentiates_twice_through_the_fused_pairs(gan):
    torch.manual_seed(0)
    critic = gan.Critic(WIDTHS, "factorized")
    critic.grow()
    critic.settle()
    real, fake, labels = torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8), torch.arange(4)
    found = {}
    for backend in ("native", "torch"):
        torch.manual_seed(1)
        critic.zero_grad()
        with conv.backend(backend):
            gan.critic_loss(critic, real, fake, labels).backward()
        found[backend] = [param.grad.clone() for param in critic.parameters()]
    torch.testing.assert_close(found["native"], found["torch"], rtol=1e-3, atol=1e-5)


def test_a_linear_critic_has_the_loss_of_the_formula(gan):
    class Sum(nn.Module):
        def forward(self, images, labels):
            return 2 * images.flatten(1).sum(1)

    real, fake = torch.full((2, 1, 4, 4), 0.25), torch.zeros(2, 1, 4, 4)
    # scores 8 and 0, |gradient| = 2 * sqrt(16)
    expected = -8 + 10 * (8 - 1) ** 2 + 0.001 * 8**2
    found = gan.critic_loss(Sum(), real, fake, torch.zeros(2, dtype=torch.int64))
    assert found.item() == pytest.approx(expected)


def test_frechet_distance_by_hand(gan):
    measure = importlib.import_module("gan_measure")
    one = torch.tensor([1.0, 0.0]).double(), torch.diag(torch.tensor([4.0, 1.0])).double()
    two = torch.tensor([0.0, 3.0]).double(), torch.diag(torch.tensor([1.0, 9.0])).double()
    assert measure.frechet(one, two) == pytest.approx(1 + 9 + (2 - 1) ** 2 + (1 - 3) ** 2)
    assert measure.frechet(one, one) == pytest.approx(0, abs=1e-12)


def test_phases_switch_sizes_fade_in_and_reach_both_networks(gan, few):
    run = start(gan, few)
    seen = []
    for position in run.train(10):
        loop = run.critic_loop
        index = loop.plan.phase_at(position - 1)
        seen.append((loop.plan.phases[index].name, loop.feed.loader.dataset.tensors[0].shape[-1]))
    names = ["4 px", "fade 8 px", "8 px", "fade 16 px", "16 px"]
    assert seen == [(name, int(name.split()[-2])) for name in names for _ in range(2)]
    for loop, network in ((run.critic_loop, run.critic), (run.generator_loop, run.generator)):
        held = {id(p) for group in loop.optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for p in network.parameters()}
        assert (
            loop.plan.table(list(loop.plan.keys)[-1], [2, 3, 6, 7])[:, 0].tolist() == [0, 0.5] * 2
        )
    same(list(run.average.state_dict()), list(run.generator.state_dict()))


def test_saved_at_any_step_it_ends_bit_for_bit(gan, few, tmp_path):
    """In a fade, at a border, and in a second fade; the other test has dense convolutions."""
    whole, states = start(gan, few, "factorized"), {}
    for position in whole.train(10):
        if position in (3, 6, 7):
            states[position] = tmp_path / f"{position}.pt"
            torch.save(whole.state_dict(), states[position])
    for position, file in states.items():
        torch.manual_seed(99)
        other = gan.ProgressiveGAN(few, STEPS, "factorized")
        other.load_state_dict(torch.load(file, weights_only=True))
        assert other.position == position
        assert list(other.train(10)) == list(range(position + 1, 11))
        same(other.state_dict(), whole.state_dict())


def learned(run):
    """Return weights and optimizers; nobody has seeded the other generators of a new process."""
    state = run.state_dict()
    loops = [state[name] for name in ("critic", "generator")]
    return [state["average"], *((loop["model"], loop["optimizer"]) for loop in loops)]


SETTINGS = {"seed": 0, "conv": "dense", "quick": True}
KILL = """
import os, signal, sys
sys.path[:0] = sys.argv[1:3]
import progressive_gan as gan
from test_progressive_gan import load_images
update = gan.ProgressiveGAN.update_average

def killed(self):
    if self.position == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    update(self)

gan.ProgressiveGAN.update_average, gan.load_images = killed, load_images
sys.argv[1:] = ["--quick", "--every", "5", "--out", sys.argv[3]]
gan.main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_interrupted_and_killed_it_ends_bit_for_bit(gan, tmp_path, monkeypatch, capsys):
    """Killed amid step 12, when 16 pixels are being faded in; then Ctrl-C in step 17."""
    folders = map(str, (ROOT / "bench", ROOT / "tests", tmp_path / "cut"))
    command = [sys.executable, "-c", KILL, *folders]
    killed = subprocess.run(command, cwd=tmp_path, timeout=300)  # a source tree shadows packages
    assert killed.returncode == -signal.SIGKILL
    file = tmp_path / "cut" / "checkpoint.pt"
    assert load_checkpoint(file)["gan"]["critic"]["position"] == 10

    def press(self):
        if self.position == 17:
            os.kill(os.getpid(), signal.SIGINT)
        update(self)

    update = gan.ProgressiveGAN.update_average
    monkeypatch.setattr(gan.ProgressiveGAN, "update_average", press)
    again = gan.Run(tmp_path / "cut", SETTINGS, every=5)
    assert not again.go()
    monkeypatch.undo()
    assert load_checkpoint(file)["gan"]["critic"]["position"] == 17
    last = gan.Run(tmp_path / "cut", SETTINGS, every=5)
    assert last.go()
    (tmp_path / "whole").mkdir()
    whole = gan.Run(tmp_path / "whole", SETTINGS, every=1000)
    assert whole.go()
    same(learned(last.gan), learned(whole.gan))
    measured = [[(row["samples"], row["real"]) for row in run.rows] for run in (last, whole)]
    assert measured[0] == measured[1]
    assert len(measured[0]) == 4
    assert max(map(len, last.report().splitlines())) <= 80
    for size in (4, 8, 16, 32):
        name = f"samples_{size:02}.png"
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(PhaseError, match="give `--out` another folder"):
        gan.Run(tmp_path / "cut", SETTINGS | {"seed": 1}, every=5)
    torch.save({"pyphase": "model 1"}, file)
    with pytest.raises(PhaseError, match="not a checkpoint of a progressive GAN"):
        gan.Run(tmp_path / "cut", SETTINGS, every=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: --out"),
        (["--out", __file__], "is not a folder"),
        (["--out", "x", "--threads", "0"], "must be >= 1"),
        (["--out", "x", "--conv", "sparse"], "invalid choice"),
    ],
)
def test_wrong_arguments(gan, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["progressive_gan.py", *arguments])
    with pytest.raises(SystemExit):
        gan.main()
    assert message in capsys.readouterr().err
