"""The checks that name a wrong argument."""

import math

import numpy as np
import pytest
import torch

from pyphase import PhaseError
from pyphase.errors import check_fraction, check_number, check_positive, check_whole, shown


class NoRepr:
    def __repr__(self):
        raise RuntimeError("no repr")


def test_phase_error_is_a_value_error():
    assert issubclass(PhaseError, ValueError)


@pytest.mark.parametrize("value", [1, 1.0, np.float32(1), np.int8(1), np.float64(1), np.uint64(1)])
def test_numbers_become_floats(value):
    assert check_number("x", value) == 1.0
    assert type(check_number("x", value)) is float


@pytest.mark.parametrize(
    "value", [None, True, np.True_, "1", b"1", 1j, [1], (1,), {}, object(), torch.tensor(1.0)]
)
def test_other_types_are_refused(value):
    with pytest.raises(TypeError, match="`x` must be a number, got"):
        check_number("x", value)
    with pytest.raises(TypeError, match="`x` must be an int, got"):
        check_whole("x", value)


def test_durations_are_no_numbers():
    for value in (np.timedelta64(1, "s"), np.timedelta64("NaT")):
        with pytest.raises(TypeError, match="`x` must be a number"):
            check_number("x", value)
        with pytest.raises(TypeError, match="`x` must be an int"):
            check_whole("x", value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("inf")])
def test_numbers_are_finite(value):
    with pytest.raises(PhaseError, match="must be finite"):
        check_number("x", value)


def test_numbers_fit_a_float():
    with pytest.raises(PhaseError, match="must fit a float"):
        check_number("x", 10**400)


def test_positive():
    assert check_positive("x", 5e-324) == 5e-324
    for value in (0, -0.0, -1):
        with pytest.raises(PhaseError, match="must be > 0"):
            check_positive("x", value)


def test_fraction():
    assert check_fraction("x", 0) == 0.0
    assert check_fraction("x", 1) == 1.0
    with pytest.raises(PhaseError, match=r"`x` \(=1\) must be in \[0, 1\)"):
        check_fraction("x", 1, closed=False)
    for value in (-1e-9, 1 + 1e-9):
        with pytest.raises(PhaseError, match=r"must be in \[0, 1\]"):
            check_fraction("x", value)


def test_whole():
    assert check_whole("x", 2**53 - 1) == 2**53 - 1
    assert type(check_whole("x", np.int32(7))) is int
    assert check_whole("x", 0, least=0) == 0
    with pytest.raises(TypeError, match=r"`x` must be an int, got 2\.0"):
        check_whole("x", 2.0)
    for value in (0, -1, 2**53, 10**400):
        with pytest.raises(PhaseError, match=r"must be >= 1 and < 2\*\*53"):
            check_whole("x", value)


def test_shown_is_short_and_never_fails():
    assert shown("a") == "'a'"
    assert shown(NoRepr()) == "<NoRepr>"
    assert len(shown("a" * 1000)) == 80
    assert shown("a" * 1000).endswith("...")
