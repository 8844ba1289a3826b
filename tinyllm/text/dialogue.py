"""The one template of a conversation: training and chat make their tokens here, so they cannot differ.

    用户：你好！助手：|你好！有什么我能帮你的吗？        User: hi Assistant:| hello

Left of the bar is the prompt, which carries no loss; right of it the answer, which does. Each question
chooses the Chinese or the English markers by its own text, so the same question always makes the same prompt.
Markers, questions and answers are encoded apart: a marker has the same tokens whatever stands before it. An
answer ends in end_of_text: that is how the model learns to stop, in the middle of a conversation too. Order:
Segment, Turn, templates, text to turns to segments to tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby, takewhile
from typing import NamedTuple, Protocol

import numpy as np

from tinyllm.arena import Array

ROLES = ("system", "user", "assistant")


class Segment(NamedTuple):
    """A part of a document that is encoded by itself."""

    text: str
    carries_loss: bool = True


class Turn(NamedTuple):
    """What one of ROLES said."""

    role: str
    content: str


class Template(NamedTuple):
    """What marks a question and an answer, and what stands between a marker and the words beside it."""

    user: str
    assistant: str
    space: str


# The space before an English word is part of its segment: " hello" is the word's token in running text.
CHINESE = Template("用户：", "助手：", "")
ENGLISH = Template("User:", "Assistant:", " ")
# A model that has seen few answers end may ask itself the next question: chat stops before these.
STOP_MARKERS = (CHINESE.user, ENGLISH.user)

_CJK = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
_USER = re.compile(r"(?P<chinese>用户[：:])|(?<!\S)User[：:]")
_ASSISTANT = {True: re.compile(r"助手[：:]"), False: re.compile(r"(?<!\S)Assistant[：:]")}
_NEXT_USER = {True: re.compile(r"用户[：:]"), False: re.compile(r"(?<!\S)User[：:]")}


def parse(text: str) -> tuple[Turn, ...]:
    """Return the turns of `用户：…助手：…` or `User: … Assistant: …`; none if it is not a conversation.

    The first marker decides the language of all. A question ends at the answer's marker, an answer at the
    next question's, so an answer may speak of 助手：. Text before the first marker is a system turn. White
    space around a turn is dropped, and so are empty turns.
    """
    first = _USER.search(text)
    if first is None:
        return ()
    chinese = first["chinese"] is not None
    if not _ASSISTANT[chinese].search(text, first.end()):
        return ()
    # `start` is behind the marker of `role`; the turn goes up to the marker of the other role, or to the end.
    turns, role, start, marker = [Turn("system", text[: first.start()])], "user", first.end(), None
    while True:
        marker = (_ASSISTANT if role == "user" else _NEXT_USER)[chinese].search(text, start)
        turns.append(Turn(role, text[start : marker.start() if marker else None]))
        if marker is None:
            return stripped(turns)
        role, start = "assistant" if role == "user" else "user", marker.end()


def stripped(turns: Iterable[Turn]) -> tuple[Turn, ...]:
    """Return the turns without the white space around them, and without the empty ones."""
    return tuple(Turn(role, content.strip()) for role, content in turns if content.strip())


def render(turns: Sequence[Turn]) -> tuple[Segment, ...]:
    """Return markers, questions and system texts (no loss) and answers (loss), a segment each."""
    # An answer is marked in the language of the last question, or in its own where none was asked. `gap` is
    # the space after a question; it belongs to the marker of the answer, if that is what follows.
    segments, gap, template = [], "", None
    for role, content in turns:
        if role == "assistant":
            template = template or _template(content)
            segments += [
                Segment(gap + template.assistant, carries_loss=False),
                Segment(template.space + content),
            ]
            gap = ""
            continue
        silent, gap = [gap], ""
        if role == "system":
            silent.append(content + "\n")
        else:
            template = _template(content)
            silent += [template.user, template.space + content]
            gap = template.space
        segments += [Segment(text, carries_loss=False) for text in silent if text]
    return (*segments, Segment(gap, carries_loss=False)) if gap else tuple(segments)


def joined(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """Return the segments with each whole prompt as one: how runs without `separate_markers` encode it."""
    return tuple(
        Segment("".join(segment.text for segment in group), carries_loss)
        for carries_loss, group in groupby(segments, lambda segment: segment.carries_loss)
    )


def can_join(turns: Sequence[Turn]) -> bool:
    """Return whether a dialogue may follow another, or be followed by one.

    It begins with a question, ends with an answer, and has no system text. So what `render` makes of both
    together is what it makes of one, and behind that what it makes of the other.
    """
    roles = [turn.role for turn in turns]
    return roles[:1] == ["user"] and roles[-1] == "assistant" and "system" not in roles


def first_prompt(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """Return the segments before the first answer."""
    return tuple(takewhile(lambda segment: not segment.carries_loss, segments))


def system_text(segments: Sequence[Segment]) -> str | None:
    """Return the system text with which `render`'s segments begin, "" without one; None if no dialogue."""
    prompt = first_prompt(segments)
    markers = CHINESE.user, CHINESE.assistant, ENGLISH.user, ENGLISH.assistant
    system = takewhile(lambda segment: segment.text not in markers, prompt)
    return "".join(segment.text for segment in system).strip() if prompt else None


