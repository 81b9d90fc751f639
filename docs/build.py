"""Build the site: README, docs/*.md and the pages that they link to as HTML, without a server.

The gallery's blocks run, and what they print and draw stands below them. A link or picture that
leads nowhere is an error, and then nothing is written.

    pip install '.[docs]' && python docs/build.py site
"""

from __future__ import annotations

import html
import io
import itertools
import posixpath
import string
import sys
from collections.abc import Collection, Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pygments
from markdown_it import MarkdownIt
from markdown_it.token import Token
from matplotlib.figure import Figure
from mdit_py_plugins.anchors import anchors_plugin
from pictures import GALLERY, ROOT, Shown, run_page
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

THEME = Path(__file__).resolve().parent / "theme"
HOME = "README.md"
Pages = dict[str, list[Token]]  # by path from the root, parsed


def build(root: Path = ROOT, run: Collection[Path] = (GALLERY,)) -> dict[str, bytes]:
    """Return the files of the site by their paths.

    Args:
        root: the folder with README.md, from which links are followed, and docs/.
        run: the pages whose blocks run, each block by itself.

    Raises:
        ValueError: a link leads nowhere, a page of docs/ is linked from none, or a block with a
            picture below it leaves no figure.
    """
    pages, files = _follow(root)
    files["style.css"] = _style().encode()
    for source, tokens in pages.items():
        shown = run_page(root / source, alone=True) if root / source in run else []
        widths = {}
        for one in shown:
            if one.figure is not None:
                files[_resolve(source, one.block.picture)[0]] = _png(one.figure)
                widths[one.block.picture] = round(one.figure.get_size_inches()[0] * one.figure.dpi)
        for token, name in _links(tokens):
            if token.attrs[name] in widths:
                token.attrs["width"] = widths[str(token.attrs[name])]
        files[_html_path(source)] = _render(source, pages, _with_outputs(tokens, shown)).encode()
    _check_links(files)
    return files


def _follow(root: Path) -> tuple[Pages, dict[str, bytes]]:
    """Return the pages, from README.md on in the order of their links, and the files they show."""
    pages: Pages = {}
    files: dict[str, bytes] = {}
    waiting = [HOME]
    while waiting:
        source = waiting.pop(0)
        if source in pages:
            continue
        pages[source] = _markdown().parse((root / source).read_text(encoding="utf-8"))
        for token, name in _links(pages[source]):
            path, fragment = _resolve(source, str(token.attrs[name]))
            if path == source:
                continue
            if path.startswith("..") or not (root / path).is_file():
                continue  # another site, or made by a block; else _check_links finds it dead
            if path.endswith(".md"):
                waiting.append(path)
                token.attrs[name] = _relative(source, _html_path(path), fragment)
            else:
                files[path] = (root / path).read_bytes()
    alone = {f"docs/{page.name}" for page in (root / "docs").glob("*.md")} - set(pages)
    if alone:
        raise ValueError(f"no page links to {', '.join(sorted(alone))}")
    return pages, files


def _markdown() -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"html": False, "highlight": _highlight}).enable("table")
    return markdown.use(anchors_plugin, max_level=3, permalink=True, permalinkSymbol="#")


def _highlight(code: str, language: str, _: str) -> str:
    text = html.escape(code)
    if language:
        formatter = HtmlFormatter(nowrap=True)
        text = pygments.highlight(code, get_lexer_by_name(language), formatter)
    return f'<pre class="code"><code>{text}</code></pre>'


def _links(tokens: list[Token]) -> Iterator[tuple[Token, str]]:
    """Yield each link and picture of a page, and its attribute."""
    for token in tokens:
        for child in token.children or ():
            name = {"link_open": "href", "image": "src"}.get(child.type)
            if name is not None:
                yield child, name


