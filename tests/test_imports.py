"""Imports point one way: declare, compile, evaluate, apply.

A module imports from the layers above its own in the table, or from its own layer as long as
nothing goes round in a circle. A new module gets its place in the table.
"""

import ast
import functools
import graphlib
from pathlib import Path

import pytest

import pyphase

ROOT = Path(pyphase.__file__).parent

RECIPES = ["recipe_parts", "recipes", "recipes_cyclic", "recipes_decay", "recipes_fastai"]
LAYERS = [
    ["_core", "_cuda", "errors"],
    ["curves"],
    ["opt_fn", "slots"],
    ["phase"],
    ["device", "lengths", "overlay", "plan_json", "plan_text", "recipes_warmup", *RECIPES],
    ["plan"],
    ["cut", "history", "optim", "suggest"],
    ["plot_layout"],
    ["plot", "plot_loss"],
    ["apply", "apply.*", "bars"],
    ["callbacks", "logs", "interrupt", "learner", "lr_finder", "progress", "record", "validation"],
    ["lightning"],
    ["conv", "conv.*", "nets", "nets.*"],
    ["demo", "demo_data"],
    ["__main__", "__init__"],
]
LAYER = {name: layer for layer, names in enumerate(LAYERS) for name in names}

CONV = {"conv", "conv.*", "nets", "nets.*"}  # the half that knows nothing of phases, nor they of it
SHARED = {"_core", "_cuda", "errors"}  # what both halves may use
MEET = {"demo", "demo_data", "__main__", "__init__"}  # where they meet
LATE = {"plot", "plot_loss"}  # the only ones imported inside functions
HEAVY = {"matplotlib", "mpl_toolkits", "tqdm"}


def modules():
    """Return the names of all modules below the package, such as ``apply.loop``."""
    names = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts
        names[".".join(parts)] = path
    return names


MODULES = modules()


def place(name):
    """Return a module's row of the table: its own, or that of its package."""
    return name if name in LAYER else f"{name.split('.')[0]}.*"


def own_name(name):
    """Return the module of the package behind a dotted name, '' if it is none."""
    parts = name.split(".")
    if parts[0] != "pyphase":
        return ""
    for length in range(len(parts), 1, -1):
        candidate = ".".join(parts[1:length])
        if candidate in MODULES or candidate in ("_core", "_cuda"):
            return candidate
    return "__init__"


@functools.cache
def imports(name):
    """Return (dotted name, whether inside a function) of every import that runs."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))

    def walk(node, inside):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, inside
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", inside
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside or is_function)

    return list(walk(tree, False))


@pytest.mark.parametrize("name", MODULES)
def test_module_has_a_place(name):
    assert place(name) in LAYER, f"{name}: give it a layer in {Path(__file__).name}"


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name):
    for imported, inside in imports(name):
        target = own_name(imported)
        if not target or target == name:
            continue
        assert not inside or target in LATE or name in MEET, f"{name}: {imported} in a function"
        if inside:
            continue
        assert LAYER[place(target)] <= LAYER[place(name)], f"{name} must not import {target}"
        halves = {place(name) in CONV, place(target) in CONV}
        apart = name in MEET or target in SHARED or len(halves) == 1
        assert apart, f"{name} and {target} are of different halves"


def test_no_import_goes_round_in_a_circle():
    graph = {
        name: {own_name(imported) for imported, inside in imports(name) if not inside} - {"", name}
        for name in MODULES
    }
    list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("name", MODULES)
def test_heavy_packages_are_imported_where_they_are_needed(name):
    for imported, inside in imports(name):
        assert inside or imported.split(".")[0] not in HEAVY, f"{name}: import {imported} late"


def test_plot_reads_plans_only():
    """It draws what it is handed: no optimizer, no loop."""
    names = {own_name(imported) for imported, _ in imports("plot")} - {"", "plot_layout"}
    assert all(LAYER[place(name)] <= LAYER["plan"] for name in names), names


def test_public_names_are_there():
    assert set(pyphase.__all__) <= set(dir(pyphase))
    assert len(set(pyphase.__all__)) == len(pyphase.__all__)
