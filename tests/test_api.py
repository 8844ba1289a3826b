"""From Python a model writes, answers and trains as on the command line, and `import tinyllm` is light."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import tinyllm
from tests.models import KNOWN, chain_of, random_state, saved
from tests.runs import CHATS, FACTS
from tests.test_architecture import DOORS
from tinyllm import chat, generate, train
from tinyllm.checkpoint import CheckpointError, CheckpointManager, CheckpointMetadata
from tinyllm.config import ConfigError, ModelConfig
from tinyllm.text.tokenizer import BPETokenizer
from tinyllm.training import metrics

ROOT = Path(__file__).parents[1]
SMALL = {
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 8,
    "block_size": 12,
    "batch_size": 4,
    "vocab_size": 300,
    "workers": 1,
}


def printed(door, *argv):
    out = io.StringIO()
    assert door.main([str(each) for each in argv], io.StringIO(), out, io.StringIO()) == 0
    return out.getvalue()


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "facts.txt").write_text("\n".join(FACTS) * 3, encoding="utf-8")
    (folder / "chats.txt").write_text("\n\n".join(CHATS), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def wild(tmp_path_factory):
    state = random_state(ModelConfig(n_layer=1, n_head=2, n_embd=8, block_size=24), BPETokenizer(()))
    return saved(state, tmp_path_factory.mktemp("wild"))


def test_import_is_light_and_knows_its_names():
    code = (
        "import sys, tinyllm\n"
        "assert not {'numpy', 'numba', 'argparse'} & set(sys.modules)\n"
        "assert {'fit', 'load'} <= set(dir(tinyllm))\n"
        "from tinyllm import train\n"
        "assert train.__name__ == 'tinyllm.train' and not hasattr(tinyllm, 'nothing')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert {"fit", "load"}.isdisjoint(DOORS)  # else a door's module would take the function's place


def test_a_model_writes_what_generate_prints(wild):
    model = tinyllm.load(wild)
    assert "parameters, context of 24 tokens" in repr(model)
    for options in ({}, {"seed": 7}, {"temperature": 2.0, "top_k": 9, "max_tokens": 30}):
        argv = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        text = model.generate("hello", **options)
        assert text + "\n" == printed(generate, wild, "--prompt=hello", *argv)
        assert text == model.generate("hello", **options)
    with pytest.raises(TypeError, match="temprature: expected one of temperature, top_k"):
        model.generate("hello", temprature=1)
    with pytest.raises(ConfigError, match="--max-tokens: found 0"):
        model.ask("hello", max_tokens=0)
    with pytest.raises(ConfigError, match="--memory: found -1"):
        model.chat(memory=-1)


def test_a_model_answers_what_chat_prints_and_a_chat_remembers(wild):
    model = tinyllm.load(wild)
    assert model.ask("hello") + "\n" == printed(chat, wild, "--prompt=hello")
    talk = model.chat(seed=3, temperature=1.0)
    answers = [talk.ask("hello"), talk.ask("hello")]
    assert answers[0] == model.ask("hello", seed=3, temperature=1.0) != answers[1]
    assert [turn.content for turn in talk.turns] == ["hello", answers[0], "hello", answers[1]]
    talk.clear()
    assert talk.turns == []


def test_of_a_run_each_use_takes_its_phase(tmp_path):
    with CheckpointManager(tmp_path) as manager:
        for epoch, (phase, word) in enumerate((("pretraining", "ab"), ("instruction_tuning", "ac")), 1):
            metadata = CheckpointMetadata(epoch, 1.0, 1e-3, "2026-01-01 00:00:00", phase)
            manager.save_checkpoint(chain_of(f"{word} ：嗨", more=KNOWN), metadata)
    model = tinyllm.load(str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (model.generate("a"), model.ask("天")) == ("b", "嗨")
    with pytest.raises(CheckpointError, match="cannot be read"):
        tinyllm.load(tmp_path / "data")


def test_a_text_is_measured(wild):
    measures = tinyllm.load(wild).evaluate("hello")
    assert measures.tokens == 6 and measures.text_bytes == 5
    assert measures.loss > 0 and measures.bits_per_byte > measures.loss


def test_fit_trains_what_the_command_line_trains(texts, tmp_path, capsys):
    options = {**SMALL, "epochs": 2, "dropout": 0.1, "save_every_minutes": 0}
    model = tinyllm.fit(texts / "facts.txt", [texts / "chats.txt"], directory=tmp_path / "api", **options)
    assert "instruction_tuning" in capsys.readouterr().out
    argv = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    argv += [
        "--pretraining-data",
        str(texts / "facts.txt"),
        "--chat-data",
        str(texts / "chats.txt"),
        "--no-samples",
    ]
    assert train.main(["--checkpoint-dir", str(tmp_path / "cli"), "--plain", *argv]) == 0
    ours, theirs = (
        [{name: value for name, value in line.items() if "per_second" not in name}
         for line in metrics.read(tmp_path / name / metrics.FILE_NAME)]
        for name in ("api", "cli")
    )  # fmt: skip
    assert ours == theirs
    assert model.ask("铁是什么？") == tinyllm.load(tmp_path / "cli").ask("铁是什么？")


def test_fit_is_quiet_if_asked_resumes_and_never_overwrites(texts, tmp_path, capsys):
    tinyllm.fit(texts / "facts.txt", directory=tmp_path, quiet=True, epochs=1, **SMALL)
    assert capsys.readouterr().out == ""
    with pytest.warns(UserWarning, match="no best checkpoint of instruction tuning"):
        tinyllm.load(tmp_path).ask("月")
    with pytest.raises(FileExistsError, match="already holds a run"):
        tinyllm.fit(texts / "facts.txt", directory=tmp_path, epochs=1, **SMALL)
    tinyllm.fit(directory=tmp_path, resume=True, quiet=True, epochs=2, workers=1)
    epochs = {line["epoch"] for line in metrics.read(tmp_path / metrics.FILE_NAME) if "train/loss" in line}
    assert epochs == {0, 1}
    tinyllm.fit(texts / "facts.txt", directory=tmp_path, fresh=True, quiet=True, epochs=1, **SMALL)
    assert (tmp_path / "previous-1").is_dir()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epoch": 3}, TypeError, "epoch: fit has no such option"),
        ({"epochs": "3"}, ConfigError, "fit.epochs: expected .*int.*, found str"),
        ({"epochs": 0}, ConfigError, "--epochs: found 0, expected at least 1"),
        ({"epochs": 3, "max_steps": 4}, ConfigError, "both limit a phase"),
        ({"workers": 0}, ConfigError, "--workers: found 0"),
    ],
)
def test_a_wrong_option_of_fit_is_named_before_anything_is_written(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        tinyllm.fit("missing.txt", directory=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_stop_saves_and_is_a_keyboard_interrupt(texts, tmp_path, monkeypatch):
    from tinyllm.training.loop import Loop

    step = Loop._step
    monkeypatch.setattr(Loop, "_step", lambda loop: (step(loop), os.kill(os.getpid(), signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt, match=r"fit\(\.\.\., resume=True\) continues"):
        tinyllm.fit(texts / "facts.txt", directory=tmp_path, quiet=True, epochs=2, **SMALL)
    monkeypatch.setattr(Loop, "_step", step)
    assert (tmp_path / "checkpoint_last.bin").exists()
    assert (
        tinyllm.fit(directory=tmp_path, resume=True, quiet=True, workers=1).generate("月", max_tokens=3)
        is not None
    )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
