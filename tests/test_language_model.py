"""A file, or the right file of a folder, is the model that was saved; prompts begin as training did."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.models import chain_of, saved
from tinyllm.checkpoint import CheckpointManager, CheckpointMetadata, CheckpointStrategy, export_weights
from tinyllm.config import BUNDLED, DataConfig
from tinyllm.inference import writing
from tinyllm.inference.language_model import Form, LanguageModel, load_model
from tinyllm.inference.settings import GREEDY


def says(path, prompt, phase=None):
    """Return (what the model at `path` generates, the notices of its loading)."""
    notes: list[str] = []
    model = load_model(path, notes.append, phase=phase)
    tokens = model.generate(model.prompt(prompt), GREEDY, 20, (0,))
    return "".join(model.tokenizer.stream(tokens)), "\n".join(notes)


def test_exported_weights_write_what_their_checkpoint_writes(tmp_path):
    weights = tmp_path / "weights.bin"
    export_weights(saved(chain_of("abcdefg"), tmp_path), weights)
    assert says(weights, "ab") == ("cdefg", "")


def test_a_folder_gives_the_best_checkpoint_of_its_latest_phase(tmp_path):
    losses = [
        ("pretraining", 1.0),
        ("instruction_tuning", 3.0),
        ("instruction_tuning", 2.0),
        ("instruction_tuning", 2.5),
    ]
    strategy = CheckpointStrategy.BEST_AND_LAST
    with CheckpointManager(tmp_path, strategy) as manager:
        for epoch, (phase, loss) in enumerate(losses, 1):
            metadata = CheckpointMetadata(epoch, loss, 1e-3, "2026-01-01 00:00:00", phase)
            state = chain_of(("ab", "ac", "ad", "ae")[epoch - 1], more="abcde")
            manager.save_checkpoint(state, metadata)
    text, notes = says(tmp_path, "a")
    assert text == "d" and "checkpoint_best_epoch_3_loss_2.0000.bin" in notes
    text, notes = says(tmp_path, "a", "pretraining")
    assert text == "b" and notes == f"using {tmp_path / 'checkpoint_best_epoch_1_loss_1.0000.bin'}"
    assert says(tmp_path, "a", "instruction_tuning") == says(tmp_path, "a")
    last = tmp_path / "checkpoint_last.bin"
    assert says(last, "a", "pretraining") == ("e", "")  # a file is taken as it was given
    (tmp_path / "checkpoint_best_epoch_1_loss_1.0000.bin").unlink()
    text, notes = says(tmp_path, "a", "pretraining")
    assert text == "d" and notes.startswith(f"{tmp_path}: no best checkpoint of pretraining was kept\nusing ")
    for best in tmp_path.glob("checkpoint_best_*"):
        best.unlink()
    assert says(tmp_path, "a")[0] == "e"
    assert says(tmp_path, "a", "instruction_tuning") == ("e", f"using {last}")  # its only epoch there


def test_a_folder_with_a_damaged_best_gives_the_next_and_says_so(tmp_path):
    with CheckpointManager(tmp_path, CheckpointStrategy.BEST) as manager:
        for epoch, loss in ((1, 2.0), (2, 1.0)):
            metadata = CheckpointMetadata(epoch, loss, 1e-3, "2026-01-01 00:00:00", "pretraining")
            manager.save_checkpoint(chain_of(("ab", "ac")[epoch - 1], more="abc"), metadata)
    best = tmp_path / "checkpoint_best_epoch_2_loss_1.0000.bin"
    data = bytearray(best.read_bytes())
    data[-1] ^= 1
    best.write_bytes(data)
    text, notes = says(tmp_path, "a")
    assert text == "b" and "damaged" in notes
    assert best.exists()


@pytest.mark.parametrize(
    ("sources", "documents", "begins"),
    [
        ({}, False, True),
        ({"pretraining": ["bundled:pretraining.json"]}, False, True),
        ({"pretraining": ["/texts"]}, False, True),
        ({"pretraining": ["/texts/book.txt", "/texts/more.TXT"]}, False, False),
        ({"pretraining": ["/texts/book.txt"]}, True, True),
        ({"pretraining": ["/texts/book.txt", "/texts/facts.json"]}, False, True),
        ({"pretraining": ["/texts/book.txt"], "instruction_tuning": ["/texts/talk.txt"]}, False, True),
    ],
)
def test_a_prompt_begins_with_end_of_text_unless_training_saw_streams_only(sources, documents, begins):
    fields = {
        "sources": {phase: {"paths": paths, "fingerprint": "0" * 64} for phase, paths in sources.items()}
    }
    form = Form.of(fields, DataConfig(documents=documents))
    assert form == Form(begins)
    state = chain_of("ab")
    model = dataclasses.replace(LanguageModel.of(state), form=form)
    end = state.tokenizer.end_of_text
    np.testing.assert_array_equal(model.prompt("ab"), [end, 0, 1] if begins else [0, 1])
    np.testing.assert_array_equal(model.prompt(""), [end])


def test_a_model_in_memory_writes_what_its_file_writes(tmp_path):
    state = chain_of("abc")
    model = load_model(saved(state, tmp_path))
    live = LanguageModel.of(state)
    np.testing.assert_array_equal(live.weights.row, model.weights.row)
    assert live.config == model.config and live.form == model.form


def test_the_repetition_penalty_counts_prompt_and_text_but_not_their_end(monkeypatch):
    seen, real = [], writing.candidates

    def noted(logits, sampling, tokens):
        seen.append(set(tokens))
        return real(logits, sampling, tokens)

    monkeypatch.setattr(writing, "candidates", noted)
    model = LanguageModel.of(chain_of("abcdefg"))
    list(model.generate(model.prompt("ef"), GREEDY, 10, (0,)))
    e, f, g = model.tokenizer.encode("efg")
    assert seen == [{e, f}, {e, f, g}]


def test_a_chat_with_a_model_of_the_bundled_texts_remembers_one_exchange():
    for paths, earlier in ((BUNDLED["instruction_tuning"], 1), (["/a.json"], None)):
        source = {"paths": paths, "fingerprint": "0" * 64}
        assert Form.of({"sources": {"instruction_tuning": source}}, DataConfig()).earlier == earlier
