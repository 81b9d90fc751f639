"""What is refused, in words that name the argument and the shapes; and what is not."""

from __future__ import annotations

import pytest
import torch

from pyphase import conv
from pyphase.conv.check import check_pair, is_channels_last
from pyphase.conv.options import Options, make_options, same_padding

X = (1, 4, 6, 7)
ROW, COLUMN = (5, 4, 1, 3), (6, 5, 3, 1)


def call(x=X, w1=ROW, w2=COLUMN, b1=None, b2=None, **options):
    shapes = (x, w1, w2, b1, b2)
    tensors = [torch.zeros(t) if isinstance(t, tuple) else t for t in shapes]
    return conv.factorized_conv2d(*tensors, **options)


def options(**changes):
    given = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "activation": "none"}
    return make_options(*{**given, **changes}.values(), (3, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": (4, 6)}, r"`input` must be \(N, C, H, W\), got shape \(4, 6\)"),
        ({"x": (1, 1, 4, 6, 7)}, r"got shape \(1, 1, 4, 6, 7\)"),
        ({"x": (1, 3, 6, 7)}, r"`weight1` \(5, 4, 1, 3\) .* takes 4 channels, but `input` gives 3"),
        ({"w2": (6, 4, 3, 1)}, r"takes 4 channels, but the first convolution gives 5"),
        ({"groups": 3}, r"groups=3 takes 12 channels, but `input` gives 4"),
        ({"x": (1, 8, 6, 7), "groups": 2}, r"its 5 channels must divide by groups=2"),
        ({"w1": (5, 4, 3, 3)}, r"`weight1` must be a row, .* or a column, .* \(5, 4, 3, 3\)"),
        ({"w2": (6, 5, 3)}, r"`weight2` must be a row, .* got shape \(6, 5, 3\)"),
        ({"w1": (5, 0, 1, 3)}, r"with no size of 0, got shape \(5, 0, 1, 3\)"),
        ({"w2": (6, 5, 1, 3)}, r"one weight must be a row .* got two rows: .*\(5, 4, 1, 3\)"),
        ({"w1": (5, 4, 3, 1)}, r"got two columns: `weight1` \(5, 4, 3, 1\) and `weight2`"),
        ({"b1": (6,)}, r"`bias1` must have shape \(5,\) for `weight1` .*, got \(6,\)"),
        ({"b2": (6, 1)}, r"`bias2` must have shape \(6,\)"),
        (
            {"x": (1, 4, 6, 2)},
            r"`weight1` .* reaches over 3 with dilation 1, .* has 2 with the pad",
        ),
        (
            {"dilation": (3, 1)},
            r"`weight2` \(6, 5, 3, 1\) reaches over 7 with dilation 3, .* has 6",
        ),
        ({"x": (1, 4, 0, 7), "padding": 3}, r"\(1, 4, 0, 7\)"),
        ({"w1": torch.zeros(ROW).double()}, r"`weight1` \(5, 4, 1, 3\) is torch.float64 on cpu"),
        ({"b2": torch.zeros(6).half()}, r"`bias2` \(6,\) is torch.float16 .* `input` .*float32"),
        ({"w2": torch.zeros(COLUMN, device="meta")}, r"`weight2` .* on meta, but `input`"),
        ({"padding": -1}, r"`padding` \(=-1\) must be >= 0"),
        ({"padding": (1, -2)}, r"`padding` \(=\(1, -2\)\) must be >= 0"),
        ({"stride": 0}, r"`stride` \(=0\) must be >= 1"),
        ({"dilation": (1, 0)}, r"`dilation` \(=\(1, 0\)\) must be >= 1"),
        ({"groups": 0}, r"`groups` \(=0\) must be >= 1"),
        ({"stride": (1, 2, 3)}, r"`stride` .* must be an int or a pair, \(vertical, horizontal\)"),
        ({"groups": [1]}, r"`groups` \(=\[1\]\) must be an int or a pair, one per convolution"),
        ({"padding": "valid"}, r"`padding` \(='valid'\) must be numbers or 'same'"),
        ({"padding": "same", "stride": 2}, r"padding='same' needs `stride` 1, .* got \(2, 2\)"),
        ({"activation": "tanh"}, r"`activation` \(='tanh'\) must be one of \('none', 'relu'"),
    ],
)
def test_wrong_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        call(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": [1.0]}, r"`input` must be a tensor, got \[1.0\]"),
        ({"w2": 3}, r"`weight2` must be a tensor, got 3"),
        ({"b1": 0.5}, r"`bias1` must be a tensor or None, got 0.5"),
        (
            {"x": torch.zeros(X, dtype=torch.int64)},
            r"`input` must be one of float32, .* torch.int64",
        ),
        ({"x": torch.zeros(X, dtype=torch.bool)}, r"got torch.bool"),
        ({"x": torch.zeros(X, dtype=torch.complex64)}, r"got torch.complex64"),
        ({"stride": True}, r"`stride` must be a whole number, got True"),
        ({"stride": (1, False)}, r"`stride` must be a whole number, got False"),
        ({"padding": 1.0}, r"`padding` must be a whole number, got 1.0"),
        ({"dilation": "2"}, r"`dilation` must be a whole number, got '2'"),
        ({"groups": None}, r"`groups` must be a whole number, got None"),
        ({"activation": None}, r"`activation` \(=None\) must be one of"),
        ({"activation": torch.relu}, r"must be one of"),
    ],
)
def test_wrong_types(arguments, message):
    with pytest.raises(TypeError, match=message):
        call(**arguments)