def prompt_for(turns: Sequence[Turn]) -> tuple[Segment, ...]:
    """Return the segments after which the model writes its answer to the last of `turns`, a question.

    These are what `render` makes of the same turns with any answer, without that answer.
    """
    return render([*turns, Turn("assistant", "")])[:-1]


def is_chinese(text: str) -> bool:
    """Return whether a question is marked in Chinese: it has a character of Chinese, or a full-width mark."""
    return _CJK.search(text) is not None


def _template(text: str) -> Template:
    return CHINESE if is_chinese(text) else ENGLISH


class Tokenizer(Protocol):
    """The part of a tokenizer that turning documents into tokens needs."""

    @property
    def vocab_size(self) -> int:
        """Number of ids."""

    @property
    def end_of_text(self) -> int:
        """The id of the end of a text."""

    def encode_all(self, texts: Sequence[str]) -> tuple[Array, list[int]]:
        """Return the ids of all `texts`, int32 (n,), and where those of each text end."""

    def fingerprint(self) -> str:
        """Return a hash that is equal for equal tokenizers only."""


def encode(tokenizer: Tokenizer, segments: Sequence[Segment]) -> tuple[Array, list[int]]:
    """Return a document's tokens (n,) int32, and begin and end of each run of masked ones: without loss.

    end_of_text stands before the document and after every segment that carries loss.

    Example: prompt "q", answer "ab" -> end_of_text, q, a, b, end_of_text; masked [1, 2]
    """
    tokens, masked, _ = encode_all(tokenizer, [segments])
    return tokens, masked


def encode_all(
    tokenizer: Tokenizer, documents: Sequence[Sequence[Segment]]
) -> tuple[Array, list[int], list[int]]:
    """Return what `encode` does, for documents that follow each other, and where each of them ends."""
    # All texts in one call, which is much faster for many short documents. Positions below are first those in
    # `ids`; as every mark so far moves what follows by one, len(marks) is added for those in the result.
    ids, ends = tokenizer.encode_all([segment.text for segments in documents for segment in segments])
    marks: list[int] = []  # where in `ids` an end_of_text is inserted
    masked: list[int] = []
    stops: list[int] = []
    begin, following = 0, iter(ends)
    for segments in documents:
        marks.append(begin)
        for segment, end in zip(segments, following, strict=False):
            if segment.carries_loss:
                marks.append(end)
            elif masked and masked[-1] == begin + len(marks):  # a run that continues
                masked[-1] = end + len(marks)
            else:
                masked += [begin + len(marks), end + len(marks)]
            begin = end
        stops.append(begin + len(marks))
    return np.insert(ids, marks, tokenizer.end_of_text), masked, stops
