"""`--config FILE`: a file of settings is read as if it were typed, and a run writes its own."""

from __future__ import annotations

import dataclasses
import json
import os
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runs import CHATS, FACTS, TINY, same_state
from tinyllm import train
from tinyllm.checkpoint import CheckpointManager
from tinyllm.cli import config_file
from tinyllm.cli.options import options
from tinyllm.cli.request import Request
from tinyllm.config import BUNDLED, SECTIONS, Config, replace
from tinyllm.run import toml
from tinyllm.run.state import Sources, TrainState
from tinyllm.training import place


def asked(file: Path, line: str = "") -> Request:
    return options([f"--config={file}", *line.split()])[0]


def error(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        options(list(words))
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[0].removeprefix("error: ")


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes, name: str = "run.toml") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def test_settings_stand_in_sections_or_alone_and_the_command_line_overrides_them(write):
    file = write("lr = 1\nn-head = 4\nasync = false\n[model]\nn_layer = 3\n[hardware]\nworkers = 1\n")
    config = asked(file).start.config
    assert (config.train.lr, config.model.n_head, config.model.n_layer) == (1.0, 4, 3)
    assert config.saving.asynchronous is False and options([f"--config={file}"])[1].workers == 1
    typed, machine = options([f"--config={file}", "--n-layer=5", "--workers=2", "--async"])
    assert typed.start.config.model.n_layer == 5 and typed.start.config.saving.asynchronous
    assert machine.workers == 2
    assert asked(file, "--resume").start.changes.options["model"] == {"n_head": 4, "n_layer": 3}


def test_either_limit_of_a_phase_that_is_typed_replaces_both_of_the_file(write):
    file = write("epochs = 20\nmax_steps = 500\n")
    assert asked(file).start.options["train"] == {"epochs": 20, "max_steps": 500}
    assert asked(file, "--epochs 3").start.options["train"] == {"epochs": 3}
    assert asked(file, "--max-steps 9").start.options["train"] == {"max_steps": 9}


