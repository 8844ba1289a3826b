"""chat: every question is answered on stdout, and no line that is typed ends it but :exit."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path

import pytest

from tests.models import KNOWN, chain_of, random_state, saved
from tests.terminal import on_terminal, read_until
from tests.timing import PATIENCE
from tinyllm import chat
from tinyllm.config import ModelConfig
from tinyllm.kernels import compile_decoding
from tinyllm.run.state import Sources
from tinyllm.text.dialogue import Turn, parse, prompt_for
from tinyllm.text.texts import Texts
from tinyllm.text.tokenizer import BPETokenizer


def run(file, *lines, options=(), out=None):
    """Return (exit code, stdout, stderr) of a session in which `lines` are typed."""
    out, err = out or io.StringIO(), io.StringIO()
    stdin = io.StringIO("".join(line + "\n" for line in lines))
    try:
        code = chat.main([str(file), *options], stdin, out, err)
    except SystemExit as error:
        code = error.code
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Whether something must be compiled first, and is said to be, is another test's matter."""
    compile_decoding()


@pytest.fixture(scope="module")
def polite(tmp_path_factory):
    """A model that answers 你好呀 to everything that is asked in Chinese, hey! to English."""
    state = chain_of("：你好呀 :hey!", more=KNOWN)
    return saved(state, tmp_path_factory.mktemp("polite"))


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """A model that never ends by itself."""
    return saved(chain_of("：xyzx", more=KNOWN), tmp_path_factory.mktemp("endless"))


def test_a_single_question_gets_its_answer_alone_on_stdout(polite):
    assert run(polite, options=["--prompt", "嗨"]) == (0, "你好呀\n", "")
    assert run(polite, options=["--prompt=Us"]) == (0, "hey!\n", "")
    assert run(polite, "嗨", options=["--prompt=-"]) == (0, "你好呀\n", "")


def test_stdout_holds_the_answers_alone_and_the_end_of_the_input_ends_the_chat(polite):
    code, out, err = run(polite, "嗨", "", "   ", "Us", "天气")
    assert (code, out) == (0, "你好呀\nhey!\n你好呀\n")
    assert "help lists the commands" in err and "你好呀" not in err


def test_nothing_that_is_typed_ends_the_chat_but_exit(polite):
    typed = [
        ":foo", ":", "::", ":)", ":set", ":set temperature", ":set temperature=hot", ":set temperature=-1",
        ":set top_p=0", ":set top_k=1.5", ":set colour=1", ":set =", ":save", ":save /no/such/place/x",
        ":help me", ":exit now", ":SET top_p 0.5", "：help", "嗨Ω", "\udcff", "\x00",
    ]  # fmt: skip
    code, out, err = run(polite, *typed, "嗨", ":exit", "天气")
    assert (code, out) == (0, "hey!\nhey!\n你好呀\n")  # ":" and "::" are questions
    for message in [
        ":foo is not a command; :help lists them", "expected a value, as in :set temperature=1",
        "temperature: found 'hot', expected a number", "--temperature: found -1.0", "--top-p: found 0.0",
        "top_k: found '1.5', expected a whole number", "colour: expected one of temperature, top_k",
        "expected a path", "/no/such/place/x: No such file", ":exit now is not a command", "top_p=0.5",
        "found 'Ω'",
    ]:  # fmt: skip
        assert message in err


@pytest.mark.parametrize(
    "word", ["exit", "quit", "bye", "退出", "再见", " Exit ", "BYE!", "quit.", "再见！", ":exit", "：quit"]
)
def test_a_person_who_knows_no_command_gets_out(polite, word):
    assert run(polite, "嗨", word, "嗨")[:2] == (0, "你好呀\n")


@pytest.mark.parametrize("word", ["help", "帮助", "Help", ":help", "：help"])
def test_help_is_there_without_a_colon(polite, word):
    code, out, err = run(polite, word, "嗨")
    assert (code, out) == (0, "你好呀\n") and chat.COMMANDS in err


