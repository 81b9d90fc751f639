"""docs/build.py: pages, links, and what blocks leave, on a site of a few lines."""

import re

import pytest
from doc_blocks import ROOT, load_build, pictures

build = load_build().build

HOME = """# Home

Read [the guide](docs/guide.md#second-part), [below](#below) or [elsewhere](https://example.com).

## Below

| a | b |
|---|---|
| 1 | `2 < 3` |
"""
GUIDE = """# Guide & <b>more</b>

```python
from matplotlib.figure import Figure

print("<i>1 & 2</i>")
figure = Figure(figsize=(2, 1), dpi=100)
```

![A picture](new/one.png)

```python
print(sorted(globals().keys() & {"figure", "Figure"}))
```

## Second part

Back [home](../README.md), or to [a file](data.txt).
"""


@pytest.fixture
def site(tmp_path):
    """Write the sources, some of them changed, and return the site of them."""

    def make(**changes):
        texts = {"README.md": HOME, "docs/guide.md": GUIDE, "docs/data.txt": "7"}
        for name, text in {**texts, **changes.pop("files", {})}.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return build(tmp_path, changes.get("run", [tmp_path / "docs/guide.md"]))

    return make


def test_pages_and_links(site):
    files = site()
    assert set(files) == {
        "index.html",
        "docs/guide.html",
        "docs/data.txt",
        "docs/new/one.png",
        "style.css",
    }
    home, guide = files["index.html"].decode(), files["docs/guide.html"].decode()
    assert 'href="docs/guide.html#second-part"' in home
    assert 'href="#below"' in home
    assert 'href="https://example.com"' in home
    assert "<td><code>2 &lt; 3</code></td>" in home
    assert 'href="../index.html">home</a>' in guide
    assert 'href="../style.css"' in guide
    assert '<h2 id="second-part">' in guide
    assert (
        '<a href="guide.html" aria-current="page">Guide &amp; &lt;b&gt;more&lt;/b&gt;</a>' in guide
    )
    assert files["docs/data.txt"] == b"7"


def test_output_and_picture_stand_below_their_block(site):
    files = site()
    guide = files["docs/guide.html"].decode()
    output = '<pre class="output">&lt;i&gt;1 &amp; 2&lt;/i&gt;</pre>'
    picture = '<img src="new/one.png" alt="A picture" width="200" />'
    alone = '<pre class="output">[]</pre>'  # the second block has nothing of the first
    places = [guide.index(text) for text in ("Figure</span>", output, picture, alone, "Second")]
    assert places[:4] == sorted(places[:4])
    assert files["docs/new/one.png"].startswith(b"\x89PNG")
    assert '<span class="kn">from</span>' in guide


@pytest.mark.parametrize(
    ("name", "text", "dead"),
    [
        ("README.md", HOME + "[no](docs/other.md)", "index.html: 'docs/other.md'"),
        ("README.md", HOME + "[no](docs/guide.md#third)", "index.html: 'docs/guide.html#third'"),
        ("README.md", HOME + "[no](#above)", "index.html: '#above'"),
        ("README.md", HOME + "[no](../secret.txt)", "index.html: '../secret.txt'"),
        ("docs/guide.md", GUIDE + "![no](two.png)", "docs/guide.html: 'two.png'"),
        ("docs/alone.md", "# Alone", "no page links to docs/alone.md"),
    ],
)
def test_dead_link_raises(site, name, text, dead):
    with pytest.raises(ValueError, match=re.escape(dead)):
        site(files={name: text})


def test_picture_without_a_figure_raises(site):
    text = GUIDE.replace("figure = ", "drawn = ")
    with pytest.raises(ValueError, match=r"guide.md, line 4: the block leaves no `figure`"):
        site(files={"docs/guide.md": text})


def test_all_pages_of_the_project_are_linked():
    files = build(run=[])  # raises for a dead link; the gallery's own pictures are there to show
    assert {f"docs/{page.stem}.html" for page in ROOT.glob("docs/*.md")} <= set(files)


def test_gallery_shows_a_picture_and_a_plan_of_each():
    found = pictures.blocks(pictures.GALLERY)
    assert len(found) >= 11
    assert all(block.picture and "print(" in block.code for block in found)