def test_texts_begin_at_the_folder_of_the_file_and_name_the_phases(write, tmp_path):
    file = write('[texts]\ninstruction_tuning = "bundled:chat.json"\npretraining = ["a.txt", "/b"]\n')
    sources = asked(file).start.sources
    assert list(sources) == ["pretraining", "instruction_tuning"]
    assert sources["pretraining"] == [str(tmp_path / "a.txt"), "/b"]
    assert sources["instruction_tuning"] == BUNDLED["instruction_tuning"]
    assert asked(file, "--data /c").start.sources == {"pretraining": ["/c"]}
    assert asked(file, "--chat-data /c").start.sources == {**sources, "instruction_tuning": ["/c"]}
    assert list(asked(file, "--phase pretraining").start.sources) == ["pretraining"]
    file = write('[texts]\npretraining = "a.txt"\n')
    assert asked(file).start.sources == {"pretraining": [str(tmp_path / "a.txt")]}
    assert asked(write("lr = 1\n")).start.sources == BUNDLED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate = 1", "unknown setting learning_rate: did you mean lr?"),
        ("[train]\nbach_size = 1", "unknown setting train.bach_size: did you mean batch_size?"),
        ("[train]\nn_layer = 1", "unknown setting train.n_layer: n_layer belongs to [model]"),
        ("[modell]\nn_layer = 1", "unknown setting modell: did you mean [model]?"),
        ("[texts]\npretrain = 'a'", "unknown setting texts.pretrain, expected pretraining or "
                                    "instruction_tuning; did you mean pretraining?"),
        ("chat_data = 'a'", "unknown setting chat_data: texts are named in the section [texts]"),
        ("data = 'a'", "data: found the text 'a', expected the section [data]; texts are named in [texts]"),
        ("zzz = 1", "unknown setting zzz"),
        ("lr = '1'", "lr: found the text '1', expected a number"),
        ("[model]\nn_layer = 2.5", "model.n_layer: found 2.5, expected a whole number"),
        ("[model]\nn_layer = true", "model.n_layer: found true, expected a whole number"),
        ("recompute = 1", "recompute: found 1, expected true or false"),
        ("tokenizer = ['char']", "tokenizer: found a list, expected text in quotes"),
        ("lr = -1", "--lr: found -1.0, expected more than 0.0"),
        (f"lr = 1{'0' * 400}", "lr: found a number of more than 300 digits, expected a smaller one"),
        (f"max_steps = 0x{'f' * 9999}", "max_steps: found a number of more than 300 digits, expected"),
        (f"train = 0x{'f' * 9999}", "train: found a number of more than 300 digits, expected the section"),
        ("lr = nan", "--lr: found nan, expected a finite number"),
        ("tokenizer = 'chars'", "--tokenizer: found 'chars', expected one of bpe, char"),
        ("workers = 0", "--workers: found 0, expected at least 1"),
        ("lr = 1\n[train]\nlr = 1", "train.lr: set twice, expected once"),
        ("[texts]\npretraining = []", "texts.pretraining: found a list, expected a path in quotes"),
        ("lr 1", "not TOML: "),
        (b"lr = 1 # \xff", "found bytes that are not UTF-8 at 9, expected TOML"),
        ("[" * 100_000, "not TOML: "),
        ("#" * (1 << 20) + "\n", "found more than 1,048,576 bytes, expected a file of settings"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_an_error_that_names_it_and_the_key(text, message, write, capsys):
    file = write(text)
    assert error(capsys, f"--config={file}").startswith(f"{file}: {message}")


def test_a_missing_file_and_a_phase_without_texts_are_errors(write, capsys, tmp_path):
    assert (
        error(capsys, f"--config={tmp_path}/no")
        == f"{tmp_path}/no: cannot be read: No such file or directory"
    )
    assert "not a regular file" in error(capsys, f"--config={tmp_path}")
    file = write('[texts]\npretraining = "a"\n')
    assert "names no texts for it" in error(capsys, f"--config={file}", "--phase=instruction_tuning")


def state_of(config: Config, sources: dict[str, list[str]]) -> TrainState:
    state = object.__new__(TrainState)
    state.config, state.phases = config, tuple(sources)
    state.sources = {phase: Sources(paths, "") for phase, paths in sources.items()}
    state.environment = {"workers": 2, "blas_threads": 1}
    return state


_KINDS = {
    bool: st.booleans(), int: st.integers(1, 8), float: st.floats(1e-9, 0.9),
    str: st.text("ab\"'\\\n\x7f\x01猫🐱"),
}  # fmt: skip


@settings(max_examples=20)
@given(data=st.data())
def test_every_setting_that_is_written_is_read_back(data, tmp_path_factory):
    drawn = {
        section: {
            field.name: data.draw(_KINDS[type(field.default)])
            for field in dataclasses.fields(kind)
            if field.name not in ("n_head", "vocab_size", "encoding", "suffix", "held_out_by", "strategy")
            and not field.metadata.get("choices") and field.default is not None and data.draw(st.booleans())
        }
        for section, kind in SECTIONS.items()
    }  # fmt: skip
    config = replace(Config(), {**drawn, "model": {**drawn["model"], "n_head": 1}})
    folder = tmp_path_factory.mktemp("config")
    texts = {
        "pretraining": ["/a b/猫.txt", '/"q"\\\x7f🐱'],
        "instruction_tuning": BUNDLED["instruction_tuning"],
    }
    (folder / "c.toml").write_text(toml.to_toml(state_of(config, texts)), encoding="utf-8")
    found = config_file.read(folder / "c.toml")
    assert replace(Config(), found.options) == config
    assert found.sources == texts and found.threads == {"workers": 2, "blas_threads": 1}


def test_settings_without_an_option_are_written_too_and_a_path_that_is_no_text_is_said():
    old = replace(Config(), {"data": {"held_out_by": "place", "separate_markers": False}})
    text = toml.to_toml(state_of(old, {"pretraining": [os.fsdecode(b"/\xff")]}))
    assert tomllib.loads(text)["data"]["held_out_by"] == "place"
    assert "# pretraining: its name is not UTF-8" in text and not tomllib.loads(text)["texts"]


def run_of(directory: Path, *words: str) -> TrainState:
    assert train.main([*words, f"--checkpoint-dir={directory}", "--plain", "--no-samples"]) == 0
    state, _ = CheckpointManager.load_checkpoint(directory / "model_final.bin")
    return state


@pytest.fixture
def texts(tmp_path):
    paths = {}
    for name, texts in (("facts", FACTS), ("chats", CHATS)):
        paths[name] = tmp_path / f"{name}.json"
        paths[name].write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")
    model = TINY.model
    return [
        f"--pretraining-data={paths['facts']}", f"--chat-data={paths['chats']}", f"--n-layer={model.n_layer}",
        f"--n-head={model.n_head}", f"--n-embd={model.n_embd}", f"--block-size={model.block_size}",
        "--batch-size=4", "--vocab-size=300", "--epochs=2", "--seed=7", "--dropout=0.1", "--workers=1",
    ]  # fmt: skip


def test_the_file_that_a_run_writes_starts_the_same_run_elsewhere_to_the_bit(texts, tmp_path):
    one = run_of(tmp_path / "one", *texts)
    file = tmp_path / "one" / toml.FILE_NAME
    other = run_of(tmp_path / "other", f"--config={file}")
    assert (tmp_path / "other" / toml.FILE_NAME).read_bytes() == file.read_bytes()
    same_state(one, other)
    third = run_of(tmp_path / "third", f"--config={file}", "--seed=8")
    assert not np.array_equal(one.rows, third.rows)


def test_a_resume_writes_the_settings_it_has_now_and_takes_a_changed_file(texts, tmp_path, capsys):
    run_of(tmp_path / "run", *texts)
    file = tmp_path / "run" / toml.FILE_NAME
    edited = tmp_path / "edited.toml"
    edited.write_text(file.read_text().replace("epochs = 2", "epochs = 3"))
    run_of(tmp_path / "run", "--resume", f"--config={edited}")
    said = capsys.readouterr().err
    assert "--epochs: 2 -> 3" in said and said.count(" -> ") == 1
    assert "epochs = 3" in file.read_text()


def test_the_file_belongs_to_its_run_and_one_of_a_person_is_left_alone(texts, tmp_path, capsys):
    directory = tmp_path / "run"
    run_of(directory, *texts)
    own = (directory / toml.FILE_NAME).read_bytes()
    assert directory / toml.FILE_NAME in place.files_of_a_run(directory)
    run_of(directory, *texts, "--fresh", "--seed=8")
    assert (directory / "previous-1" / toml.FILE_NAME).read_bytes() == own
    assert (directory / toml.FILE_NAME).read_bytes() != own
    (directory / toml.FILE_NAME).write_text("lr = 0.01  # mine\n")
    assert directory / toml.FILE_NAME not in place.files_of_a_run(directory)
    run_of(directory, *texts, "--fresh", f"--config={directory / toml.FILE_NAME}")
    assert (directory / toml.FILE_NAME).read_text() == "lr = 0.01  # mine\n"
    assert "the settings of this run are not written" in capsys.readouterr().err
