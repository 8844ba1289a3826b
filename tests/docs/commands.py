"""The tests that pages name are there: `pytest tests/FILE.py -k EXPRESSION`, in a sentence or an sh fence."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

from tests.docs.page import ROOT, Page


def commands(page: Page) -> set[str]:
    """Return the commands of a page that name a file of tests; NAME in one stands for any name."""
    spans = [
        child.content
        for token in page.tokens
        for child in token.children or []
        if child.type == "code_inline"
    ]
    lines = [line for fence in page.fences if fence.language == "sh" for line in fence.code.splitlines()]
    found = (line.partition("  #")[0].strip() for line in [*spans, *lines])
    return {line for line in found if line.startswith("pytest tests/") and not line.endswith("NAME")}


def files(command: str) -> list[str]:
    return [word.partition("::")[0] for word in shlex.split(command) if word.startswith("tests/")]


def collect(paths: list[str]) -> list[str]:
    """Return the ids of all tests in some files, slow ones included."""
    options = ["--collect-only", "-q", "-m", "", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *paths], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if "::" in line]


def finds(command: str, ids: list[str]) -> bool:
    """Tell whether a command runs one of the tests, as pytest understands -k."""
    words = shlex.split(command)
    wanted = words[words.index("-k") + 1] if "-k" in words else ""
    named = tuple(word for word in words if word.startswith("tests/"))

    def matches(name: str) -> bool:
        truth = re.sub(
            r"[\w.\[\]-]+",
            lambda m: m[0] if m[0] in ("and", "or", "not") else str(m[0].lower() in name),
            wanted,
        )
        return not wanted or bool(eval(truth))

    return any(matches(one.partition("::")[2].lower()) for one in ids if one.startswith(named))
