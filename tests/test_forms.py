"""A question's forms ask the same in other words, and leave the answer's tokens as they are."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_dialogue import Bytes
from tinyllm.config import DataConfig
from tinyllm.text.dialogue import Turn, encode, is_chinese, parse, render
from tinyllm.text.forms import forms, variants
from tinyllm.text.texts import Texts

FORMS = {
    "什么是算法？": "什么是算法？ 什么是算法 什么是算法? 请问什么是算法？ 请问什么是算法 "
    "算法是什么？ 算法是什么 什么叫算法？ 什么叫算法 算法是啥？ 算法是啥",
    "git 是什么": "git 是什么|git 是什么？|git 是什么?|请问 git 是什么？|请问 git 是什么"
    "|什么是 git？|什么是 git|git 是啥？|git 是啥",
    "法国的首都是什么？": "法国的首都是什么？ 法国的首都是什么 法国的首都是什么? "
    "请问法国的首都是什么？ 请问法国的首都是什么 法国的首都是啥？ 法国的首都是啥",
    "谁是李白": "谁是李白 谁是李白？ 谁是李白? 请问谁是李白？ 请问谁是李白 李白是谁？ 李白是谁",
    "怎样泡茶?": "怎样泡茶? 怎样泡茶 请问怎样泡茶? 请问怎样泡茶 怎么泡茶? 怎么泡茶 如何泡茶? 如何泡茶",
    "6乘7等于多少": "6乘7等于多少 6乘7等于多少？ 6乘7等于多少? 请问6乘7等于多少？ 请问6乘7等于多少",
    "讲个笑话": "讲个笑话 讲个笑话。 讲个笑话.",
    "你好！": "你好！ 你好 你好!",
    "我累了，想睡。": "我累了，想睡。 我累了，想睡 我累了，想睡. 我累了,想睡.",
    "What is an Alp?": "What is an Alp?|What is an Alp|what is an alp?|what is an alp|what is an Alp"
    "|What's an Alp?|What's an Alp|what's an alp",
    "who's Ann": "who's Ann|who's Ann?|who's ann?|who's ann|who is Ann?|who is Ann|who is ann",
    "Thanks": "Thanks|Thanks.|thanks.|thanks",
}  # fmt: skip


@pytest.mark.parametrize("question", FORMS)
def test_these_are_the_forms_of_a_question(question):
    expected = FORMS[question]
    assert list(forms(question)) == expected.split("|" if "|" in expected else " ")


@pytest.mark.parametrize(
    ("question", "wrong"),
    [
        ("你是谁？", "谁是你"), ("他是什么？", "什么是他"), ("算法到底是什么？", "什么是算法到底"),
        ("你叫什么是好？", "请问请问"), ("这本书怎么样？", "如何样"), ("你怎么了？", "如何了"),
        ("他是怎样的人？", "怎么的人"), ("怎么会呢？", "请问"), ("你好！", "请问"),
        ("请问他是谁？", "请问请问"),
        ("那它呢？", "请问"), ("讲个笑话", "请问"), ("Where is it?", "Where's it"), ("Is `A` a?", "is `a`"),
        ('What is "A"?', 'what'), ("什么事？！", "什么事？ "), ("为什么……", "为什么…？"),
    ],
)  # fmt: skip
def test_a_form_that_would_be_wrong_is_none(question, wrong):
    assert not any(wrong in form for form in forms(question))


@pytest.mark.parametrize(
    "question", ["", "？", "...", "What?!", "Add.\n2 3", "长" * 81, "What is X？", "1+1=？"]
)
def test_a_question_that_is_none_or_could_change_has_one_form(question):
    assert forms(question) == (question,)


QUESTIONS = st.text(st.sampled_from("什么是怎样谁的法git A'?？!。，,`\n在哪里吗s "), max_size=12).map(
    str.strip
)


@given(QUESTIONS.filter(bool))
def test_forms_begin_with_the_question_are_few_and_keep_its_language(question):
    found = forms(question)
    assert found[0] == question and len(set(found)) == len(found) <= 11
    assert all(form.strip() and is_chinese(form) == is_chinese(question) for form in found)


@given(
    st.lists(st.tuples(QUESTIONS.filter(bool), st.sampled_from(["a", "好", "是。"])), min_size=1, max_size=3)
)
def test_a_variant_has_the_turns_and_the_answers_of_its_dialogue(pairs):
    turns = [
        turn for question, answer in pairs for turn in (Turn("user", question), Turn("assistant", answer))
    ]
    found = variants(turns)
    assert len({tuple(turns), *found}) == len(found) + 1 == max(len(forms(question)) for question, _ in pairs)
    with_loss = [segment for segment in render(turns) if segment.carries_loss]
    for other in found:
        assert [segment for segment in render(other) if segment.carries_loss] == with_loss
        for (role, content), (_, form) in zip(turns, other, strict=True):
            assert form in (forms(content) if role == "user" else (content,))


def test_the_answers_of_variants_have_the_very_tokens():
    turns = parse("User: What is ice? Assistant: Water.")

    def answer(turns):
        tokens, masked = encode(Bytes(), render(turns))
        return tokens[masked[-1] :].tolist()

    assert all(answer(other) == answer(turns) for other in variants(turns))
    assert len(variants(turns)) == 6


def test_nearly_every_bundled_question_has_other_forms():
    path = Path(str(files("tinyllm.corpus") / "chat.json"))
    texts = list(Texts([path], dialogues=True, data=DataConfig(vary_questions=True)))
    assert sum(len(text.alternatives) > 1 for text in texts) > 0.95 * len(texts)
