"""Docstrings: everything public has one, and the examples run."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import pyphase

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(pyphase.__path__, "pyphase.")
    if module.name.split(".")[-1] not in ("_core", "__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    failed, _ = doctest.testmod(importlib.import_module(name), report=True)
    assert failed == 0


PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (pyphase, pyphase.conv, pyphase.nets)
    for name in module.__all__
    if not inspect.ismodule(getattr(module, name))
}
WITHOUT_EXAMPLE = {"CSVLog", "Callback", "Checkpoint", "DecayType", "LRFinderResult"}
WITHOUT_EXAMPLE |= {"TensorBoardLog", "accuracy", "load_sharded"}


@pytest.mark.parametrize("name", [name for name in PUBLIC if "Error" not in name])
def test_public_names_are_documented_with_an_example(name):
    text = inspect.getdoc(PUBLIC[name]) or ""
    assert text.splitlines()[0].rstrip().endswith(".")
    if name.split(".")[-1] not in WITHOUT_EXAMPLE:
        assert ">>>" in text


@pytest.mark.parametrize("name", PUBLIC)
def test_public_methods_are_documented(name):
    thing = PUBLIC[name]
    if inspect.isclass(thing):
        for attribute, member in vars(thing).items():
            if not attribute.startswith("_") and callable(member):
                assert inspect.getdoc(getattr(thing, attribute)), f"{name}.{attribute}"
