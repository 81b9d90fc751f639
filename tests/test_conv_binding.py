"""The compiled convolutions themselves: nonsense is refused, memory respected, bits repeat.

Long, since each kind of nonsense is a case of its own, for pairs and for strips.
"""

from __future__ import annotations

import os
import subprocess
import sys

import conv_reference as reference
import pytest
import torch
from conv_binding import Memory, call_pair, call_strips, request
from conv_errors import bound, pair_bound, strips
from conv_reference import Problem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyphase import _core, conv

UNSERVED = r"null|no native kernel"
REFUSALS = (ValueError, TypeError, OverflowError, MemoryError)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
ACTIVATIONS = ("none", "relu", "gelu", "silu")
LOOSE = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
MANY = int(os.environ.get("PYPHASE_TEST_EXAMPLES", "100"))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small tensors: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Nonsense

VALID = request(Problem(channels=(6, 6, 6), groups=(6, 6)), torch.float32, False)
HUGE = [2**30, 2**30 + 1, 2**31, 2**40, 2**62, 2**63 - 1, 2**63, 2**64, -(2**31), -(2**63)]

integers = st.one_of(st.integers(-3, 70), st.sampled_from(HUGE))
junk = st.one_of(
    st.none(), st.booleans(), integers, st.floats(), st.text(max_size=9), st.binary(max_size=9)
)
shapes = st.lists(integers, min_size=4, max_size=4)
pairs = st.lists(integers, min_size=2, max_size=2)
SENSELESS = {
    "input_shape": shapes,
    "weight1_shape": shapes,
    "weight2_shape": shapes,
    "stride": pairs,
    "padding": shapes,
    "dilation": pairs,
    "groups": pairs,
    "activation": st.text(max_size=6),
    "dtype": st.text(max_size=9),
    "channels_last": st.booleans(),
}


@st.composite
def requests(draw):
    """Draw a request that would be valid but for some of its entries."""
    wrong = dict(VALID)
    for name in draw(st.sets(st.sampled_from(sorted(VALID)), max_size=4)):
        value = VALID[name]
        if isinstance(value, tuple) and draw(st.booleans()):  # one number of several
            index = draw(st.integers(0, len(value) - 1))
            wrong[name] = (*value[:index], draw(integers), *value[index + 1 :])
        else:
            wrong[name] = draw(st.one_of(SENSELESS[name], junk, st.lists(junk, max_size=5)))
    if draw(st.integers(0, 9)) == 0:
        del wrong[draw(st.sampled_from(sorted(wrong)))]
    return wrong


def out_size(wrong, axis):
    """Return what torch's formula gives, in Python's unbounded integers."""
    kernel = max(wrong["weight1_shape"][2 + axis], wrong["weight2_shape"][2 + axis])
    begin, end = wrong["padding"][2 * axis : 2 * axis + 2]
    reach = wrong["dilation"][axis] * (kernel - 1) + 1
    return (wrong["input_shape"][2 + axis] + begin + end - reach) // wrong["stride"][axis] + 1


@settings(LOOSE, max_examples=400)
@given(wrong=requests())
def test_a_senseless_pair_is_refused_or_is_none(wrong):
    try:
        pair = _core.ConvPair(**wrong)
    except REFUSALS:
        return
    shape = pair.output_shape
    assert shape == [
        wrong["input_shape"][0],
        wrong["weight2_shape"][0],
        out_size(wrong, 0),
        out_size(wrong, 1),
    ]
    assert min(shape[1:]) > 0
    assert pair.kernel in ("", "depthwise", "dense")
    for backward in (False, True):
        assert pair.wins(backward) <= (pair.kernel != "")
    with pytest.raises(ValueError, match=UNSERVED):
        pair.forward(None, None, None, None, None, None)
    with pytest.raises(ValueError, match=UNSERVED):
        pair.backward(*[None] * 10)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"input_shape": (2, 6, 0, 9)}, "positive"),
        ({"input_shape": (-1, 6, 7, 9)}, "positive"),
        ({"input_shape": (2, 5, 7, 9)}, "channels and groups"),
        ({"input_shape": (2**30, 6, 2**30, 9)}, "too large"),
        ({"input_shape": (2, 6, 2**31, 9)}, "too large"),
        ({"weight1_shape": (6, 1, 3, 5)}, "one weight must be"),
        ({"weight2_shape": (6, 1, 1, 3)}, "one weight must be"),
        ({"groups": (6, 4)}, "channels and groups"),
        ({"groups": (0, 0)}, "groups must be positive"),
        ({"stride": (0, 1)}, "stride and dilation"),
        ({"dilation": (1, -1)}, "stride and dilation"),
        ({"dilation": (1, 2**30)}, "larger than the padded"),
        ({"padding": (0, -1, 0, 0)}, "padding must not be negative"),
        ({"padding": (0, 0, 0, 0), "input_shape": (2, 6, 7, 4)}, "larger than the padded"),
        ({"padding": (2**30,) * 4}, "too large"),
        ({"activation": "tanh"}, "unknown activation 'tanh'"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
    ],
)
def test_a_refusal_says_why(change, match):
    with pytest.raises(ValueError, match=match):
        _core.ConvPair(**{**VALID, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"input_shape": (2, 6, 7)},
        {"input_shape": None},
        {"input_shape": (2, 6, 7, 9.5)},
        {"input_shape": (2, 6, 7, 2**63)},
        {"stride": 1},
        {"activation": None},
        {"what": 1},
    ],
)
def test_wrong_types(change):
    with pytest.raises(TypeError):
        _core.ConvPair(**{**VALID, **change})


