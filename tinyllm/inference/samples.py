"""Samples of what a model writes: a training text continued, a line in the course of training.

Order: a continuation, a sample in training, cutting at words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tinyllm.inference.conversation import Conversation, until_marker
from tinyllm.inference.language_model import LanguageModel
from tinyllm.inference.sampling import SamplingError
from tinyllm.inference.settings import TEXT, Sampling
from tinyllm.run.state import TrainState
from tinyllm.text.texts import Text

SAMPLE_TOKENS = 40  # of a sample in training: a line


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


def sample_in_training(state: TrainState) -> tuple[str, str]:
    """Return a prompt and what the model writes, at the address (seed, step); the state is not changed.

    In a phase of dialogues the prompt is one of their questions, in turn, and the text its answer; else the
    model begins a text itself.
    """
    model, address = LanguageModel.of(state), (state.config.train.seed, state.progress.step)
    source = state.sources.get(state.progress.phase)
    try:
        if source and source.questions:
            turn = state.progress.step // max(state.config.saving.sample_every, 1)
            question = source.questions[turn % len(source.questions)]
            prompt = Conversation(model, TEXT, SAMPLE_TOKENS, 0).prompt(question)
            generated = model.generate(prompt, TEXT, SAMPLE_TOKENS, address, min_tokens=1)
            return question, "".join(until_marker(model.tokenizer.stream(generated)))
        return "", continuation(model, "", TEXT, SAMPLE_TOKENS, address)
    except SamplingError as error:  # it is training that decides whether a model is broken
        return "", f"({error})"


# The end of a word of a script with spaces; in Chinese and Japanese every character may end a word.
_LAST_WORD = re.compile(r"(?:(?![\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff])[\w'’-])+\Z")


def whole_words(text: str, following: str = "x") -> str:
    """Return the text without its last word, if `following` may continue that; all of it if it is one word.

    Example: "The sun is a st" -> "The sun is a"
    """
    if not _LAST_WORD.match(following):
        return text
    return _LAST_WORD.sub("", text).rstrip() or text
