"""The bundled corpus is well formed, free of contradictions, and as large as docs/data.md says.

The grammar of a dialogue, then what both files share, then each file, then the documentation.
"""

import json
import re
from collections import defaultdict
from importlib import resources
from pathlib import Path

import pytest

MARKER = "用户：|助手：|User:|Assistant:"
SAID = rf"(?:(?!{MARKER}).)+"
CHINESE_TURN = re.compile(rf"用户：({SAID})助手：({SAID})")
ENGLISH_TURN = re.compile(rf"User: ({SAID}) Assistant: ({SAID})(?: |$)")
CHINESE_DIALOGUE = re.compile(rf"(?:{CHINESE_TURN.pattern})+")
ENGLISH_DIALOGUE = re.compile(rf"User: {SAID} Assistant: {SAID}(?: User: {SAID} Assistant: {SAID})*")
HAN = re.compile(r"[一-鿿]")
STRAY = re.compile(r"^\s|\s$|\s\s|[^\S ]|[\u200b-\u200f\ufeff\ufffd]")


def text_of(name: str) -> str:
    return (resources.files("tinyllm.corpus") / name).read_bytes().decode("utf-8")


def entries_of(name: str) -> list[str]:
    entries = json.loads(text_of(name))
    assert isinstance(entries, list)
    return entries


def turns_of(dialogue: str) -> list[tuple[str, str]]:
    """Return the (question, answer) pairs of one dialogue."""
    turn = CHINESE_TURN if dialogue.startswith("用户：") else ENGLISH_TURN
    return [(question.strip(), answer.strip()) for question, answer in turn.findall(dialogue)]


def is_well_formed(dialogue: str) -> bool:
    """Return whether `dialogue` is whole turns in one language's markers, with nothing around the words."""
    if STRAY.search(dialogue) or re.search(r"(?:用户：|助手：)\s|\s(?:用户：|助手：)", dialogue):
        return False
    return bool(CHINESE_DIALOGUE.fullmatch(dialogue) or ENGLISH_DIALOGUE.fullmatch(dialogue))


def is_english(entry: str) -> bool:
    """Return whether an entry is an English one: it may quote a few Chinese words, as a phrase book does."""
    return entry.startswith("User:") or not HAN.search(entry)


def bare(text: str) -> str:
    """Return `text` in lower case without punctuation and spaces: what makes two entries "the same"."""
    return re.sub(r"[\W_]+", "", text).lower() or text


STATEMENTS = entries_of("pretraining.json")
DIALOGUES = entries_of("chat.json")
TURNS = [turn for dialogue in DIALOGUES for turn in turns_of(dialogue)]

both = pytest.mark.parametrize("entries", [STATEMENTS, DIALOGUES], ids=["pretraining", "chat"])


@pytest.mark.parametrize(
    "wrong",
    [
        "用户： 你好助手：你好",
        "用户:你好助手:你好",
        "用户：你好 助手：你好",
        "用户：你好",
        "用户：助手：你好",
        "用户：你好助手：你好用户：再见",
        "用户：你好助手：你好\n",
        "User: Hi Assistant:Hello",
        "User: Hi  Assistant: Hello",
        "User: Hi Assistant: Hello User: Bye",
    ],
)
def test_the_grammar_refuses(wrong: str) -> None:
    assert not is_well_formed(wrong)


@both
def test_every_entry_is_a_string_without_stray_whitespace(entries: list[str]) -> None:
    assert [e for e in entries if not isinstance(e, str) or not e or STRAY.search(e)] == []


@both
def test_no_entry_appears_twice_even_with_other_punctuation(entries: list[str]) -> None:
    by_bare = defaultdict(list)
    for entry in entries:
        by_bare[bare(entry)].append(entry)
    assert [same for same in by_bare.values() if len(same) > 1] == []


@both
def test_the_corpus_is_mostly_chinese_with_some_english(entries: list[str]) -> None:
    english = sum(1 for entry in entries if is_english(entry))
    assert 0.1 < english / len(entries) < 0.3


def test_there_are_at_least_600_statements() -> None:
    assert len(STATEMENTS) >= 600


def test_no_statement_holds_a_marker_of_a_dialogue() -> None:
    assert [s for s in STATEMENTS if re.search(MARKER, s)] == []


def test_there_are_at_least_400_dialogues() -> None:
    assert len(DIALOGUES) >= 400


def test_every_dialogue_is_well_formed() -> None:
    assert [d for d in DIALOGUES if not is_well_formed(d)] == []


def test_every_marker_belongs_to_a_turn_that_was_read() -> None:
    questions = sum(len(re.findall("用户：|User:", dialogue)) for dialogue in DIALOGUES)
    assert questions == len(TURNS)


def test_no_question_is_asked_twice_so_none_has_two_answers() -> None:
    answers = defaultdict(list)
    for question, answer in TURNS:
        answers[bare(question)].append((question, answer))
    assert [same for same in answers.values() if len(same) > 1] == []


def test_some_dialogues_have_several_turns() -> None:
    assert sum(1 for dialogue in DIALOGUES if len(turns_of(dialogue)) > 1) >= 20


def test_chinese_answers_have_10_to_70_characters_and_english_ones_8_to_30_words() -> None:
    for dialogue in DIALOGUES:
        for _, answer in turns_of(dialogue):
            if is_english(dialogue):
                assert 8 <= len(answer.split()) <= 30, answer
            else:
                assert 10 <= len(answer) <= 70, answer


def test_the_sizes_in_the_documentation_are_those_of_the_files() -> None:
    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    for name, entries in (("pretraining.json", STATEMENTS), ("chat.json", DIALOGUES)):
        english = sum(1 for entry in entries if is_english(entry))
        characters = sum(len(entry) for entry in entries)
        line = f"{name}: {len(entries)} entries, {english} in English, {characters} characters"
        assert line in page, (
            f"docs/data.md should hold the line {line!r}: run its command and paste the output"
        )