def test_null_and_negative_addresses():
    pair = _core.ConvPair(**VALID)
    memory = torch.zeros(4096)
    good = memory.data_ptr()
    for index, name in enumerate(("x", "w1", "w2")):
        for null in (None, 0):
            wrong = [good] * 6
            wrong[index] = null
            with pytest.raises(ValueError, match=f"{name} is a null address"):
                pair.forward(*wrong)
            wrong = [good] * 10
            wrong[index] = null
            with pytest.raises(ValueError, match=f"{name} is a null address"):
                pair.backward(*wrong)
    with pytest.raises(ValueError, match="y is a null address"):
        pair.forward(good, good, good, None, None, None)
    with pytest.raises(ValueError, match="grad_y is a null address"):
        pair.backward(good, good, good, None, None, *[None] * 5)
    for wrong in (-1, 2**64, 1.5, "x", [good]):
        with pytest.raises(TypeError):
            pair.forward(wrong, good, good, None, None, good)
    assert not memory.any()


# Strips

WIDER = {"input_shape": (2, 8, 7, 9), "weight1_shape": (8, 1, 1, 5), "weight2_shape": (8, 1, 3, 1)}
UNLIKE = {
    "channels": {**WIDER, "groups": (8, 8)},
    "size": {"input_shape": (2, 6, 8, 9)},
    "batch": {"input_shape": (3, 6, 7, 9)},
    "dtype": {"dtype": "float64"},
    "layout": {"channels_last": True},
    "activation": {"activation": "relu"},
    "stride": {"stride": (2, 1)},
    "output": {"padding": (0, 0, 0, 0)},
    "dense": {"weight1_shape": (6, 6, 1, 5), "groups": (1, 6)},
}


@pytest.mark.parametrize("name", UNLIKE)
@pytest.mark.parametrize("first", [False, True])
def test_unlike_pairs_are_not_one_problem(name, first):
    """Strips read one image and write one: whatever differs in it must not reach a kernel."""
    both = [_core.ConvPair(**VALID), _core.ConvPair(**{**VALID, **UNLIKE[name]})]
    try:
        found = _core.ConvStrips(pairs=both[::-1] if first else both, residual=True)
    except ValueError:
        return
    assert found.kernel == ""
    assert not found.wins(False)


@pytest.mark.parametrize("value", [None, 1, "pairs", [None], [1], [[]], [object()]])
def test_strips_of_something_else(value):
    with pytest.raises(TypeError):
        _core.ConvStrips(pairs=value, residual=True)


def test_no_strips():
    try:
        empty = _core.ConvStrips(pairs=[], residual=True)
    except ValueError:
        return
    assert empty.kernel == ""
    assert not empty.wins(False)
    good = torch.zeros(64).data_ptr()
    with pytest.raises(ValueError, match="no native kernel"):
        empty.forward(good, [], [], [], [], good)
    with pytest.raises(ValueError, match="no native kernel"):
        empty.backward(good, [], [], [], good, good, [], [], [], [])


