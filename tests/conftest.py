"""What holds for all tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start

import pytest
import torch


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Of `-n auto` in pyproject.toml: two processes for the whole suite, one for a part of it."""
    is_part = config.option.keyword or config.option.markexpr != "not emulation"
    return 2 if config.args_source is config.ArgsSource.TESTPATHS and not is_part else 0


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Use one thread, since small networks lose time to more; who wants them says so."""
    torch.set_num_threads(1)
