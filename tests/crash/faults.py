"""One action of a run fails, whichever it is and however: then the run continues, and may crash as well.

A fault is an error number; SHORT, a write that takes half of what it is given; or FULL, one that takes
nothing. Only one action fails. An fsync that fails has lost what it was for, and no later one helps.
Order: the disk, the runs, what came of one.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.crash.disk import Image, ModelDisk, Sync
from tests.crash.matrix import Count, judge
from tests.crash.programs import (
    AFTERWARDS,
    ONE,
    Program,
    Recording,
    damaged_sidecars,
    prepared,
    three_epochs,
)
from tests.crash.session import DIRECTORY, Session
from tests.crash.states import MODELS
from tests.crash.verdict import Observer
from tinyllm.checkpoint import CheckpointError, CheckpointStrategy
from tinyllm.checkpoint.commit import TEMP_PREFIX

SHORT, FULL = "short write", "write of nothing"
ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.EACCES, errno.EROFS, errno.EINTR,
)  # fmt: skip
FAULTS: tuple[int | str, ...] = (*ERRORS, SHORT, FULL)


class FaultyModelDisk(ModelDisk):
    """Fails at its k-th action; `struck` says which that was, and `at` where the log was then."""

    def __init__(self, base: Image, k: int, fault: int | str) -> None:
        super().__init__(base)
        self.k, self.fault, self.actions = k, fault, 0
        self.struck: tuple[str, str] | None = None
        self.at = 0

    def _begin(self, action: str, path: Path | None = None):
        slot = super()._begin(action, path)
        self.actions += 1
        if self.actions == self.k and (isinstance(self.fault, int) or action == "write"):
            self.struck, self.at = (action, path.name if path else ""), len(self.log)
            if isinstance(self.fault, int):
                raise OSError(self.fault, "struck")
        return slot

    def write(self, fd: int, data: memoryview, offset: int) -> int:
        if self.actions + 1 == self.k and isinstance(self.fault, str):
            data = data[: len(data) // 2 if self.fault == SHORT else 0]
        return super().write(fd, data, offset)

    def sync(self, fd: int) -> None:
        try:
            super().sync(fd)
        except OSError:
            self.log.append(Sync(self.opened[fd], failed=True))
            raise

    def close(self, fd: int) -> None:
        try:
            super().close(fd)
        except OSError:  # close(2) gives the descriptor back whatever it says
            self.locked.discard(self.opened.pop(fd))
            raise


def nothing_right(session: Session) -> None:
    """Sidecars to put right, temp files to sweep, a head and a payload that are rotten."""
    damaged_sidecars(session)
    disk = session.disk
    for name in (f"{TEMP_PREFIX}9-9", "checkpoint_epoch_98.bin"):
        disk.close(disk.create(DIRECTORY / name))
    newest = max((name for name in disk.names(DIRECTORY) if name.endswith(".bin")),
                key=lambda name: len(disk.content(DIRECTORY / name)))  # fmt: skip
    rotten = bytearray(disk.content(DIRECTORY / newest))
    rotten[-1] ^= 1
    fd = disk.create(DIRECTORY / "model_final.bin")
    disk.write(fd, memoryview(rotten), 0)
    disk.close(fd)


def read_and_save(session: Session) -> None:
    with session.open() as manager:
        manager.get_last_checkpoint()
        manager.get_best_checkpoint()
        session.save(1.0)


def save_final(session: Session) -> None:
    with session.open():
        session.final(1.0)


RUNS = (
    ONE,
    Program("recovery", nothing_right, read_and_save, keep=2),
    Program("final", three_epochs, save_final),
    Program("first save", lambda session: None, lambda session: session.run([1.0])),
)


@dataclass
class Struck:
    """A run that met a fault."""

    recording: Recording
    action: tuple[str, str]
    raised: list[str]
    notices: list[str]
    descriptors: int
    temps: list[str]
    lost: list[int]  # saves that were asked for and never reported durable


def strike(program: Program, strategy: CheckpointStrategy, k: int, fault: int | str) -> Struck | None:
    """Run a program whose k-th action fails, then another save; None if there are fewer actions.

    A write fault at another action than a write strikes nothing.
    """
    session = prepared(program, strategy)
    acked = frozenset(session.durable)
    session.attach(FaultyModelDisk(session.disk.base, k, fault))
    disk, raised, notices = session.disk, [], list[str]()
    assert isinstance(disk, FaultyModelDisk)
    try:
        program.during(session)
    except CheckpointError as error:
        raised.append(str(error))
    if session.manager:
        session.manager.close()
        notices += session.manager.notices
    if disk.actions < k:
        return None
    descriptors = len(disk.opened)
    left = disk.names(DIRECTORY) if disk.is_directory(DIRECTORY) else []
    session.epoch = AFTERWARDS
    with session.open():
        session.save(0.5, last=not strategy.best)
    session.note_durable()
    recording = Recording(disk.base, disk.log, session.saves, acked, disk.at)
    temps = [name for name in left if name.startswith(TEMP_PREFIX)]
    lost = [asked.number for asked in session.saves if asked.labels and asked.number not in session.durable]
    return Struck(recording, disk.struck or ("", ""), raised, notices, descriptors, temps, lost)


def struck_everywhere(program: Program, strategy: CheckpointStrategy, fault: int | str) -> Iterator[Struck]:
    """Yield what came of the fault at every action where it can be."""
    for k in itertools.count(1):
        found = strike(program, strategy, k, fault)
        if found is None:
            return
        if found.action[0]:
            yield found


def crashed_after_a_fault(
    program: Program, strategy: CheckpointStrategy, fault: int | str, models: tuple[str, ...] = MODELS
) -> Count:
    """Return the count of crashes at every point after a fault at every action."""
    recordings = (struck.recording for struck in struck_everywhere(program, strategy, fault))
    return judge(Observer(strategy, program.keep), recordings, models)
