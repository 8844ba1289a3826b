"""What a person sees of a run: how far it is and how long it still takes, in 80 columns, for any numbers.

Order: the reading of the texts, the table, the live line.
"""

from __future__ import annotations

import io
import itertools
import math
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runs import TINY, Run, Silent
from tests.terminal import Screen
from tinyllm.cli import display
from tinyllm.config import TrainConfig
from tinyllm.run.state import Progress
from tinyllm.training import setup
from tinyllm.training.step import Step


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> display.Lines:
    """Return a display that speaks whenever it may: at every look its clock is a HEARTBEAT later."""
    moments = itertools.count(0.0, display.HEARTBEAT)
    monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    return display.Lines(io.StringIO(), io.StringIO())


def said(lines: display.Lines) -> list[str]:
    assert isinstance(lines.out, io.StringIO)
    return lines.out.getvalue().splitlines()


def test_a_reading_says_how_much_is_done_how_fast_and_how_long_it_still_takes(lines):
    for done in (0, 20_000_000, 50_000_000):
        lines.reading("reading pretraining", done, 100_000_000)
    assert len(said(lines)) == 2
    assert said(lines)[-1] == "reading pretraining: 50 of 100 MB, 1.7 MB/s, ETA 30s"


def test_another_reading_has_a_speed_of_its_own(lines):
    for what, done in (("one", 1), ("one", 2), ("other", 1), ("other", 2), ("other", 1), ("other", 2)):
        lines.reading(what, done, 4)
    assert [line.split(":")[0] for line in said(lines)] == ["one", "other", "other"]


def test_a_reading_of_which_nothing_is_done_yet_has_no_speed(lines):
    for done in (0, 0, 0, 4):
        lines.reading("reading", done, 8)
    assert len(said(lines)) == 1


def test_a_short_reading_says_nothing(monkeypatch):
    monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: 5.0))
    lines = display.Lines(io.StringIO(), io.StringIO())
    for done in range(10):
        lines.reading("reading", done, 9)
    assert not said(lines)


