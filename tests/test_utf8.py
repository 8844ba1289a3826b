"""What a model writes is text in UTF-8; where it already was, it is what it would have written anyway."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import chain_state, random_state
from tinyllm.config import ModelConfig
from tinyllm.inference import writing
from tinyllm.inference.beam import beam_search
from tinyllm.inference.language_model import LanguageModel
from tinyllm.inference.sampling import SamplingError
from tinyllm.inference.settings import GREEDY, Sampling
from tinyllm.text.tokenizer import BPETokenizer, CharTokenizer, train_bpe
from tinyllm.text.utf8 import BOUNDARY, NOWHERE, following_states

CONFIG = ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=24)
BYTES = BPETokenizer(())
MERGED = train_bpe(["早上好，你好。", "éé ← 🙂🙃", "hello hello"] * 3, 290)


@functools.cache
def wild(tokenizer=BYTES, seed=0):
    """Return a model of drawn weights, which writes mostly bytes that are no text."""
    return LanguageModel.of(random_state(CONFIG, tokenizer, seed))


def is_text(data: bytes) -> bool:
    """Return whether some bytes are the beginning of a text: Python's own decoder decides."""
    for end in (b"", b"\x80", b"\x80\x80", b"\x80\x80\x80", b"\xa0\x80", b"\x90\x80\x80"):
        try:
            if "\ufffd" not in (data + end).decode():
                return True
        except UnicodeDecodeError:
            continue
    return False


def state_after(data: bytes) -> int:
    state, table = BOUNDARY, BYTES.states
    for byte in data:
        state = table[state, byte] if state != NOWHERE else NOWHERE
    return int(state)


@given(st.one_of(st.binary(max_size=6), st.text(max_size=3).map(lambda t: t.encode("utf-8", "replace"))))
@settings(max_examples=500)
def test_bytes_are_text_where_python_says_so(data):
    for cut in range(len(data) + 1):
        assert (state_after(data[:cut]) != NOWHERE) == is_text(data[:cut]), data[:cut]
    assert (state_after(data) == BOUNDARY) == (
        is_text(data) and "\ufffd" not in data.decode(errors="replace")
    )


@pytest.mark.parametrize(
    ("data", "fits"),
    [
        ("\ufffd".encode(), False),
        ("\ufffc\ufffe\uffbd\uf97d".encode(), True),
        ("\ud800".encode("utf-8", "surrogatepass"), False),
        ("\ud7ff\ue000\U0010ffff\u0800\u007f\u0080\U00010000".encode(), True),
        (b"\xf4\x90\x80\x80", False),
        (b"\xc0\xaf", False),
        (b"\xe0\x9f\xbf", False),
    ],
)
def test_surrogates_replacements_and_overlong_forms_are_no_text(data, fits):
    assert (state_after(data) == BOUNDARY) == fits


@given(st.lists(st.binary(max_size=5), max_size=20))
def test_a_token_leads_where_its_bytes_lead_one_by_one(pieces):
    table = following_states([*pieces, b""])
    for token, piece in enumerate(pieces):
        for state in range(len(table)):
            expected = state
            for byte in piece:
                expected = BYTES.states[expected, byte] if expected != NOWHERE else NOWHERE
            assert table[state, token] == expected
    assert table[:, -1].tolist() == [BOUNDARY] + [NOWHERE] * (len(table) - 1)


@pytest.mark.parametrize("tokenizer", [BYTES, MERGED])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(2.0, top_k=5), Sampling(0.7, 0, 0.9, 1.3)])
def test_no_model_writes_what_is_no_text(tokenizer, sampling):
    model, drawn = wild(tokenizer), 0
    prompts = [model.prompt(text) for text in ("", "早", "a")]
    for tokens in model.generate_all(prompts, sampling, 400, 1):
        ids = list(tokens)
        drawn += len(ids)
        assert is_text(tokenizer.decode_bytes(ids))
        text = "".join(tokenizer.stream(ids))
        assert "\ufffd" not in text and text.encode() == tokenizer.decode_bytes(ids)[: len(text.encode())]
    assert drawn > (300 if sampling == GREEDY else 100)


def test_beams_find_text_alone():
    free, bound = [], []
    for seed in range(6):
        model = wild(seed=seed)
        for found, states in ((free, None), (bound, BYTES.states)):
            hypotheses = beam_search(model.decoder(4), model.prompt("a"), 256, 7, 1.0, states)
            found += [bytes(each.tokens) for each in hypotheses]
    assert not all(map(is_text, free))
    assert all(map(is_text, bound)) and not all(map(bytes.isascii, bound))


def test_the_end_of_a_text_is_that_of_a_character():
    """This model is certain that the text ends after the first byte of 中."""
    model = LanguageModel.of(chain_state(BYTES, {ord("a"): 0xE4}))
    tokens = list(model.generate(model.prompt("a"), GREEDY, 9, (0,)))
    assert tokens[0] == 0xE4 and 0x80 <= tokens[1] <= 0xBF and 0x80 <= tokens[2] <= 0xBF


def test_a_character_that_max_tokens_cuts_is_left_out():
    follows = {ord("a"): ord("b"), ord("b"): 0xE4, 0xE4: 0xB8, 0xB8: 0xAD}
    model = LanguageModel.of(chain_state(BYTES, follows))
    texts = ["".join(BYTES.stream(model.generate(model.prompt("a"), GREEDY, n, (0,)))) for n in range(1, 6)]
    assert texts == ["b", "b", "b", "b中", "b中"]


def test_where_no_token_makes_a_text_an_error_says_so():
    surrogates = CharTokenizer((0xD800, 0xD801))
    model = wild(surrogates)
    end = np.array([surrogates.end_of_text], np.int32)
    assert list(model.generate(end, GREEDY, 5, (0,))) == []  # only to end is possible
    with pytest.raises(SamplingError, match="found no token that can come next"):
        list(model.generate(end, GREEDY, 5, (0,), min_tokens=1))
    found = beam_search(model.decoder(2), end, surrogates.end_of_text, 3, 1.0, surrogates.states)
    assert [each.tokens for each in found] == [()]


def test_a_token_that_fits_is_the_one_that_was_drawn_before_there_was_a_table():
    """The number of each draw is the same with a table and without: only what fits nowhere is drawn again."""
    model, again = wild(), 0
    prompt, states = model.prompt("a"), BYTES.states
    for seed in range(300):
        free = writing.Continuation(prompt, Sampling(), (seed,), 256, 1)
        bound = writing.Continuation(prompt, Sampling(), (seed,), 256, 1, 0, states)
        logits = model.decoder().extend(0, prompt)
        one, other = free.sample(logits.copy()), bound.sample(logits.copy())
        if one is None or states[BOUNDARY, one] != NOWHERE:
            assert one == other
        else:
            assert states[BOUNDARY, other] != NOWHERE
            again += 1
    assert 20 < again < 280


def test_what_is_drawn_again_is_as_frequent_as_the_model_has_it_among_texts():
    logits = np.full(257, -30.0, np.float32)
    logits[[0x61, 0x62, 0x80, 0xFF]] = np.log([0.1, 0.3, 0.2, 0.4])
    drawn = [
        writing.Continuation(np.zeros(0, np.int32), Sampling(), (seed,), 256, 1, 0, BYTES.states).sample(
            logits.copy()
        )
        for seed in range(2000)
    ]
    assert set(drawn) == {0x61, 0x62}
    assert abs(drawn.count(0x62) / 2000 - 0.75) < 4 * 0.5 / 2000**0.5
