"""Nothing of the machine's state passes from one test to the next; torch keeps to one thread."""

import pytest
import torch

from emulation import build
from emulation.machine import mutate, turns


@pytest.fixture(autouse=True)
def forward_turns():
    yield
    for library in build.loaded():
        turns(library)
        mutate(library, 0)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The oracles' tensors are small: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
