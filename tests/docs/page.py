"""A page of Markdown and its fences; what stands in a comment above a fence says what it is.

<!-- quote kernels/gelu.py bias_gelu_forward -->   functions, classes, Class.method, constants; none: the file
<!-- not run here: the reason -->                  else python and sh fences run, in order
<!-- output varies -->                             else text right after a fence that ran is its output
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
MARKER = re.compile(r"<!--\s*(quote|not run here:|output varies|.*?)\s*(\S.*?)?\s*-->\s*", re.DOTALL)
MARKERS = {"quote": True, "not run here:": True, "output varies": False}  # whether something must follow
ALIASES = {"bash": "sh", "shell": "sh", "console": "sh", "py": "python", "pycon": "python"}


class Fence(NamedTuple):
    line: int  # of its first line of code, from 1
    language: str
    code: str
    marks: dict[str, str]
    follows: bool  # nothing but markers stands between this fence and the one before


class Page(NamedTuple):
    path: Path
    tokens: list[Token]
    fences: list[Fence]


def pages(root: Path = ROOT) -> list[Path]:
    """Return the pages that are tested."""
    return sorted(root.glob("README*.md")) + sorted(root.glob("docs/**/*.md"))


def parse(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(text)


def read(path: Path) -> Page:
    tokens = parse(path.read_text(encoding="utf-8"))
    return Page(path, tokens, list(_fences(tokens)))


def _fences(tokens: list[Token]) -> Iterator[Fence]:
    marks: dict[str, str] = {}
    follows = False
    for token in tokens:
        if token.type == "html_block":
            comment = MARKER.fullmatch(token.content)
            marks |= {comment[1]: comment[2] or ""} if comment else {}
            continue
        if token.type == "fence" and token.map:
            yield Fence(token.map[0] + 2, token.info.strip(), token.content, marks, follows)
        marks, follows = {}, token.type == "fence"


def misread(page: Page) -> list[str]:
    """Name fences whose language or marker means nothing here."""
    found = []
    for fence in page.fences:
        where = f"{page.path.name}:{fence.line}"
        if fence.language in ALIASES:
            found.append(f"{where}: {fence.language}: write {ALIASES[fence.language]}")
        for word, rest in fence.marks.items():
            if word not in MARKERS or bool(rest) != MARKERS[word]:
                found.append(f"{where}: <!-- {word} {rest} -->: expected one of {', '.join(MARKERS)}")
    return found


def is_run(fence: Fence) -> bool:
    return fence.language in ("python", "sh") and not {"quote", "not run here:"} & set(fence.marks)
