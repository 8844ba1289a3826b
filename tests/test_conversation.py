"""A conversation stays within the window, continues in it, and its answers end where they should."""

from __future__ import annotations

import dataclasses
import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import KNOWN, chain_of, chain_state, random_state
from tinyllm.config import ModelConfig
from tinyllm.inference.conversation import Conversation, answer, until_marker
from tinyllm.inference.decode import Decoder
from tinyllm.inference.language_model import Form, LanguageModel
from tinyllm.inference.settings import GREEDY, Sampling
from tinyllm.text.dialogue import STOP_MARKERS, Turn, encode, prompt_for
from tinyllm.text.tokenizer import BPETokenizer, train_bpe


def talker(seed=0, block_size=24, max_tokens=8):
    config = ModelConfig(n_layer=2, n_head=2, n_embd=8, block_size=block_size)
    return Conversation(LanguageModel.of(random_state(config, BPETokenizer(()), seed)), GREEDY, max_tokens, 0)


def test_the_window_may_fill_many_times_and_every_question_is_answered():
    state = chain_of("：你好呀", more=KNOWN)
    model = LanguageModel.of(state)
    small = LanguageModel.of(chain_state(state.tokenizer, follows_of(state), block_size=16))
    for each in (model, small):
        talk = Conversation(each, GREEDY, 8, 0)
        for _ in range(30):
            said = "".join(talk.answer(talk.prompt("嗨")))
            assert said == "你好呀"
            talk.remember("嗨", said)
        assert talk.first > 0


def follows_of(state):
    """Return what follows each token in a `chain_state`."""
    return dict(enumerate(state.layout.views(state.rows[0]).blocks[0].mlp.down_weight.argmax(axis=0)[:-1]))


@settings(max_examples=60)
@given(
    exchanges=st.lists(st.tuples(st.text("ab你 ", min_size=1), st.text("cd好", min_size=1)), max_size=6),
    block_size=st.integers(1, 120),
    max_tokens=st.integers(1, 40),
)
def test_the_newest_turns_that_fit_are_the_prompt_as_training_saw_them(exchanges, block_size, max_tokens):
    talk = talker(block_size=block_size, max_tokens=max_tokens)
    for question, said in exchanges:
        talk.remember(question, said)
    found = talk.prompt("why?")
    room = block_size - min(max_tokens, block_size // 4)

    def prompt_from(first):
        turns = [*talk.turns[first:], Turn("user", "why?")]
        return encode(talk.model.tokenizer, prompt_for(turns))[0]

    np.testing.assert_array_equal(found, prompt_from(talk.first))
    assert found.size <= room or talk.first == len(talk.turns)
    assert talk.first == 0 or prompt_from(talk.first - 2).size > room


@given(exchanges=st.integers(0, 5), memory=st.integers(0, 6))
@settings(max_examples=20)
def test_with_a_memory_of_n_the_model_sees_the_last_n_exchanges(exchanges, memory):
    talk = talker(block_size=1000)
    talk.memory = memory
    for i in range(exchanges):
        talk.remember(f"question {i}", f"answer {i}")
    seen = [Turn(*turn) for turn in talk.turns[2 * max(0, exchanges - memory) :]]
    expected = encode(talk.model.tokenizer, prompt_for([*seen, Turn("user", "why?")]))[0]
    np.testing.assert_array_equal(talk.prompt("why?"), expected)


@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_a_conversation_continues_as_one_restored_from_its_turns(seed):
    talk = talker(seed, block_size=100)
    for question in ("one", "二", "three", "four"):
        restored = talker(seed, block_size=100)
        restored.turns = list(talk.turns)
        said = "".join(talk.answer(talk.prompt(question)))
        assert said == "".join(restored.answer(restored.prompt(question)))
        talk.remember(question, said)


def test_only_what_is_new_in_a_conversation_is_computed(monkeypatch):
    lengths, real = [], Decoder.extend

    def counted(decoder, b, tokens):
        lengths.append(tokens.size)
        return real(decoder, b, tokens)

    monkeypatch.setattr(Decoder, "extend", counted)
    talk = talker(block_size=400)
    question = "a" * 100
    for expected in (120, 60):
        lengths.clear()
        "".join(talk.answer(talk.prompt(question)))
        talk.remember(question, "b")
        assert len(lengths) == 1 and lengths[0] < expected
        question = "short"


def test_an_answer_does_not_end_before_it_begins():
    model = LanguageModel.of(chain_of("你好", more="：" + KNOWN))  # after ： it would end
    assert answer(model, "嗨") != ""


def test_asking_again_samples_another_answer():
    talk = talker(max_tokens=20)
    talk.sampling = Sampling(temperature=5.0)
    assert "".join(talk.answer(talk.prompt("hi"))) != "".join(talk.answer(talk.prompt("hi")))


TURN = re.compile(r"""(?:^|\n|[。！？…!?]["'”’」』）)]*|[.]["'”’)]*[ \t])\s*(?=用户：|User:)""")


@given(
    text=st.lists(st.sampled_from([*"a 用户：Usr:\n好。.”", *STOP_MARKERS]), max_size=20).map("".join),
    cuts=st.lists(st.integers(0, 40), max_size=8),
)
def test_an_answer_is_the_text_before_the_first_turn_however_it_arrives(text, cuts):
    places = sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})
    pieces = [text[a:b] for a, b in itertools.pairwise(places)]
    end = TURN.search(text.lstrip())
    found = list(until_marker(pieces))
    assert "".join(found) == text.lstrip()[: end.end() if end else None].strip()
    assert all(found)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("请用 SuperUser: root", None), ("以超级用户：root 登录。", None), ("the SuperUser: root", None),
        ("Set the field User: to root.", None), ("在「用户：」一栏填写", None), ("os.User: str", None),
        ("好的。用户：再见", "好的。"), ("他说“好。” 用户：再见", "他说“好。”"), ("Yes. User: bye", "Yes."),
        ("Yes\nUser: bye", "Yes"), ("好\n\n  用户：再见", "好"), ("用户：再见", ""), (" User: bye", ""),
    ],
)  # fmt: skip
def test_a_marker_ends_an_answer_only_where_a_turn_can_begin(text, answer):
    expected = text if answer is None else answer
    assert "".join(until_marker([text])) == "".join(until_marker(text)) == expected


