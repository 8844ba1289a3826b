"""Code that a page quotes is the source's, to the letter."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

from tests.docs.page import MARKER, ROOT, Page, parse


def source(quote: str, root: Path = ROOT) -> str:
    """Return the code that `path name ...` means, spaced as in a file."""
    path, *names = quote.split()
    text = (root / path).read_text(encoding="utf-8")
    if not names:
        return text
    code = [_definition(text, name, path) for name in names]
    gaps = [
        "" if one.count("\n") == two.count("\n") == 1 else "\n\n" for one, two in itertools.pairwise(code)
    ]
    return "".join(itertools.chain(*zip(code, [*gaps, ""], strict=True)))


def _definition(text: str, name: str, path: str) -> str:
    body: list[ast.stmt] = ast.parse(text).body
    node: ast.stmt | None = None
    for part in name.split("."):
        node = next((node for node in body if part in _names(node)), None)
        if node is None:
            raise ValueError(f"{path}: found no {name}")
        body = getattr(node, "body", [])
    assert node is not None
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    lines = text.splitlines()[first - 1 : node.end_lineno]
    return "".join(line[node.col_offset :] + "\n" for line in lines)


def _names(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def stale(page: Page, root: Path = ROOT) -> list[str]:
    """Name the quotes that are not what the source says."""
    found = [
        f"{page.path.name}:{fence.line}: not {quote}; run python -m tests.docs --write"
        for fence in page.fences
        if (quote := fence.marks.get("quote")) and fence.code != source(quote, root)
    ]
    fenced = sum("quote" in fence.marks for fence in page.fences)
    marked = sum("<!-- quote" in t.content for t in page.tokens if t.type == "html_block")
    return found + [f"{page.path.name}: a quote marker without a fence"] * (marked - fenced)


def write(path: Path, root: Path = ROOT) -> bool:
    """Rewrite the quoted fences of a page, and make those that a marker misses; tell whether it changed."""
    before = path.read_text(encoding="utf-8")
    lines = before.splitlines(keepends=True)
    tokens = parse(before)
    for token, after in reversed(list(zip(tokens, [*tokens[1:], None], strict=True))):
        comment = MARKER.fullmatch(token.content) if token.type == "html_block" else None
        if comment and comment[1] == "quote" and token.map:
            code = source(comment[2], root)
            if after and after.type == "fence" and after.map:
                lines[after.map[0] + 1 : after.map[1] - 1] = [code]
            else:
                lines[token.map[1] : token.map[1]] = ["```python\n", code, "```\n"]
    path.write_text("".join(lines), encoding="utf-8")
    return "".join(lines) != before
