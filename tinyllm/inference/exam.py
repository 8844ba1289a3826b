"""What a finished model answers: the questions of its training, in other words, after others, and new ones.

An answer to a fact of the bundled world is right if it is one of the fact's statements, word for word (of a
sum or product also with the numbers exchanged); to any other question, if most of its characters are those of
the trained answer. Order: Question, Answer, Part, the parts of an exam, how questions are asked.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from tinyllm.corpus.world import LANGUAGES, Fact
from tinyllm.inference.conversation import until_marker
from tinyllm.inference.language_model import LanguageModel
from tinyllm.inference.settings import GREEDY
from tinyllm.rng import generator
from tinyllm.text.dialogue import Turn, first_prompt, parse
from tinyllm.text.forms import forms
from tinyllm.text.questions import spread
from tinyllm.text.texts import Text

SIMILAR = 0.6  # of the characters in common, as difflib counts them
LONGEST = 128  # tokens of an answer


class Question(NamedTuple):
    """Turns that end with a question, and its right answers; only these very words if it is `exact`."""

    turns: tuple[Turn, ...]
    answers: tuple[str, ...]
    exact: bool = False


class Answer(NamedTuple):
    """What the model said to a question."""

    question: Question
    said: str

    @property
    def is_right(self) -> bool:
        """Whether it is one of the right answers, or nearly one where that is enough."""
        if self.said in self.question.answers:
            return True
        return not self.question.exact and any(
            SequenceMatcher(None, right, self.said, autojunk=False).ratio() >= SIMILAR
            for right in self.question.answers
        )


class Part(NamedTuple):
    """The answers to questions of one kind."""

    name: str
    answers: list[Answer]

    @property
    def right(self) -> int:
        """How many answers are right."""
        return sum(answer.is_right for answer in self.answers)


def trained(texts: Iterable[Text], count: int, held_out: Container[int] = ()) -> list[Question]:
    """Return the first questions, with their answers, of `count` dialogues evenly spread over the texts.

    Those of the documents with a number in `held_out` were not trained on, and are left out.
    """
    found, number = [], 0
    for text in texts:
        prompt, is_held_out = first_prompt(text.segments), number in held_out
        number += text.ends
        if 0 < len(prompt) < len(text.segments) and not is_held_out:
            turns = parse("".join(segment.text for segment in prompt))
            found.append(Question(turns, (text.segments[len(prompt)].text.strip(),)))
    return spread(found, count)


def in_other_words(questions: Sequence[Question]) -> list[Question]:
    """Return those of the questions that have another form, in the one that differs most in length."""
    found = []
    for question in questions:
        *before, last = question.turns
        others = forms(last.content)[1:]
        if others:
            other = max(others, key=lambda each: abs(len(each) - len(last.content)))
            found.append(question._replace(turns=(*before, Turn("user", other))))
    return found


def of_facts(facts: Iterable[Fact], count: int, address: tuple[int, str], otherwise: bool) -> list[Question]:
    """Return questions about `count` drawn facts, half in each language; `otherwise`: in other words."""
    rng, questions = generator(*address), []
    for language in LANGUAGES:
        pool = [fact for fact in facts if fact.language == language]
        for i in rng.permutation(len(pool))[: count // len(LANGUAGES)]:
            asked = pool[i].otherwise if otherwise else pool[i].asked
            turns = (Turn("user", asked[rng.integers(len(asked))]),)
            questions.append(Question(turns, pool[i].right, exact=True))
    return questions


def ask(model: LanguageModel, questions: Sequence[Question]) -> list[Answer]:
    """Return the model's greedy answers, each to its question alone."""
    prompts = [model.question(question.turns)[-model.config.block_size :] for question in questions]
    written = model.generate_all(prompts, GREEDY, LONGEST, 0, min_tokens=1)
    return [
        Answer(question, "".join(until_marker(model.tokenizer.stream(tokens))))
        for question, tokens in zip(questions, written, strict=True)
    ]


def ask_after_another(model: LanguageModel, questions: Sequence[Question]) -> list[Answer]:
    """Return the model's greedy answers to each question behind the one before it and its answer to that."""
    alone = [question for question in questions if len(question.turns) == 1]
    first = ask(model, alone)
    before = [(*answer.question.turns, Turn("assistant", answer.said)) for answer in first]
    following = alone[1:] + alone[:1]
    return ask(model, [
        question._replace(turns=(*earlier, *question.turns))
        for earlier, question in zip(before, following, strict=True)
    ])  # fmt: skip


def exam(
    model: LanguageModel, texts: Iterable[Text], facts: Sequence[Fact], count: int,
    held_out: Container[int] = (),
) -> list[Part]:  # fmt: skip
    """Return the parts of an exam, of `count` questions each; `facts` are those of the texts, if any.

    Documents with a number in `held_out` are no trained ones.
    """
    asked = [fact for fact in facts if fact.is_asked]
    rest = [fact for fact in facts if not fact.is_asked]
    questions = trained(texts, count, held_out)
    others = of_facts(asked, count, (0, "otherwise"), otherwise=True) if facts else in_other_words(questions)
    parts = [
        Part("trained questions", ask(model, questions)),
        Part("the same asked in another way", ask(model, others)),
        Part("after another question", ask_after_another(model, questions)),
    ]
    if facts:
        new = of_facts(rest, count, (0, "never asked"), otherwise=False)
        parts.append(Part("never asked in training", ask(model, new)))
    return parts
