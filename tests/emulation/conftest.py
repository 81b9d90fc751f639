"""Nothing of the machine's state passes from one test to the next."""

import pytest

from emulation import build
from emulation.machine import mutate, turns


@pytest.fixture(autouse=True)
def forward_turns():
    yield
    for library in build.loaded():
        turns(library)
        mutate(library, 0)
