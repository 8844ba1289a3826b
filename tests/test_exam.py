"""An exam asks what it says it asks, as a chat would, and counts only answers that are right."""

from __future__ import annotations

from tests.models import KNOWN, chain_of, random_state
from tinyllm.config import ModelConfig
from tinyllm.corpus import world
from tinyllm.inference import exam
from tinyllm.inference.conversation import answer
from tinyllm.inference.exam import Answer, Question
from tinyllm.inference.language_model import LanguageModel
from tinyllm.text.dialogue import Turn, render
from tinyllm.text.texts import Text
from tinyllm.text.tokenizer import BPETokenizer

MODEL = LanguageModel.of(random_state(ModelConfig(1, 2, 8, 64), BPETokenizer(())))
FACTS = world.facts()


def asked(text: str, *answers: str, exact: bool = False) -> Question:
    return Question((Turn("user", text),), answers, exact)


def dialogue(*contents: str) -> Text:
    turns = [Turn(("user", "assistant")[i % 2], content) for i, content in enumerate(contents)]
    return Text(render(turns))


def test_an_exact_question_wants_one_of_its_answers_word_for_word():
    question = asked("Where?", "It is in Europe.", "It lies in Europe.", exact=True)
    assert Answer(question, "It lies in Europe.").is_right
    assert not Answer(question, "It is in Europe").is_right
    assert Answer(question._replace(exact=False), "It is in Europe").is_right
    assert not Answer(question._replace(exact=False), "I do not know that.").is_right
    assert not Answer(question, "").is_right


def test_a_model_is_asked_as_in_a_chat_and_answers_the_same():
    questions = [asked("嗨"), asked("天气"), asked("Hi there")]
    said = [each.said for each in exam.ask(MODEL, questions)]
    assert said == [
        answer(MODEL, question.turns[0].content, max_tokens=exam.LONGEST) for question in questions
    ]
    told = LanguageModel.of(chain_of("：你好呀", more=KNOWN))
    assert [each.said for each in exam.ask(told, questions[:2])] == ["你好呀", "你好呀"]


def test_after_another_question_stands_that_question_and_what_the_model_said():
    questions = [asked("嗨"), asked("天气"), Question((Turn("system", "短"), Turn("user", "嗨")), ("x",))]
    answers = exam.ask_after_another(MODEL, questions)  # the last has turns of its own and is left out
    alone = exam.ask(MODEL, questions[:2])
    for given, first, question in zip(answers, alone, (questions[1], questions[0]), strict=True):
        assert given.question.turns == (*first.question.turns, Turn("assistant", first.said), *question.turns)


def test_trained_questions_are_the_first_of_dialogues_spread_over_the_texts():
    texts = [dialogue(f"问题{i}？", f"回答{i}。", "还有？", "没有。") for i in range(20)]
    found = exam.trained([Text(dialogue("x").segments), *texts], 4)
    assert [question.turns[-1].content for question in found] == [f"问题{i}？" for i in (0, 5, 10, 15)]
    assert [question.answers for question in found] == [(f"回答{i}。",) for i in (0, 5, 10, 15)]
    found_first = exam.trained([Text(dialogue("x").segments), *texts], 4, held_out={1, 6})
    assert [question.turns[-1].content for question in found_first[:2]] == ["问题1？", "问题6？"]
    others = exam.in_other_words(found)
    assert len(others) == 4 and not {q.turns for q in others} & {q.turns for q in found}
    assert exam.in_other_words([asked("Repeat: a")]) == []


def test_questions_about_facts_are_drawn_from_those_facts_in_both_languages():
    rest = [fact for fact in FACTS if not fact.is_asked]
    questions = exam.of_facts(rest, 20, (0, "test"), otherwise=False)
    assert questions == exam.of_facts(rest, 20, (0, "test"), otherwise=False)
    assert questions != exam.of_facts(rest, 20, (1, "test"), otherwise=False)
    by_question = {question: fact for fact in rest for question in fact.asked}
    found = [by_question[question.turns[0].content] for question in questions]
    assert [fact.language for fact in found] == ["en"] * 10 + ["zh"] * 10
    assert all(question.answers == fact.right for question, fact in zip(questions, found, strict=True))


def test_an_exam_of_other_texts_has_no_part_about_facts():
    texts = [dialogue("你好！", "你好呀。"), dialogue("天气？", "很好。")]
    names = [part.name for part in exam.exam(MODEL, texts, [], 2)]
    assert names == ["trained questions", "the same asked in another way", "after another question"]
    parts = exam.exam(MODEL, texts, FACTS, 2)
    assert [part.name for part in parts] == [*names, "never asked in training"]
    assert all(part.right == 0 for part in parts) and [len(part.answers) for part in parts] == [2] * 4
