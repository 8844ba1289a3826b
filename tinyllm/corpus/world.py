"""The bundled world: facts from tables, each said in several forms and some of them also asked.

A table (tables/NAME.tsv) has a row per thing; forms.toml has the sentences, with columns as blanks.
Every form of every fact is a statement to pretrain on, and a drawn part of the facts is also asked in
dialogues; whether the model can answer the questions of the others is what the last lines of a run measure.
Order: Fact, tables, sentences, facts, the entries of the two files that training reads.
"""

from __future__ import annotations

import csv
import json
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from tinyllm.rng import key

LANGUAGES = ("en", "zh")
ASKED = 0.8  # the part of the facts that dialogues ask about
ENTRIES = 2  # of chat.json for a fact: an epoch asks about it so often, each time in one of some forms
NAMED = ("countries", "elements", "animals", "planets", "calendar", "week", "opposites", "words", "units")


class Fact(NamedTuple):
    """One fact in one language: a relation of one thing, in all its forms."""

    relation: str
    language: str  # one of LANGUAGES
    things: tuple[str, ...]  # what it is about, sorted: a word and its opposite, the two numbers of a sum
    said: tuple[str, ...]  # statements; the first is the answer to every question
    asked: tuple[str, ...]  # questions of the dialogues, where the fact is one of those they ask about
    otherwise: tuple[str, ...]  # other ways to ask, which occur in no text
    also: tuple[str, ...]  # other right answers: a sum with its numbers exchanged
    is_asked: bool  # in dialogues: drawn once and for all, the same for all facts of the same things
    entries: int  # of chat.json that ask about it

    @property
    def answer(self) -> str:
        """The statement that answers the fact's questions."""
        return self.said[0]

    @property
    def right(self) -> tuple[str, ...]:
        """All answers that are right."""
        return self.said + self.also


def facts() -> list[Fact]:
    """Return all facts: every relation, for every row of its table, in each language it has forms for."""
    relations: list[dict[str, Any]] = _forms()["relation"]
    return [
        _fact(relation, row, language)
        for relation in relations
        for row in rows(relation["table"])
        for language in LANGUAGES
        if language in relation
    ]


def rows(table: str) -> list[dict[str, str]]:
    """Return the rows of a table by the names of their columns; sums and products are computed."""
    if table == "sums":
        return [_result(a, b, a + b) for a in range(1, 10) for b in range(1, 11 - a)]
    if table == "products":
        return [_result(a, b, a * b) for a in range(2, 10) for b in range(2, 10)]
    found = list(csv.DictReader(_read(f"tables/{table}.tsv").splitlines(), delimiter="\t"))
    if table == "opposites":  # each is the opposite of the other
        found += [
            {"en": row["other_en"], "other_en": row["en"], "zh": row["other_zh"], "other_zh": row["zh"]}
            for row in found
        ]
    return found


def names() -> list[tuple[str, str]]:
    """Return the names of all things, each with its language."""
    found = [
        (row.get(language) or row[f"whole_{language}"], language)
        for table in NAMED
        for row in rows(table)
        for language in LANGUAGES
    ]
    return list(dict.fromkeys(found))


def pairs(language: str) -> Iterator[tuple[str, str]]:
    """Yield each name in the language with the next in an order of chance."""
    found = [name for name, its_language in names() if its_language == language]
    found.sort(key=lambda name: key(0, "pair", language, name))
    yield from zip(found, found[1:] + found[:1], strict=True)


def statements() -> Iterator[str]:
    """Yield the entries of pretraining.json: every form of every fact, and statements.json."""
    for fact in facts():
        yield from fact.said
    yield from json.loads(_read("statements.json"))


def dialogues() -> Iterator[Any]:
    """Yield the entries of chat.json: the facts that are asked about, and dialogues.json."""
    for fact in facts():
        if fact.is_asked:
            for i in range(fact.entries):
                asked = fact.asked[i :: fact.entries]
                around = _forms()["around"][fact.language][i :: fact.entries]
                prompt = [*asked, *(form.format(asked[0]) for form in around)]
                yield {"prompt": prompt, "response": fact.answer}
    for name, language in names():
        yield _repeated("repeat", language, name=name)
    for language in LANGUAGES:
        yield from (_repeated("pair", language, a=a, b=b) for a, b in pairs(language))
        yield from (_repeated("numbers", language, **row) for row in rows("products"))
    for entry in json.loads(_read("dialogues.json")):
        # What people say first, and in many words: an epoch has every form.
        several = isinstance(entry.get("prompt"), list)
        yield from ({**entry, "prompt": form} for form in entry["prompt"]) if several else [entry]


@cache
def _forms() -> dict[str, Any]:
    return tomllib.loads(_read("forms.toml"))


def _repeated(kind: str, language: str, **things: str) -> dict[str, Any]:
    forms = _forms()[kind][language]
    asked = [form.format(**things) for form in forms["asked"]]
    return {"prompt": asked, "response": forms["said"].format(**things)}


def _read(name: str) -> str:
    return resources.files("tinyllm.corpus").joinpath(name).read_text(encoding="utf-8")


def _result(a: int, b: int, result: int) -> dict[str, str]:
    return {"a": str(a), "b": str(b), "result": str(result)}


def _fact(relation: dict[str, Any], row: dict[str, str], language: str) -> Fact:
    # A column in one language, such as capital_en, fills the blank {capital}; the thing's own name, in the
    # column en or zh, fills {name}.
    blanks = {column.removesuffix(f"_{language}"): value for column, value in row.items()}
    blanks["name"] = row.get(language, "")
    forms = relation[language]

    def filled(kind: str) -> tuple[str, ...]:
        return tuple(_sentence(form.format_map(blanks)) for form in forms.get(kind, ()))

    # A relation that holds both ways is asked about in both directions or in neither.
    things = sorted(filter(None, (blanks.get(blank) for blank in ("name", "other", "whole", "a", "b"))))
    drawn = key(0, "asked", relation["name"], language, *things) < ASKED * 2**64
    is_asked, entries = relation.get("all_asked", False) or drawn, relation.get("entries", ENTRIES)
    said, asked, otherwise, also = map(filled, ("said", "asked", "otherwise", "also"))
    return Fact(relation["name"], language, tuple(things), said, asked, otherwise, also, is_asked, entries)


def _sentence(text: str) -> str:
    """Return a sentence with its first letter capital, and `an` where English wants it."""
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    return text[:1].upper() + text[1:]
