"""Samples of a finished model: answers to questions of its own training, or a training text, continued.

They show that training worked, not that the model understands: it has seen these very questions.
Order: answers, a continuation, cutting at words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import NamedTuple

from tinyllm.inference.conversation import until_marker
from tinyllm.inference.language_model import LanguageModel
from tinyllm.inference.settings import GREEDY, TEXT, Sampling
from tinyllm.text.dialogue import Segment, encode, first_prompt
from tinyllm.text.texts import Text

RECOGNISABLE = 0.6  # of the characters in common, as difflib counts them


class Answer(NamedTuple):
    """A training question, its answer in training, and the model's answer."""

    prompt: str
    expected: str
    said: str

    @property
    def is_recognisable(self) -> bool:
        """Whether the model's answer has most of the expected one in it."""
        return SequenceMatcher(None, self.expected, self.said, autojunk=False).ratio() >= RECOGNISABLE


def training_questions(texts: Iterable[Text], count: int) -> list[tuple[tuple[Segment, ...], str]]:
    """Return the first prompts, with their answers, of `count` texts evenly spread over all."""
    prompts = ((first_prompt(text.segments), text.segments) for text in texts)
    found = [
        (prompt, segments[len(prompt)].text.strip())
        for prompt, segments in prompts
        if 0 < len(prompt) < len(segments)
    ]
    count = min(count, len(found))
    return [found[len(found) * i // count] for i in range(count)]


def answer_training_questions(model: LanguageModel, texts: Iterable[Text], count: int = 10) -> list[Answer]:
    """Return the model's greedy answers to `count` questions of the texts."""
    answers = []
    for prompt, expected in training_questions(texts, count):
        tokens, _ = encode(model.tokenizer, prompt)
        generated = model.generate(tokens[-model.config.block_size :], GREEDY, 128, (0,), min_tokens=1)
        said = "".join(until_marker(model.tokenizer.stream(generated)))
        answers.append(Answer("".join(segment.text for segment in prompt), expected, said))
    return answers


def sample_continuation(model: LanguageModel, texts: Iterable[Text], seed: int) -> tuple[str, str]:
    """Return the first words of the texts, and a continuation sampled at the address (seed,)."""
    first = next(segment.text.strip() for text in texts for segment in text.segments if segment.text.strip())
    prompt = first[:16] if len(first) <= 16 else whole_words(first[:16], first[16])
    return prompt, continuation(model, prompt, TEXT, 80, (seed,))


def continuation(
    model: LanguageModel, prompt: str, sampling: Sampling, max_tokens: int, address: tuple[int, ...]
) -> str:  # fmt: skip
    """Return what the model writes after the prompt: if it does not end the text, whole words of it."""
    tokens = list(model.generate(model.prompt(prompt), sampling, max_tokens, address))
    text = "".join(model.tokenizer.stream(tokens))
    return whole_words(text) if len(tokens) == max_tokens else text


# The end of a word of a script with spaces; in Chinese and Japanese every character may end a word.
_LAST_WORD = re.compile(r"(?:(?![\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff])[\w'’-])+\Z")


def whole_words(text: str, following: str = "x") -> str:
    """Return the text without its last word, if `following` may continue that; all of it if it is one word.

    Example: "The sun is a st" -> "The sun is a"
    """
    if not _LAST_WORD.match(following):
        return text
    return _LAST_WORD.sub("", text).rstrip() or text
