"""Every page below docs/ runs."""

from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, GradientState, PartialState
from doc_blocks import run_page

PAGES = sorted((Path(__file__).resolve().parent.parent / "docs").glob("*.md"))


@pytest.fixture(autouse=True)
def _forget():
    """Accelerate, also below the Trainer, keeps its settings in singletons."""
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers:UserWarning",
    "ignore:The number of training batches:UserWarning",
)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(page)
