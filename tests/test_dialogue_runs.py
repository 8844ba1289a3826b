"""What a run remembers of its dialogues, chat does: how their markers were encoded, and their system text."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest

from tests.models import KNOWN, chain_of, saved
from tests.runs import CHATS, TINY, Run, same_state
from tinyllm import chat
from tinyllm.config import Config, DataConfig
from tinyllm.inference.conversation import Conversation
from tinyllm.inference.language_model import LanguageModel, load_model
from tinyllm.inference.settings import GREEDY
from tinyllm.run.state import Sources, TrainState
from tinyllm.text.dialogue import Turn, encode, first_prompt, joined, prompt_for
from tinyllm.text.texts import Texts, digest
from tinyllm.training import setup

CHAT_ONLY = ("instruction_tuning",)
SYSTEM = "简短回答。"


@pytest.fixture
def dialogues(tmp_path):
    """Write dialogues that share a system text where a `Run` in a folder beside them reads its own."""
    entries = [f"{SYSTEM}{chat}" for chat in CHATS]
    path = tmp_path / "instruction_tuning.json"
    path.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    return path


def asked(model, *options, typed=""):
    """Return (exit code, stdout, stderr) of a chat with a model."""
    out, err = io.StringIO(), io.StringIO()
    code = chat.main([str(model), "--max-tokens=4", *options], io.StringIO(typed), out, err)
    return code, out.getvalue(), err.getvalue()


def before(fields):
    """Return a state's dict as it was written before the markers, their drawing and the system text were."""
    later = ("separate_markers", "join_dialogues", "vary_questions")
    data = {name: value for name, value in fields["config"]["data"].items() if name not in later}
    sources = {
        phase: {"paths": source["paths"], "fingerprint": source["fingerprint"]}
        for phase, source in fields["sources"].items()
    }
    train = {name: value for name, value in fields["config"]["train"].items() if name != "all_rows"}
    return {**fields, "config": {**fields["config"], "data": data, "train": train}, "sources": sources}


def test_a_state_from_before_joins_its_markers_and_a_new_run_does_not():
    state = chain_of("ab")
    assert state.config.data.separate_markers
    state.sources = {"instruction_tuning": Sources(["a.json"], "0" * 64, SYSTEM)}
    old = TrainState.from_dict(before(state.to_dict()))
    assert not old.config.data.separate_markers and old.sources["instruction_tuning"].system == ""
    assert TrainState.from_dict(state.to_dict()).config.data.separate_markers
    form = LanguageModel.of(old).form
    assert (form.separate_markers, form.system) == (False, "")


def test_the_texts_of_a_run_from_before_have_the_digest_they_had(tmp_path):
    Run(tmp_path / "run", phases=CHAT_ONLY).sources()
    paths = [str(tmp_path / "instruction_tuning.json")]
    data = DataConfig(separate_markers=False, join_dialogues=False)
    texts = setup.open_texts(Config(data=data), "instruction_tuning", paths)
    assert digest(texts) == "db20f4202000dad0b2f5aa7b929eb5cda8573eac48f61d71eda9b89925821a56"


@pytest.mark.parametrize("separate", [True, False])
def test_a_run_resumed_from_a_file_with_or_without_the_new_fields_continues_bit_for_bit(
    tmp_path, separate, monkeypatch, dialogues
):
    data = replace(TINY.data, separate_markers=separate, join_dialogues=separate)
    config = replace(TINY, data=data, train=replace(TINY.train, all_rows=not separate))
    whole, cut = (Run(tmp_path / name, config, phases=CHAT_ONLY) for name in ("whole", "cut"))
    expected = whole.go()
    assert cut.go(cut=3) is None
    if not separate:  # as if an earlier version had written the checkpoint
        read = TrainState.from_dict
        monkeypatch.setattr(TrainState, "from_dict", lambda fields: read(before(fields)))
    found = cut.go()
    same_state(found, expected)
    assert found.config.data.separate_markers is separate
    assert found.sources["instruction_tuning"].system == SYSTEM


