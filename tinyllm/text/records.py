"""An entry of a data file becomes a text or the turns of a conversation, by the names of its fields.

FIELDS says what each name means, in any combination: alpaca, dolly, ShareGPT, OpenAI's messages and their
mixtures are all read by this one table. A field that would change the meaning is used, or the entry is
refused by the field's name. Order: the tables, Reading, an entry, its turns, what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

from tinyllm.text.dialogue import ROLES, Turn, stripped
from tinyllm.text.files import refusal


class Meaning(StrEnum):
    """What the field of an entry, or of a message, is."""

    TEXT = "a text"
    QUESTION = "a question, or a list of its forms"
    MORE = "what stands below the question; `input` alone is the question"
    ANSWER = "its answer"
    SYSTEM = "a system text, before all turns"
    HISTORY = "earlier turns: pairs of question and answer, or messages"
    MESSAGES = "all turns"
    ROLE = "who speaks"
    LOSS = "whether to learn it; only a yes is accepted"
    LABEL = "whether the answer is good; only a yes is accepted"
    TOOLS = "calls of tools; only empty ones are accepted"


FIELDS = {  # in lower case, as entries are compared
    "text": Meaning.TEXT, "content": Meaning.TEXT,
    "instruction": Meaning.QUESTION, "prompt": Meaning.QUESTION, "question": Meaning.QUESTION,
    "query": Meaning.QUESTION,
    "input": Meaning.MORE, "context": Meaning.MORE,
    "output": Meaning.ANSWER, "response": Meaning.ANSWER, "completion": Meaning.ANSWER,
    "answer": Meaning.ANSWER, "target": Meaning.ANSWER,
    "system": Meaning.SYSTEM, "system_prompt": Meaning.SYSTEM,
    "history": Meaning.HISTORY,
    "messages": Meaning.MESSAGES, "conversations": Meaning.MESSAGES, "conversation": Meaning.MESSAGES,
    "weight": Meaning.LOSS, "label": Meaning.LABEL,
    "tools": Meaning.TOOLS, "functions": Meaning.TOOLS,
}  # fmt: skip
MESSAGE_FIELDS = {
    "role": Meaning.ROLE, "from": Meaning.ROLE,
    "content": Meaning.TEXT, "value": Meaning.TEXT,
    "weight": Meaning.LOSS, "train": Meaning.LOSS, "loss": Meaning.LOSS,
    "tool_calls": Meaning.TOOLS, "function_call": Meaning.TOOLS,
}  # fmt: skip
SPEAKERS = {
    **{role: role for role in ROLES},
    "human": "user", "prompter": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "model": "assistant", "developer": "system",
}  # fmt: skip
NO = ("0", "0.0", "false", "no")  # as tables spell it
YES = ("", "1", "1.0", "true", "yes")
Found = dict[Meaning, list[str]]  # the names of an entry's fields by their meaning
EXPECTED = (
    "a string, a list of messages, or an object with text, with a question and its answer (such as prompt "
    "and response, instruction and output, question and answer), or with messages"
)


class Reading(NamedTuple):
    """What an entry says: a text or turns, the other empty, and which of its fields were not read.

    Where the question is a list of its forms, `others` are the turns with each but the first.
    """

    text: str = ""
    turns: tuple[Turn, ...] = ()
    unread: tuple[str, ...] = ()
    others: tuple[tuple[Turn, ...], ...] = ()


def read_entry(entry: Any, where: str) -> Reading:
    """Return what an entry says; a refusal, which begins with `where`, if that cannot be known."""
    if isinstance(entry, str):
        return Reading(entry)
    if isinstance(entry, list) and entry and is_message(entry[0]):
        return Reading(turns=stripped(_messages(entry, where)))
    if not isinstance(entry, dict):
        raise refusal(f"{where}: found {described(entry)}, expected {EXPECTED}")
    found, unread = _by_meaning(entry)
    if len(found) == 1 and Meaning.TEXT in found:  # most entries of a large corpus: the short way
        return Reading(_one(entry, found, Meaning.TEXT, str, where), unread=unread)
    _check_usable(entry, found, where)
    others: list[list[Turn]] = []
    if Meaning.MESSAGES in found:
        turns = _messages(_one(entry, found, Meaning.MESSAGES, list, where), where)
        turns = [*_before(entry, found, where), *turns]
        rivals: tuple[Meaning, ...] = (Meaning.QUESTION, Meaning.MORE, Meaning.ANSWER, Meaning.TEXT)
    elif Meaning.ANSWER in found and (questions := _questions(entry, found, where)):
        answer = Turn("assistant", _one(entry, found, Meaning.ANSWER, str, where))
        before = list(_before(entry, found, where))
        turns, *others = ([*before, Turn("user", question), answer] for question in questions)
        rivals = (Meaning.TEXT,)
    elif Meaning.TEXT in found:
        return Reading(_text(entry, found, where), unread=unread + _others(found))
    else:
        raise refusal(f"{where}: found {described(entry)}, expected {EXPECTED}")
    _check_repeats(entry, _names(found, rivals), turns, where)
    return Reading(turns=stripped(turns), unread=unread, others=tuple(map(stripped, others)))


def is_message(value: Any) -> bool:
    """Return whether this is a turn of a conversation: an object with who speaks and what is said."""
    if not isinstance(value, dict):
        return False
    meanings = {MESSAGE_FIELDS.get(_plain(name)) for name in value}
    return {Meaning.ROLE, Meaning.TEXT} <= meanings


def described(value: Any) -> str:
    """Say what type of value this is, and of which types the fields of an object are."""
    if isinstance(value, dict):
        fields = ", ".join(f"{name!r} ({_kind(field)})" for name, field in list(value.items())[:6])
        return f"an object with the fields {fields}" if fields else "an empty object"
    return _kind(value)


def _kind(value: Any) -> str:
    kinds = {
        str: "a string", list: "a list", dict: "an object", bool: "a boolean", type(None): "null",
        int: "a number", float: "a number",
    }  # fmt: skip
    return kinds.get(type(value), f"a value of type {type(value).__name__}")


def _plain(name: Any) -> str:
    return str(name).strip().lower()


def _by_meaning(entry: dict[str, Any], message: bool = False) -> tuple[Found, tuple[str, ...]]:
    """Return the names of an entry's fields by their meaning, and the others; without those that are null."""
    return _meanings(tuple(name for name, value in entry.items() if value is not None), message)


