"""Beams that are wide enough find what looking at every text finds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import full_logits, random_weights
from tinyllm.config import ModelConfig
from tinyllm.inference.beam import beam_search, log_softmax
from tinyllm.inference.decode import Decoder
from tinyllm.inference.sampling import SamplingError

END, WORDS, LONGEST = 2, 2, 4
CONFIG = ModelConfig(n_layer=1, n_head=2, n_embd=6, block_size=8)
PROMPT = np.array([2, 0, 1], np.int32)


def tiny(seed):
    return random_weights(CONFIG, seed, np.float64, vocab=WORDS + 1)


def log_probability(weights, tokens):
    """Return log P(tokens | PROMPT) by the model's full forward."""
    logits = full_logits(CONFIG, weights.params, np.array([[*PROMPT, *tokens]], np.int32))[0]
    rows = log_softmax(logits[len(PROMPT) - 1 : -1])
    return float(rows[np.arange(len(tokens)), list(tokens)].sum())


def every_text():
    """Yield all complete texts: those that end within LONGEST tokens, and those that do not."""
    for length in range(LONGEST):
        for words in itertools.product(range(WORDS), repeat=length):
            yield (*words, END)
    yield from itertools.product(range(WORDS), repeat=LONGEST)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), penalty=st.sampled_from([0.0, 0.7, 1.0, 2.0]))
def test_wide_beams_find_the_best_of_all_texts_in_order(seed, penalty):
    weights = tiny(seed)
    scores = {text: log_probability(weights, text) / len(text) ** penalty for text in every_text()}
    expected = sorted(scores, key=lambda text: -scores[text])
    beams = len(expected)
    found = beam_search(Decoder(weights, beams), PROMPT, END, LONGEST, penalty)
    texts = [(*each.tokens, END) if each.ended else each.tokens for each in found]
    assert texts == expected
    for text, each in zip(texts, found, strict=True):
        assert each.log_probability == pytest.approx(log_probability(weights, text))


def plain_beam_search(weights, beams, penalty):
    """Return the texts of a beam search without cache, batch or early end."""
    alive, complete = [()], []
    for length in range(1, LONGEST + 1):
        grown = [(*text, token) for text in alive for token in range(WORDS + 1)]
        grown = sorted(grown, key=lambda text: -log_probability(weights, text))[: 2 * beams]
        complete += [text for text in grown if text[-1] == END or length == LONGEST]
        alive = [text for text in grown if text[-1] != END][:beams]
    return sorted(complete, key=lambda text: -log_probability(weights, text) / len(text) ** penalty)[:beams]


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), beams=st.integers(1, 5), penalty=st.sampled_from([0.0, 0.7, 1.0, 2.0]))
def test_narrow_beams_keep_the_most_probable_texts_of_each_length(seed, beams, penalty):
    weights = tiny(seed)
    found = beam_search(Decoder(weights, beams), PROMPT, END, LONGEST, penalty)
    texts = [(*each.tokens, END) if each.ended else each.tokens for each in found]
    assert texts == plain_beam_search(weights, beams, penalty)
    assert found == beam_search(Decoder(weights, beams), PROMPT, END, LONGEST, penalty)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_one_beam_that_cannot_end_is_greedy_even_beyond_the_window(seed):
    weights, longest = tiny(seed), 12
    decoder, greedy = Decoder(weights), []
    logits = decoder.extend(0, PROMPT)
    for _ in range(longest):
        greedy.append(int(logits.argmax()))
        logits = decoder.step([0], [greedy[-1]])[0]
    assert len(PROMPT) + longest > CONFIG.block_size
    (found,) = beam_search(Decoder(weights), PROMPT, -1, longest)
    assert found.tokens == tuple(greedy)


def test_length_normalisation_lets_a_longer_text_win():
    def length_of_best(weights, penalty):
        return len(beam_search(Decoder(weights, 40), PROMPT, END, LONGEST, penalty)[0].tokens)

    lengths = [(length_of_best(each, 0.0), length_of_best(each, 1.0)) for each in map(tiny, range(10))]
    assert all(plain <= normalised for plain, normalised in lengths)
    assert any(plain < normalised for plain, normalised in lengths)


def test_weights_that_are_not_numbers_raise():
    weights = tiny(0)
    weights.params.norm.bias[0] = np.nan
    with pytest.raises(SamplingError, match="broken"):
        beam_search(Decoder(weights, 2), PROMPT, END, LONGEST)
