"""Cutting text is local and loses nothing; learning equals counting every pair again after every merge."""

from __future__ import annotations

import re
import sys
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.naive_bpe import HAN_RUNS, PROSE, dense_text, han_runs, learnt_naively, mixed_text
from tinyllm.kernels import LONGEST_CHUNK
from tinyllm.text import bpe
from tinyllm.text.bpe import is_whole, last_safe_cut, learn_merges, split
from tinyllm.text.tokenizer import BPETokenizer, train_bpe

TRAINED = {han_run: train_bpe([PROSE], 600, han_run) for han_run in HAN_RUNS}


# Cutting text into chunks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "chunks"),
    [
        ("I don't know", ["I", " don", "'t", " know"]),
        ("a 12345,678", ["a", " 123", "45", ",", "678"]),
        ("if x:\n        y  = 1\n", ["if", " x", ":", "\n", "       ", " y", " ", " =", " 1", "\n"]),
        ("\t\tx", ["\t\t", "x"]),
        ("x  \n  y", ["x", "  ", "\n", " ", " y"]),
        ("one\r\n\r\ntwo", ["one", "\r\n\r\n", "two"]),
        ("你好，世界！Hello世界", ["你好", "，", "世界", "！", "Hello", "世界"]),
        ("हिन्दी naïve", ["हिन्दी", " naïve"]),
        ("good👍🏽 ❤️", ["good", "👍🏽", " ❤️"]),
        ("x" * 40, ["x" * 16, "x" * 16, "x" * 8]),
    ],
)
def test_chunks_are_words_numbers_han_punctuation_and_space(text: str, chunks: list[str]) -> None:
    assert split(text, None) == split(text, 16) == chunks


@pytest.mark.parametrize(
    ("text", "han_run", "chunks"),
    [
        ("用  Python 写 code", None, ["用", " ", " Python", " 写", " code"]),
        ("用  Python 写 code", 16, ["用", " ", " Python", " ", "写", " code"]),
        ("  好  ", 16, ["  ", "好", "  "]),
        ("  好  ", None, [" ", " 好", "  "]),
        ("什么是算法？", 1, ["什", "么", "是", "算", "法", "？"]),
        ("什么是算法？", 2, ["什么", "是算", "法", "？"]),
        ("好" * 18, 16, ["好" * 16, "好" * 2]),
        ("食べるカメラ", None, ["食べるカメラ"]),
        ("食べるカメラ", 16, ["食", "べるカメラ"]),
        ("食 べる", 1, ["食", " ", "べる"]),
        ("漢字한글 한글", 1, ["漢", "字", "한글", " 한글"]),
    ],
)
def test_the_longest_run_of_han_is_a_setting_and_split_1_counts_kana_among_them(
    text: str, han_run: int | None, chunks: list[str]
) -> None:
    assert split(text, han_run) == chunks


@given(mixed_text, st.integers(1, 16))
def test_a_chunk_with_han_is_nothing_but_at_most_so_many(text: str, han_run: int) -> None:
    for chunk in split(text, han_run):
        if re.search(f"[{bpe.HAN}]", chunk):
            assert re.fullmatch(f"[{bpe.HAN}]{{1,{han_run}}}", chunk)


def test_every_code_point_is_of_exactly_one_class() -> None:
    characters = "".join(map(chr, range(sys.maxunicode + 1)))
    assert "".join(split(characters)) == characters
    found: list[str] = []
    for one in (bpe.BLANK, bpe.NEWLINE, bpe.DIGIT, bpe.KANA, bpe.HAN, bpe.SYMBOL, bpe.LETTER):
        found += re.findall(f"[{one}]", characters)
    assert len(found) == len(characters) == len(set(found))


@given(mixed_text, han_runs)
def test_chunks_joined_are_the_text(text: str, han_run: int | None) -> None:
    assert "".join(split(text, han_run)) == text


@given(mixed_text, han_runs)
def test_no_chunk_is_longer_than_the_longest(text: str, han_run: int | None) -> None:
    chunks = split(text, han_run)
    assert all(len(chunk.encode("utf-8", "surrogatepass")) <= LONGEST_CHUNK for chunk in chunks)