def test_a_word_of_command_within_a_question_is_part_of_it(endless):
    code, out, _ = run(endless, "天 exit", "exit 天", options=["--max-tokens=3"])
    assert (code, out) == (0, "xyz\n" * 2)


def test_a_chat_begins_with_questions_of_the_training_if_the_model_knows_any(tmp_path):
    state = chain_of("：你好呀 :hey!", more=KNOWN)
    questions = ["天气", "嗨", "Us", "Asia"]
    for phase, asked in (("pretraining", []), ("instruction_tuning", questions)):
        state.sources[phase] = Sources(["a.json"], "0" * 64, "", asked)
    file = saved(state, tmp_path)
    assert "questions to try:\n  天气\n  嗨\n  Us\nhelp lists" in run(file, "嗨")[2]
    assert run(file, options=["--prompt=嗨"]) == (0, "你好呀\n", "")
    del state.sources["instruction_tuning"]
    assert "to try" not in run(saved(state, tmp_path / "other"), "嗨")[2]


def test_a_window_that_fills_is_reported_once_and_no_answer_is_missing(polite):
    code, out, err = run(polite, *["嗨"] * 20)
    assert (code, out) == (0, "你好呀\n" * 20)
    assert err.count("oldest turns are forgotten") == 1


def test_a_question_longer_than_the_window_is_answered_too(polite):
    code, out, err = run(polite, "嗨" * 500)
    assert (code, out) == (0, "你好呀\n")
    assert "the model sees only its end" in err


def test_an_answer_may_be_longer_than_the_window(endless):
    code, out, _ = run(endless, "嗨", options=["--max-tokens=300"])
    assert (code, out) == (0, "xyz" * 100 + "\n")


def test_a_memory_that_was_asked_for_forgets_without_a_word(polite):
    code, out, err = run(polite, *["嗨"] * 9, options=["--memory=1"])
    assert (code, out) == (0, "你好呀\n" * 9) and "forgotten" not in err


def test_an_answer_ends_where_the_model_asks_itself_the_next_question(tmp_path):
    state = chain_of("：你好。用户：", more=KNOWN)
    assert run(saved(state, tmp_path), "嗨", "嗨")[:2] == (0, "你好。\n你好。\n")


def test_a_marker_within_an_answer_is_part_of_it(tmp_path):
    state = chain_of("：（User:", more=KNOWN)
    assert run(saved(state, tmp_path), "嗨")[:2] == (0, "（User:\n")


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
    (text,) = Texts([tmp_path / name], dialogues=True)
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


@pytest.mark.parametrize(("key", "code"), [("\x04", 0), ("\x03", 130), (":exit\r", 0)])
def test_on_a_terminal_ctrl_d_and_exit_end_with_0_and_ctrl_c_with_130(polite, key, code):
    arguments = ["-m", "tinyllm.chat", str(polite)]
    with on_terminal(arguments, {"PYTHONIOENCODING": "utf-8"}) as (terminal, process):
        read_until(terminal, "> ")
        os.write(terminal, "嗨\r".encode())
        read_until(terminal, "你好呀")
        read_until(terminal, "> ")
        wait_until_asleep(process)
        os.write(terminal, key.encode())
        assert process.wait(PATIENCE) == code


def test_a_question_in_chinese_is_answered_in_the_c_locale(polite):
    with on_terminal(["-m", "tinyllm.chat", str(polite)], {"LC_ALL": "C"}) as (terminal, _):
        read_until(terminal, "> ")
        os.write(terminal, "嗨\r".encode())
        read_until(terminal, "你好呀")


def wait_until_asleep(process):
    """Return when the program waits for a key: Python overlooks a Ctrl-C that comes just before it does."""
    deadline = time.monotonic() + PATIENCE
    while (state := Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]) != "S":
        assert state not in "ZX" and time.monotonic() < deadline
        time.sleep(0.01)
