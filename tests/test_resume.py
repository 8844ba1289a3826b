"""Training n steps, and training k, dying, resuming and training on, give the same bits: for every k.

Each cut abandons the run without a word; the next piece is rebuilt from the checkpoint files alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runs import SMALL, Run, same_state
from tinyllm.config import Config, DataConfig, ModelConfig, SavingConfig, TrainConfig
from tinyllm.option import ConfigError
from tinyllm.training import setup
from tinyllm.training.control import SaveRhythm


def survives(settings_of_run: dict, cuts: list[int], graceful: bool = False) -> None:
    """Assert that a run cut at the given actions ends as the uninterrupted one does."""
    with tempfile.TemporaryDirectory() as place:
        whole = Run(Path(place) / "whole", **settings_of_run)
        expected = whole.go()
        assert expected is not None
        cut = Run(Path(place) / "cut", **settings_of_run)
        for actions in cuts:
            if cut.go(actions, graceful) is not None:
                break
        found = cut.go() if not begin_is_finished(cut) else cut_state(cut)
        assert found is not None
        same_state(found, expected)
        assert cut.losses() == whole.losses()
        assert cut.samples() == whole.samples()


def cut_state(run: Run):
    with run.manager() as manager:
        path = manager.get_last_checkpoint()
        assert path is not None
        return manager.load_checkpoint(path)[0]


def begin_is_finished(run: Run) -> bool:
    with run.manager() as manager:
        path = manager.get_last_checkpoint()
        return path is not None and setup.is_finished(manager.load_checkpoint(path)[0])


@st.composite
def drawn_runs(draw) -> dict:
    """Draw model, data and its drawing, dropout, accumulation, strategy, patience, evaluation, workers."""
    H = draw(st.integers(1, 2))
    model = ModelConfig(
        n_layer=draw(st.integers(1, 2)), n_head=H, n_embd=4 * H, block_size=draw(st.integers(4, 40)),
        dropout=draw(st.sampled_from([0.0, 0.2])),
    )  # fmt: skip
    val = draw(st.sampled_from([0.0, 0.2]))
    bound = draw(st.sampled_from([{"epochs": 1}, {"epochs": 3}, {"max_steps": 5}]))
    train = TrainConfig(
        batch_size=draw(st.integers(1, 4)), accumulate=draw(st.integers(1, 3)), lr=0.01, **bound,
        patience=draw(st.sampled_from([0, 1, 2])), min_delta=draw(st.sampled_from([0.0, 0.05, 5.0])),
        monitor=draw(st.sampled_from(["train", "val"])) if val else "train",
        eval_every=draw(st.sampled_from([None, 2])) if val else None, warmup=draw(st.sampled_from([None, 3])),
        weight_decay=draw(st.sampled_from([0.0, 0.1])), seed=draw(st.integers(0, 99)),
    )  # fmt: skip
    data = DataConfig(
        tokenizer=draw(st.sampled_from(["bpe", "char"])), vocab_size=280, val_fraction=val,
        train_on_prompts=draw(st.booleans()), join_dialogues=draw(st.booleans()),
        join_documents=draw(st.booleans()), vary_questions=draw(st.booleans()),
    )  # fmt: skip
    return {
        "config": Config(model, train, data, SavingConfig(sample_every=draw(st.sampled_from([0, 3])))),
        "strategy": draw(st.sampled_from(["best-and-last", "last", "best-and-periodic:2"])),
        "workers": draw(st.integers(1, 2)),
        "asynchronous": draw(st.booleans()),
        "keep_best_n": draw(st.integers(1, 3)),
    }


@settings(max_examples=12)
@given(run=drawn_runs(), cuts=st.lists(st.integers(0, 40), min_size=1, max_size=4), graceful=st.booleans())
def test_a_run_cut_anywhere_ends_with_the_same_bits(run, cuts, graceful):
    survives(run, cuts, graceful)


@pytest.mark.slow
@settings(max_examples=400)
@given(run=drawn_runs(), cuts=st.lists(st.integers(0, 60), min_size=1, max_size=6), graceful=st.booleans())
def test_many_runs_cut_anywhere_end_with_the_same_bits(run, cuts, graceful):
    survives(run, cuts, graceful)


FULL = Config(
    ModelConfig(n_layer=1, n_head=2, n_embd=8, block_size=16, dropout=0.1),
    TrainConfig(batch_size=2, accumulate=2, epochs=2, lr=0.01, eval_every=3, seed=3),
    DataConfig(vocab_size=280, val_fraction=0.2),
)


def test_a_run_that_dies_every_few_actions_ends_with_the_same_bits(tmp_path):
    """Two phases, dropout, accumulation, evaluation. A save is at most four actions away.

    An evaluation of one batch counts twice: it asks before each batch whether to stop.
    """
    whole = Run(tmp_path / "whole", FULL)
    expected = whole.go()
    assert expected is not None
    cut, deaths = Run(tmp_path / "cut", FULL), 0
    while (found := cut.go(cut=4)) is None:
        deaths += 1
        assert deaths < 200, "the run does not move on"
    same_state(found, expected)
    assert cut.losses() == whole.losses()
    assert deaths >= expected.progress.step // 4


@pytest.mark.slow
def test_a_run_that_dies_at_any_one_action_ends_with_the_same_bits(tmp_path):
    """Exhaustive: three epochs a phase, with saves at every step and without."""
    config = dataclasses.replace(FULL, train=dataclasses.replace(FULL.train, epochs=3))
    for rhythm in (SaveRhythm(), SaveRhythm(steps=1)):
        whole = Run(tmp_path / f"whole-{rhythm.steps}", config, rhythm=rhythm)
        expected = whole.go()
        assert expected is not None
        for action in itertools.count():
            cut = Run(tmp_path / f"cut-{rhythm.steps}-{action}", config, rhythm=rhythm)
            if cut.go(action) is not None:
                break
            found = cut.go()
            assert found is not None
            same_state(found, expected)
            assert cut.losses() == whole.losses()
        assert action >= expected.progress.step


@pytest.mark.parametrize("workers", [1, 2])
def test_early_stop_and_rollback_resume_to_the_same_bits(tmp_path, workers):
    """The rate is so high that the loss rises, and no gain reaches min_delta: both phases roll back."""
    config = Config(SMALL, TrainConfig(batch_size=3, epochs=9, patience=2, min_delta=5.0, lr=3.0))
    whole = Run(tmp_path / "whole", config, workers=workers)
    expected = whole.go()
    assert expected is not None
    assert expected.progress.status == "rolled_back"
    assert expected.progress.timestep < expected.progress.step
    cut = Run(tmp_path / "cut", config, workers=workers)
    while (found := cut.go(cut=4)) is None:
        pass
    same_state(found, expected)


def test_what_a_step_leaves_in_the_workspace_changes_nothing(tmp_path):
    """`Run.go` fills every Workspace with NaN; a second engine in the same process begins from zeros."""
    one, other = Run(tmp_path / "one"), Run(tmp_path / "other")
    first = one.go()
    second = other.go(cut=5) or other.go()
    assert first is not None and second is not None
    same_state(first, second)


def test_dropout_masks_do_not_depend_on_the_number_of_workers(tmp_path):
    config = Config(
        ModelConfig(n_layer=1, n_head=2, n_embd=8, block_size=12, dropout=0.3),
        TrainConfig(batch_size=4, epochs=2),
    )
    states = [Run(tmp_path / f"{n}", config, workers=n).go() for n in (1, 2, 3)]
    for state in states[1:]:
        np.testing.assert_allclose(state.rows[0], states[0].rows[0], atol=1e-4)


def test_shapes_seed_and_data_cannot_change_within_a_run(tmp_path):
    run = Run(tmp_path / "run")
    run.go(cut=6)
    for section, change in (("model", {"n_embd": 16}), ("train", {"seed": 1}), ("data", {"vocab_size": 999})):
        with pytest.raises(ConfigError, match="cannot change within a run"):
            run.go(changes={section: change})


def test_more_epochs_go_on_from_the_rate_where_it_is(tmp_path):
    run = Run(tmp_path / "run", phases=("pretraining",))
    done = run.go()
    assert done is not None
    longer = run.go(changes={"train": {"epochs": 4}})
    assert longer is not None
    assert longer.progress.epoch == 4
    assert longer.schedule.lr(done.progress.step) == done.schedule.lr(done.progress.step)


def test_accumulating_more_than_an_epoch_is_accumulating_all_of_it(tmp_path):
    """Three batches of windows there are; what is beyond them is not even looked at."""
    states = []
    for accumulate in (3, 1 << 40):
        train = TrainConfig(batch_size=4, accumulate=accumulate, epochs=2)
        config = Config(dataclasses.replace(SMALL, dropout=0.1), train, DataConfig(vocab_size=300))
        states.append(Run(tmp_path / f"{accumulate}", config, phases=("pretraining",)).go())
    assert states[0] is not None and states[1] is not None
    assert states[0].progress.step == 2
    assert np.array_equal(states[0].rows.view(np.uint32), states[1].rows.view(np.uint32))