def test_an_answer_is_shown_as_soon_as_it_cannot_become_a_marker():
    def slowly():
        for character in "好的。用法用户 U x":
            arrived.append(character)
            yield character

    arrived: list[str] = []
    shown = [(piece, len(arrived)) for piece in until_marker(slowly())]
    assert shown == [
        ("好", 1), ("的", 2), ("。", 3), ("用法", 5), ("用", 6), ("户", 7), (" U", 9), (" x", 11)
    ]  # fmt: skip


def test_the_system_text_stands_before_whatever_is_remembered():
    talk = talker(block_size=100)
    talk.system = "Be brief."
    for i in range(9):
        prompt = talk.prompt(f"question {i}")
        expected = [Turn("system", "Be brief."), *talk.turns[talk.first :], Turn("user", f"question {i}")]
        np.testing.assert_array_equal(prompt, encode(talk.model.tokenizer, prompt_for(expected))[0])
        assert prompt.size <= talk.room
        talk.remember(f"question {i}", "answer")
    assert talk.first > 0


def test_a_system_text_of_training_that_fills_the_window_is_left_out():
    model = talker(block_size=100).model
    for length, used in ((97, True), (98, False)):  # of 100: a new line, end_of_text, 1 for an answer
        form = Form(system="s" * length)
        talk = Conversation(dataclasses.replace(model, form=form), GREEDY, 1, 0)
        assert bool(talk.system) is used


def test_a_model_of_joined_markers_reads_its_prompts_as_its_training_did():
    model = talker(block_size=100).model
    model = dataclasses.replace(
        model, form=Form(separate_markers=False), tokenizer=train_bpe(["你好助手：用户："] * 9, 300)
    )
    prompt = Conversation(model, GREEDY, 8, 0).prompt("你好")
    np.testing.assert_array_equal(prompt[1:], model.tokenizer.encode("用户：你好助手："))


def test_a_state_in_memory_answers_a_question():
    state = chain_of("：你好呀", more=KNOWN)
    assert answer(LanguageModel.of(state), "嗨") == "你好呀"
    assert answer(LanguageModel.of(state), "嗨", max_tokens=2) == "你好"
