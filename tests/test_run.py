"""The values of a run: when it stops early, the learning rate, where phases end and how they begin.

Order: early stopping, schedule, phases, the state.
"""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import pytest

from tinyllm.config import Config, ModelConfig, TrainConfig
from tinyllm.option import ConfigError
from tinyllm.run.phases import continue_phase, enter_phase, phase_end, phase_schedule, replace_texts
from tinyllm.run.schedule import Schedule
from tinyllm.run.state import Identity, Progress, Sources, TrainState
from tinyllm.run.stopping import EarlyStopping
from tinyllm.text.tokenizer import CharTokenizer


def test_patience_counts_each_judgement_once_and_a_gain_begins_again():
    stopping, seen = EarlyStopping(), []
    for epoch, loss in enumerate([5.0, 4.5, 4.0, math.nan, 4.2, 3.5, 2.5], 1):
        stopping = stopping.update(epoch, 10 * epoch, loss, 1.0)
        assert stopping.best_step == 10 * stopping.best_epoch
        seen.append((stopping.best, stopping.best_epoch, stopping.reference, stopping.counter))
    assert seen == [
        (5.0, 1, 5.0, 0), (4.5, 2, 5.0, 1), (4.0, 3, 5.0, 2),  # exactly min_delta is no gain
        (4.0, 3, 5.0, 3), (4.0, 3, 5.0, 4), (3.5, 6, 3.5, 0), (2.5, 7, 3.5, 1),
    ]  # fmt: skip


def test_a_loss_that_equals_the_best_is_neither_a_best_nor_a_gain():
    first = EarlyStopping().update(1, 10, 2.0, 0.0)
    assert first.update(2, 20, 2.0, 0.0) == dataclasses.replace(first, counter=1)


def test_a_phase_is_over_when_patience_judgements_brought_no_gain_and_never_at_patience_0():
    assert EarlyStopping() == EarlyStopping(math.inf, 0, math.inf, 0, 0)
    assert [EarlyStopping(counter=counter).is_over(2) for counter in range(4)] == [False, False, True, True]
    assert [EarlyStopping(counter=counter).is_over(1) for counter in range(2)] == [False, True]
    assert not EarlyStopping(counter=9).is_over(0)
    assert EarlyStopping(1.0, 2, 3.0, 4, 5).renewed() == EarlyStopping(1.0, 2, 3.0, 0, 5)


def test_the_rate_rises_in_equal_steps_then_falls_along_half_a_cosine():
    schedule = Schedule(peak=8.0, floor=2.0, start=10, warmup=4, end=22)
    assert [schedule.lr(step) for step in range(8, 15)] == [2, 2, 2, 4, 6, 8, 8]  # before start as at start
    assert schedule.lr(16) == pytest.approx(5 + 3 * math.sqrt(0.5))
    assert schedule.lr(18) == pytest.approx(5)
    assert schedule.lr(20) == pytest.approx(5 - 3 * math.sqrt(0.5))
    assert [schedule.lr(step) for step in (22, 23, 99)] == [2, 2, 2]
    assert [Schedule(8.0, 2.0, 0, 4, 5).lr(step) for step in (4, 5)] == [8, 2]  # a cosine of one update
    assert Schedule(8.0, 2.0, 0, 4, 4).lr(4) == 8  # of none


def test_another_end_or_floor_moves_only_what_lies_ahead():
    schedule = Schedule(8.0, 2.0, 10, 4, 22)
    assert schedule.continued(18, 22, 2.0) is schedule
    assert schedule.continued(13, 30, 2.0) == Schedule(8.0, 2.0, 10, 4, 30)
    assert schedule.continued(13, 22, 1.0) == Schedule(8.0, 1.0, 10, 4, 22)
    assert schedule.continued(14, 30, 2.0) == Schedule(8.0, 2.0, 14, 0, 30)  # the warm-up is over
    assert schedule.continued(18, 30, 1.0) == Schedule(schedule.lr(18), 1.0, 18, 0, 30)


