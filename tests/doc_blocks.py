"""docs/pictures.py, which runs a page's examples, and docs/build.py, which makes the site."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # build.py imports pictures.py
    spec.loader.exec_module(module)
    return module


pictures = _load("pictures")


def load_build():
    """Return docs/build.py; it needs what only some tests need."""
    return _load("build")
