"""Every state that a crash may leave is recovered without loss, and a protocol with a step left out is not.

The tables are tests/crash/page.py's; the quick cells are computed here, and with `-m slow` all of them.
Order: the model disk and the enumerator themselves, the matrix, the mutants.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.crash import matrix, page
from tests.crash.disk import Image, ModelDisk
from tests.crash.mutants import MUTANTS
from tests.crash.programs import FIRST, ONE, PROGRAMS, STRATEGIES, S, record
from tests.crash.states import MODELS, SECTOR, History, image_of, state_of
from tinyllm.checkpoint import CheckpointStrategy
from tinyllm.checkpoint.disk import Disk

PAGE = (Path(__file__).parents[1] / "docs" / "crash-matrix.md").read_text(encoding="utf-8")
TWO_NAMES = (S.BEST_AND_LAST, S.best_and_periodic(2))

# ---- what the proof stands on

NAMES = st.sampled_from(["a", "b", "c"])
ACTIONS = st.one_of(
    st.tuples(st.just("create"), NAMES, st.binary(max_size=9)),
    st.tuples(st.sampled_from(["rename", "link"]), NAMES, NAMES),
    st.tuples(st.sampled_from(["unlink", "open"]), NAMES),
    st.tuples(st.just("lock"), NAMES),
)


def outcome(disk: Disk, directory: Path, action: tuple) -> object:
    """Do one action; return what a program can tell of it."""
    name, *args = action
    try:
        if name == "create":
            fd = disk.create(directory / args[0])
            disk.write(fd, memoryview(args[1]), 2)
            disk.close(fd)
        elif name == "open":
            fd, size = disk.open(directory / args[0])
            data = bytearray(size)
            disk.read(fd, memoryview(data), 0)
            disk.close(fd)
            return bytes(data)
        elif name == "lock":
            disk.close(disk.lock(directory / args[0])[0])
        else:
            getattr(disk, name)(*(directory / arg for arg in args))
    except OSError as error:
        return error.errno
    return disk.names(directory)


@settings(max_examples=60)
@given(actions=st.lists(ACTIONS, max_size=12))
def test_the_model_disk_answers_as_the_real_one(tmp_path_factory, actions):
    real, model = Disk(), ModelDisk(Image({(0, "disk"): 1}))
    place = tmp_path_factory.mktemp("disk")
    for action in actions:
        assert outcome(model, Path("/disk"), action) == outcome(real, place, action)


def test_a_crash_may_leave_exactly_what_the_models_say():
    """One file of two sectors is created, written, renamed: counted by hand."""
    disk = ModelDisk(Image({(0, "disk"): 1}))
    fd = disk.create(Path("/disk/a"))
    disk.write(fd, memoryview(b"x" * (SECTOR + 1)), 0)
    disk.rename(Path("/disk/a"), Path("/disk/b"))
    history = History(disk.base)
    for record_ in disk.log:
        history.apply(record_)
    left = {model: set(history.states(model)) for model in MODELS}
    assert len(left["kill"]) == 1
    # no file; under either name, of size 0, of one sector (2 contents) or of two (4)
    assert len(left["ordered"]) == 1 + 2 * (1 + 2 + 4)
    # the sector is zeros, x, torn in two ways, or of another file: no name, either or both, with 1 + 5 + 20
    # contents: the second sector's one byte is x, zero, or the other file's, so that of 25 some are the same
    contents = {dict(state)["/disk/b"] for state in left["posix"] if "/disk/b" in dict(state)}
    assert len(left["posix"]) == 1 + 3 * len(contents)
    assert {len(content) for content in contents} == {0, SECTOR, SECTOR + 1}


@pytest.mark.parametrize("program", [FIRST, ONE], ids=lambda program: program.name)
def test_the_models_contain_each_other_and_the_disk_as_it_was(program):
    recording = record(program, S.BEST_AND_LAST)
    history, live = History(recording.base), ModelDisk(recording.base)
    assert state_of(image_of(state_of(recording.base))) == state_of(live.image())
    for record_ in recording.log[:14]:
        history.apply(record_)
        kill, ordered, posix = (set(history.states(model)) for model in MODELS)
        assert kill <= ordered <= posix


# ---- the matrix

QUICK = {program.name for program in PROGRAMS}
CELLS = [
    pytest.param(
        row, strategy, id=f"{row.name}-{strategy}",
        marks=() if row.name in QUICK and strategy not in TWO_NAMES else pytest.mark.slow,
    )
    for row in (*page.CRASHES, *page.FAULTS)
    for strategy in STRATEGIES
    if (row.name, strategy) != ("two saves in flight", S.BEST)
]  # fmt: skip


def printed(name: str, strategy: CheckpointStrategy) -> str:
    """Return the cell of docs/crash-matrix.md."""
    line = next(line for line in PAGE.splitlines() if line.startswith(f"| {name} | "))
    return line.split(" | ")[1 + STRATEGIES.index(strategy)].removesuffix(" |")


@pytest.mark.parametrize("row, strategy", CELLS)
def test_no_crash_breaks_an_invariant(row, strategy):
    count = row.count(strategy)
    assert count.points > 5 and count.states["kill"] and not count.letters, count
    assert row.shown(count) == printed(row.name, strategy)


def test_the_page_has_every_row_and_no_violation():
    for row in (*page.CRASHES, *page.FAULTS):
        for strategy in STRATEGIES:
            assert re.fullmatch(r"\d+: \d+, \d+, (\d+|-)", printed(row.name, strategy))
    assert " 0 violations.**" in PAGE and page.totals(PAGE) in PAGE


@pytest.mark.slow
def test_two_saves_in_flight_survive_with_the_strategy_best():
    program = next(program for program in PROGRAMS if program.name == "two saves in flight")
    assert not matrix.crashed(program, S.BEST).letters


# ---- the mutation proof

SLOW_MUTANTS = ("no fsync of a copy", "no fsync of the directory", "fsync of the file last")


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(m, id=m.name, marks=pytest.mark.slow if m.name.startswith(SLOW_MUTANTS) else ())
        for m in MUTANTS
    ],
)
def test_a_step_that_is_left_out_is_missed_and_the_page_says_so(mutant):
    assert page.mutant_line(mutant, count := mutant.counted()) in PAGE.splitlines()
    assert bool(count.letters) == mutant.red
