"""The site is built of README and docs/ without a warning, and needs nothing from outside.

Skipped without Sphinx. Order: building it with a page of our own, what is on the pages, how they look.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

for module in ("sphinx", "myst_parser", "furo", "latex2mathml", "ziamath"):
    pytest.importorskip(module, reason="the site extra is not installed")

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "kernels", "tinyllm", "tests", "benchmarks")
OWN = r"""# A page of our own

Costs \$5. Inline $\hat x_{nc} = \frac{x_{nc} - \mu_n}{\sqrt{\sigma^2_n + \epsilon}}$ and $a<b$, `$code$`.

$$
\frac{\partial \ell}{\partial x} = \sum_{j} dy_j \left( \frac{\partial y_j}{\partial x} \right)
$$

A list right after a line:
- [code](../kernels/layernorm.py), a [folder](../kernels/), a [page](data.md), [pages](math/)
  - and one inside

```python
price = "$5 and $6"
```
"""


class Page(HTMLParser):
    """A page's elements, and its text outside of code, scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words, self._open = "", []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("pre", "code", "script", "style"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        if self._open and tag == self._open[-1]:
            self._open.pop()

    def handle_data(self, data):
        if not self._open:
            self.words += data

    def ids(self):
        return {found["id"] for _, found in self.elements if found.get("id")}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of this checkout with our own page in it; a warning would be an error."""
    root = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, root)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "docs" / "own.md").write_text(OWN, encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", ".", "site"]
    built = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return root / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {path.relative_to(site).as_posix(): Page(path) for path in site.rglob("*.html")}


def test_every_page_of_docs_and_both_readmes_are_there(pages):
    docs = {f"docs/{path.relative_to(ROOT / 'docs').with_suffix('.html').as_posix()}"
            for path in (ROOT / "docs").rglob("*.md")}  # fmt: skip
    assert docs | {"index.html", "README.html", "README.zh.html"} <= set(pages)


def test_nothing_is_fetched_from_outside(site, pages):
    fetched = {("script", "src"), ("link", "href"), ("img", "src"), ("source", "srcset"), ("iframe", "src")}
    for name, page in pages.items():
        for tag, found in page.elements:
            for attribute in ("src", "href", "srcset"):
                if (tag, attribute) in fetched:
                    assert not re.match(r"(https?:)?//", found.get(attribute) or ""), (name, found)
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"(url\(|@import\s*)['\"]?(https?:)?//", text), style


def test_every_formula_is_mathml_and_no_dollar_or_command_is_left(pages):
    own = pages["docs/own.html"]
    assert [found["display"] for tag, found in own.elements if tag == "math"] == ["inline", "inline", "block"]
    assert "Costs $5." in own.words and own.words.count("$") == 1
    for name, page in pages.items():
        if name.startswith("docs/") and name != "docs/own.html":
            assert not re.search(r"\$|\\[a-zA-Z]{2,}", page.words), name


def test_every_link_inside_the_site_leads_somewhere(site, pages):
    for name, page in pages.items():
        for tag, found in page.elements:
            target = found.get("href") or found.get("src") or found.get("srcset")
            if tag == "link" or not target or re.match(r"[a-z]+:|//|#$", target):
                continue
            path, _, anchor = unquote(target.split("?")[0]).partition("#")
            there = ((site / name).parent / path).resolve() if path else site / name
            assert there.is_file(), (name, target)
            if anchor and there.suffix == ".html":
                assert anchor in pages[there.relative_to(site.resolve()).as_posix()].ids(), (name, target)


def test_links_to_sources_lead_to_pages_that_show_them(site, pages):
    links = [found.get("href") for tag, found in pages["docs/own.html"].elements if tag == "a"]
    assert {
        "../source/kernels/layernorm.py.html",
        "../source/kernels.html",
        "data.html",
        "math/README.html",
    } <= set(links)
    shown = re.sub(r"<[^>]+>", "", (site / "source/kernels/layernorm.py.html").read_text(encoding="utf-8"))
    assert "def layernorm_backward(" in shown
    assert "layernorm.py" in (site / "source/kernels.html").read_text(encoding="utf-8")


def test_a_list_right_after_a_line_is_a_list_as_on_github(pages):
    inside = [tag for tag, _ in pages["docs/own.html"].elements]
    assert "A list right after a line:" in pages["docs/own.html"].words and inside.count("ul") >= 2
    assert "- and one" not in pages["docs/own.html"].words


@pytest.mark.parametrize("width", [390, 1300])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it_at_every_width_light_and_dark_from_the_disk(browser, site, width, dark):
    browser.show(width, dark=dark)
    for name in ("index.html", "docs/own.html", "source/kernels/layernorm.py.html"):
        browser.open(site / name)
        assert browser.complaints() == []
        assert browser.ask("document.documentElement.scrollWidth <= innerWidth"), name
        colour = browser.ask("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert max(colour) < 50 if dark else min(colour) > 200


def test_the_math_font_is_there_and_is_used(browser, site):
    browser.show(1300)
    browser.open(site / "docs/own.html")
    loaded = browser.send(
        "Runtime.evaluate",
        expression="document.fonts.ready.then(() => [...document.fonts].map(f => `${f.family} ${f.status}`))",
        awaitPromise=True, returnByValue=True,
    )  # fmt: skip
    assert any("STIX" in each and "loaded" in each for each in loaded["result"]["value"])
