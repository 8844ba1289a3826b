"""A number agrees with its noun, a duration stays short, and a long line is broken at its words."""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllm.words import LineBreaks, columns, counted, duration, fold, perplexity

ROOT = Path(__file__).resolve().parents[1]
# What is never 1 before a plural noun, such as a limit, and words that only look like plural nouns.
NEVER_ONE = {
    "LONGEST_TEXT", "MAX_NAME", "LONGEST_PATH", "LONGEST_ENTRY", "LONGEST_CHUNK", "MOST_EXPANSION", "size",
    "memory", "tensor.nbytes", "uniform", "INTERVAL", "len(runs)", "status.st_nlink", "figures(run.speed)",
    "width", "V", "found.loss", "len(self.merges)", "files.LONGEST_ENTRY", "MOST_BYTES",
    "len(text.encode())", "size / len(found)", "1000 * seconds",
}  # fmt: skip
NO_PLURALS = {
    "adds", "already", "as", "belongs", "continues", "does", "exists", "has", "holds", "is", "its", "joins",
    "names", "needs", "replaces", "returns", "was",
}  # fmt: skip


@pytest.mark.parametrize(
    ("count", "noun", "said"),
    [
        (0, "step", "0 steps"), (1, "step", "1 step"), (2, "step", "2 steps"),
        (10_000_000, "step", "10,000,000 steps"),
        (1, "entry", "1 entry"), (518, "entry", "518 entries"), (1, "BLAS thread", "1 BLAS thread"),
    ],
)  # fmt: skip
def test_a_noun_agrees_with_its_number(count, noun, said):
    assert counted(count, noun) == said


def test_a_perplexity_is_infinite_only_where_float64_soon_ends():
    assert [perplexity(loss) for loss in (0, 700, 700.1, math.inf)] == [1, math.exp(700), math.inf, math.inf]
    assert math.isnan(perplexity(math.nan))


def plurals(source: str) -> list[str]:
    """Return each plural noun that an f-string of the source puts behind a value by hand."""
    found: list[str] = []
    if not re.search(r"\} (?:BLAS )?[a-z]+s\b", source):  # most files, which need not be parsed
        return found
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        for value, text in zip(node.values, node.values[1:], strict=False):
            if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant):
                noun = re.match(r" (?:BLAS )?([a-z]+s|children)\b", text.value)
                name = ast.unparse(value.value)
                if noun and noun[1] not in NO_PLURALS and name not in NEVER_ONE:
                    found.append(f"{{{name}}}{noun[0]}")
    return found


def test_no_message_counts_by_hand():
    assert plurals('f"{n} steps"') == ["{n} steps"] and not plurals('f"{MAX_NAME} characters"')
    found = {
        f"{path.relative_to(ROOT)}: {each}"
        for folder in ("tinyllm", "kernels")
        for path in (ROOT / folder).rglob("*.py")
        for each in plurals(path.read_text(encoding="utf-8"))
    }
    assert not found


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (185, "3m05s"), (3599.7, "1h00m"), (7620, "2h07m"),
        (12 * 86400 + 7 * 3600, "12d07h"), (99 * 86400, "99d00h"), (999 * 86400, "999d"),
        (1e8, "3y"), (1e300, "99999y"), (float("inf"), "?"),
    ],
)  # fmt: skip
def test_a_duration_has_two_units_at_most(seconds, said):
    assert duration(seconds) == said


def test_a_han_character_takes_two_columns_and_an_accent_none():
    assert (columns("abc"), columns("你好。"), columns("e\u0301")) == (3, 6, 1)


WORDS = st.lists(st.text("ab你é/", min_size=1, max_size=12), min_size=1, max_size=30)


@given(words=WORDS, indent=st.integers(0, 8), hang=st.integers(0, 4), width=st.integers(24, 90))
def test_a_folded_line_keeps_its_words_and_fits_but_for_a_word_that_does_not(words, indent, hang, width):
    lines = fold(" " * indent + " ".join(words), width, hang).split("\n")
    whole = [word for word in words if "你" not in word or "/" in word]
    assert "".join(lines).replace(" ", "") == "".join(words)
    assert not Counter(whole) - Counter(" ".join(lines).split())
    assert lines[0].startswith(" " * indent + words[0][0])
    assert all(line.startswith(" " * (indent + hang)) for line in lines[1:])
    assert all(columns(line) <= width or len(line.split()) == 1 for line in lines)


def test_a_command_is_never_broken_since_it_is_to_be_copied():
    command = "python -m tinyllm.train --checkpoint-dir 'my runs' --resume --epochs 40"
    assert (
        fold(f"saved at step 5; resume with: {command}", 60) == f"saved at step 5; resume with:\n  {command}"
    )


def test_chinese_text_wider_than_a_line_is_broken_and_no_line_begins_with_a_mark():
    assert fold("  问 → 一二三四五六七八九十。", 20) == "  问 → 一二三四五六\n    七八九十。"
    assert fold("一二三四五六七八九十。一", 20) == "一二三四五六七八九\n  十。一"
    assert fold("目录/一二三四五六七八九十", 20) == "目录/一二三四五六七八九十"  # a path, to be copied


def test_lines_that_fit_are_left_alone():
    text = "a  b\n\n  c"
    assert fold(text, 4) == text


@given(
    st.lists(st.text(st.sampled_from("ab,. \n你好。")), max_size=12),
    st.one_of(st.none(), st.integers(2, 12)),
)
def test_a_text_in_pieces_is_broken_at_its_words_wherever_it_was_cut(pieces, width):
    def broken(parts):
        breaks = LineBreaks(width)
        return "".join(map(breaks.add, parts)) + breaks.end()

    text, found = "".join(pieces), broken(pieces)
    assert found == broken([text]) == broken(list(text))
    assert (found == text) or width
    assert "".join(found.split()) == "".join(text.split())  # nothing is lost but spaces at a line's end
    for line in found.split("\n") if width else []:
        assert columns(line) <= width or (" " not in line.strip() and line.isascii())


def test_a_broken_line_ends_before_the_word_that_does_not_fit():
    breaks = LineBreaks(12)
    assert [breaks.add(piece) for piece in ("The cap", "ital ", "of 法国是", "Paris")] == [
        "The ", "capital ", "\nof 法国是", "",
    ]  # fmt: skip
    assert breaks.end() == "\nParis"
