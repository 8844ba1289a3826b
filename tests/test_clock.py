"""The loop reads only the clock it is given, which decides when to save, and no number of the state."""

from __future__ import annotations

from datetime import datetime

import pytest

from tests.runs import Run, same_state
from tinyllm.checkpoint import CheckpointManager
from tinyllm.training.control import SaveRhythm
from tinyllm.training.metrics import FILE_NAME, read


class Ticking:
    """A clock on which a second passes whenever it is read."""

    def __init__(self):
        self.now = 0.0

    def seconds(self):
        self.now += 1
        return self.now

    def date(self):
        return datetime(2025, 10, 28, 12, 0, 0)


def test_a_run_by_another_clock_has_the_same_bits_and_its_dates(tmp_path):
    one, other = (
        Run(tmp_path / "one"),
        Run(tmp_path / "other", rhythm=SaveRhythm(minutes=0.1), clock=Ticking()),
    )
    first, second = one.go(), other.go()
    assert first is not None and second is not None
    same_state(first, second)
    _, metadata = CheckpointManager.load_checkpoint(other.directory / "model_final.bin")
    assert metadata.timestamp == "2025-10-28 12:00:00"


@pytest.mark.parametrize(("minutes", "saved"), [(0, False), (0.1, True), (1, False)])
def test_a_checkpoint_is_saved_when_that_many_minutes_have_passed(tmp_path, minutes, saved):
    rhythm = SaveRhythm(minutes=minutes)
    run = Run(tmp_path / "run", strategy="best", asynchronous=False, rhythm=rhythm, clock=Ticking())
    assert run.go(cut=7) is None
    assert (run.directory / "checkpoint_last.bin").exists() == saved


class Standing(Ticking):
    """A clock that does not move."""

    def seconds(self) -> float:
        return 5.0


def test_a_run_whose_clock_stands_still_logs_no_speed_and_trains(tmp_path):
    Run(tmp_path / "run", clock=Standing()).go()
    lines = [line for line in read(tmp_path / "run" / FILE_NAME) if "train/loss" in line]
    assert len(lines) > 5 and {line["train/tokens_per_second"] for line in lines} == {None}
