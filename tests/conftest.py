"""What holds for all tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Use one thread, since small networks lose time to more; who wants them says so."""
    torch.set_num_threads(1)
