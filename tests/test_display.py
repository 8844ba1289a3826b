"""What a person sees while a run reads its texts: how far it is, how fast, and how long it still takes."""

from __future__ import annotations

import io
import itertools
from types import SimpleNamespace

import pytest

from tests.runs import TINY, Run, Silent
from tinyllm.cli import display
from tinyllm.training import setup


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