@pytest.mark.parametrize("stride", [1, True])
def test_a_bool_is_refused_whatever_came_before(stride):
    """True == 1: no memory of good problems may let it through."""
    call(stride=1)
    if stride is True:
        with pytest.raises(TypeError, match="`stride`"):
            call(stride=stride)


def test_numpy_ints_and_lists_will_do():
    numpy = pytest.importorskip("numpy")
    output = call(stride=numpy.int64(2), padding=[numpy.int32(1), 0])
    assert output.shape == call(stride=2, padding=(1, 0)).shape


def test_errors_are_the_same_again():
    for _ in range(2):
        with pytest.raises(ValueError, match="takes 4 channels"):
            call(x=(1, 3, 6, 7))


STRIP = (torch.zeros(4, 1, 1, 3), torch.zeros(4, 1, 3, 1))


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        ([], ValueError, r"at least one strip, got 0 weights"),
        (3, TypeError, r"`pairs` must be a sequence of tuples of tensors, got 3"),
        ([STRIP[:1]], TypeError, r"`pairs\[0\]` must be \(weight1, weight2\) or"),
        ([STRIP, (1, 2)], TypeError, r"`pairs\[1\]: weight1` must be a tensor, got 1"),
        ([(STRIP[0], 1, STRIP[1], None)], TypeError, r"`pairs\[0\]: bias1` must be a tensor or"),
        ([STRIP, STRIP[:1] * 2], ValueError, r"`pairs\[1\]`: one weight must be a row"),
        ([(STRIP[0], STRIP[1][:2])], ValueError, r"`weight2` must be depthwise, \(4, 1, ., .\)"),
        ([(torch.zeros(4, 2, 1, 3), STRIP[1])], ValueError, r"`pairs\[0\]`: `weight1` must be dep"),
        ([(STRIP[0], torch.zeros(3), STRIP[1], None)], ValueError, r"`pairs\[0\]`: `bias1` must"),
        ([(STRIP[0].double(), STRIP[1])], ValueError, r"`pairs\[0\]`: `weight1` .*float64"),
    ],
)
def test_wrong_strips(pairs, error, message):
    with pytest.raises(error, match=message):
        conv.multi_strip_conv2d(torch.zeros(X), pairs)


def test_wrong_strip_inputs():
    with pytest.raises(ValueError, match=r"`input` must be \(N, C, H, W\), got shape \(4, 6\)"):
        conv.multi_strip_conv2d(torch.zeros(4, 6), [STRIP])
    with pytest.raises(TypeError, match="`residual` must be a bool, got 1"):
        conv.multi_strip_conv2d(torch.zeros(X), [STRIP], residual=1)


def test_shapes_follow():
    shapes = check_pair(X, (ROW, COLUMN), (None, (6,)), options(stride=(2, 3), padding=(1, 2)))
    assert shapes.row_first
    assert shapes.mid == (1, 5, 6, 3)
    assert shapes.output == (1, 6, 3, 3)
    shapes = check_pair(X, ((5, 4, 3, 1), (6, 5, 1, 3)), (None, None), options())
    assert (shapes.row_first, shapes.mid, shapes.output) == (False, (1, 5, 4, 7), (1, 6, 4, 5))


def test_options_are_numbers():
    assert options(padding=(1, 2)) == Options((1, 1), (1, 1, 2, 2), (1, 1), (1, 1), "none")
    assert options(padding="same", dilation=(1, 2)).padding == (1, 1, 2, 2)
    assert same_padding((4, 2), (1, 3)) == (1, 2, 1, 2)


@pytest.mark.parametrize(
    "shape", [(2, 3, 4, 5), (1, 1, 3, 3), (2, 3, 1, 1), (1, 1, 1, 1), (0, 2, 3, 3)]
)
def test_the_format_of_strides_is_torchs(shape):
    for strides in (
        torch.empty(shape).stride(),
        torch.empty(shape).to(memory_format=torch.channels_last).stride(),
        (1, 1, 1, 1),
        (0, 0, 0, 0),
        (60, 1, 15, 3),
        (100, 1, 20, 4),
        (3, 60, 15, 1),
    ):
        x = torch.empty_strided(shape, strides)
        expected = torch._prims_common.suggest_memory_format(x) == torch.channels_last
        assert is_channels_last(shape, strides) == expected, strides
