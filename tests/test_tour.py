"""The tour passes every file, and what a stop gives to read is short and there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOUR = ROOT / "docs" / "tour.md"
LINK = re.compile(r"\]\(([^)#\s]+)\)")
FILES = sorted(path for folder in ("tinyllm", "kernels") for path in (ROOT / folder).rglob("*.py"))
READ = {
    section.splitlines()[0].removeprefix("## "): found[1]
    for section in re.split(r"(?m)^(?=## )", TOUR.read_text(encoding="utf-8"))
    if (found := re.search(r"(?s)\*\*Read\*\* (.*?)\n\n", section))
}


def links(page: Path) -> set[Path]:
    return {(page.parent / target).resolve() for target in LINK.findall(page.read_text(encoding="utf-8"))}


def lines_of(path: Path, name: str) -> int:
    """Return how many lines a function, class or method has, its comments and docstring included."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for part in name.split("."):
        node = next((n for n in body if getattr(n, "name", None) == part), None)
        assert isinstance(node, ast.FunctionDef | ast.ClassDef), f"{path.name}: no {name}"
        body = node.body
    return (node.end_lineno or 0) - node.lineno + 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_is_on_the_tour_or_one_link_from_it(path):
    pages = [page for page in links(TOUR) if page.suffix == ".md" and page.exists()]
    assert any(path in links(page) for page in [TOUR, *pages]), "link it where it belongs in docs/tour.md"


def test_there_are_ten_stops():
    assert [stop.split(".")[0] for stop in READ] == [str(n) for n in range(1, 11)]


@pytest.mark.parametrize("stop", READ)
def test_a_stop_has_at_most_200_lines_to_read(stop):
    count = 0
    for target, names in re.findall(r"\[[^]]+\]\(([^)]+)\)(?::([^;]*))?", READ[stop]):
        path = (TOUR.parent / target).resolve()
        parts = re.findall(r"`([\w.]+)`", names)
        whole = path.read_text(encoding="utf-8").count("\n")
        count += sum(lines_of(path, name) for name in parts) if parts else whole
    assert 0 < count <= 200
