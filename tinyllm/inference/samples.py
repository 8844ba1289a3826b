"""What a finished model says: questions of its own training, answered, or a text, continued.

This shows that training worked, not that the model understands: it has seen these very questions.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import NamedTuple

from tinyllm.inference.conversation import until_marker
from tinyllm.inference.language_model import LanguageModel
from tinyllm.inference.settings import GREEDY
from tinyllm.text.dialogue import Segment, encode
from tinyllm.text.texts import Text

RECOGNISABLE = 0.6  # of the characters in common, as difflib counts them


class Answer(NamedTuple):
    """A trained question, the answer it was trained with, and what the model says."""

    prompt: str
    expected: str
    said: str

    @property
    def is_recognisable(self) -> bool:
        """Whether most of the trained answer is in what was said."""
        return SequenceMatcher(None, self.expected, self.said, autojunk=False).ratio() >= RECOGNISABLE


def trained_questions(texts: Iterable[Text], count: int) -> list[tuple[Segment, str]]:
    """Return `count` first questions, evenly spread over the texts, and their answers."""
    found = [
        (text.segments[0], text.segments[1].text.strip())
        for text in texts
        if len(text.segments) >= 2 and not text.segments[0].carries_loss
    ]
    count = min(count, len(found))
    return [found[len(found) * i // count] for i in range(count)]


def ask(model: LanguageModel, texts: Iterable[Text], count: int = 10) -> list[Answer]:
    """Answer `count` questions of the texts greedily."""
    answers = []
    for prompt, expected in trained_questions(texts, count):
        tokens, _ = encode(model.tokenizer, [prompt])
        written = model.write(tokens[-model.config.block_size :], GREEDY, 128, (0,), at_least=1)
        answers.append(Answer(prompt.text, expected, "".join(until_marker(model.tokenizer.stream(written)))))
    return answers


def proceed(model: LanguageModel, texts: Iterable[Text], tokens: int = 80) -> tuple[str, str]:
    """Return the beginning of the texts, 16 characters, and how the model goes on after it."""
    beginning = next(
        segment.text.strip()[:16] for text in texts for segment in text.segments if segment.text.strip()
    )
    written = model.write(model.prompt(beginning), GREEDY, tokens, (0,))
    return beginning, "".join(model.tokenizer.stream(written))