@lru_cache(maxsize=256)  # the entries of a file have the same few sets of names
def _meanings(names: tuple[str, ...], message: bool) -> tuple[Found, tuple[str, ...]]:
    fields, found, others = MESSAGE_FIELDS if message else FIELDS, Found(), []
    for name in names:
        meaning = fields.get(_plain(name))
        if meaning is None:
            others.append(name)
        else:
            found.setdefault(meaning, []).append(name)
    return found, tuple(others)


def _names(found: Found, meanings: Iterable[Meaning]) -> list[str]:
    return [name for meaning in meanings for name in found.get(meaning, [])]


def _one(entry: dict[str, Any], found: Found, meaning: Meaning, kind: type, where: str) -> Any:
    """Return the value of the field with this meaning; a refusal for two that differ, or another type."""
    first, *others = found[meaning]
    for name in others:
        if entry[name] != entry[first]:
            raise refusal(
                f"{where}: found both {first!r} and {name!r}, expected one of them: each is {meaning.value}"
            )
    value = entry[first]
    if not isinstance(value, kind):
        expected = _kind(kind())
        raise refusal(f"{where}: found {first!r}: {_kind(value)}, expected {expected} ({meaning.value})")
    return value


def _questions(entry: dict[str, Any], found: Found, where: str) -> list[str]:
    """Return the forms of the question, each with what stands below it; none if there is no question."""
    more = [name for name in found.get(Meaning.MORE, []) if entry[name]]
    for name in more:
        if not isinstance(entry[name], str):
            raise refusal(f"{where}: found {name!r}: {_kind(entry[name])}, expected a string")
    if Meaning.QUESTION in found:
        name = found[Meaning.QUESTION][0]
        forms = _one(entry, found, Meaning.QUESTION, list if isinstance(entry[name], list) else str, where)
        if isinstance(forms, str):
            forms = [forms]
        elif not forms or not all(isinstance(form, str) and form.strip() for form in forms):
            raise refusal(f"{where}: found {name!r}: a list, expected a string, or strings that ask the same")
    elif any(_plain(name) == "input" for name in more):
        forms = [""]
    else:
        return []
    below = [entry[name] for name in more]
    return ["\n".join(part.strip() for part in (form, *below) if part.strip()) for form in forms]


