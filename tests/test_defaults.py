"""What an option that is not given means: decided once, when a run starts, and stored.

Order: the longest run of Han characters, the part held out.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.runs import TINY, Run, Silent, same_state
from tinyllm.config import BUNDLED, BUNDLED_OPTIONS, HAN_RUN, Config, TrainConfig, for_texts
from tinyllm.option import ConfigError
from tinyllm.run.changes import Changes
from tinyllm.run.state import TrainState
from tinyllm.text.tokenizer import Tokenizer, train_bpe
from tinyllm.text.tokens import STREAM
from tinyllm.training import setup
from tinyllm.training.defaults import is_large, with_validation

ONE_PHASE = ("pretraining",)


def fresh(run: Run) -> TrainState:
    run.directory.mkdir(parents=True)
    return setup.fresh(run.config, run.sources(), run.directory, run.watcher)[0]


def with_data(**data: object) -> Config:
    return dataclasses.replace(TINY, data=dataclasses.replace(TINY.data, **data))


# The longest run of Han characters -----------------------------------------------------------------------


def test_the_longest_run_of_han_is_decided_at_the_start_and_stored(tmp_path):
    state = fresh(Run(tmp_path / "run"))
    assert state.config.data.han_run == state.tokenizer.han_run == HAN_RUN
    stored = TrainState.from_dict(state.to_dict())
    assert stored.config.data.han_run == stored.tokenizer.han_run == HAN_RUN


@pytest.mark.parametrize("han_run", [1, 2])
def test_a_given_run_of_han_is_that_of_the_tokenizer(tmp_path, han_run):
    state = fresh(Run(tmp_path / "run", with_data(han_run=han_run)))
    assert state.config.data.han_run == state.tokenizer.han_run == han_run
    together = [piece for piece in state.tokenizer.pieces[256:-1] if len(piece.decode("utf-8", "ignore")) > 1]
    assert (not any("是" in piece.decode("utf-8", "ignore") for piece in together)) == (han_run == 1)


def test_bundled_texts_have_defaults_of_their_own_that_what_is_given_overrides():
    data, train = BUNDLED_OPTIONS["data"], BUNDLED_OPTIONS["train"]
    assert for_texts({}, BUNDLED) == BUNDLED_OPTIONS
    assert for_texts({}, BUNDLED | {"pretraining": ["book.txt"]}) == {}
    assert for_texts({"data": {"han_run": 4}}, BUNDLED)["data"] == {**data, "han_run": 4}
    assert for_texts({"train": {"epochs": 3}}, BUNDLED)["train"] == {
        **{name: train[name] for name in ("lr", "beta2", "tuning_lr")}, "epochs": 3,
    }  # fmt: skip
    assert "tuning_lr" not in for_texts({"train": {"lr": 0.1}}, BUNDLED)["train"]
    assert "epochs" not in for_texts({"train": {"max_steps": 3}}, BUNDLED)["train"]
    other = {"join_documents": True, "vary_questions": True}  # than what is the tokenizer's
    assert for_texts({}, BUNDLED, trained=True)["data"] == other
    characters = for_texts({"data": {"tokenizer": "char"}}, BUNDLED)["data"]
    assert characters == {**other, "tokenizer": "char"}


def test_tuning_may_have_epochs_and_a_rate_of_its_own():
    both = TrainConfig(epochs=7, lr=0.1, min_lr=0.05, tuning_epochs=2, tuning_lr=0.01)
    tuning = both.of("instruction_tuning")
    assert (tuning.epochs, tuning.lr, tuning.min_lr) == (2, 0.01, 0.01)
    assert both.of("pretraining") is both
    assert TrainConfig(epochs=7).of("instruction_tuning") == TrainConfig(epochs=7)


def test_a_run_from_before_the_setting_keeps_its_split_and_its_ids(tmp_path):
    run = Run(tmp_path / "run", phases=ONE_PHASE)
    state = fresh(run)
    old = train_bpe(["什么是 算法 用 水"] * 9, 300, None)
    fields = state.to_dict()
    fields["tokenizer"] = old.to_dict()
    del fields["config"]["data"]["han_run"]
    assert fields["tokenizer"]["split"] == 1
    assert Tokenizer.from_dict(fields["tokenizer"]) == old
    config = Config.from_dict(fields["config"])
    assert config.data.han_run is None
    before = dataclasses.replace(state, config=config, tokenizer=old)
    with pytest.raises(ConfigError, match=r"--han-run 1: the checkpoint has none, .* drop --han-run"):
        setup.changed_config(before, {"data": {"han_run": 1}}, print)
    datasets = setup.resumed(before, Changes({}, allow_new_data=True), run.directory, Silent())
    assert set(datasets) == set(ONE_PHASE)
    assert (before.tokenizer, before.config.data.han_run) == (old, None)


def test_a_run_that_begins_from_a_model_has_the_split_of_its_tokenizer(tmp_path):
    run = Run(tmp_path / "run", phases=ONE_PHASE)
    state = fresh(run)
    for han_run in (None, 1):
        tokenizer = train_bpe(["什么是 算法 用 水"] * 9, 300, han_run)
        model = setup.Initial(state.config.model, tokenizer, state.rows[0])
        assert setup.initial_config({}, model).data.han_run == han_run
        with pytest.raises(
            ConfigError, match=f"--han-run 3: the model of --init-from has {han_run or 'none'}; "
        ):
            setup.initial_config({"data": {"han_run": 3}}, model)


# The part held out ---------------------------------------------------------------------------------------

SENTENCES = [f"{a} and {b} make {a + b}." for a in range(50) for b in range(4)]


def run_of(tmp_path: Path, config: Config = TINY, **texts: list[str]) -> Run:
    """Return a run of the given texts by phase, of which nothing was read yet."""
    tmp_path.mkdir(exist_ok=True)
    for phase, entries in texts.items():
        (tmp_path / f"{phase}.json").write_text(json.dumps(entries), encoding="utf-8")
    return Run(tmp_path / "run", config, phases=tuple(texts))


def decided(state: TrainState) -> tuple[Any, Any]:
    return state.config.data.val_fraction, state.config.train.monitor


def questions(count: int) -> list[str]:
    return [f"User: what do {a} and one make? Assistant: they make {a + 1}." for a in range(count)]


def test_of_large_texts_a_tenth_is_held_out_and_decides_which_checkpoint_is_best(tmp_path):
    run = run_of(tmp_path, pretraining=SENTENCES)
    state = fresh(run)
    assert decided(state) == (0.1, "val")
    assert not run.watcher.notices
    run = run_of(tmp_path / "a", with_data(val_fraction=0.1), pretraining=SENTENCES)
    assert fresh(run).sources["pretraining"].fingerprint == state.sources["pretraining"].fingerprint


def test_nothing_is_held_out_of_small_texts_and_a_notice_says_so(tmp_path):
    run = run_of(tmp_path, pretraining=SENTENCES, instruction_tuning=questions(99))
    assert decided(fresh(run)) == (0.0, "train")
    (notice,) = run.watcher.notices
    assert "nothing is held out for validation: the texts of instruction_tuning are small (" in notice
    assert ", 99 documents); --val-fraction 0.1 holds out a tenth" in notice
    both = run_of(tmp_path / "both", pretraining=SENTENCES, instruction_tuning=questions(200))
    assert decided(fresh(both)) == (0.1, "val")


def test_of_a_stream_the_windows_count_and_of_documents_their_number_too(tmp_path):
    for windows, documents, streams, large in (
        (100, 1, 1, True), (99, 1, 1, False), (100, 100, 0, True), (100, 99, 0, False), (100, 100, 1, False),
    ):  # fmt: skip
        corpus = SimpleNamespace(kinds=np.array([STREAM] * streams + [0] * (documents - streams)))
        counts: Any = SimpleNamespace(windows=windows, documents=documents, corpus=corpus)
        assert is_large(counts) == large


@pytest.mark.parametrize(
    ("given", "monitor", "expected"),
    [
        (0.0, None, (0.0, "train")),
        (0.3, None, (0.3, "val")),
        (0.3, "train", (0.3, "train")),
        (None, "train", (0.1, "train")),
    ],
)
def test_what_is_given_stays(tmp_path, given, monitor, expected):
    config = with_data(val_fraction=given)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, monitor=monitor))
    run = run_of(tmp_path, config, pretraining=SENTENCES)
    assert decided(fresh(run)) == expected
    assert not run.watcher.notices


@pytest.mark.parametrize("train", [{"monitor": "val"}, {"eval_every": 3}])
def test_an_option_that_needs_validation_data_is_refused_where_the_texts_are_small(tmp_path, train):
    config = dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, **train))
    small = run_of(tmp_path, config, pretraining=SENTENCES[:9])
    with pytest.raises(ConfigError, match="there is no validation data; give --val-fraction"):
        fresh(small)
    large = run_of(tmp_path / "large", config, pretraining=SENTENCES)
    assert decided(fresh(large)) == (0.1, "val")


def test_a_twentieth_of_the_bundled_texts_is_held_out_and_one_text_of_ones_own_makes_it_a_tenth():
    def decided_for(sources: dict[str, list[str]]) -> tuple[Any, Any]:
        corpus = SimpleNamespace(kinds=np.zeros(100))
        large: Any = SimpleNamespace(windows=100, documents=100, corpus=corpus)
        config = with_validation(Config(), sources, dict.fromkeys(sources, large), pytest.fail)
        return config.data.val_fraction, config.train.monitor

    assert decided_for(BUNDLED) == (0.05, "val")
    assert decided_for(BUNDLED | {"pretraining": ["book.txt"]}) == (0.1, "val")


def test_a_run_whose_part_held_out_was_decided_resumes_exactly(tmp_path):
    whole = run_of(tmp_path, pretraining=SENTENCES)
    cut = Run(tmp_path / "cut", phases=ONE_PHASE)
    expected = whole.go()
    assert cut.go(cut=9) is None
    found = cut.go()
    assert found is not None
    assert expected is not None
    assert decided(found) == (0.1, "val")
    assert found.stopping.best <= found.progress.eval_loss  # not found.progress.train_loss
    same_state(found, expected)
    assert cut.losses() == whole.losses()
