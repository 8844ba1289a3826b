"""What is saved when, under which name, what is kept, and which metadata are accepted: no file is written.

Order: strategies and names, when to save, newest and best, what to keep, metadata.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyllm.checkpoint import policy
from tinyllm.checkpoint.metadata import (
    CheckpointMetadata,
    Entry,
    Origin,
    by_sequence,
    is_count,
    read_standing,
    sidecar,
)
from tinyllm.checkpoint.policy import CheckpointStrategy, best_first, best_loss, labels, to_delete
from tinyllm.escape import printable

GOOD = CheckpointMetadata(3, 1.5, 1e-3, "2026-01-02 03:04:05", "pretraining")


def entry(
    sequence: int, label: str = "best", loss: float = 1.0, phase: str = "pretraining", **more: Any
) -> Entry:
    return Entry(Path(f"{sequence}-{label}"), label, replace(GOOD, loss=loss, phase=phase), sequence, **more)


@pytest.mark.parametrize(
    ("best", "last", "every", "kept"),
    [(True, False, 0, 3), (False, True, 0, 1), (True, True, 0, 4), (False, False, 1, 1), (True, False, 2, 4)],
)
def test_a_strategy_keeps_as_many_saves_as_it_says(best, last, every, kept):
    assert policy.max_kept(CheckpointStrategy(best, last, every), 3) == kept


@pytest.mark.parametrize(
    "fields", [(False, False, 0), (True, False, -1), (True, False, True), (False, False, 1.0)]
)
def test_a_strategy_of_nothing_or_of_no_whole_number_is_refused(fields):
    with pytest.raises(ValueError, match=r"a strategy saves|expected a whole number of at least 0"):
        CheckpointStrategy(*fields)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("best", (True, False, 0)), ("last", (False, True, 0)), ("best-and-last", (True, True, 0)),
        ("periodic:1", (False, False, 1)), ("periodic:7", (False, False, 7)),
        ("best-and-periodic:123456789", (True, False, 123456789)),
    ],
)  # fmt: skip
def test_a_strategy_is_spelt_as_it_is_parsed(text, fields):
    strategy = CheckpointStrategy.parse(text)
    assert strategy == CheckpointStrategy(*fields) and str(strategy) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "Best", "periodic", "periodic:", "periodic:0", "periodic:-1", "periodic:1.5", "last:3", "best:",
        "x", "x:3", "periodic:1234567890",
    ],
)  # fmt: skip
def test_a_strategy_that_means_nothing_is_refused(text):
    with pytest.raises(ValueError, match="strategy"):
        CheckpointStrategy.parse(text)


@pytest.mark.parametrize("n", [0, -1, 1.5, True])
def test_counts_below_one_are_refused(n):
    for strategy in (CheckpointStrategy.periodic, CheckpointStrategy.best_and_periodic):
        with pytest.raises(ValueError, match=r"strategy: every .* expected a whole number of at least 1"):
            strategy(n)


@pytest.mark.parametrize(
    ("label", "loss", "name"),
    [
        ("best", 1.23456, "checkpoint_best_epoch_3_loss_1.2346.bin"),
        ("best", -9.5e14, "checkpoint_best_epoch_3_loss_-950000000000000.0000.bin"),
        ("best", 1e15, "checkpoint_best_epoch_3_loss_1.0000e+15.bin"),
        ("periodic", 1.0, "checkpoint_epoch_3.bin"),
        ("last", 1.0, "checkpoint_last.bin"),
        ("final", 1.0, "model_final.bin"),
    ],
)
def test_a_name_tells_its_label(label, loss, name):
    assert policy.file_name(label, replace(GOOD, loss=loss)) == name
    assert policy.label_of(name) == policy.label_of(name.replace(".bin", ".json")) == label
    assert policy.label_of(name + ".tmp") is policy.label_of("x" + name) is None


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ({}, ("last", "periodic", "best")),
        ({"epoch": 3}, ("last", "best")),
        ({"loss": 2.0}, ("last", "periodic")),  # as low as the best is not lower
        ({"loss": math.nan, "best": None}, ("last", "periodic")),
        ({"loss": 9.0, "best": None}, ("last", "periodic", "best")),
        ({"strategy": CheckpointStrategy(True, False)}, ("best",)),
        ({"strategy": CheckpointStrategy(False, True)}, ("last",)),
        ({"strategy": CheckpointStrategy(True, False), "last": True}, ("last", "best")),
        ({"epoch_end": False}, ("last",)),
        ({"epoch_end": False, "judged": True}, ("last", "best")),
        ({"judged": False}, ("last", "periodic")),
    ],
)
def test_a_save_has_the_labels_that_strategy_epoch_and_loss_give_it(line, found):
    line = {"strategy": CheckpointStrategy(True, True, 2), "epoch": 4, "loss": 1.9, "best": 2.0} | line
    strategy, epoch, loss, best = (line.pop(name) for name in ("strategy", "epoch", "loss", "best"))
    assert labels(strategy, epoch, loss, best, **line) == found


def test_the_newest_valid_save_is_first_and_of_its_names_last():
    saves = [
        entry(1),
        entry(2, "best"),
        entry(2, "last"),
        entry(3, problem="torn"),
        entry(4, weights_only=True),
    ]
    assert policy.newest_first(saves) == [saves[2], saves[1], saves[0]]
    assert sorted(reversed(saves[:3]), key=by_sequence) == [saves[0], saves[1], saves[2]]


def test_the_best_is_a_judged_loss_of_the_newest_origin_and_of_equals_the_later():
    saves = [
        entry(1, loss=3.0), entry(2, loss=2.0), entry(3, loss=2.0), entry(4, "last", 0.5, epoch_end=True),
        entry(5, "last", 0.1), entry(6, "final", 0.1, epoch_end=True), entry(7, loss=math.nan),
        entry(8, loss=0.1, phase="instruction_tuning"), entry(0, loss=0.1, texts="others"),
    ]  # fmt: skip
    assert [each.sequence for each in best_first(saves, "pretraining")] == [3, 2, 1, 4]
    assert best_first(saves, "pretraining", Origin("", "others")) == [saves[-1]]
    assert best_first(saves, "none") == []
    assert best_loss(saves, "pretraining") == 2.0 and best_loss(saves[:2], "pretraining") == 2.0
    assert best_loss(saves[3:6], "pretraining") is None


def test_what_is_deleted_is_the_best_beyond_n_of_one_origin_but_nothing_pinned_and_nothing_of_the_newest():
    saves = [entry(number, loss=float(number)) for number in range(1, 6)] + [entry(9, "last")]
    assert [each.sequence for each in to_delete(saves, 2)] == [3, 4, 5]
    assert [each.sequence for each in to_delete([*saves, entry(7, loss=9.0)], 5)] == [7]
    assert to_delete(saves[:5], 4) == []  # the fifth is the newest save
    saves[2] = replace(saves[2], pinned=True)
    saves[3] = replace(saves[3], texts="others")
    assert [each.sequence for each in to_delete(saves, 2)] == [5]
    assert to_delete(saves, 3) == [saves[4]] and to_delete([], 1) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epoch", -1), ("epoch", 1.0), ("epoch", True), ("epoch", 2**62), ("loss", True), ("loss", "1"),
        ("loss", None), ("learning_rate", math.inf), ("learning_rate", None), ("timestamp", "2026-01-02"),
        ("timestamp", 5), ("phase", ""), ("phase", "x" * 65), ("phase", "a\nb"), ("phase", 1),
    ],
)  # fmt: skip
def test_metadata_that_are_no_metadata_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected "):
        replace(GOOD, **{name: value})


def test_metadata_take_the_ends_of_their_ranges_and_come_back():
    for change in (
        {"epoch": 0}, {"epoch": 2**62 - 1}, {"loss": np.float32(2)}, {"loss": -math.inf}, {"phase": "x" * 64},
        {"phase": "x"},
    ):  # fmt: skip
        metadata = replace(GOOD, **change)
        assert type(metadata.loss) is float
        assert CheckpointMetadata.from_dict(metadata.to_dict()) == metadata
    for fields in (None, [], {**GOOD.to_dict(), "more": 1}, {"epoch": 1}):
        with pytest.raises(ValueError, match="expected the fields epoch, loss, "):
            CheckpointMetadata.from_dict(fields)


def test_what_a_state_says_of_itself_is_read_or_refused_and_the_optional_may_be_missing():
    progress = {"step": 7, "status": "x" * 64, "tokens": 5, "phase": "p"}
    fields = {"progress": progress, "identity": {"id": "y" * 128}, "sources": {"p": {"fingerprint": "f"}}}
    assert read_standing(fields) == (7, "x" * 64, 5, "y" * 128, "f")
    assert read_standing(fields).origin == Origin("y" * 128, "f")
    bare = {
        "progress": {"step": 0, "status": "x", "tokens": -1},
        "identity": {"id": "y" * 129},
        "sources": [],
    }
    assert read_standing(bare) == (0, "x", None, "", "")
    assert read_standing(fields | {"identity": {"id": "a\n"}, "sources": {"p": {"fingerprint": 1}}})[3:] == (
        "",
        "",
    )
    for wrong in ({"step": -1}, {"step": None}, {"status": ""}, {"status": "x" * 65}, {"status": 1}):
        with pytest.raises(ValueError, match=rf"^progress\.{next(iter(wrong))}: expected "):
            read_standing(fields | {"progress": progress | wrong})
    with pytest.raises(ValueError, match="progress: expected a map"):
        read_standing({})


def test_a_sidecar_is_json_in_which_a_loss_that_is_no_number_is_null():
    found = replace(entry(4, loss=math.nan, step=9, status="running", size=77), tokens=0)
    fields = GOOD.to_dict() | {
        "loss": None,
        "step": 9,
        "tokens": 0,
        "status": "running",
        "size": 77,
        "sequence": 4,
    }
    assert json.loads(sidecar(found)) == fields
    del fields["tokens"]
    assert json.loads(sidecar(replace(found, tokens=None))) == fields
    assert sidecar(found).startswith(b'{\n  "epoch": 3,') and sidecar(found).endswith(b"}\n")


def test_an_entry_is_valid_until_something_speaks_against_it_and_names_why_it_is_kept():
    bare = Entry(Path("x"), "last")
    assert bare == Entry(Path("x"), "last", None, 0, None, None, 0, False, False, None, None, "", "", False)
    assert (
        bare.valid and not replace(bare, problem="torn").valid and not replace(bare, weights_only=True).valid
    )
    assert bare.labels == ("last",) and replace(bare, pinned=True).labels == ("last", "pinned")


def test_counts_are_whole_numbers_below_2_to_the_62_and_printed_text_stays_on_its_line():
    assert [is_count(value) for value in (0, 2**62 - 1, -1, 2**62, True, 1.0)] == [True, True] + [False] * 4
    assert printable("a\n\x1b[1m 中") == r"a\n\x1b[1m 中"