@pytest.mark.parametrize("length", [0, 1, 3])
@pytest.mark.parametrize("backward", [False, True])
def test_lists_of_the_wrong_length(length, backward):
    two = _core.ConvStrips(pairs=[_core.ConvPair(**VALID)] * 2, residual=True)
    memory = torch.zeros(4096)
    good = memory.data_ptr()
    count = 7 if backward else 4
    for index in range(count):
        lists = [[good] * 2 for _ in range(count)]
        lists[index] = [good] * length
        arguments = [good, *lists, good]
        if backward:
            arguments = [good, *lists[:3], good, good, *lists[3:]]
        call = two.backward if backward else two.forward
        with pytest.raises(ValueError):
            call(*arguments)
    assert not memory.any()


@settings(LOOSE, max_examples=100)
@given(
    addresses=st.lists(st.lists(st.sampled_from([None, 0]), max_size=3), min_size=7, max_size=7),
    x=st.sampled_from([None, 0]),
)
def test_strips_of_null_addresses(addresses, x):
    two = _core.ConvStrips(pairs=[_core.ConvPair(**VALID)] * 2, residual=True)
    with pytest.raises(ValueError):
        two.forward(x, *addresses[:4], None)
    with pytest.raises(ValueError):
        two.backward(x, *addresses[:3], None, None, *addresses[3:])


# Valid problems


