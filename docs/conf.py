"""The site: `sphinx-build -c docs . site` makes pages of README and docs/ that need no network.

They are written for whoever reads them raw or on GitHub: links are paths in the repository, math stands
between dollars. Sphinx, MyST and Furo do the rest; here is what they do not: math as MathML, which browsers
draw without a script, and a page for every source that is linked. Order: settings, contents, math, sources,
pictures.
"""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ziamath
from docutils import nodes
from latex2mathml.converter import convert
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
FONT = Path(ziamath.__file__).with_name("fonts") / "STIXTwoMath-Regular.ttf"
FIRST = ("README", "README.zh", "docs/tour")  # then the mathematics, then the others
TITLES = {"README": "tinyllm <self>", "README.zh": "中文 <README.zh>"}
LAST = ("docs/decisions", "docs/log")

project = "tinyllm"
html_title = "tinyllm"
root_doc = "README"
include_patterns = ["README.md", "README.zh.md", "docs/**"]
extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
html_theme = "furo"
html_static_path = ["site.css", str(FONT)]
html_css_files = ["site.css"]
html_show_copyright = html_show_sphinx = html_show_sourcelink = html_copy_source = False
html_math_renderer = "mathml"
html_use_index = smartquotes = False
pygments_style, pygments_dark_style = "default", "github-dark"
html_theme_options = {
    "light_css_variables": {"color-background-primary": "#fbfbf9", "color-background-secondary": "#f3f3ef",
                            "color-brand-primary": "#1f5f99", "color-brand-content": "#1f5f99"},
    "dark_css_variables": {"color-background-primary": "#141618", "color-background-secondary": "#191c1f",
                           "color-brand-primary": "#6fb1ec", "color-brand-content": "#6fb1ec"},
}  # fmt: skip


def setup(app: Sphinx) -> dict[str, Any]:
    """Register what stands below."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("source-read", _add_contents)
    app.connect("doctree-read", _link_sources)
    app.connect("html-collect-pages", _source_pages)
    app.connect("build-finished", _copy_pictures)
    return {"parallel_read_safe": True}


# ---- contents


def _add_contents(app: Sphinx, name: str, source: list[str]) -> None:
    """Put the lists of all pages, which the margin shows, behind README; the mathematics list themselves."""
    if name == root_doc:
        chapters = re.findall(r"^\d+\. \[.*?\]\((\w+)\.md\)", _text("docs/math/README.md"), re.M)
        math = ["docs/math/README", *(f"docs/math/{chapter}" for chapter in chapters)]
        rest = sorted(app.env.found_docs - {*FIRST, *math, *LAST})
        for caption, order in (("Reading", FIRST), ("Mathematics", math), ("More", [*rest, *LAST])):
            pages = "\n".join(TITLES.get(each, each) for each in order if each in app.env.found_docs)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{pages}\n```\n"


def _text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).exists() else ""


# ---- math


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="formula">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


# ---- sources


def _link_sources(app: Sphinx, doctree: nodes.document) -> None:
    """Let links to files and folders lead to pages that show them; Sphinx would offer files to download."""
    here = app.env.docname
    for node in [*doctree.findall(addnodes.download_reference), *doctree.findall(addnodes.pending_xref)]:
        path = (Path(app.env.doc2path(here)).parent / node["reftarget"]).resolve()
        is_source = isinstance(node, addnodes.download_reference) or path.is_dir()
        if is_source and path.is_relative_to(ROOT):
            node.replace_self(_reference(app, here, path, node.children))
    app.env.dlfiles.purge_doc(here)


def _reference(app: Sphinx, here: str, path: Path, children: list[nodes.Node]) -> nodes.reference:
    name = path.relative_to(ROOT).as_posix()
    page = f"{name}/README"  # what a folder of pages shows
    if page not in app.env.found_docs:
        page = f"source/{name}"
        app.env.metadata[here].setdefault("sources", "")
        app.env.metadata[here]["sources"] += f"{name}\n"
    uri = "../" * here.count("/") + f"{page}.html"
    return nodes.reference("", "", *(child.deepcopy() for child in children), refuri=uri, internal=True)


def _source_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield a page for every source that was linked, with numbered lines; of a folder, what it holds."""
    names = {name for data in app.env.metadata.values() for name in data.get("sources", "").split()}
    for name in sorted(names):
        path = ROOT / name
        if path.is_dir():
            inside = sorted(each.name for each in path.iterdir() if each.name[0] not in "._")
            body = "".join(f"<li><code>{html.escape(each)}</code></li>" for each in inside)
            body = f"<ul>{body}</ul>"
        else:
            try:
                lexer = get_lexer_for_filename(path.name)
            except ClassNotFound:
                lexer = TextLexer()
            body = highlight(path.read_text(encoding="utf-8"), lexer, HtmlFormatter(linenos="inline"))
        title = html.escape(name)
        yield f"source/{name}", {"title": title, "body": f"<h1>{title}</h1>{body}"}, "page.html"


# ---- pictures


def _copy_pictures(app: Sphinx, error: Exception | None) -> None:
    """Copy what README shows through HTML, which Sphinx does not read; and README as index."""
    if error is None:
        out = Path(app.outdir)
        (out / "docs").mkdir(exist_ok=True)
        for picture in (ROOT / "docs").glob("*.png"):
            shutil.copy(picture, out / "docs")
        shutil.copy(out / "README.html", out / "index.html")
