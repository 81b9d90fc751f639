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


@pytest.mark.parametrize("name", [n for n in pyphase.__all__ if n not in ("PhaseError",)])
def test_public_names_are_documented_with_an_example(name):
    thing = getattr(pyphase, name)
    text = inspect.getdoc(thing) or ""
    assert text.splitlines()[0].rstrip().endswith(".")
    if name not in ("Callback", "Checkpoint", "DecayType", "LRFinderResult", "accuracy"):
        assert ">>>" in text


@pytest.mark.parametrize("name", pyphase.__all__)
def test_public_methods_are_documented(name):
    thing = getattr(pyphase, name)
    if inspect.isclass(thing):
        for attribute, member in vars(thing).items():
            if not attribute.startswith("_") and callable(member):
                assert inspect.getdoc(getattr(thing, attribute)), f"{name}.{attribute}"