def draw_grad(pair, dtype, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return rounded([torch.randn(pair.output_shape, generator=generator).to(dtype)])[0]


def rounded(tensors):
    """Return float64 tensors in eighths, so that float64's sums of their products are exact."""
    return [
        (8 * t).round() / 8 if t is not None and t.dtype == torch.float64 else t for t in tensors
    ]


def check_pair(problem, dtype, channels_last, mask=(True,) * 5, at_end=True, shift=0):
    """Hold a problem to float64, and its memory to what it was given."""
    if dtype == torch.float64 and problem.activation in ("gelu", "silu"):
        problem = problem._replace(activation="relu")  # float64 has no exact values of those
    pair = _core.ConvPair(**request(problem, dtype, channels_last))
    tensors = rounded(reference.tensors(problem, dtype, channels_last))
    grad = draw_grad(pair, dtype)
    memory = Memory(channels_last, at_end, shift)
    if pair.kernel == "":
        with pytest.raises(ValueError, match="no native kernel"):
            call_pair(pair, tensors, grad, memory, mask)
        return
    found = call_pair(pair, tensors, grad, memory, mask)
    allowed = pair_bound(problem, tensors, grad)
    wanted = [w for w, tensor in zip(mask, tensors, strict=True) if tensor is not None]
    allowed.of([0, *(i for i, w in enumerate(wanted, start=1) if w)]).hold(found, problem)


SIZES = st.one_of(st.integers(1, 12), st.integers(13, 40), st.sampled_from([47, 63, 64, 65, 70]))


@st.composite
def problems(draw):
    """Draw a problem of any size, order, stride and dilation; the kernels' borders come often."""
    kernel = draw(st.tuples(*[st.one_of(st.integers(1, 7), st.sampled_from([9, 11, 21]))] * 2))
    row_first = kernel == (1, 1) or draw(st.booleans())
    dilation = draw(st.tuples(*[st.sampled_from([1, 1, 2, 3])] * 2))
    stride = draw(st.tuples(*[st.sampled_from([1, 1, 2, 3])] * 2))
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    padding = draw(st.tuples(*[st.sampled_from([0, r // 2, r // 2, r, r + 2]) for r in reach]))
    least = [max(1, r + 1 - 2 * p) for r, p in zip(reach, padding, strict=True)]
    size = tuple(max(n, draw(SIZES)) for n in least)
    widths = st.sampled_from([1, 2, 3, 5, 7, 8, 9, 13, 16, 17, 31, 33])
    if draw(st.booleans()):
        channels = (draw(widths),) * 3
        groups = channels[:2]
    else:
        channels, groups = draw(st.tuples(widths, widths, widths)), (1, 1)
    same = stride == (1, 1) and draw(st.booleans())
    return Problem(
        channels,
        size,
        kernel,
        row_first,
        draw(st.sampled_from([1, 1, 2, 3])),
        stride,
        "same" if same else padding,
        dilation,
        groups,
        draw(st.sampled_from(ACTIVATIONS)),
        draw(st.tuples(st.booleans(), st.booleans())),
    )


@settings(LOOSE, max_examples=MANY)
@given(
    problem=problems(),
    dtype=st.sampled_from(DTYPES),
    channels_last=st.booleans(),
    mask=st.one_of(st.just((True,) * 5), st.tuples(*[st.booleans()] * 5)),
    at_end=st.booleans(),
    shift=st.integers(0, 15),
    threads=st.sampled_from([1, 1, 3, 16]),
)
def test_drawn_pairs(problem, dtype, channels_last, mask, at_end, shift, threads):
    torch.set_num_threads(threads)
    check_pair(problem, dtype, channels_last, mask, at_end, shift)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("row_first", [False, True])
def test_large_images_are_written_past_the_caches(dtype, shift, row_first):
    """From 8 MiB of x and y on, if y is aligned to vectors; their channels are a few vectors."""
    channels, stride = (48, 48, 48), (1, 1) if row_first else (1, 2)
    problem = Problem(channels, (110, 77), (3, 3), row_first, 4, stride, (1, 1), groups=(48, 48))
    check_pair(problem, dtype, True, shift=shift)


@pytest.mark.parametrize("channels", [(16, 16, 64), (16, 8, 48), (16, 16, 56)])
@pytest.mark.parametrize("shift", [0, 1])
def test_large_results_of_dense_pairs_are_written_past_the_caches(channels, shift):
    """From 8 MiB of x and y on, if y and its pixels lie on cache lines: 56 channels don't."""
    problem = Problem(channels, (180, 177), (1, 3), True, activation="relu")
    check_pair(problem, torch.float32, True, mask=(False,) * 5, shift=shift)


def test_large_strips_are_written_past_the_caches():
    check_strips(64, (75, 60), [(3, 5), (5, 3)], True, True, torch.float32, True, (True, True), 4)


@pytest.mark.parametrize("row_first", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_fault_one_column_that_grows_was_taken_for_a_row(row_first, dtype):
    """Input pixels of a column are neighbours in memory where the image is one wide."""
    turn = slice(None, None, -1 if row_first else 1)
    problem = Problem((2, 2, 2), (100, 1)[turn], (1, 3)[turn], row_first, padding=(0, 2)[turn],
                      groups=(2, 2))  # fmt: skip
    check_pair(problem, dtype, channels_last=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("groups", [1, 9])
def test_an_empty_batch_has_gradients_of_zero(dtype, channels_last, groups):
    problem = Problem((9, 9, 9), (5, 6), batch=0, groups=(groups, groups), activation="silu")
    check_pair(problem, dtype, channels_last)


def check_strips(channels, size, kernels, row_first, residual, dtype, channels_last, biases, batch):
    """Hold a sum of depthwise pairs to float64, and its memory to what it was given."""
    pairs_, tensors = [], []
    for seed, kernel in enumerate(kernels):
        problem = Problem(
            (channels,) * 3, size, kernel, row_first, batch, groups=(channels,) * 2, biases=biases
        )
        pairs_.append(_core.ConvPair(**request(problem, dtype, channels_last)))
        x, w1, w2, b1, b2 = rounded(reference.tensors(problem, dtype, channels_last, seed=seed))
        tensors += [w1, b1, w2, b2] if tensors else [x, w1, b1, w2, b2]
    both = _core.ConvStrips(pairs=pairs_, residual=residual)
    assert both.kernel == "depthwise"
    grad = draw_grad(pairs_[0], dtype)
    found = call_strips(both, tensors, grad, Memory(channels_last))

    def plain(*tensors):
        return strips(*tensors, kernels=kernels, row_first=row_first, residual=residual)

    bound(plain, plain, tensors, grad).hold(found, (channels, size, kernels, dtype))


@settings(LOOSE, max_examples=MANY // 2)
@given(
    channels=st.sampled_from([1, 3, 7, 8, 9, 16, 17, 33]),
    size=st.tuples(SIZES, SIZES),
    kernels=st.lists(st.tuples(st.integers(2, 9), st.integers(2, 12)), min_size=1, max_size=4),
    row_first=st.booleans(),
    residual=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    channels_last=st.booleans(),
    biases=st.tuples(st.booleans(), st.booleans()),
    batch=st.integers(1, 2),
)
def test_drawn_strips(**drawn):
    check_strips(**drawn)


# The same bits

WIDE = {
    "planar": Problem((20, 20, 20), (41, 67), (7, 11), groups=(20, 20), activation="gelu"),
    "columns": Problem((19, 19, 19), (37, 50), (9, 5), False, groups=(19, 19)),
    "many tiles": Problem((24, 24, 24), (14, 260), (3, 9), groups=(24, 24)),
    "strides": Problem((16, 16, 16), (60, 61), (7, 7), stride=(2, 2), padding=(3, 3),
                       groups=(16, 16), batch=3),
    "dense": Problem((24, 20, 28), (30, 35), (5, 7), activation="relu", batch=3),
    "dense, columns": Problem((24, 20, 28), (30, 35), (3, 3), False, batch=2),
    "dense, strips of one": Problem((16, 96, 16), (10, 33), (3, 3), batch=8),
    "dense, strides": Problem((3, 16, 33), (64, 65), (7, 7), stride=(2, 2), padding=(3, 3)),
}  # fmt: skip


def bits(tensors):
    return [tensor.contiguous().view(torch.uint8).flatten().tolist() for tensor in tensors]


@pytest.fixture
def threads():
    yield torch.set_num_threads
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_for_any_number_of_threads(name, channels_last, dtype, threads):
    """Weight gradients included; twice each, so that the order in which threads finish varies."""
    problem = WIDE[name]
    pair = _core.ConvPair(**request(problem, dtype, channels_last))
    if pair.kernel == "":
        pytest.skip("no native kernel serves this problem")
    tensors = reference.tensors(problem, dtype, channels_last)
    grad = draw_grad(pair, dtype)
    found = []
    for count in (1, 2, 16, 16, 3):
        threads(count)
        found.append(bits(call_pair(pair, tensors, grad, Memory(channels_last))))
    assert all(other == found[0] for other in found[1:])


def test_fault_a_tile_beyond_the_image_read_the_next_row(threads):
    x, row, column = torch.randn(1, 1, 3, 60), torch.randn(1, 1, 1, 21), torch.randn(1, 1, 3, 1)
    wide = torch.nn.functional.pad(x.double(), (10, 200))
    exact = torch.conv2d(torch.conv2d(wide, row.double()), column.double(), padding=(1, 0))
    options = [1, 1], [1, 1, 10, 200], [1, 1], [1, 1], "none"
    for count in (1, 2, 16):
        threads(count)
        with conv.backend("native"):
            y = torch.ops.pyphase.factorized_conv2d(x, row, column, None, None, *options)
        torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("channels_last", [False, True])
def test_same_bits_of_strips(channels_last, threads):
    problem = Problem((18, 18, 18), (50, 60), (7, 7), groups=(18, 18))
    pair = _core.ConvPair(**request(problem, torch.float32, channels_last))
    x, w1, w2, b1, b2 = reference.tensors(problem, torch.float32, channels_last)
    both = _core.ConvStrips(pairs=[pair] * 3, residual=True)
    tensors = [x, *[w1, b1, w2, b2] * 3]
    grad = draw_grad(pair, torch.float32)
    found = []
    for count in (1, 2, 16, 3):
        threads(count)
        found.append(bits(call_strips(both, tensors, grad, Memory(channels_last))))
    assert all(other == found[0] for other in found[1:])


# The other instruction sets

COMPACT = """
import sys
import torch
import test_conv_binding as checks

assert checks._core.isa() == sys.argv[1]
torch.set_num_threads(1)
for check in (checks.test_drawn_pairs, checks.test_drawn_strips):
    check()
print("held:", checks._core.isa())
"""


def run_as(isa, script, *arguments, path, **variables):
    """Run a script with an instruction set, outside of the source tree, which shadows packages."""
    places = map(os.path.abspath, filter(None, [os.path.dirname(__file__), *sys.path]))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "PYPHASE_ISA": isa}
    environment |= variables
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", script, *arguments],
        env=environment,
        cwd=path,
        capture_output=True,
        text=True,
    )


def test_the_instruction_set_in_use_is_one_that_runs_here():
    assert _core.isa() in _core.isas()
    # A build for the sanitizers has one set alone.
    assert len(_core.isas()) == 1 or {"baseline", "wide"} <= set(_core.isas())


@pytest.mark.parametrize("isa", [name for name in _core.isas() if name != _core.isa()])
def test_every_other_instruction_set(isa, tmp_path):
    """Half of the drawn problems for each: the ones in use are drawn in full above."""
    done = run_as(isa, COMPACT, isa, path=tmp_path, PYPHASE_TEST_EXAMPLES=str(MANY // 2))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"held: {isa}"


def test_an_unknown_instruction_set_is_refused(tmp_path):
    script = "from pyphase import _core; print(_core.isas()); _core.isa()"
    done = run_as("mmx", script, path=tmp_path)
    assert done.returncode == 1
    names = ", ".join(_core.isas())
    assert f"PYPHASE_ISA (='mmx') must be one of those that run here: {names}" in done.stderr