class Reader(Silent):
    """Remembers how far each reading came."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def reading(self, what, done, total):
        self.seen[what] = done, total


def test_every_reading_of_a_run_is_shown_to_its_end(tmp_path):
    run = Run(tmp_path / "run")
    run.directory.mkdir()
    for _ in range(2):  # the second finds its tokens, and reads the texts for their digest
        reader = Reader()
        setup.fresh(TINY, run.sources(), run.directory, reader)
        assert len(reader.seen) == 4
        assert all(done == total for done, total in reader.seen.values())


# The table of a run, and the lines around it.

LOSSES = st.floats(0, 1e6) | st.sampled_from([0.0, 7.6246, 99.99999, 700.0, 1e300, math.inf, math.nan])
NUMBERS = st.fixed_dictionaries(
    {
        "step": st.integers(1, 10**7), "ahead": st.integers(1, 10**7), "epoch": st.integers(0, 10**7),
        "index": st.integers(0, 3), "train": LOSSES, "val": LOSSES, "norm": LOSSES,
        "monitor": st.sampled_from(["train", "val"]), "by_steps": st.booleans(),
        "lr": st.floats(1e-12, 1e3), "speed": st.floats(0.01, 1e9) | st.just(math.nan),
        "seconds": st.floats(0, 1e6),
    }
)  # fmt: skip


def state_of(
    step: int, steps: int, epochs: int = 20, monitor: str = "train", by_steps: bool = False, **progress: Any
) -> Any:
    """Return what a display looks at: a state that has made `step` of the `steps` of its only phase."""
    train = TrainConfig(
        epochs=epochs, max_steps=steps if by_steps else None, monitor=monitor, eval_every=1, batch_size=8,
        accumulate=1,
    )  # fmt: skip
    return SimpleNamespace(
        progress=Progress(phase="instruction_tuning", step=step, **progress),
        config=SimpleNamespace(train=train), phases=("instruction_tuning",),
        stopping=SimpleNamespace(best=math.inf),
    )  # fmt: skip


@given(numbers=NUMBERS)
def test_no_line_of_a_run_is_wider_than_eighty_columns_and_all_rows_are_aligned(numbers):
    lines = display.Lines(io.StringIO(), io.StringIO())
    step = Step(numbers["train"], numbers["norm"], numbers["lr"], 1000)
    epoch = min(numbers["epoch"], numbers["step"])  # an epoch has a step at least
    state = state_of(
        numbers["step"], numbers["step"] + numbers["ahead"], epoch + 1, numbers["monitor"],
        numbers["by_steps"], epoch=epoch, phase_epoch=epoch, index=numbers["index"],
        train_loss=numbers["train"], eval_loss=numbers["val"],
    )  # fmt: skip
    lines.phase(state, numbers["step"] + numbers["ahead"])
    lines.step(state, step, numbers["speed"])
    lines.started -= numbers["seconds"]
    state.progress.step += 1
    lines.epoch_ended(state, -1.0, step, numbers["speed"])
    lines.evaluated(state, -2.0)
    lines.epoch_ended(state, math.nan, None, math.nan)
    shown = said(lines)
    header = next(row for row in shown if row.lstrip().startswith("epoch"))
    rows = shown[shown.index(header) + 1 :]
    assert max(map(len, shown)) <= 80 and len(rows) >= 2
    assert {len(row.removesuffix(" *")) for row in rows} == {len(header)}


def test_both_losses_are_in_every_row_of_an_epoch_and_the_best_has_a_star():
    lines = display.Lines(io.StringIO(), io.StringIO())
    state = state_of(29, 580, epoch=1, phase_epoch=1, train_loss=7.1302, eval_loss=7.0211)
    lines.phase(state, 580)
    for loss in (7.1302, 7.1303):
        lines.epoch_ended(state, loss, Step(7.0, 0.574, 5.91e-4, 1000), 15009.0)
    assert said(lines)[-3:] == [
        "epoch   step     loss      val      ppl       lr     |g|    tok/s     ETA",
        "    1     29   7.1302   7.0211  1249.13  5.9e-04   0.574   15,009       ? *",
        "    1     29   7.1302   7.0211  1249.13  5.9e-04   0.574   15,009       ?",
    ]


def test_an_evaluation_that_decides_is_starred_between_epochs_too():
    lines = display.Lines(io.StringIO(), io.StringIO())
    state = state_of(10, 580, monitor="val", index=10, loss_sum=8.0, loss_tokens=2)
    lines.phase(state, 580)
    for loss in (3.0, 2.0, 2.5):
        state.progress.eval_loss = loss
        lines.evaluated(state, loss)
    assert [row.split() for row in said(lines)[-3:]] == [
        ["10", "4.0000", "3.0000", "20.09", "*"],
        ["10", "4.0000", "2.0000", "7.39", "*"],
        ["10", "4.0000", "2.5000", "12.18"],
    ]


def test_the_eta_is_that_of_all_phases(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: now[0]))
    lines = display.Lines(io.StringIO(), io.StringIO())
    state = state_of(0, 100, epochs=10, index=1)
    state.progress.phase, state.phases = "pretraining", ("pretraining", "instruction_tuning")
    windows = {"pretraining": SimpleNamespace(windows=80), "instruction_tuning": SimpleNamespace(windows=720)}
    lines.begin(state, windows, "")
    lines.phase(state, 100)
    for _ in range(100):
        now[0] += 1.0
        state.progress.step += 1
        lines.step(state, Step(7.0, 1.0, 1e-3, 1000), 1000.0)
    assert said(lines)[-1].endswith(" 15m09s")  # at step 91 of 100 + 900
    state.progress.phase, state.progress.phase_start = "instruction_tuning", 100
    lines.phase(state, 900)
    lines.epoch_ended(state, 6.0, Step(7.0, 1.0, 1e-3, 1000), 1000.0)
    assert said(lines)[-1].endswith(" 15m00s *")


def test_the_columns_are_explained_once():
    lines = display.Lines(io.StringIO(), io.StringIO())
    state = state_of(0, 580)
    lines.phase(state, 580)
    lines.phase(state, 580)
    assert "\n".join(said(lines)).count("norm of the gradient") == 1


def test_that_the_first_step_runs_is_said_once_and_above_the_table():
    lines = display.Lines(io.StringIO(), io.StringIO())
    state, step = state_of(0, 580, index=1), Step(7.0, 1.0, 1e-3, 1000)
    lines.phase(state, 580)
    waiting = said(lines)
    assert waiting[-3:-1] == ["instruction_tuning: 580 steps", display.FIRST_STEP]
    assert waiting[-1] == lines.table.header()
    state.progress.step = 1
    lines.step(state, step, 1000.0)
    assert len(said(lines)) == len(waiting) + 1  # the first row
    lines.phase(state, 580)
    assert said(lines).count(display.FIRST_STEP) == 1


def test_a_phase_that_a_resume_finds_complete_promises_no_step():
    lines = display.Lines(io.StringIO(), io.StringIO())
    lines.phase(state_of(580, 580), 580)
    assert display.FIRST_STEP not in said(lines)


# The live line.


@contextmanager
def a_bar() -> Iterator[Any]:
    """Yield a live display on a terminal of 80 columns; not a fixture, since pytest has its own stdout."""
    pytest.importorskip("rich")
    out = io.StringIO()
    out.isatty = lambda: True  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setenv("TERM", "xterm-256color")
        patch.setenv("COLUMNS", "80")
        bar: Any = display.Bar()
        bar.terminal = out
        with closing(bar):
            yield bar


def screen(bar: Any) -> Screen:
    """Return the terminal as it is once the live line has been drawn again."""
    bar.live.refresh()
    return Screen(bar.terminal.getvalue(), 80)


def test_a_person_sees_at_once_that_something_happens_and_that_the_first_step_runs():
    with a_bar() as bar:
        assert "preparing the data" in screen(bar).lines[-1]
        bar.phase(state_of(0, 580), 580)
        assert "0/580" in screen(bar).lines[-1] and display.FIRST_STEP in screen(bar).lines[-1]
        assert display.FIRST_STEP not in screen(bar).lines[:-1]


def test_the_live_line_leaves_room_for_the_key_ctrl_c_and_has_no_colour_of_its_own():
    with a_bar() as bar:
        state = state_of(10**7, 2 * 10**7)
        bar.phase(state, 2 * 10**7)
        bar.first_step, bar.started = 0, bar.started - 8e6
        bar.step(state, Step(1234.5678, 1.0, 1e-3, 1000), 1234567.0)
        line = screen(bar).lines[-1]
        assert "10,000,000/20,000,000" in line and "1234.57" in line and len(line) <= 78
        bar.signal = "SIGTERM: finishing the step and saving ..."
        assert screen(bar).lines[-1].endswith(bar.signal) and len(screen(bar).lines[-1]) <= 80
        assert not screen(bar).colours


@pytest.mark.parametrize("at_once", [False, True])
def test_ctrl_c_leaves_no_torn_line_and_the_cursor_is_seen_again(at_once, monkeypatch):
    with a_bar() as bar:
        monkeypatch.setattr(display.os, "write", lambda _, data: bar.terminal.write(data.decode()))
        state = state_of(5, 580)
        bar.phase(state, 580)
        bar.step(state, Step(7.0, 1.0, 1e-3, 1000), 1000.0)
        assert screen(bar).cursor_is_hidden
        bar.terminal.write("^C")  # as the terminal itself does
        bar.interrupted("SIGINT: finishing the step and saving ...", False)
        assert "finishing" in screen(bar).lines[-1]
        if at_once:
            bar.interrupted("stopped at once", True)
        else:
            bar.close()
        left = Screen(bar.terminal.getvalue(), 80)
        assert not left.cursor_is_hidden
        assert not [line for line in left.lines if "/580" in line or "^C" in line]