def _resolve(source: str, link: str) -> tuple[str, str]:
    """Return what a link of a page leads to: (path from the root, anchor); ("..", "") elsewhere."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return "..", ""
    folder = posixpath.dirname(source)
    path = posixpath.join(folder, unquote(parts.path)) if parts.path else source
    return posixpath.normpath(path), unquote(parts.fragment)


def _html_path(source: str) -> str:
    folder, name = posixpath.split(source)
    stem = "index" if name == HOME else name.removesuffix(".md")
    return posixpath.join(folder, f"{stem}.html")


def _relative(source: str, path: str, fragment: str = "") -> str:
    link = posixpath.relpath(path, posixpath.dirname(source) or ".")
    return f"{link}#{fragment}" if fragment else link


def _with_outputs(tokens: list[Token], shown: list[Shown]) -> list[Token]:
    """Return the tokens with what each block printed below it."""
    printed = {one.block.line: one.output for one in shown}
    found: list[Token] = []
    for token in tokens:
        found.append(token)
        output = printed.get(token.map[0] + 2, "") if token.type == "fence" and token.map else ""
        if output:
            text = f'<pre class="output">{html.escape(output.rstrip())}</pre>\n'
            found.append(Token("html_block", "", 0, content=text))
    return found


def _png(figure: Figure) -> bytes:
    """Return a figure's picture, at twice its size for screens of many dots."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=2 * figure.dpi)
    return buffer.getvalue()


def _render(source: str, pages: Pages, tokens: list[Token]) -> str:
    markdown = _markdown()
    title = _headings(tokens)[0][1]
    home = _headings(pages[HOME])[0][1]
    return string.Template((THEME / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title if source == HOME else f"{title} - {home}"),
        root=_relative(source, "style.css").removesuffix("style.css"),
        nav=_navigation(source, pages),
        body=markdown.renderer.render(tokens, markdown.options, {}),
    )


def _headings(tokens: list[Token]) -> list[tuple[str, str, str]]:
    """Return (tag, text, anchor) of each heading of a page."""
    found = []
    for opening, inline in itertools.pairwise(tokens):
        if opening.type == "heading_open":
            parts = [c.content for c in inline.children or () if c.type in ("text", "code_inline")]
            found.append((opening.tag, "".join(parts).strip(), str(opening.attrs["id"])))
    return found


def _navigation(source: str, pages: Pages) -> str:
    """Return the list of pages, those of docs/ before the others, with the sections of this one."""
    lines = ["<ul>"]
    for other in sorted(pages, key=lambda page: (page != HOME, not page.startswith("docs/"))):
        link, name = (
            _relative(source, _html_path(other)),
            html.escape(_headings(pages[other])[0][1]),
        )
        current = ' aria-current="page"' if other == source else ""
        lines.append(f'<li><a href="{html.escape(link)}"{current}>{name}</a>')
        sections = [h for h in _headings(pages[other]) if h[0] == "h2"] if other == source else []
        if sections:
            items = [
                f'<li><a href="#{at}">{html.escape(text)}</a></li>' for _, text, at in sections
            ]
            lines += ["<ul>", *items, "</ul>"]
        lines.append("</li>")
    return "\n".join([*lines, "</ul>"])


def _style() -> str:
    """Return the stylesheet, with the colours of code for light and dark."""
    light = HtmlFormatter(style="friendly").get_style_defs("pre.code")
    dark = HtmlFormatter(style="github-dark").get_style_defs("pre.code")
    own = (THEME / "style.css").read_text(encoding="utf-8")
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{own}"


class _Anchors(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src"):
                self.links.append(value or "")
            elif name == "id":
                self.ids.add(value or "")


def _check_links(files: dict[str, bytes]) -> None:
    """Raise for links that lead to no file of the site, or to no anchor of a page."""
    pages = {name: _Anchors(text.decode()) for name, text in files.items() if name[-5:] == ".html"}
    dead = []
    for name, page in pages.items():
        for link in page.links:
            path, fragment = _resolve(name, link)
            if urlsplit(link).scheme or (
                path in files and (not fragment or path not in pages or fragment in pages[path].ids)
            ):
                continue
            dead.append(f"{name}: {link!r}")
    if dead:
        raise ValueError("links that lead nowhere: " + ", ".join(dead))


def main() -> None:
    """Write the site into the folder that is named."""
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/build.py FOLDER")
    folder = Path(sys.argv[1])
    for name, content in build().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    print(f"{folder / 'index.html'}")


if __name__ == "__main__":
    main()
