"""Every text round-trips, every id decodes, and `to_dict` gives back the very same tokenizer.

Order: training, encoding, decoding, the character tokenizer, to a dict and back, errors.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.naive_bpe import HAN_RUNS, PROSE, dense_text, encoded_naively, han_runs, mixed_text
from tinyllm.text.bpe import Pair, last_safe_cut
from tinyllm.text.tokenizer import (
    BPETokenizer,
    CharTokenizer,
    Tokenizer,
    TokenizerError,
    train_bpe,
    train_char,
)

TRAINED = train_bpe([PROSE], 600)
BY_RUN = {han_run: train_bpe([PROSE], 600, han_run) for han_run in HAN_RUNS}


# Training --------------------------------------------------------------------------------------------------


def test_a_small_text_gives_a_smaller_vocabulary() -> None:
    assert train_bpe(["a"], 2048).vocab_size == 257
    assert train_bpe(["aa bb aa"], 2048).vocab_size == 258


def test_texts_cut_at_safe_places_train_the_same_tokenizer() -> None:
    cut = last_safe_cut(PROSE[:500])
    assert train_bpe([PROSE[:cut], PROSE[cut:]], 600) == TRAINED


def test_training_does_not_depend_on_the_hash_seed() -> None:
    program = (
        "import sys; from tinyllm.text.tokenizer import train_bpe, train_char; text = sys.argv[1]; "
        "print(train_bpe([text], 600).fingerprint(), train_char([text]).fingerprint())"
    )
    expected = f"{TRAINED.fingerprint()} {train_char([PROSE]).fingerprint()}\n"
    for seed in ("0", "12345"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONUTF8": "1"}
        run = subprocess.run(
            [sys.executable, "-c", program, PROSE],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout == expected


def test_what_is_learnt_from_a_text_never_changes() -> None:
    """Another pattern, tie-break or dict is another SPLIT_VERSION or kind, or old checkpoints break."""
    assert {han_run: trained.fingerprint() for han_run, trained in BY_RUN.items()} == {
        None: "4c4ff5a10758d801f7be180aca6dc5c58d5711a24f05a09113969b242e8a9c5f",
        1: "dc626a034e3579c3e7aab29eb000a00758f7f0b78ec6ad609c339126ab4bee2a",
        2: "755dd6c01236548182f55b876bda484e848d3a6583a5dbd630b824d22f9a60f6",
        16: "e3e34aec58e209369adf2bf28cb8118307b8690cb2f92830e2e2379801c1312e",
    }


# Encoding --------------------------------------------------------------------------------------------------


@given(dense_text.filter(bool), dense_text, han_runs)
def test_encoding_equals_applying_the_merges_one_after_the_other(
    text: str, other: str, han_run: int | None
) -> None:
    trained = train_bpe([text * 2], 300, han_run)
    for one in (text, other, text[1:] + other):
        assert trained.encode(one).tolist() == encoded_naively(one, trained.merges, han_run)


@pytest.mark.parametrize("han_run", HAN_RUNS)
def test_prose_is_encoded_as_by_applying_the_merges_one_after_the_other(han_run: int | None) -> None:
    trained = BY_RUN[han_run]
    for start in range(4):
        text = PROSE[start:]
        assert trained.encode(text).tolist() == encoded_naively(text, trained.merges, han_run)


@given(mixed_text, han_runs)
@example("\ud83d\ude00 \udfff \x00\r\n\u3000\u2028\x85🎉é́", 1)
def test_bpe_round_trips_any_text(text: str, han_run: int | None) -> None:
    trained = BY_RUN[han_run]
    ids = trained.encode(text)
    assert ids.dtype == np.int32
    assert ids.ndim == 1
    assert trained.decode(ids) == text
    assert trained.decode(ids.tolist()) == text


def test_bpe_round_trips_every_code_point_of_the_basic_plane() -> None:
    characters = "".join(map(chr, range(0x10000)))
    for trained in BY_RUN.values():
        assert trained.decode(trained.encode(characters)) == characters


@given(st.text(st.sampled_from("<|endoftext|>"), min_size=10))
@example("<|endoftext|>")
def test_no_text_produces_the_end_of_text(text: str) -> None:
    trained = train_bpe([text, "<|endoftext|>" * 9], 300)
    assert trained.end_of_text == trained.vocab_size - 1
    assert trained.end_of_text not in trained.encode(text)
    assert train_char([text]).end_of_text not in train_char([text]).encode(text)


@given(st.lists(mixed_text, max_size=5))
def test_texts_are_encoded_together_as_they_are_alone(texts: list[str]) -> None:
    for trained in (TRAINED, train_char(["", *texts, "a"])):
        ids, ends = trained.encode_all(texts)
        assert ids.dtype == np.int32
        parts = [ids[start:end].tolist() for start, end in zip([0, *ends], ends, strict=False)]
        assert parts == [trained.encode(text).tolist() for text in texts]
        assert ids.size == sum(map(len, parts))


@pytest.mark.parametrize("han_run", [None, 2])
def test_every_character_is_encoded_as_the_pattern_cuts_it(han_run: int | None) -> None:
    """Around each code point of the basic plane stand a word, a space and an apostrophe."""
    plain = BPETokenizer(((97, 97), (32, 97), (39, 97)), han_run)
    for start in range(0, 0x10000, 0x400):
        text = "".join(f"a {chr(code)}'a" for code in range(start, start + 0x400))
        assert plain.encode(text).tolist() == encoded_naively(text, plain.merges, han_run)


def test_ids_may_be_written_to() -> None:
    for trained in (TRAINED, train_char([PROSE])):
        ids = trained.encode("a man")
        ids[:] = 0
        assert trained.decode(trained.encode("a man")) == "a man"


# Decoding --------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, TRAINED.vocab_size - 1)))
@example(
    [0xED, 0xA0]
)  # two thirds of a surrogate: no beginning of a character, so that each byte is an error
def test_any_ids_decode_and_stream_to_the_same_text(ids: list[int]) -> None:
    streamed, whole = "".join(TRAINED.stream(ids)), TRAINED.decode(ids)
    assert whole in (streamed, streamed + "\ufffd", streamed + "\ufffd\ufffd")  # an end that is not whole
    assert "".join(TRAINED.stream([*ids, ord("a")])) == TRAINED.decode([*ids, ord("a")])
    assert TRAINED.decode_bytes(ids) == b"".join(TRAINED.decode_bytes([one]) for one in ids)


def test_a_streamed_character_comes_with_its_last_byte() -> None:
    plain = BPETokenizer(())
    assert list(plain.stream("a你\ud83d".encode("utf-8", "surrogatepass"))) == ["a", "你", "\ud83d"]


def test_broken_characters_become_replacement_characters() -> None:
    plain = BPETokenizer(())
    assert plain.decode(list(b"a\xe4\xbd")) == "a\ufffd"
    assert plain.decode(list(b"\xff\xed\xa0\x80")) == "\ufffd\ud800"
    assert plain.decode([]) == ""


def test_the_end_of_text_decodes_to_nothing() -> None:
    for trained in (TRAINED, train_char(["ab"])):
        ids = trained.encode("ab").tolist()
        assert trained.decode([*ids, trained.end_of_text, *ids]) == "abab"


@pytest.mark.parametrize("wrong", [-1, TRAINED.vocab_size])
def test_an_id_outside_the_vocabulary_is_named(wrong: int) -> None:
    with pytest.raises(TokenizerError, match=f"id {wrong}: expected 0 to {TRAINED.vocab_size - 1}"):
        TRAINED.decode(np.array([0, wrong], np.int32))


# The character tokenizer -----------------------------------------------------------------------------------


@given(mixed_text.filter(bool))
def test_char_round_trips_every_text_over_its_alphabet(text: str) -> None:
    trained = train_char([text])
    assert trained.vocab_size == len(set(text)) + 1
    assert trained.encode(text).tolist() == [sorted(set(text)).index(character) for character in text]
    assert trained.decode(trained.encode(text)) == text


@pytest.mark.parametrize("character", ["A", "m", "z", "你", "\ud800"])
def test_an_unknown_character_is_named_with_its_place_and_a_remedy(character: str) -> None:
    with pytest.raises(TokenizerError) as raised:
        train_char(["hello world"]).encode(f"hello {character} world")
    message = str(raised.value)
    assert repr(character) in message
    assert f"U+{ord(character):04X}" in message
    assert "position 6" in message
    assert "--tokenizer bpe" in message


# To a dict and back --------------------------------------------------------------------------------------


@given(mixed_text.filter(bool), st.integers(257, 300), han_runs)
def test_to_dict_gives_back_the_same_tokenizer(text: str, vocab_size: int, han_run: int | None) -> None:
    for trained in (train_bpe([text], vocab_size, han_run), train_char([text])):
        stored = msgpack.unpackb(msgpack.packb(trained.to_dict()))
        again = Tokenizer.from_dict(stored)
        assert again == trained
        assert again.fingerprint() == trained.fingerprint()
        assert again.encode(text).tolist() == trained.encode(text).tolist()


def test_different_tokenizers_have_different_fingerprints() -> None:
    empty = [BPETokenizer((), han_run) for han_run in HAN_RUNS]
    tokenizers = [TRAINED, train_bpe([PROSE], 300), *empty, train_char([PROSE]), train_char(["a"])]
    assert len({one.fingerprint() for one in tokenizers}) == len(tokenizers)


def bpe_fields(*merges: Any, **changes: Any) -> dict[str, Any]:
    return {"kind": "bpe", "split": 1, "merges": list(merges), **changes}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (None, "kind"),
        ([], "kind"),
        ({}, "kind"),
        ({"kind": "word"}, "kind.*'word'"),
        ({"kind": ["bpe"]}, "kind"),
        ({"kind": "bpe"}, "fields kind, merges, split"),
        (bpe_fields(extra=1), "fields"),
        (bpe_fields(split=3), "split: found 3, expected 1 or 2"),
        (bpe_fields(split=True), "split: found True"),
        (bpe_fields(split=[]), "split: found"),
        (bpe_fields(split=2), "fields han_run, kind, merges, split"),
        (bpe_fields(han_run=4), "fields kind, merges, split"),
        *(
            (bpe_fields(split=2, han_run=n), "han_run: found")
            for n in (0, 17, -1, None, True, 2.0, "2", 1 << 70)
        ),
        (bpe_fields(merges=None), "list of integers"),
        (bpe_fields(merges={}), "list of integers"),
        (bpe_fields(97, "98"), "list of integers"),
        (bpe_fields(97, True), "list of integers"),
        (bpe_fields(97, 98.0), "list of integers"),
        (bpe_fields([97, 98]), "list of integers"),
        (bpe_fields(97, 98, 99), "pairs, found 3"),
        (bpe_fields(97, 256), "merge 0 joins 97 and 256; expected ids below 256"),
        (bpe_fields(-1, 97), "merge 0"),
        (bpe_fields(97, 98, 257, 97), "merge 1 joins 257 and 97"),
        (bpe_fields(97, 98, 97, 98), "twice"),
        (bpe_fields(97, 1 << 70), "merge 0"),
        (bpe_fields(97, 97, *(i for n in range(256, 356) for i in (n, n))), "merge 6 .*longest chunk"),
        (bpe_fields(97, 0xE4), "whole characters"),
        (bpe_fields(0x80, 0xE4), "whole characters"),
        (bpe_fields(*range(2 << 20)), "merges, expected at most"),
        ({"kind": "char"}, "fields"),
        ({"kind": "char", "characters": "abc"}, "list of integers"),
        ({"kind": "char", "characters": []}, "at least one"),
        ({"kind": "char", "characters": [2, 1]}, "ascending"),
        ({"kind": "char", "characters": [1, 1]}, "ascending"),
        ({"kind": "char", "characters": [-1, 1]}, "0x10FFFF"),
        ({"kind": "char", "characters": [1, 0x110000]}, "0x10FFFF"),
    ],
)
def test_hostile_fields_are_refused_with_their_fault(fields: Any, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_dict(fields)


@given(
    st.recursive(st.none() | st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=4))
)
def test_any_merges_are_refused_or_make_a_tokenizer_that_round_trips(merges: Any) -> None:
    try:
        made = Tokenizer.from_dict(bpe_fields(merges=merges))
    except TokenizerError:
        return
    assert made.decode(made.encode(PROSE)) == PROSE


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=30), dense_text, han_runs)
def test_accepted_merges_round_trip_and_apply_in_order(
    merges: list[Pair], text: str, han_run: int | None
) -> None:
    accepted: tuple[Pair, ...] = ()
    for pair in merges:
        try:
            accepted = BPETokenizer((*accepted, pair)).merges
        except TokenizerError:
            continue
    made = BPETokenizer(accepted, han_run)
    assert made.encode(text).tolist() == encoded_naively(text, accepted, han_run)
    assert made.decode(made.encode(text)) == text


# Errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_an_empty_corpus_trains_nothing(texts: list[str]) -> None:
    with pytest.raises(TokenizerError, match="no text"):
        train_bpe(texts, 2048)
    with pytest.raises(TokenizerError, match="no text"):
        train_char(texts)


@pytest.mark.parametrize("vocab_size", [-1, 0, 256, (1 << 20) + 1])
def test_a_vocabulary_must_hold_the_bytes_and_the_end_of_text(vocab_size: int) -> None:
    with pytest.raises(TokenizerError, match=f"vocab_size {vocab_size}: expected 257"):
        train_bpe(["text"], vocab_size)


def test_a_tokenizer_cannot_be_changed() -> None:
    for trained in (TRAINED, CharTokenizer((97,))):
        with pytest.raises(AttributeError):
            trained.pieces = ()  # type: ignore[misc]


@pytest.mark.parametrize(("vocab_size", "found"), [(257, 257), (258, 258), (1 << 20, 258)])
def test_the_ends_of_the_range_of_vocabularies_are_accepted(vocab_size: int, found: int) -> None:
    assert train_bpe(["ab ab"], vocab_size).vocab_size == found