def _before(entry: dict[str, Any], found: Found, where: str) -> Iterator[Turn]:
    """Yield the turns before those of the entry itself: its system text and its history."""
    if Meaning.SYSTEM in found:
        yield Turn("system", _one(entry, found, Meaning.SYSTEM, str, where))
    if Meaning.HISTORY not in found or not entry[found[Meaning.HISTORY][0]]:
        return
    history = _one(entry, found, Meaning.HISTORY, list, where)
    if is_message(history[0]):
        yield from _messages(history, where)
        return
    for pair in history:
        if not isinstance(pair, list) or [type(part) for part in pair] != [str, str]:
            raise refusal(
                f"{where}: found history of {described(pair)}, expected pairs of strings, or messages"
            )
        yield from (Turn("user", pair[0]), Turn("assistant", pair[1]))


def _messages(messages: Sequence[Any], where: str) -> list[Turn]:
    return [_turn(message, f"{where}: message {number}") for number, message in enumerate(messages, 1)]


def _turn(message: Any, where: str) -> Turn:
    if not isinstance(message, dict):
        raise refusal(f"{where}: found {described(message)}, expected an object with role and content")
    found, _ = _by_meaning(message, message=True)
    _check_usable(message, found, where)
    if Meaning.ROLE not in found or Meaning.TEXT not in found:
        raise refusal(
            f"{where}: found {described(message)}, expected the strings role and content, or from and value"
        )
    role = _one(message, found, Meaning.ROLE, str, where)
    speaker = SPEAKERS.get(_plain(role))
    if speaker is None:
        raise refusal(f"{where}: found the role {role!r}, expected one of {', '.join(SPEAKERS)}")
    content = message[found[Meaning.TEXT][0]]
    if isinstance(content, list):
        return Turn(speaker, "".join(_part(part, where) for part in content))
    return Turn(speaker, _one(message, found, Meaning.TEXT, str, where))


def _part(part: Any, where: str) -> str:
    """Return a part of a content that is a list, which must be text."""
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    what = f"the type {part['type']!r}" if isinstance(part, dict) and "type" in part else described(part)
    raise refusal(f"{where}: found content with a part of {what}, expected text only")


def _text(entry: dict[str, Any], found: Found, where: str) -> str:
    """Return the text of an entry that has no turns."""
    for name in _names(found, (Meaning.SYSTEM, Meaning.HISTORY)):
        if entry[name]:
            raise refusal(f"{where}: found {name!r} beside a text, expected it beside a question and answer")
    text: str = _one(entry, found, Meaning.TEXT, str, where)
    return text


def _others(found: Found) -> tuple[str, ...]:
    """Return the fields that a text stands for: a question without an answer, an answer without one."""
    return tuple(_names(found, (Meaning.QUESTION, Meaning.MORE, Meaning.ANSWER, Meaning.LABEL)))


def _check_repeats(entry: dict[str, Any], names: Sequence[str], turns: Sequence[Turn], where: str) -> None:
    """Refuse a field that says something else than the turns: which of the two is meant?"""
    said = [turn.content.strip() for turn in turns if turn.content.strip()]
    for name in names:
        value = entry[name].strip() if isinstance(entry[name], str) else entry[name]
        # A question may stand beside its messages, and the whole as one text beside question and answer.
        if value and not (
            isinstance(value, str) and said and (said[-1] in value or any(value in each for each in said))
        ):
            raise refusal(f"{where}: found {name!r} beside turns that do not repeat it, expected one of them")


def _check_usable(entry: dict[str, Any], found: Found, where: str) -> None:
    """Refuse what must not be learnt like the rest: weight 0, a label that says no, calls of tools."""
    for name in found.get(Meaning.LOSS, []):
        if str(entry[name]).lower() not in YES:
            raise refusal(
                f"{where}: found {name!r}: {entry[name]!r}, expected 1 or true: single answers cannot be "
                f"left out of the loss; remove the entry or the field"
            )
    rated = Meaning.ANSWER in found or Meaning.MESSAGES in found
    for name in found.get(Meaning.LABEL, []):
        if entry[name] is False or (rated and str(entry[name]).lower() in NO):
            raise refusal(
                f"{where}: found {name!r}: {entry[name]!r}, an answer not to be learnt; remove the entry"
            )
    for name in found.get(Meaning.TOOLS, []):
        if entry[name]:
            raise refusal(f"{where}: found {name!r}, expected no calls of tools; remove the entry")
