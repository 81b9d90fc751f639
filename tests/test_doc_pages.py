"""The Python blocks of docs/*.md run; those of the gallery when the site is built."""

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from doc_blocks import ROOT, pictures

PAGES = sorted(set(ROOT.glob("docs/*.md")) - {pictures.GALLERY})


@pytest.fixture(autouse=True)
def _forget():
    """Accelerate, also below transformers' Trainer, keeps its settings in singletons."""
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers:UserWarning",
    "ignore:The number of training batches:UserWarning",
    "ignore:.*torch.jit:DeprecationWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = pictures.blocks(page)
    assert blocks
    namespace = {"__name__": "__main__"}
    with torch.random.fork_rng():
        for block in blocks:
            pictures.run(block, namespace)
