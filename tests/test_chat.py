"""chat: every question is answered on stdout, and no line that is typed ends it but :exit."""

from __future__ import annotations

import io
import itertools
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import chain_of, chain_state, random_state, saved
from tinyllm import chat
from tinyllm.config import ModelConfig
from tinyllm.inference.conversation import Conversation, answer, until_marker
from tinyllm.inference.language_model import LanguageModel
from tinyllm.inference.settings import GREEDY, Sampling
from tinyllm.text.dialogue import STOP_MARKERS, Turn, encode, parse, prompt_for
from tinyllm.text.texts import Texts
from tinyllm.text.tokenizer import BPETokenizer

ROOT = Path(__file__).parents[1]
KNOWN = "用户助手嗨天气UserAsitan: \n"


def run(file, *lines, options=(), out=None):
    """Return (exit code, stdout, stderr) of a session in which `lines` are typed."""
    out, err = out or io.StringIO(), io.StringIO()
    stdin = io.StringIO("".join(line + "\n" for line in lines))
    try:
        code = chat.main([str(file), *options], stdin, out, err)
    except SystemExit as error:
        code = error.code
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def polite(tmp_path_factory):
    """A model that answers 你好呀 to everything that is asked in Chinese, hey! to English."""
    state = chain_of("：你好呀 :hey!", more=KNOWN)
    return saved(state, tmp_path_factory.mktemp("polite"))


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """A model that never ends by itself."""
    return saved(chain_of("：xyzx", more=KNOWN), tmp_path_factory.mktemp("endless"))


def talker(seed=0, block_size=24, max_tokens=8):
    config = ModelConfig(n_layer=2, n_head=2, n_embd=8, block_size=block_size)
    return Conversation(LanguageModel.of(random_state(config, BPETokenizer(()), seed)), GREEDY, max_tokens, 0)


def test_a_single_question_gets_its_answer_alone_on_stdout(polite):
    assert run(polite, options=["--prompt", "嗨"]) == (0, "你好呀\n", "")
    assert run(polite, options=["--prompt=Us"]) == (0, "hey!\n", "")
    assert run(polite, "嗨", options=["--prompt=-"]) == (0, "你好呀\n", "")


def test_stdout_holds_the_answers_alone_and_the_end_of_the_input_ends_the_chat(polite):
    code, out, err = run(polite, "嗨", "", "   ", "Us", "天气")
    assert (code, out) == (0, "你好呀\nhey!\n你好呀\n")
    assert ":help" in err and "你好呀" not in err


def test_nothing_that_is_typed_ends_the_chat_but_exit(polite):
    typed = [
        ":foo", ":", "::", ":)", ":set", ":set temperature", ":set temperature=hot", ":set temperature=-1",
        ":set top_p=0", ":set top_k=1.5", ":set colour=1", ":set =", ":save", ":save /no/such/place/x",
        ":help me", ":exit now", ":SET top_p 0.5", "：help", "嗨Ω", "\udcff", "\x00",
    ]  # fmt: skip
    code, out, err = run(polite, *typed, "嗨", ":exit", "天气")
    assert (code, out) == (0, "hey!\nhey!\n你好呀\n")  # ":" and "::" are questions
    for message in [
        ":foo is no command; :help shows them", "expected a value, as in :set temperature=1",
        "temperature: found 'hot', expected a number", "--temperature: found -1.0", "--top-p: found 0.0",
        "top_k: found '1.5', expected a whole number", "colour: expected one of temperature, top_k",
        "expected a path", "/no/such/place/x: No such file", ":exit now is no command", "top_p=0.5",
        "found 'Ω'",
    ]:  # fmt: skip
        assert message in err


def test_the_window_may_fill_many_times_and_every_question_is_answered(tmp_path):
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
    code, out, err = run(saved(state, tmp_path), *["嗨"] * 20)
    assert (code, out) == (0, "你好呀\n" * 20)
    assert err.count("oldest turns are forgotten") == 1


def follows_of(state):
    """Return what follows each token in a `chain_state`."""
    return dict(enumerate(state.layout.views(state.rows[0]).blocks[0].mlp.down_weight.argmax(axis=0)[:-1]))


def test_a_question_longer_than_the_window_is_answered_too(polite):
    code, out, err = run(polite, "嗨" * 500)
    assert (code, out) == (0, "你好呀\n")
    assert "only its end is seen" in err


