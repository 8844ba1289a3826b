"""The bundled world is well formed and free of contradictions, and asks about no fact that it must not.

What the files are made of, then the statements, the dialogues, the facts that are never asked about.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from importlib import resources

import pytest

from tinyllm.corpus import world
from tinyllm.corpus.__main__ import FILES, content
from tinyllm.text.forms import forms

STRAY = re.compile(r"^\s|\s$|\s\s|[^\S ]|[\u200b-\u200f\ufeff\ufffd]")
HAN = re.compile("[一-鿿]")
MARKER = re.compile("用户：|助手：|User:|Assistant:")


def read(name: str) -> str:
    return (resources.files("tinyllm.corpus") / name).read_bytes().decode("utf-8")


def bare(text: str) -> str:
    """Return `text` in lower case without punctuation and spaces: what makes two texts "the same"."""
    return re.sub(r"[^\w+×=]+", "", text).lower() or text


FACTS = world.facts()
STATEMENTS = list(world.statements())
DIALOGUES = list(world.dialogues())


def exchanges(entry: dict[str, object]) -> Iterator[tuple[str, str]]:
    """Yield each form of each first question with its answer, then the later turns."""
    if "messages" in entry:
        turns = [message["content"] for message in entry["messages"]]  # type: ignore[attr-defined]
        yield from zip(turns[::2], turns[1::2], strict=True)
        return
    asked = entry["prompt"]
    for question in [asked] if isinstance(asked, str) else asked:  # type: ignore[attr-defined]
        yield question, str(entry["response"])


FIRST = [next(iter(exchanges(entry))) for entry in DIALOGUES]
EXCHANGES = [exchange for entry in DIALOGUES for exchange in exchanges(entry)]


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_what_the_tables_and_forms_make(name: str) -> None:
    assert read(name) == content(FILES[name]()), "run python -m tinyllm.corpus"


def test_no_text_has_stray_white_space_or_a_marker_of_a_dialogue() -> None:
    texts = [*STATEMENTS, *(text for exchange in EXCHANGES for text in exchange)]
    texts += [question for fact in FACTS for question in fact.otherwise]
    assert [text for text in texts if not text or STRAY.search(text) or MARKER.search(text)] == []


def test_no_statement_appears_twice_even_with_other_punctuation() -> None:
    assert [text for text, times in Counter(map(bare, STATEMENTS)).items() if times > 1] == []


def test_every_form_of_every_fact_is_a_statement_and_names_no_blank() -> None:
    said = set(STATEMENTS)
    for fact in FACTS:
        assert set(fact.said) <= said
        assert len(fact.said) >= 4 and len(fact.asked) >= 4 and len(fact.otherwise) >= 2
        assert not re.search(r"[{}]", "".join(fact.said + fact.asked + fact.otherwise))


def test_a_right_answer_beside_a_fact_s_own_is_what_another_fact_of_the_same_things_says() -> None:
    said = {(fact.relation, fact.language, fact.things, form) for fact in FACTS for form in fact.said}
    numbers = [fact for fact in FACTS if fact.also]
    assert {fact.relation for fact in numbers} == {"sum", "product"}
    assert all((f.relation, f.language, f.things, form) in said for f in numbers for form in f.also)
    assert all(fact.right == fact.said + fact.also for fact in FACTS)


def test_every_other_statement_is_an_answer_so_that_what_is_held_out_is_read_elsewhere() -> None:
    answers = {answer for _, answer in EXCHANGES}
    assert [text for text in json.loads(read("statements.json")) if text not in answers] == []


def test_chinese_forms_are_chinese_and_english_ones_are_not() -> None:
    for fact in FACTS:
        for text in fact.said[:1] + fact.asked + fact.otherwise:
            assert bool(HAN.search(text)) == (fact.language == "zh"), text


def test_no_statement_contradicts_another() -> None:
    # Of one relation and thing there is one answer: a name that stood in two rows of a table would have two.
    for fact, times in Counter((fact.relation, fact.language, fact.asked) for fact in FACTS).items():
        assert times == 1, fact


def test_no_question_has_two_answers() -> None:
    answers = defaultdict(set)
    for question, answer in EXCHANGES:
        if (question, answer) in FIRST or len(question) > 12:  # a short follow-up may occur in two dialogues
            answers[bare(question)].add(answer)
    assert {question: found for question, found in answers.items() if len(found) > 1} == {}


def test_dialogues_ask_about_the_drawn_facts_and_in_no_form_about_the_others() -> None:
    asked = {bare(form) for question, _ in EXCHANGES for form in forms(question)}
    for fact in FACTS:
        if not fact.is_asked:
            assert not asked & {bare(question) for question in fact.asked + fact.otherwise}, fact
    share = sum(fact.is_asked for fact in FACTS) / len(FACTS)
    assert abs(share - world.ASKED) < 0.05


def test_other_ways_to_ask_occur_in_no_form_of_a_dialogue() -> None:
    asked = {form.lower() for question, _ in EXCHANGES for form in forms(question)}
    for fact in FACTS:
        assert not asked & {question.lower() for question in fact.otherwise}, fact


def test_each_language_has_its_part_of_facts_and_dialogues() -> None:
    chinese = sum(fact.language == "zh" for fact in FACTS) / len(FACTS)
    assert 0.4 < chinese < 0.6
    assert 0.4 < sum(bool(HAN.search(question)) for question, _ in FIRST) / len(FIRST) < 0.8


def test_the_sizes_in_the_documentation_are_those_of_the_files() -> None:
    rows = {name: len(json.loads(read(name))) for name in FILES}
    assert rows == {"pretraining.json": len(STATEMENTS), "chat.json": len(DIALOGUES)}
