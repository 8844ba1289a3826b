"""What an option that is not given means: decided once, when a run starts, and stored.

Order: the longest run of Han characters.
"""

from __future__ import annotations

import dataclasses

import pytest

from tests.runs import TINY, Run, Silent
from tinyllm.config import BUNDLED, HAN_RUN, Config, ConfigError, DataConfig
from tinyllm.run.changes import Changes
from tinyllm.run.state import TrainState
from tinyllm.text.tokenizer import Tokenizer, train_bpe
from tinyllm.training import setup
from tinyllm.training.defaults import BUNDLED_HAN_RUN, with_tokenizer

ONE_PHASE = ("pretraining",)


def fresh(run: Run) -> TrainState:
    run.directory.mkdir()
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


def test_bundled_texts_have_a_default_of_their_own_and_characters_have_none():
    config, mixed = Config(), BUNDLED | {"pretraining": "book.txt"}
    runs = {
        name: with_tokenizer(config, {phase: [path] for phase, path in texts.items()}).data.han_run
        for name, texts in (("bundled", BUNDLED), ("mixed", mixed))
    }
    assert runs == {"bundled": BUNDLED_HAN_RUN, "mixed": HAN_RUN}
    characters = dataclasses.replace(config, data=DataConfig(tokenizer="char"))
    assert with_tokenizer(characters, {}) is characters


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