def test_another_peak_is_reached_by_the_warm_up_that_runs_or_a_new_one_or_at_once():
    schedule = Schedule(8.0, 2.0, 10, 4, 22)
    assert schedule.restarted(13, 30, 6.0, 1.0, None) == Schedule(6.0, 1.0, 10, 4, 30)
    assert schedule.restarted(13, 30, 6.0, 1.0, 5) == Schedule(6.0, 1.0, 13, 5, 30)
    assert schedule.restarted(13, 30, 6.0, 1.0, 0) == Schedule(6.0, 1.0, 13, 0, 30)
    assert schedule.restarted(14, 30, 6.0, 1.0, None) == Schedule(6.0, 1.0, 14, 0, 30)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"epochs": 3}, Schedule(1e-3, 1e-4, 7, 0, 7 + 9)),  # 25 windows of 2 x 5: 3 updates per epoch
        ({"epochs": 8}, Schedule(1e-3, 1e-4, 7, 1, 7 + 24)),
        ({"max_steps": 400}, Schedule(1e-3, 1e-4, 7, 20, 407)),  # a twentieth, but at most 100
        ({"max_steps": 9000}, Schedule(1e-3, 1e-4, 7, 100, 9007)),
        ({"max_steps": 5, "warmup": 9}, Schedule(1e-3, 1e-4, 7, 5, 12)),
        ({"max_steps": 50, "warmup": 0, "min_lr": 0.0}, Schedule(1e-3, 0.0, 7, 0, 57)),
    ],
)
def test_a_phase_warms_up_for_a_twentieth_and_ends_at_a_tenth_unless_told_otherwise(settings, expected):
    config = TrainConfig(batch_size=5, accumulate=2, lr=1e-3, **settings)
    assert phase_schedule(config, 25, 7) == expected


def test_a_phase_ends_after_its_steps_or_after_the_epochs_ahead_but_not_before_now():
    progress = Progress(step=40, phase_start=30, phase_epoch=2, index=3)
    steps, epochs = TrainConfig(4, max_steps=25), TrainConfig(4, epochs=5)
    assert phase_end(progress, steps, 20) == 55
    assert phase_end(progress, dataclasses.replace(steps, max_steps=5), 20) == 40
    assert phase_end(progress, epochs, 20) == 40 - 3 + 3 * 5
    assert phase_end(progress, dataclasses.replace(epochs, epochs=1), 20) == 40


def run_at(status: str, **settings: Any) -> Any:
    """Return what phases read of a state: 40 updates in, 10 of them in the present phase."""
    progress = Progress(
        "pretraining", status, step=40, epoch=6, phase_epoch=2, phase_start=30, index=2, tokens=99,
        loss_sum=1.5, loss_tokens=8, train_loss=1.0, eval_loss=2.0, evaluated=35, judged=35,
    )  # fmt: skip
    config = Config(train=TrainConfig(4, epochs=5, **settings))
    return SimpleNamespace(
        config=config, schedule=Schedule(1e-3, 1e-4, 30, 1, 53), progress=progress,
        stopping=EarlyStopping(1.0, 1, 1.0, 2, 34), phases=("pretraining", "finetuning"),
    )  # fmt: skip


def assert_no_loss_is_known(progress: Progress) -> None:
    assert (progress.index, progress.loss_sum, progress.loss_tokens) == (0, 0.0, 0)
    assert math.isnan(progress.train_loss) and math.isnan(progress.eval_loss)
    assert progress.evaluated == progress.judged == progress.step == 40


def test_a_new_phase_has_its_own_schedule_and_records_and_the_run_counts_on():
    state = run_at("early_stopped")
    enter_phase(state, "finetuning", 17)
    assert state.schedule == phase_schedule(state.config.train, 17, 40) and state.schedule.start == 40
    progress = state.progress
    assert (progress.phase, progress.status) == ("finetuning", "running")
    assert (progress.phase_start, progress.phase_epoch, progress.epoch, progress.tokens) == (40, 0, 6, 99)
    assert state.stopping == EarlyStopping()
    assert_no_loss_is_known(progress)


@pytest.mark.parametrize("status", ["early_stopped", "rolled_back", "running", "finished"])
def test_other_texts_forget_the_losses_and_let_a_stopped_phase_train(status):
    state = run_at(status)
    replace_texts(state)
    assert state.progress.status == ("finished" if status == "finished" else "running")
    assert (state.progress.phase_epoch, state.progress.phase_start) == (2, 30)
    assert state.stopping == EarlyStopping()
    assert_no_loss_is_known(state.progress)


def continued(state: Any, windows: int = 20, **changes: Any) -> Any:
    previous = state.config
    state.config = dataclasses.replace(previous, train=dataclasses.replace(previous.train, **changes))
    continue_phase(state, previous, {"train": changes}, windows)
    return state


@pytest.mark.parametrize("status", ["early_stopped", "rolled_back", "running", "finished"])
def test_without_changes_nothing_changes(status):
    state, before = run_at(status), run_at(status)
    assert continued(state) == before


@pytest.mark.parametrize("change", [{"epochs": 9}, {"max_steps": 60}, {"patience": 7}, {"min_delta": 0.5}])
@pytest.mark.parametrize("status", ["early_stopped", "rolled_back", "running", "finished"])
def test_another_limit_lets_the_phase_train_and_renews_the_patience_of_one_that_stopped(status, change):
    state = continued(run_at(status), **change)
    stopped = status in ("early_stopped", "rolled_back")
    assert state.progress.status == "running"
    assert state.stopping == EarlyStopping(1.0, 1, 1.0, 0 if stopped else 2, 34)