def test_an_answer_may_be_longer_than_the_window(endless):
    code, out, _ = run(endless, "嗨", options=["--max-tokens=300"])
    assert (code, out) == (0, "xyz" * 100 + "\n")


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


def test_a_memory_that_was_asked_for_forgets_without_a_word(polite):
    code, out, err = run(polite, *["嗨"] * 9, options=["--memory=1"])
    assert (code, out) == (0, "你好呀\n" * 9) and "forgotten" not in err


@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_a_conversation_goes_on_as_one_that_is_taken_up_anew(seed):
    talk = talker(seed, block_size=100)
    for question in ("one", "二", "three", "four"):
        anew = talker(seed, block_size=100)
        anew.turns = list(talk.turns)
        said = "".join(talk.answer(talk.prompt(question)))
        assert said == "".join(anew.answer(anew.prompt(question)))
        talk.remember(question, said)


def test_only_what_is_new_in_a_conversation_is_computed(monkeypatch):
    from tinyllm.inference import language_model as inference

    lengths, real = [], inference.extend

    def counted(p, cache, tokens):
        lengths.append(tokens.shape[1])
        return real(p, cache, tokens)

    monkeypatch.setattr(inference, "extend", counted)
    talk = talker(block_size=400)
    question = "a" * 100
    for expected in (120, 60):
        lengths.clear()
        "".join(talk.answer(talk.prompt(question)))
        talk.remember(question, "b")
        assert lengths[0] < expected
        assert set(lengths[1:]) <= {1}
        question = "short"


def test_an_answer_does_not_end_before_it_begins():
    model = LanguageModel.of(chain_of("你好", more="：" + KNOWN))  # after ： it would end
    assert answer(model, "嗨") != ""


def test_to_ask_again_is_to_draw_anew():
    talk = talker(max_tokens=20)
    talk.sampling = Sampling(temperature=5.0)
    assert "".join(talk.answer(talk.prompt("hi"))) != "".join(talk.answer(talk.prompt("hi")))


@given(
    text=st.text("a 用户：Usr:\n好", max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=8),
)
def test_an_answer_is_the_text_before_the_first_marker_however_it_arrives(text, cuts):
    places = sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})
    pieces = [text[a:b] for a, b in itertools.pairwise(places)]
    ends = [text.find(marker) for marker in STOP_MARKERS if marker in text]
    found = list(until_marker(pieces))
    assert "".join(found) == text[: min(ends, default=len(text))].strip()
    assert all(found)


def test_an_answer_is_shown_as_soon_as_it_cannot_become_a_marker():
    def slowly():
        for character in "好的。用法 U x":
            arrived.append(character)
            yield character

    arrived: list[str] = []
    shown = [(piece, len(arrived)) for piece in until_marker(slowly())]
    assert shown == [("好", 1), ("的", 2), ("。", 3), ("用法", 5), (" U", 8), (" x", 9)]


def test_an_answer_ends_where_the_model_asks_itself_the_next_question(tmp_path):
    state = chain_of("：你好用户：", more=KNOWN)
    assert run(saved(state, tmp_path), "嗨", "嗨")[:2] == (0, "你好\n你好\n")


def test_a_model_with_nothing_to_say_is_not_silent(tmp_path):
    code, out, err = run(saved(chain_of("：用户：", more=KNOWN), tmp_path), "嗨")
    assert (code, out) == (0, "") and "(no answer" in err


def test_the_conversation_remembers_until_it_is_cleared(tmp_path):
    file = tmp_path / "before.json"
    model = saved(chain_of("：你好呀", more=KNOWN), tmp_path / "model")
    run(model, "嗨", ":clear", "天气", f":save {file}")
    assert json.loads(file.read_text("utf-8")) == [
        {"messages": [{"role": "user", "content": "天气"}, {"role": "assistant", "content": "你好呀"}]}
    ]


@pytest.mark.parametrize("name", ["talk.json", "talk.jsonl", "my talk.txt"])
def test_a_saved_conversation_is_read_by_training_as_what_was_said(polite, tmp_path, name):
    run(polite, "嗨", "Us", f":save {tmp_path / name}")
    expected = [
        Turn("user", "嗨"),
        Turn("assistant", "你好呀"),
        Turn("user", "Us"),
        Turn("assistant", "hey!"),
    ]
    (text,) = Texts([tmp_path / name], dialogues=True, documents=False)
    if name.endswith("txt"):  # a text has one language of markers
        assert (tmp_path / name).read_text("utf-8") == "用户：嗨助手：你好呀\nUser: Us Assistant: hey!\n"
        assert parse("用户：嗨助手：你好呀") == tuple(expected[:2])
    else:
        assert text.segments == (*prompt_for(expected[:3]), type(text.segments[0])(" hey!"))