def test_a_safe_cut_changes_no_chunk_of_any_short_text() -> None:
    for text in map("".join, product("a'1 \t\n，好の", repeat=4)):
        cuts = {last_safe_cut(text[:end]) for end in range(1, 5)}
        assert len(text) not in cuts
        for han_run in (None, 1, 2):
            whole = split(text, han_run)
            for cut in cuts:
                assert split(text[:cut], han_run) + split(text[cut:], han_run) == whole


@given(mixed_text, mixed_text, han_runs)
def test_a_safe_cut_changes_no_chunk_whatever_text_follows(text: str, more: str, han_run: int | None) -> None:
    cut = last_safe_cut(text)
    assert split(text[:cut], han_run) + split(text[cut:] + more, han_run) == split(text + more, han_run)


@given(mixed_text, st.integers(1, 40), han_runs)
def test_text_read_in_pieces_has_the_ids_of_the_whole(text: str, size: int, han_run: int | None) -> None:
    trained = TRAINED[han_run]
    ids: list[int] = []
    rest = ""
    for start in range(0, len(text), size):
        rest += text[start : start + size]
        cut = last_safe_cut(rest)
        ids += trained.encode(rest[:cut]).tolist()
        rest = rest[cut:]
    assert ids + trained.encode(rest).tolist() == trained.encode(text).tolist()


def test_ordinary_text_can_be_cut_near_its_end() -> None:
    for end in range(40, len(PROSE)):
        assert end - last_safe_cut(PROSE[:end]) < 30


# Learning --------------------------------------------------------------------------------------------------


def test_the_classic_example_is_learnt_and_applied() -> None:
    merges = learn_merges({"aaabdaaabac": 1}, 3)
    assert merges == [(97, 97), (97, 98), (256, 257)]  # aa, ab, aaab
    assert BPETokenizer(tuple(merges)).encode("aaabdaaabac").tolist() == [
        258,
        ord("d"),
        258,
        ord("a"),
        ord("c"),
    ]


@given(st.lists(dense_text, min_size=1, max_size=4).filter(any), st.integers(0, 40), han_runs)
@example(["aaaa aaaaa aaaaaaa"], 9, None)
@example(["abababab ababab"], 9, 1)
@settings(max_examples=200)
def test_incremental_learning_equals_counting_everything_again(
    texts: list[str], merges: int, han_run: int | None
) -> None:
    assert list(train_bpe(texts, 257 + merges, han_run).merges) == learnt_naively(texts, merges, han_run)


@pytest.mark.parametrize("han_run", [None, 1])
def test_prose_is_learnt_as_by_counting_everything_again(han_run: int | None) -> None:
    assert list(TRAINED[han_run].merges) == learnt_naively([PROSE], 600 - 257, han_run)


@given(st.lists(mixed_text, min_size=1, max_size=4).filter(any))
@example(["什么是算法？ 什么是 算法 用 Python 写"] * 9)
def test_with_runs_of_one_no_token_joins_a_han_character_with_anything(texts: list[str]) -> None:
    for piece in train_bpe([PROSE, *texts], 2000, 1).pieces:
        if is_whole(piece) and re.search(f"[{bpe.HAN}]", text := piece.decode("utf-8", "surrogatepass")):
            assert len(text) == 1


def test_of_equally_frequent_pairs_the_smallest_is_learnt_first() -> None:
    assert train_bpe(["cd ab", "ab cd"], 258).merges == ((97, 98),)


def test_characters_at_the_ends_of_every_length_in_bytes_are_learnt_like_others() -> None:
    ends = "\0\x7f\x80\u07ff\u0800\uffff\U00010000\U0010ffff"  # of one, two, three and four bytes
    text = " ".join(a + b for a, b in product(ends, repeat=2))
    assert list(train_bpe([text] * 2, 257 + 60).merges) == learnt_naively([text] * 2, 60)


def test_every_token_is_whole_characters_or_a_part_of_one() -> None:
    for piece in train_bpe([PROSE], 2000, 16).pieces:
        partial = len(piece) <= 4 and all(0x80 <= byte < 0xC0 for byte in piece[1:])
        assert partial or piece.decode("utf-8")


def test_of_very_many_chunks_the_most_frequent_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe, "DISTINCT_CHUNKS", 2)
    assert bpe.count_chunks([" y y y y x x x a b c d", " x e"]) == {" y": 4, " x": 4}
