"""Questions of the training dialogues that a person may try: a few short ones, in each of their languages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from tinyllm.text.dialogue import is_chinese, parse

LONGEST = 48  # characters
T = TypeVar("T")


def typical_questions(prompts: Iterable[str], count: int = 3) -> list[str]:
    """Return the first questions of `count` prompts, each `用户：…助手：` or `User: … Assistant:`.

    They are spread over all that are short enough; where some are Chinese and some are not, of both kinds.
    """
    turns = (turn for prompt in prompts for turn in parse(prompt)[:2] if turn.role == "user")
    found = dict.fromkeys(
        turn.content for turn in turns if len(turn.content) <= LONGEST and turn.content.isprintable()
    )
    chinese = [question for question in found if is_chinese(question)]
    others = [question for question in found if not is_chinese(question)]
    few = min(count // 2, len(others)) if chinese else count
    return spread(chinese, count - few) + spread(others, few)


def spread(items: Sequence[T], count: int) -> list[T]:
    """Return `count` of the items, or all of them, evenly spread."""
    count = min(count, len(items))
    return [items[len(items) * i // count] for i in range(count)]
