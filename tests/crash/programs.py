"""What is crashed: short runs of a CheckpointManager on a ModelDisk, recorded.

Each program has a part `before`, whose end is made durable, and a part `during`, which is crashed at every
point. Order: the programs, recording them.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.crash.disk import Image, ModelDisk, Record
from tests.crash.session import DIRECTORY, TUNING, Asked, Session
from tests.standin import Died, Standin
from tests.timing import PATIENCE
from tinyllm.checkpoint import CheckpointError, CheckpointStrategy

S = CheckpointStrategy
STRATEGIES = (S.BEST, S.LAST, S.periodic(2), S.BEST_AND_LAST, S.best_and_periodic(2))
PLENTY = 1 << 40  # bytes
AFTERWARDS = 50  # epochs of the run after a kill count from here

# ---- the programs


def nothing(session: Session) -> None:
    """There is not even a directory."""


def two_epochs(session: Session) -> None:
    session.run([3.0, 2.5])


def three_epochs(session: Session) -> None:
    session.run([3.0, 2.5, 2.0])


def one_save(session: Session) -> None:
    """Of an epoch that every strategy saves under all the names it knows."""
    session.run([1.0])


def first_save(session: Session) -> None:
    session.run([3.0, 3.5])


def replace_of_last(session: Session) -> None:
    with session.open():
        session.save(3.5)
        session.save(3.6)
        session.save(3.7, epoch_end=False, last=True)


def new_best(session: Session) -> None:
    session.run([2.0, 1.0])


def damaged_sidecars(session: Session) -> None:
    """One is missing, one is stale, one is of a .bin that is gone."""
    two_epochs(session)
    disk = session.disk
    names = [name for name in disk.names(DIRECTORY) if name.endswith(".json")]
    for name, text in zip([*names, "checkpoint_epoch_99.json"], (None, b'{"epoch": 7}', b"{}"), strict=False):
        if name in names:
            disk.unlink(DIRECTORY / name)
        if text is not None:
            fd = disk.create(DIRECTORY / name)
            disk.write(fd, memoryview(text), 0)
            disk.close(fd)


def only_open(session: Session) -> None:
    session.open().close()


def phase_change(session: Session) -> None:
    session.run([5.0, 4.0], TUNING)


def rollback(session: Session) -> None:
    """An early stop: the stopped state is saved, the best one loaded, and the end saved from it."""
    with session.open() as manager:
        session.save(3.5)
        session.save(3.6, last=True)
        path = manager.get_best_checkpoint()
        if path is not None:
            manager.load_checkpoint(path, Standin, session.disk)
        session.final(2.5)


def pinned(session: Session) -> None:
    """Resumed from an old best, which a better one would push out."""
    with session.open() as manager:
        path = manager.get_best_checkpoint()
        if path is not None:
            manager.pin(path)
            for asked in session.saves:
                asked.pinned = path.name in asked.names
        session.save(2.0)
        session.save(1.0)


def two_in_flight(session: Session) -> None:
    """While one save is written two more are asked for; a waiting one that is only `last` is replaced."""
    disk, gate, begun = session.disk, threading.Event(), threading.Event()
    noted = disk.before

    def before(action: str, path: Path | None) -> None:
        if action == "create" and not begun.is_set():
            begun.set()
            assert gate.wait(PATIENCE)
        noted(action, path)

    session.asynchronous = True
    with session.open():
        disk.before = before
        session.save(2.0, last=True)
        assert begun.wait(PATIENCE)
        session.save(2.1, epoch_end=False, last=True)
        session.save(1.5, last=True)
        gate.set()
        assert session.saves[-1].future is not None
        session.saves[-1].future.result(PATIENCE)
    session.asynchronous = False


def little_room(session: Session) -> None:
    """The disk is full until an old checkpoint is deleted; where there is none, the save fails at first."""
    disk = session.disk
    with session.open():
        noted = disk.before

        def before(action: str, path: Path | None) -> None:
            noted(action, path)
            if action == "unlink":
                disk.room = PLENTY

        disk.before, disk.room = before, 0
        last = not session.strategy.best
        try:
            session.save(0.5, last=last)
        except CheckpointError:
            disk.room = PLENTY
            session.save(0.5, last=last)


@dataclass(frozen=True)
class Program:
    """A name, the two parts, how many bests of a phase are kept, and what the disk offers."""

    name: str
    before: Callable[[Session], None]
    during: Callable[[Session], None]
    keep: int = 1
    links: bool = True
    reserves: bool = True


FIRST = Program("first save", nothing, first_save, keep=2)
ONE = Program("one save more", three_epochs, one_save)
PROGRAMS = (
    FIRST,
    ONE,
    Program("replace of last", two_epochs, replace_of_last, keep=2),
    Program("new best", two_epochs, new_best, keep=4),
    Program("retention", two_epochs, new_best),
    Program("retention, one pinned", two_epochs, pinned),
    Program("sidecars put right", damaged_sidecars, only_open, keep=2),
    Program("phase change", two_epochs, phase_change),
    Program("rollback, final", two_epochs, rollback, keep=2),
    Program("two saves in flight", two_epochs, two_in_flight),
    Program("no hard links", three_epochs, one_save, links=False),
    Program("no preallocation", three_epochs, one_save, reserves=False),
)


@dataclass
class Recording:
    """What was durable before, what was done, and what the run had asked for."""

    base: Image
    log: list[Record]
    saves: list[Asked]
    acked: frozenset[int]  # before
    start: int = 0  # crashes in the log's first records are another recording's


def prepared(program: Program, strategy: CheckpointStrategy) -> Session:
    """Return a session whose part `before` is over and durable."""
    offers = {"links": program.links, "reserves": program.reserves}
    disk = ModelDisk(Image({(0, "disk"): 1}), **offers)
    session = Session(disk, strategy, program.keep)
    program.before(session)
    session.note_durable()
    session.attach(ModelDisk(disk.image(), **offers))
    return session


def record(program: Program, strategy: CheckpointStrategy) -> Recording:
    """Run a program to its end."""
    session = prepared(program, strategy)
    acked = frozenset(session.durable)
    program.during(session)
    session.note_durable()
    return Recording(session.disk.base, session.disk.log, session.saves, acked)


def killed(program: Program, strategy: CheckpointStrategy) -> Iterator[Recording]:
    """Kill the run before each of its actions in turn, and let the next run continue on a full disk.

    Nothing that the first one left unsynced has become durable by the kill.
    """
    for action in itertools.count(1):
        session = prepared(program, strategy)
        acked, disk, noted = frozenset(session.durable), session.disk, session.disk.before
        disk.before = _deadly(disk, action)
        try:
            program.during(session)
            return
        except Died:
            pass
        disk.before = noted
        disk.restart()
        start, session.epoch = len(disk.log), AFTERWARDS
        little_room(session)
        session.note_durable()
        yield Recording(disk.base, disk.log, session.saves, acked, start)


def _deadly(disk: ModelDisk, action: int) -> Callable[[str, Path | None], None]:
    counted, before = itertools.count(1), disk.before

    def deadly(name: str, path: Path | None) -> None:
        before(name, path)
        if next(counted) == action:
            disk.dead = True
            raise Died

    return deadly
