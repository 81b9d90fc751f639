"""docs/pictures.py, which runs a page's examples, and docs/build.py, which makes the site."""

from scripts import ROOT, load

__all__ = ["ROOT", "load_build", "pictures"]

pictures = load("docs/pictures.py")


def load_build():
    """Return docs/build.py, which imports the above; it needs what only some tests need."""
    return load("docs/build.py")