def test_another_lr_restarts_the_schedule_and_another_floor_is_taken_at_once():
    assert continued(run_at("running"), lr=1e-2).schedule == Schedule(1e-2, 1e-3, 40, 0, 53)
    assert continued(run_at("running"), lr=1e-2, warmup=4).schedule == Schedule(1e-2, 1e-3, 40, 4, 53)
    schedule = continued(run_at("running"), min_lr=1e-6).schedule
    assert schedule == dataclasses.replace(run_at("running").schedule.continued(40, 53, 1e-6))


def test_a_warm_up_alone_is_refused_in_the_last_phase_and_kept_for_the_next_in_one_before():
    last = run_at("running")
    last.progress.phase = "finetuning"
    with pytest.raises(ConfigError, match="--warmup 4: the checkpoint has None"):
        continued(last, warmup=4)
    assert continued(run_at("running"), warmup=4).schedule == run_at("running").schedule


def ended(**settings: Any) -> Any:
    state = run_at("finished", min_lr=0.0, **settings)
    state.schedule = Schedule(1e-3, 0.0, 30, 1, 40)
    state.progress.phase_epoch, state.progress.index = 5, 0
    return state


def test_a_phase_that_ended_at_a_rate_of_0_trains_further_only_with_a_rate():
    with pytest.raises(ConfigError, match=r"has reached 0 at the end of pretraining.* --lr 0\.0001$"):
        continued(ended(), epochs=7)
    assert continued(ended(), epochs=7, lr=1e-3).schedule == Schedule(
        1e-3, 0.0, 40, 0, 50
    )  # the same, but given
    assert continued(ended()).schedule == ended().schedule  # no update is asked for


def a_state() -> TrainState:
    config = Config(ModelConfig(n_layer=1, n_head=1, n_embd=4, block_size=4))
    schedule = Schedule(1e-3, 1e-4, 0, 0, 9)
    return TrainState.fresh(config, CharTokenizer((97, 98)), schedule, ("pretraining", "instruction_tuning"))


def test_a_new_run_has_made_nothing_yet_and_its_moments_are_zero():
    state, other = a_state(), a_state()
    p = dataclasses.asdict(state.progress)
    assert (p.pop("phase"), p.pop("status")) == ("pretraining", "running")
    assert math.isnan(p.pop("train_loss")) and math.isnan(p.pop("eval_loss"))
    assert set(p.values()) == {0}
    assert state.rows.shape == (3, state.layout.size) and not state.rows[1:].any()
    assert (state.rows[0] == other.rows[0]).all() and state.rows[0].any()
    assert len(state.identity.id) == 12 and state.identity.id != other.identity.id
    assert state.stopping == EarlyStopping() and not state.sources and not state.environment


def test_a_stored_state_comes_back_and_an_identity_may_be_missing():
    state = a_state()
    state.sources["instruction_tuning"] = Sources(["a.txt"], "f" * 64)
    stored = state.to_dict()
    found = TrainState.from_dict(stored)
    assert repr(found.to_dict()) == repr(stored)  # NaN is not equal to itself
    assert all((found.rows[:, gap] == 0).all() for gap in found.layout.gaps())
    names = found.layout.named(found.rows[0])
    assert list(found.tensors()) == [f"{role}/{name}" for role in ("params", "m", "v") for name in names]
    del stored["identity"]
    assert TrainState.from_dict(stored).identity == Identity("", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phases": []}, "state.phases: expected some of"),
        ({"phases": {"instruction_tuning": 1}}, "state.phases: expected some of"),
        ({"phases": ["instruction_tuning", "x"]}, "state.phases: expected some of"),
        ({"phases": ["instruction_tuning"]}, "progress.phase: expected one of"),
        ({"sources": []}, "state.sources: expected a map of pretraining, instruction_tuning"),
        ({"environment": []}, "environment: expected a map of texts and whole numbers"),
        ({"sources": {"pretraining": {}}}, "sources.pretraining: expected the fields"),
        ({"identity": {}}, "identity: expected the fields"),
        ({"more": 1}, "state: expected the fields"),
    ],
)
def test_a_stored_state_with_wrong_fields_is_refused_by_name(change, message):
    with pytest.raises(ConfigError) as caught:
        TrainState.from_dict(a_state().to_dict() | change)
    assert str(caught.value).startswith(message)
    for name in ("progress", "environment"):
        with pytest.raises(ConfigError, match="state: expected the fields"):
            TrainState.from_dict({n: value for n, value in a_state().to_dict().items() if n != name})
