"""Texts to measure on, made of what any installation has.

English is the prose in Python's own docstrings; which Python it is decides the text. Chinese is the bundled
corpus, and, where that is too short, characters drawn by Zipf's law: harder than real Chinese, as hardly a
run of them comes twice. Order: English, Chinese, pieces.
"""

from __future__ import annotations

import ast
import json
import re
import sysconfig
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np


def english(size: int) -> str:
    """Return about `size` characters of prose, no paragraph twice; fewer where there are no more."""
    seen: dict[str, None] = {}  # a dict keeps the order and drops repetitions
    found = 0
    for paragraph in _paragraphs(Path(sysconfig.get_path("stdlib"))):
        plain = sum(c.isalpha() or c in " \n.,'" for c in paragraph)
        if len(paragraph) > 60 and paragraph.isascii() and plain > 0.93 * len(paragraph):
            found += 0 if paragraph in seen else len(paragraph) + 2
            seen[paragraph] = None
            if found >= size + 2:
                break
    return "\n\n".join(seen)[:size]


def _paragraphs(library: Path) -> Iterator[str]:
    for file in sorted(library.rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(file.relative_to(library).parts):
            continue
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from re.split(r"\n\s*\n", ast.get_docstring(node) or "")


def bundled_chinese() -> str:
    """Return the Chinese entries of the bundled corpus, some 60,000 characters."""
    corpus = resources.files("tinyllm.corpus")
    entries = [
        entry
        for name in ("pretraining.json", "chat.json")
        for entry in json.loads(corpus.joinpath(name).read_text(encoding="utf-8"))
    ]
    return "\n".join(entry for entry in entries if re.search("[一-鿿]", entry))


def zipf_chinese(size: int, seed: int = 0) -> str:
    """Return `size` characters: 3500 different ones, the n-th as often as 1 / n, a comma after twelve or so.

    Zipf 1949, "Human behavior and the principle of least effort".
    """
    rng = np.random.default_rng(seed)
    chances = 1 / np.arange(1, 3501)
    codes = rng.choice(rng.permutation(3500) + ord("一"), size, p=chances / chances.sum())
    codes[rng.random(size) < 1 / 12] = ord("，")
    return "".join(map(chr, codes))


def mixed(size: int) -> str:
    """Return about `size` characters of English and Chinese, sentence by sentence in turn."""
    chinese = zipf_chinese(size // 4, seed=1).split("，")
    sentences = english(size - size // 4).split(". ")
    share = max(len(chinese) // len(sentences), 1)
    parts = [
        f"{sentence}. {'，'.join(chinese[i * share : (i + 1) * share])}。"
        for i, sentence in enumerate(sentences)
    ]
    return "".join(parts)[:size]


def pieces(text: str, size: int = 1 << 16) -> list[str]:
    """Return the text in pieces of `size` characters, so that several threads have something to do."""
    return [text[start : start + size] for start in range(0, len(text), size)]
