"""Texts that are written together are the texts that are written alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import random_state
from tinyllm.config import ModelConfig
from tinyllm.inference import writing
from tinyllm.inference.decode import Decoder
from tinyllm.inference.language_model import LanguageModel
from tinyllm.inference.settings import Sampling
from tinyllm.text.tokenizer import BPETokenizer

CONFIG = ModelConfig(n_layer=2, n_head=2, n_embd=32, block_size=48)
SAMPLING = Sampling(temperature=1.5, top_p=0.95, repetition_penalty=1.1)
words = st.lists(
    st.sampled_from(["", "a", "hello", "the quick brown fox jumps", "早上好"]), min_size=1, max_size=6
)


def language_model(seed=0):
    return LanguageModel.of(random_state(CONFIG, BPETokenizer(()), seed))


@settings(max_examples=25)
@given(texts=words, together=st.integers(1, 4), max_tokens=st.integers(1, 60), ends=st.booleans())
def test_texts_are_the_same_alone_and_together_past_the_window_too(texts, together, max_tokens, ends):
    model = language_model()
    model.weights.params.norm.bias[0] = 3 if ends else 0  # some end early, and others take their places
    prompts = [model.prompt(text) for text in texts]
    alone = [list(model.generate(prompt, SAMPLING, max_tokens, (7, i))) for i, prompt in enumerate(prompts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "MAX_TOGETHER", together)
        assert [list(tokens) for tokens in model.generate_all(prompts, SAMPLING, max_tokens, 7)] == alone


def test_every_token_of_every_text_is_drawn_by_a_chance_of_its_own(monkeypatch):
    model, chances = language_model(), []
    sample = writing.sample
    monkeypatch.setattr(writing, "sample", lambda tokens, p, u: chances.append(u) or sample(tokens, p, u))
    for seed in (1, 2):
        for tokens in model.generate_all([model.prompt("a")] * 2, SAMPLING, 10, seed, min_tokens=10):
            assert len(list(tokens)) == 10
    assert len(set(chances)) == len(chances) >= 2 * 2 * 10  # some are drawn again


def test_texts_are_the_same_in_whatever_order_they_are_read():
    model = language_model()
    prompts = [model.prompt(text) for text in ("a", "bb", "ccc")]
    in_order = [list(tokens) for tokens in model.generate_all(prompts, SAMPLING, 20, 1)]
    backwards = [list(tokens) for tokens in reversed(model.generate_all(prompts, SAMPLING, 20, 1))]
    assert backwards[::-1] == in_order
    assert len(set(map(tuple, in_order))) == 3


def test_one_pass_serves_all_texts_and_a_repeated_prompt_is_read_once(monkeypatch):
    model, read, passes = language_model(), [], []
    extend, step = Decoder.extend, Decoder.step
    monkeypatch.setattr(Decoder, "extend", lambda d, b, t: read.append(t.size) or extend(d, b, t))
    monkeypatch.setattr(Decoder, "step", lambda d, s, t: passes.append(len(s)) or step(d, s, t))
    prompts = [model.prompt("ab")] * 3 + [model.prompt("abc")]
    for tokens in model.generate_all(prompts, SAMPLING, 10, 0, min_tokens=10):
        assert len(list(tokens)) == 10
    assert read == [3, 4]
    assert passes == [4] * 9


def test_a_text_that_has_max_tokens_costs_no_further_pass(monkeypatch):
    model, passes = language_model(), []
    step = Decoder.step
    monkeypatch.setattr(Decoder, "step", lambda d, s, t: passes.append(1) or step(d, s, t))
    assert len(list(model.generate(model.prompt("a"), SAMPLING, 5, (0,), min_tokens=5))) == 5
    assert len(passes) == 4


def test_the_first_text_is_there_before_the_others_are_written(monkeypatch):
    model, steps = language_model(), []
    step = Decoder.step
    monkeypatch.setattr(Decoder, "step", lambda d, s, t: steps.append(1) or step(d, s, t))
    first, _ = model.generate_all([model.prompt("a"), model.prompt("b")], SAMPLING, 10, 0, min_tokens=10)
    next(first)
    assert not steps
    next(first)
    assert len(steps) == 1


def test_logits_of_a_text_are_its_own(monkeypatch):
    """What one text forbids itself, such as to end early, is not forbidden to another."""
    model = language_model()
    end = model.tokenizer.end_of_text
    prompt = model.prompt("a")
    logits = Decoder(model.weights).extend(0, prompt).copy()
    greedy = Sampling(temperature=0)
    texts = [writing.Continuation(prompt, greedy, (0, i), end, 1, min_tokens=i) for i in (1, 0)]
    noted = []
    answer = np.zeros(1, np.int64), np.ones(1)
    monkeypatch.setattr(writing, "candidates", lambda row, *_: noted.append(row.copy()) or answer)
    list(writing.generate_all(Decoder(model.weights, 2), texts))
    assert noted[0][end] == -np.inf
    np.testing.assert_array_equal(noted[1], logits)
