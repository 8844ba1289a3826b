"""What a finished run shows of its model ends with a whole word, and the next command fits the model."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.models import chain_of, chain_state, random_state
from tinyllm.cli import summary
from tinyllm.cli.options import options
from tinyllm.config import ModelConfig
from tinyllm.inference import samples
from tinyllm.inference.language_model import LanguageModel
from tinyllm.inference.settings import GREEDY, TEXT
from tinyllm.text.dialogue import Segment
from tinyllm.text.texts import Text
from tinyllm.text.tokenizer import BPETokenizer, CharTokenizer

WILD = ModelConfig(n_layer=1, n_head=2, n_embd=8, block_size=12)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("The sun is a st", "The sun is a"),
        ("It is hot. The su", "It is hot. The"),
        ("It is hot.", "It is hot."),
        ("I do not; I don'", "I do not; I"),
        ("太阳是恒", "太阳是恒"),
        ("太阳是 sta", "太阳是"),
        ("태양은 항성이", "태양은"),
        ("word", "word"),
        ("", ""),
    ],
)
def test_a_text_is_cut_at_a_word(text, whole):
    assert samples.whole_words(text) == whole
    assert samples.whole_words(text, " ") == samples.whole_words(text, "。") == text


def test_a_continuation_ends_with_a_whole_word_unless_the_model_ends_it():
    model = LanguageModel.of(chain_of("abc def"))
    tokenizer = CharTokenizer(tuple(map(ord, " .abcd")))
    pairs = dict(itertools.pairwise(tokenizer.encode("a b.cd").tolist()))
    dots = LanguageModel.of(chain_state(tokenizer, pairs))
    assert [samples.continuation(dots, "a", GREEDY, n, (0,)) for n in (4, 5, 6)] == [" b.", " b.", " b.cd"]
    texts = [Text((Segment("abc def ghi jkl mno"),))]
    assert samples.continuation(model, "a", GREEDY, 80, (0,)) == "bc"
    assert samples.continuation(model, "d", GREEDY, 1, (0,)) == "e"  # one word alone is not taken away
    wild = LanguageModel.of(random_state(WILD, BPETokenizer(())))
    prompt, first = samples.sample_continuation(wild, texts, 1)
    assert prompt == "abc def ghi jkl"
    assert first == samples.sample_continuation(wild, texts, 1)[1]
    assert first != samples.sample_continuation(wild, texts, 2)[1]
    assert first == samples.continuation(wild, prompt, TEXT, 80, (1,))


@pytest.mark.parametrize(
    ("phases", "line"),
    [
        (("pretraining",), "let it write: python -m tinyllm.generate 'my run'"),
        (("pretraining", "instruction_tuning"), "talk to it: python -m tinyllm.chat 'my run"),
    ],
)
def test_a_model_that_has_seen_no_dialogue_is_not_offered_for_a_chat(phases, line):
    request = options(["--checkpoint-dir", "my run"])[0]
    assert request.directory == Path("my run")
    assert summary.invitation(SimpleNamespace(phases=phases), request).startswith(line)
