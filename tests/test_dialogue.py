"""A conversation has one form: what chat sends is, token for token, what training saw."""

from itertools import accumulate

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from tinyllm.text.dialogue import (
    CHINESE,
    ENGLISH,
    STOP_MARKERS,
    Segment,
    Turn,
    encode,
    joined,
    parse,
    prompt_for,
    render,
    stripped,
    system_text,
)
from tinyllm.text.tokenizer import train_bpe

WORDS = st.text(st.sampled_from("ab 你好，？:"), max_size=8)
TURNS = st.lists(st.builds(Turn, st.sampled_from(["system", "user", "assistant"]), WORDS), max_size=6).map(
    stripped
)


class Bytes:
    """UTF-8 bytes, and 256 for the end of a text."""

    vocab_size, end_of_text = 257, 256

    def encode_all(self, texts):
        ids = np.frombuffer("".join(texts).encode(), np.uint8).astype(np.int32)
        return ids, list(accumulate(len(text.encode()) for text in texts))

    def fingerprint(self):
        return "bytes"


def prompts_and_answers(text):
    return [(segment.text, segment.carries_loss) for segment in joined(render(parse(text)))]


def test_every_marker_every_question_and_every_answer_is_a_segment():
    assert [segment.text for segment in render(parse("简短。用户：一助手：二用户：三助手：四"))] == [
        "简短。\n", "用户：", "一", "助手：", "二", "用户：", "三", "助手：", "四",
    ]  # fmt: skip
    assert [segment.text for segment in render(parse("User: a Assistant: b"))] == [
        "User:", " a", " Assistant:", " b",
    ]  # fmt: skip


MERGED = train_bpe(["用户：你好助手：好助 aAssistant: Assistant:"] * 9, 400)
QUESTIONS = st.text(st.sampled_from("ab 你好助手，。？:：A\n")).map(str.strip).filter(bool)


@given(QUESTIONS)
@example("你好")
@example("a")
def test_a_marker_has_the_same_tokens_whatever_the_question_says(question):
    assert "好助" in {MERGED.decode([i]) for i in range(MERGED.vocab_size)}
    template = CHINESE if CHINESE.user in render([Turn("user", question)])[0] else ENGLISH
    found, _ = encode(MERGED, prompt_for([Turn("user", question)]))
    before, behind = MERGED.encode(template.user), MERGED.encode(template.space + template.assistant)
    np.testing.assert_array_equal(found[1 : 1 + len(before)], before)
    np.testing.assert_array_equal(found[-len(behind) :], behind)


def test_the_joined_segments_are_the_prompts_of_earlier_runs():
    """Their checkpoints continue: the texts have the same digest and the same tokens."""
    turns = (
        Turn("system", "s"), Turn("user", "a"), Turn("assistant", "b"), Turn("assistant", "c"),
        Turn("user", "d"), Turn("user", "你"), Turn("assistant", "e"), Turn("user", "f"),
    )  # fmt: skip
    assert joined(render(turns)) == (
        Segment("s\nUser: a Assistant:", False), Segment(" b"), Segment("Assistant:", False), Segment(" c"),
        Segment("User: d 用户：你助手：", False), Segment("e"), Segment("User: f ", False),
    )  # fmt: skip


@given(TURNS)
def test_the_runs_of_masked_tokens_do_not_depend_on_the_segments(turns):
    for segments in (render(turns), joined(render(turns))):
        masked = encode(Bytes(), segments)[1]
        assert masked == sorted(set(masked))  # no run is empty, none touches the next
    apart, together = encode(Bytes(), render(turns)), encode(Bytes(), joined(render(turns)))
    np.testing.assert_array_equal(apart[0], together[0])
    assert apart[1] == together[1]


def test_the_system_text_is_what_stands_before_the_first_marker():
    assert system_text(render(parse("简短。用户：一助手：二"))) == "简短。"
    assert system_text(render([Turn("system", "User:"), Turn("assistant", "b")])) == "User:"
    assert system_text(render([Turn("user", "a"), Turn("system", "s"), Turn("assistant", "b")])) == ""
    assert system_text((Segment("running text"),)) is None


