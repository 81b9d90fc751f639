"""The whole network, and weights of published checkpoints taken by their names."""

import copy

import published_networks as published
import pytest
import torch
from torch import nn

from pyphase import conv, nets

# In Keras' table of applications, InceptionResNetV2 has 55,873,736 numbers: statistics, but no
# scales of norms (30,272 channels in all). As parameters with scales, that is the figure which
# osmr/imgclsmob asserts for PyTorch, Chainer, MXNet and TensorFlow.
PUBLISHED_PARAMETERS = 55_843_464
NORMED_CHANNELS = 30_272


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small images: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@torch.no_grad()
def drawn(net):
    """Give a network weights and statistics that keep activations near 1, cheaply."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        if name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim > 1:
            bound = (6 / tensor[0].numel()) ** 0.5
            tensor.uniform_(-bound, bound, generator=generator)
        elif tensor.is_floating_point():
            tensor.uniform_(-0.5, 0.5, generator=generator)
        else:
            tensor.fill_(7)
    return net


def empty(make):
    """Return a network without the time that drawing 56 million random numbers takes."""
    with torch.device("meta"):
        net = make()
    return net.to_empty(device="cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Return the file of a random network in Cadene's layout, and what it makes of an image."""
    net = drawn(empty(lambda: published.inception_resnet_v2(1001, "last_linear"))).eval()
    file = tmp_path_factory.mktemp("checkpoint") / "inceptionresnetv2.pth"
    state = net.state_dict()
    old = {name: value for name, value in state.items() if "num_batches" not in name}
    torch.save(old, file)  # as files of torch 0.3 are
    images = torch.rand(1, 3, 75, 75, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return file, images, net(images), net.double()(images.double())


def test_the_whole_network_is_the_published_one(checkpoint):
    """With the checkpoint's weights; float32 errs no more than twice as much as the published."""
    file, images, torchs, exact = checkpoint
    net = empty(lambda: nets.inception_resnet_v2(1000)).eval()
    weights = torch.load(file, weights_only=True, mmap=True)
    nets.load_published(net, weights)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    assert parameters == PUBLISHED_PARAMETERS
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert sum(norm.num_features for norm in norms) == NORMED_CHANNELS
    branches = [module for module in net.modules() if isinstance(module, nets.Branch)]
    assert sum(len(branch.pairs()) for branch in branches) == 30  # 20 blocks 17, 10 blocks 8
    with torch.no_grad(), conv.backend("native"):
        found = net(images)
    torchs, exact = torchs[:, 1:], exact[:, 1:]  # without the background
    errors = [float((value - exact).norm() / exact.norm()) for value in (found, torchs)]
    assert errors[0] <= 2 * errors[1]


def test_parameters_are_named_and_shaped_as_published():
    """With timm's name of the classifier, in all the state."""
    with torch.device("meta"):
        ours = nets.inception_resnet_v2(1000).state_dict()
        theirs = published.inception_resnet_v2(1000, "classif").state_dict()
        background = nets.inception_resnet_v2(1001)
    assert [(name, value.shape) for name, value in ours.items()] == [
        (name, value.shape) for name, value in theirs.items()
    ]
    extra = sum(parameter.numel() for parameter in background.parameters()) - PUBLISHED_PARAMETERS
    assert extra == 1536 + 1


PUBLISHED = {
    "stem": (nets.InceptionV4Stem, published.inception_v4_stem, "features."),
    "MSCA": (
        lambda: nets.MSCA(6),
        lambda: published.AttentionModule(6),
        "block2.1.attn.spatial_gating_unit.",
    ),
    "attention": (
        lambda: nets.SpatialAttention(6),
        lambda: published.SpatialAttention(6),
        "block1.0.attn.",
    ),
    "dense": (
        lambda: nets.DenseBlock(2, 6, 4),
        lambda: published.DenseBlock(2, 6, 4),
        "features.denseblock1.",
    ),
}
SHAPES = {"stem": (1, 3, 43, 43), "dense": (1, 6, 5, 5)}


def file_of(name):
    """Return a published network's state with the block's among it, and the block."""
    _, theirs, prefix = PUBLISHED[name]
    theirs = drawn(theirs()).eval()
    state = {f"{prefix}{key}": value for key, value in theirs.state_dict().items()}
    if name == "stem":
        state["features.6.branch0.conv.weight"] = torch.zeros(96, 384, 1, 1)
    return {"classifier.bias": torch.zeros(3), **state}, theirs


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_block_takes_its_part_of_a_checkpoint(name):
    ours, _, prefix = PUBLISHED[name]
    ours = ours().eval()
    state, theirs = file_of(name)
    nets.load_published(ours, state, prefix=prefix)
    x = torch.randn(SHAPES.get(name, (1, 6, 9, 8)), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours.double()(x), theirs.double()(x), rtol=1e-11, atol=1e-11)


def test_dense_blocks_of_old_files():
    """torchvision's files say norm.1 where its modules are called norm1."""
    block = drawn(nets.DenseBlock(2, 6, 4))
    old = {}
    for name, value in block.state_dict().items():
        for part in ("norm", "conv"):
            for number in "12":
                name = name.replace(f".{part}{number}.", f".{part}.{number}.")
        old[f"features.denseblock2.{name}"] = value
    assert "features.denseblock2.denselayer2.norm.1.running_mean" in old
    other = nets.DenseBlock(2, 6, 4)
    nets.load_published(other, old, prefix="features.denseblock2.")
    for value, wanted in zip(other.state_dict().values(), block.state_dict().values(), strict=True):
        assert torch.equal(value, wanted)


def test_a_checkpoint_that_does_not_fit_changes_nothing():
    block = nets.MSCA(6)
    before = copy.deepcopy(block.state_dict())
    state, _ = file_of("MSCA")
    prefix = PUBLISHED["MSCA"][2]
    lacking = {name: value for name, value in state.items() if "conv1_2" not in name}
    more = {**state, f"{prefix}conv4.weight": torch.zeros(1)}
    wrong = {**state, f"{prefix}conv3.bias": torch.zeros(7)}
    for faulty, match in (
        (lacking, r"it lacks strips.strips.1.bias2, strips.strips.1.weight2"),
        (more, r"it has, unknown to the module, conv4.weight"),
        (wrong, r"it has in another shape conv3.bias \(7,\) for \(6,\)"),
    ):
        with pytest.raises(ValueError, match=match):
            nets.load_published(block, faulty, prefix=prefix)
    with pytest.raises(
        ValueError, match=r"\(prefix=''\) .* it lacks conv0.bias, .* and 13 more; it"
    ):
        nets.load_published(block, state)
    for value, wanted in zip(block.state_dict().values(), before.values(), strict=True):
        assert torch.equal(value, wanted)


def test_what_it_does_not_take():
    with pytest.raises(TypeError, match=r"`module` must be one of InceptionResNetV2, .*got a ReLU"):
        nets.load_published(nn.ReLU(), {})
    with pytest.raises(TypeError, match=r"`state_dict` must map names to tensors, got 'a.pth'"):
        nets.load_published(nets.MSCA(2), "a.pth")
    with pytest.raises(
        TypeError, match=r"`state_dict\['conv0.bias'\]` must be a tensor, got \['x'\]"
    ):
        nets.load_published(nets.MSCA(2), {"conv0.bias": ["x"]})


def test_other_numbers_of_classes_are_an_error():
    with torch.device("meta"):
        net = nets.inception_resnet_v2(10)
        state = published.inception_resnet_v2(1001, "last_linear").state_dict()
    with pytest.raises(ValueError, match=r"classif.weight \(1001, 1536\) for \(10, 1536\)"):
        nets.load_published(net, state)


@pytest.mark.parametrize("shape", [(1, 3, 74, 75), (1, 3, 80, 40), (1, 4, 75, 75), (3, 75, 75)])
def test_images_that_it_does_not_take(shape):
    with torch.device("meta"):
        net = nets.inception_resnet_v2(10)
        images = torch.zeros(shape)
    with pytest.raises(ValueError, match=r"`input` must be \(N, 3, H, W\) with H and W >= 75, got"):
        net(images)