@pytest.mark.parametrize("separate", [True, False])
def test_chat_begins_with_the_system_text_and_the_markers_of_training(tmp_path, separate, dialogues):
    config = replace(TINY, data=replace(TINY.data, separate_markers=separate))
    run = Run(tmp_path / "run", config, phases=CHAT_ONLY)
    state = run.go()
    model = load_model(run.directory)
    assert model.form == LanguageModel.of(state).form
    texts = Texts([dialogues], dialogues=True, data=config.data)
    talk = Conversation(model, GREEDY, 1, 0)
    talk.system = SYSTEM  # the window of 12 has no room for it
    prompt = first_prompt(next(iter(texts)).segments)
    assert talk.prompt("月亮是什么？").tolist() == encode(model.tokenizer, prompt)[0].tolist()


@pytest.fixture
def taught(tmp_path):
    """A model that says 你好呀, of a run whose dialogues share a system text."""
    state = chain_of("：你好呀", more=KNOWN + SYSTEM)
    state.sources = {"instruction_tuning": Sources(["a.json"], "0" * 64, SYSTEM)}
    return saved(state, tmp_path)


@pytest.fixture
def prompts(monkeypatch):
    """The prompts of all conversations, as text."""
    seen, real = [], Conversation.prompt

    def noted(talk, question):
        tokens = real(talk, question)
        seen.append(talk.model.tokenizer.decode(tokens))
        return tokens

    monkeypatch.setattr(Conversation, "prompt", noted)
    return seen


def test_chat_uses_the_shared_system_text_and_says_so(taught, prompts):
    code, out, err = asked(taught, "--prompt=嗨")
    assert (code, out) == (0, "你好呀\n") and prompts == [f"{SYSTEM}\n用户：嗨助手："]
    assert f'the system text of the training dialogues is used: "{SYSTEM}"' in err


@pytest.mark.parametrize(("given", "begins"), [("", ""), ("天气 ", "天气\n")])
def test_a_system_text_that_is_given_replaces_it(taught, prompts, given, begins):
    code, _, err = asked(taught, f"--system={given}", "--prompt=嗨")
    assert (code, prompts, err) == (0, [f"{begins}用户：嗨助手："], "")


def test_the_system_text_can_be_changed_in_the_chat(taught, prompts, tmp_path):
    lines = [":system", ":system 天气", "嗨", ":system " + "天" * 60, ":system Ω", ":system -", "嗨"]
    code, _, err = asked(taught, typed="\n".join([*lines, ""]))
    assert code == 0
    assert prompts == ["天气\n用户：嗨助手：", "用户：嗨助手：你好呀用户：嗨助手："]
    for said in (
        f'system text: "{SYSTEM}"', 'system text: "天气"', "no system text",
        "not changed: --system: found 60", "not changed: --system: found 'Ω'",
    ):  # fmt: skip
        assert said in err


@pytest.mark.parametrize("text", ["天" * 60, "Ω", "\udcff"])
def test_a_system_text_that_the_model_cannot_read_is_a_wrong_option(taught, text):
    code, out, err = asked(taught, f"--system={text}", "--prompt=嗨")
    assert (code, out) == (2, "") and err.startswith("error: --system: found ")


def test_a_saved_conversation_keeps_its_system_text(taught, tmp_path):
    expected = [Turn("system", SYSTEM), Turn("user", "嗨")]
    for suffix in ("json", "txt"):
        file = tmp_path / f"talk.{suffix}"
        asked(taught, typed=f"嗨\n:save {file}\n")
        (text,) = Texts([file], dialogues=True)
        assert joined(text.segments)[0] == joined(prompt_for(expected))[0]


def test_a_hostile_system_text_reaches_the_terminal_as_an_escape_sequence(tmp_path):
    state = chain_of("：你好呀", more=KNOWN + "\x1b[2J")
    state.sources = {"instruction_tuning": Sources(["a.json"], "0" * 64, "\x1b[2J")}
    assert r'"\x1b[2J"' in asked(saved(state, tmp_path), "--prompt=嗨")[2]