def test_saving_never_overwrites_a_file(polite, tmp_path):
    file = tmp_path / "model_final.bin"
    file.write_bytes(b"precious")
    code, _, err = run(polite, "嗨", f":save {file}", f":save {tmp_path}", ":save a\x00b")
    assert code == 0 and "exists; choose another name" in err and err.count("not saved") == 3
    assert file.read_bytes() == b"precious"


def test_settings_hold_for_the_answers_that_follow(tmp_path):
    config = ModelConfig(n_layer=1, n_head=2, n_embd=8, block_size=200)
    file = saved(random_state(config, BPETokenizer(())), tmp_path)
    options = ["--max-tokens=20", "--temperature=3"]
    greedy = run(file, "hi", options=["--max-tokens=20", "--temperature=0"])[1]
    assert run(file, "hi", options=options)[1] != greedy
    assert run(file, ":set temperature=0", "hi", options=options)[1] == greedy
    assert run(file, ":set top-k 1 temperature = 2", "hi", options=options)[1] == greedy
    assert run(file, ":set top_k=1 top_p=7", "hi", options=options)[1] != greedy  # all or nothing


class Impatient(io.StringIO):
    """A stdout at which someone presses Ctrl-C when the n-th piece appears."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    def write(self, text):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().write(text)


def test_ctrl_c_ends_the_answer_and_not_the_chat(endless, tmp_path):
    file = tmp_path / "talk.json"
    code, out, err = run(endless, "嗨", "天", f":save {file}", options=["--max-tokens=9"], out=Impatient(4))
    assert (code, out) == (0, "xyz\n" + "xyzxyzxyz\n")
    assert err.count("(stopped)") == 1
    contents = [message["content"] for message in json.loads(file.read_text("utf-8"))[0]["messages"]]
    assert contents == ["嗨", "xyzx", "天", "xyzxyzxyz"]


def test_ctrl_c_during_a_single_question_ends_with_130(endless):
    code, out, _ = run(endless, options=["--prompt=嗨"], out=Impatient(3))
    assert (code, out) == (130, "xy\n")


@pytest.mark.parametrize(
    "options", [["--top-p=2"], ["--memory=-1"], ["--max-tokens=0"], ["--promt=x"], ["--temperature="]]
)
def test_a_wrong_option_ends_with_2(polite, capsys, options):
    assert run(polite, "嗨", options=options)[:2] == (2, "")
    assert options[0].split("=")[0] in capsys.readouterr().err


def test_what_cannot_be_opened_ends_with_1_and_one_line(tmp_path):
    code, out, err = run(tmp_path / "missing.bin", "嗨")
    assert (code, out) == (1, "") and err.startswith("error: ") and err.count("\n") == 1
    code, out, err = run(tmp_path / "missing.bin", options=["--prompt= "])
    assert (code, out) == (2, "") and "expected a question" in err


def test_a_state_in_memory_answers_a_question():
    state = chain_of("：你好呀", more=KNOWN)
    assert answer(LanguageModel.of(state), "嗨") == "你好呀"
    assert answer(LanguageModel.of(state), "嗨", max_tokens=2) == "你好"


@pytest.mark.parametrize(("key", "code"), [("\x04", 0), ("\x03", 130), (":exit\r", 0)])
def test_on_a_terminal_ctrl_d_and_exit_end_with_0_and_ctrl_c_with_130(polite, key, code):
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "TERM": "dumb"}
    with subprocess.Popen(
        [sys.executable, "-m", "tinyllm.chat", str(polite)], cwd=ROOT, env=environment,
        stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=lambda: own_terminal(theirs),
    ) as process:  # fmt: skip
        os.close(theirs)
        read_until(ours, "> ")
        os.write(ours, "嗨\r".encode())
        read_until(ours, "你好呀")
        read_until(ours, "> ")
        os.write(ours, key.encode())
        assert process.wait(20) == code
    os.close(ours)


def own_terminal(descriptor):
    """Make the terminal the child's own, so that the key Ctrl-C reaches it."""
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def read_until(descriptor, text):
    """Read from a terminal until `text` has appeared."""
    seen = b""
    while text.encode() not in seen:
        seen += os.read(descriptor, 1)