def test_a_chinese_conversation_is_cut_behind_the_marker_of_the_answer():
    assert prompts_and_answers("用户：你好！助手：你好！有什么事？") == [
        ("用户：你好！助手：", False),
        ("你好！有什么事？", True),
    ]


def test_an_english_answer_begins_with_its_space():
    assert prompts_and_answers("User: hi Assistant: hello there") == [
        ("User: hi Assistant:", False),
        (" hello there", True),
    ]


def test_several_turns_carry_loss_in_each_answer():
    assert prompts_and_answers("用户：一助手：二用户：三助手：四\n五") == [
        ("用户：一助手：", False),
        ("二", True),
        ("用户：三助手：", False),
        ("四\n五", True),
    ]


def test_lines_and_half_width_colons_are_read_and_written_in_the_one_form():
    assert prompts_and_answers("用户: 你好\n助手: 好") == prompts_and_answers("用户：你好助手：好")
    assert prompts_and_answers("User: hi\nAssistant:hello\n") == prompts_and_answers(
        "User: hi Assistant: hello"
    )


def test_each_question_chooses_the_markers_by_its_own_text():
    assert prompts_and_answers("用户：hi助手：你好用户：再见助手：bye") == [
        ("User: hi Assistant:", False),
        (" 你好", True),
        ("用户：再见助手：", False),
        ("bye", True),
    ]


def test_an_answer_may_name_its_own_marker():
    assert parse("用户：你是谁？助手：我是助手：小智") == (
        Turn("user", "你是谁？"),
        Turn("assistant", "我是助手：小智"),
    )


def test_a_word_that_ends_like_a_marker_is_no_marker():
    assert parse("SuperUser: hi Assistant: hello") == ()
    assert parse("User: a MyAssistant: b Assistant: c")[0] == Turn("user", "a MyAssistant: b")


def test_what_stands_before_the_first_question_is_a_system_turn_without_loss():
    assert prompts_and_answers("简短回答。用户：一助手：二") == [
        ("简短回答。\n用户：一助手：", False),
        ("二", True),
    ]


def test_text_without_question_and_answer_is_no_conversation():
    for text in ("", "天气很好。", "用户：你好", "助手：你好", "助手：你好用户：你好", "用户和助手"):
        assert parse(text) == ()


def test_a_question_without_an_answer_carries_no_loss():
    assert prompts_and_answers("用户：一助手：二用户：三")[2:] == [("用户：三", False)]
    assert prompts_and_answers("用户：一助手：") == [("用户：一", False)]


@given(TURNS, WORDS.filter(str.strip), WORDS.filter(str.strip))
def test_the_prompt_of_chat_is_the_beginning_of_the_same_conversation_in_training(history, question, answer):
    asked = [*history, Turn("user", question.strip())]
    trained, _ = encode(Bytes(), render([*asked, Turn("assistant", answer.strip())]))
    prompt, _ = encode(Bytes(), prompt_for(asked))
    np.testing.assert_array_equal(trained[: len(prompt)], prompt)
    rest = bytes(trained[len(prompt) : -1].astype(np.uint8)).decode()
    assert rest.strip() == answer.strip() and trained[-1] == 256


@given(TURNS)
def test_every_prompt_asks_and_the_questions_markers_are_the_stop_markers(turns):
    for turn in turns:
        if turn.role == "user":
            assert render([turn])[0].text.startswith(STOP_MARKERS)


def test_end_of_text_stands_before_a_document_and_after_each_answer():
    tokens, masked = encode(Bytes(), [Segment("q", False), Segment("ab"), Segment("r", False), Segment("c")])
    assert tokens.tolist() == [256, *b"q", *b"ab", 256, *b"r", *b"c", 256]
    assert masked == [1, 2, 5, 6]
