"""Every setting's default and range, and which stored documents are a config.

The table stands here a second time on purpose: a default or a limit that changes changes runs.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from tinyllm.config import SECTIONS, Config, SavingConfig, TrainConfig, replace
from tinyllm.option import ConfigError

LARGEST = 2**40
# name: default, lowest and highest value, or choices; a lowest value in brackets is itself refused.
SETTINGS: dict[str, dict[str, tuple[Any, Any, Any]]] = {
    "model": {
        "n_layer": (2, 1, 1000), "n_head": (8, 1, 65536), "n_embd": (256, 1, 65536),
        "block_size": (128, 1, 2**20), "dropout": (0.0, 0.0, 0.99),
    },
    "train": {
        "batch_size": (8, 1, LARGEST), "accumulate": (1, 1, LARGEST), "epochs": (20, 1, LARGEST),
        "max_steps": (None, 1, LARGEST), "lr": (1e-3, [0.0], None), "min_lr": (None, 0.0, None),
        "warmup": (None, 0, LARGEST), "weight_decay": (0.0, 0.0, None), "beta1": (0.9, 0.0, 0.999999),
        "beta2": (0.999, 0.0, 0.9999999), "epsilon": (1e-8, [0.0], None), "grad_clip": (1.0, 0.0, None),
        "patience": (30, 0, LARGEST), "min_delta": (0.01, 0.0, None),
        "monitor": (None, "train", "val"), "eval_every": (None, 1, LARGEST), "seed": (1337, 0, LARGEST),
        "recompute": (False, False, True), "all_rows": (False, False, True),
        "products": ("blas", "own", "blas"),
        "tuning_epochs": (None, 1, LARGEST), "tuning_lr": (None, [0.0], None),
    },
    "data": {
        "tokenizer": ("bpe", "bpe", "char"), "vocab_size": (2048, 257, 2**20),
        "documents": (False, False, True),
        "train_on_prompts": (False, False, True), "val_fraction": (None, 0.0, 0.9),
        "encoding": ("utf-8", "utf-8", "gb18030"), "separator": ("", "", "</s>"), "suffix": ("", "", ".md"),
        "han_run": (None, 1, 16),
        "held_out_by": ("tokens", "content", "place"), "separate_markers": (True, False, True),
        "mixed_windows": (True, False, True),
        "join_dialogues": (True, False, True), "join_documents": (False, False, True),
        "vary_questions": (False, False, True),
    },
    "saving": {
        "strategy": ("best-and-last", "best", "last"), "keep_best_n": (3, 1, LARGEST),
        "save_every_steps": (0, 0, LARGEST), "save_every_minutes": (5.0, 0, None),
        "sample_every": (0, 0, LARGEST), "asynchronous": (True, False, True),
    },
}  # fmt: skip
ALL = [(section, name, *rule) for section, rules in SETTINGS.items() for name, rule in rules.items()]


def section_with(section: str, name: str, value: Any) -> Any:
    """Return the section with one field changed, and those that must agree with it."""
    others = {"n_head": {"n_embd": value}, "n_embd": {"n_head": 1}, "min_lr": {"lr": 1e300}}
    return SECTIONS[section](**{**others.get(name, {}), name: value})


def test_the_table_has_every_setting_with_its_default():
    assert {
        s: {n: rule[0] for n, rule in rules.items()} for s, rules in SETTINGS.items()
    } == Config().to_dict()


@pytest.mark.parametrize(
    ("section", "name", "default", "low", "high"), ALL, ids=lambda value: str(value)[:20]
)
def test_a_setting_takes_all_of_its_range_and_nothing_beyond(section, name, default, low, high):
    if isinstance(default, bool) or isinstance(low, str):
        for value in (low, high):
            assert getattr(section_with(section, name, value), name) == value
        return
    kind = int if isinstance(high, int) else float
    above, low = (True, low[0]) if isinstance(low, list) else (False, low)

    def beyond(limit: float, direction: float) -> float:
        return limit + int(direction) if kind is int else math.nextafter(limit, direction * math.inf)

    refused = [low if above else beyond(low, -1)] + ([] if high is None else [beyond(high, 1)])
    accepted = [beyond(low, 1) if above else low, 1e300 if high is None else high]
    for value in accepted:
        assert getattr(section_with(section, name, value), name) == value
    for value in (*refused, math.nan, math.inf):
        with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')}: found {value}, expected "):
            section_with(section, name, value)


def test_settings_that_contradict_each_other_are_refused():
    held_out = {"data": {"val_fraction": 0.1}}
    for train in ({"monitor": "val"}, {"eval_every": 5}):
        with pytest.raises(ConfigError, match="there is no validation data"):
            replace(Config(), {"train": train, "data": {"val_fraction": 0.0}})
        assert replace(Config(), {"train": train}).data.val_fraction is None  # not yet decided
        assert replace(Config(), {"train": train, **held_out}).data.val_fraction == 0.1
    with pytest.raises(ConfigError, match=r"--min-lr 0\.002 is above --lr 0\.001"):
        TrainConfig(min_lr=2e-3)
    assert TrainConfig(min_lr=1e-3).min_lr == 1e-3
    with pytest.raises(ConfigError, match="--n-embd 10 is not divisible by --n-head 4"):
        replace(Config(), {"model": {"n_embd": 10, "n_head": 4}})


def test_a_stored_config_comes_back_and_fields_that_were_added_later_may_be_missing():
    config = replace(Config(), {"train": {"epochs": 3, "max_steps": 7}, "model": {"dropout": 0.5}})
    stored = config.to_dict()
    assert Config.from_dict(stored) == config
    stored["model"]["dropout"] = 0  # an integer is a number
    del stored["saving"], stored["train"]["recompute"]
    found = Config.from_dict(stored)
    assert (type(found.model.dropout), found.saving, found.train.recompute) == (float, SavingConfig(), False)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("train", {"epochs": 3.0}, "config.train.epochs: expected <class 'int'>, found float"),
        ("train", {"epochs": True}, "config.train.epochs: expected <class 'int'>, found bool"),
        ("train", {"recompute": 1}, "config.train.recompute: expected <class 'bool'>, found int"),
        ("train", {"lr": "1"}, "config.train.lr: expected <class 'float'>, found str"),
        ("train", {"more": 1}, "config.train: expected the fields batch_size, "),
        ("model", {"n_head": 0}, "--n-head: found 0, expected at least 1"),
        ("more", {}, "config: expected the sections model, train, data, saving"),
    ],
)
def test_a_stored_config_with_wrong_fields_is_refused_by_name(section, change, message):
    stored = Config().to_dict()
    stored.setdefault(section, {}).update(change)
    with pytest.raises(ConfigError) as caught:
        Config.from_dict(stored)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("section", "field"), [("model", "n_layer"), ("train", "seed"), ("data", "documents")]
)
def test_a_stored_config_without_a_section_or_a_field_is_refused(section, field):
    stored = Config().to_dict()
    del stored[section][field]
    with pytest.raises(ConfigError, match=rf"config\.{section}: expected the fields"):
        Config.from_dict(stored)
    del stored[section]
    with pytest.raises(ConfigError, match="expected the sections"):
        Config.from_dict(stored)


def test_nothing_but_a_dict_is_a_stored_config():
    for stored in (None, [], Config().to_dict() | {"model": None}):
        with pytest.raises(ConfigError, match="config"):
            Config.from_dict(stored)
