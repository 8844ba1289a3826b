"""What is not code: links lead somewhere, formulas survive Markdown, two languages say the same."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from urllib.parse import unquote

from markdown_it.token import Token

from tests.docs.page import ROOT, Fence, Page, is_run, pages, read


def links(page: Page) -> list[str]:
    found = []
    for token in _all(page.tokens):
        found += [str(token.attrs[name]) for name in ("href", "src") if name in token.attrs]
        if token.type.startswith("html"):
            found += re.findall(r'(?:href|src|srcset)="([^"]+)"', token.content)
    return [unquote(link) for link in found]


def anchors(page: Page) -> set[str]:
    """Return what may stand after a #, as GitHub makes it of headings."""
    found: Counter[str] = Counter()
    names = set()
    for _, inline in headings(page):
        text = "".join(child.content for child in inline.children or [])
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        names.add(f"{slug}-{found[slug]}" if found[slug] else slug)
        found[slug] += 1
    for token in _all(page.tokens):
        names |= set(re.findall(r'(?:id|name)="([^"]+)"', token.content)) if "html" in token.type else set()
    return names


def headings(page: Page) -> list[tuple[str, Token]]:
    pairs = zip(page.tokens, page.tokens[1:], strict=False)
    return [(opening.tag, inline) for opening, inline in pairs if opening.type == "heading_open"]


def target(page: Page, link: str) -> Path | None:
    """Return the file or directory a relative link names; a directory with a README.md means that."""
    if re.match(r"[a-z]+:|//", link):
        return None
    path = (page.path.parent / link.partition("#")[0]).resolve() if link[0] != "#" else page.path
    return path / "README.md" if (path / "README.md").is_file() else path


def broken_links(page: Page) -> list[str]:
    found = []
    for link in links(page):
        path, anchor = target(page, link), link.partition("#")[2]
        if path and (not path.exists() or (anchor and anchor not in anchors(read(path)))):
            found.append(f"{page.path.name}: {link}")
    return found


def unreachable(root: Path = ROOT) -> set[Path]:
    """Return the pages to which no chain of links leads from README.md."""
    every, todo = set(pages(root)), {root / "README.md"}
    reached: set[Path] = set()
    while todo:
        path = todo.pop()
        reached.add(path)
        page = read(path)
        todo |= {found for link in links(page) if (found := target(page, link)) in every} - reached
    return every - reached


def broken_math(page: Page) -> list[str]:
    r"""Name formulas that Markdown changes before a renderer sees them, by _, *, \\, \{ or a line's end."""
    found = []
    for token in page.tokens:
        raw = re.sub(r"(`+).*?\1", "", token.content) if token.type == "inline" else ""
        after = "".join(child.content or "\n" for child in token.children or [])
        formulas = re.findall(r"\$\$.+?\$\$|\$[^$]+\$", raw, re.DOTALL)
        wrong = [f for f in formulas if f not in after or ("\n" in f and not f.startswith("$$"))]
        if len(formulas) * 2 < raw.replace("$$", "$").count("$"):
            wrong.append(f"a $ without a second one: {raw}")
        found += [f"{page.path.name}:{(token.map or [0])[0] + 1}: {formula}" for formula in wrong]
    return found


def differences(page: Page, other: Page) -> list[str]:
    """Name what two languages of a page do not share: levels, code, links, rows and numbers."""
    found = []
    for what, facts in {
        "levels of headings": lambda page: [level for level, _ in headings(page)],
        "fences": lambda page: [(f.language, _without_comments(f), is_run(f)) for f in page.fences],
        "links": lambda page: sorted(re.sub(r"README.*\.md", "README", link) for link in links(page)),
        "table rows": _rows,
        "numbers": lambda page: sorted(
            number for token in page.tokens for number in _numbers(token.content) if token.type == "inline"
        ),
    }.items():  # fmt: skip
        one, two = facts(page), facts(other)
        if one != two:
            only = [fact for fact in one if fact not in two], [fact for fact in two if fact not in one]
            found.append(f"{what}: {page.path.name} alone has {only[0]}, {other.path.name} {only[1]}")
    return found


def _without_comments(fence: Fence) -> str:
    """Cut `# comments` off; where no language is named, what stands apart by two spaces."""
    comment = r"(^|\s+)# .*" if fence.language else r" {2,}.*"
    return re.sub(comment, "", fence.code, flags=re.MULTILINE)


def _rows(page: Page) -> list[list[list[str]]]:
    """Return the code of each cell of each row; the words around it are another language's."""
    rows: list[list[list[str]]] = []
    for token, inline in zip(page.tokens, page.tokens[1:], strict=False):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("td_open", "th_open"):
            rows[-1].append([child.content for child in inline.children or [] if child.type == "code_inline"])
    return rows


def _numbers(text: str) -> list[Decimal]:
    """Return the numbers in digits: 2.1 million is 210 万."""
    units = {"million": 6, "thousand": 3, "万": 4, "亿": 8}
    found = re.findall(r"(\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?)(?: ?(million|thousand|万|亿))?", text)
    return [
        (Decimal(digits.replace(",", "")).scaleb(units.get(unit, 0))).normalize() for digits, unit in found
    ]


def _all(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from token.children or []
