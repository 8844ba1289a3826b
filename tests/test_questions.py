"""The questions that a chat offers are questions of the dialogues that the model was trained on."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tests.runs import CHATS, SMALL, Run, Silent
from tinyllm.config import Config, DataConfig, TrainConfig
from tinyllm.text.questions import LONGEST, typical_questions
from tinyllm.training import setup


def english(n):
    return [f"User: What is {i}? Assistant:" for i in range(n)]


def chinese(n):
    return [f"用户：{i}是什么？助手：" for i in range(n)]


@pytest.mark.parametrize(
    ("prompts", "questions"),
    [
        ([], []),
        (["no dialogue"], []),
        (english(6), ["What is 0?", "What is 2?", "What is 4?"]),
        (chinese(6), ["0是什么？", "2是什么？", "4是什么？"]),
        (english(6) + chinese(6), ["0是什么？", "3是什么？", "What is 0?"]),
        (english(1) + chinese(1), ["0是什么？", "What is 0?"]),
        (["Be brief.\nUser: Hi Assistant:"], ["Hi"]),
        (["用户：好\x1b助手：", f"User: {'x' * (LONGEST + 1)} Assistant:", "用户：好\n吗助手："], []),
    ],
)
def test_a_few_short_questions_are_chosen_in_both_languages(prompts, questions):
    assert typical_questions(prompts) == questions


def test_a_run_remembers_questions_that_it_trains_on_and_no_others(tmp_path):
    """Half of the dialogues are held out; the tokens that are read again from the disk name the same."""
    path = tmp_path / "talk.json"
    asked = [f"{i}号是什么？" for i in range(40)]
    path.write_text(
        json.dumps([f"用户：{question}助手：是{question}" for question in asked]), encoding="utf-8"
    )
    train = TrainConfig(batch_size=4, epochs=1, monitor="train")
    config = Config(
        dataclasses.replace(SMALL, block_size=64), train, DataConfig(vocab_size=300, val_fraction=0.5)
    )
    found = []
    for _ in range(2):
        state, datasets = setup.fresh(config, {"instruction_tuning": [str(path)]}, tmp_path, Silent())
        found.append(state.sources["instruction_tuning"].questions)
    assert found[0] == found[1] and len(found[0]) == 3
    data = datasets["instruction_tuning"]
    text = "\n".join(
        state.tokenizer.decode(batch.tokens.ravel())
        for batch in (data.batch(0, 0, i, 4) for i in range(-(-data.windows // 4)))
    )
    assert all(question in text for question in found[0])
    assert sum(question in text for question in asked) < 40


def test_questions_survive_a_checkpoint_and_the_texts_of_pretraining_have_none(tmp_path):
    state = Run(tmp_path / "run").go()
    assert state is not None
    with Run(tmp_path / "run").manager() as manager:
        again = manager.load_checkpoint(manager.get_last_checkpoint())[0]
    assert again.sources == state.sources
    assert state.sources["pretraining"].questions == []
    assert all(
        any(question in chat for chat in CHATS) for question in state.sources["instruction_tuning"].questions
    )
    assert len(state.sources["instruction_tuning"].questions) == 3
