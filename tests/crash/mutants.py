"""The mutation proof: the same matrix with one step of the protocol left out or moved must go red.

Each mutant says what is wrong with it, how it is made, and in which run it is looked for. The last ones
break nothing, and that is the point: what they leave out is not there against crashes. Order: the ways to
break the protocol, the list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.crash import matrix, programs
from tests.crash.disk import ModelDisk
from tests.crash.programs import FIRST, ONE, S
from tests.crash.session import DIRECTORY
from tinyllm.checkpoint import CheckpointStrategy, commit, policy, reader, store
from tinyllm.checkpoint import image as image_module
from tinyllm.checkpoint.kept import Kept
from tinyllm.checkpoint.store import Store

Break = Callable[[], AbstractContextManager[Any]]


def no_file_sync() -> AbstractContextManager[Any]:
    return patch.object(ModelDisk, "sync", lambda self, fd: None)


def no_directory_sync() -> AbstractContextManager[Any]:
    return _unsynced(lambda path: path == DIRECTORY)


def no_parent_sync() -> AbstractContextManager[Any]:
    return _unsynced(lambda path: path != DIRECTORY)


def _unsynced(which: Callable[[Path], bool]) -> AbstractContextManager[Any]:
    sync = ModelDisk.sync_directory
    return patch.object(ModelDisk, "sync_directory", lambda self, path: which(path) or sync(self, path))


def directories_believed() -> AbstractContextManager[Any]:
    """A directory that exists is taken for durable."""
    make = commit.make_directories
    return patch.object(
        store, "make_directories", lambda disk, path: disk.is_directory(path) or make(disk, path)
    )


def no_settling() -> AbstractContextManager[Any]:
    return patch.object(Store, "make_durable", lambda self: None)


def deleted_first() -> AbstractContextManager[Any]:
    write = Kept.write

    def early(self: Kept, job: Any) -> None:
        known = self.entries
        self.entries = [*known, *(replace(entry, sequence=self._sequence + 1) for entry in job.entries)]
        self.apply_retention()
        self.entries = [entry for entry in known if entry in self.entries]
        write(self, job)

    return patch.object(Kept, "write", early)


@contextmanager
def deleted_before_directory_sync() -> Iterator[None]:
    sync, write = ModelDisk.sync_directory, Kept.write

    def late(self: Kept, job: Any) -> None:
        write(self, job)
        sync(self._store.disk, DIRECTORY)  # type: ignore[arg-type]

    with no_directory_sync(), patch.object(Kept, "write", late):
        yield


def unlinked_first() -> AbstractContextManager[Any]:
    rename = ModelDisk.rename

    def remove_and_rename(self: ModelDisk, source: Path, target: Path) -> None:
        with suppress(FileNotFoundError):
            self.unlink(target)
        rename(self, source, target)

    return patch.object(ModelDisk, "rename", remove_and_rename)


def in_place() -> AbstractContextManager[Any]:
    """Open the name itself, write, fsync."""

    def overwrite(disk: ModelDisk, data: memoryview, targets: Sequence[Path], notice: Any) -> None:
        for target in targets:
            slot = disk._begin("create", target)
            if slot in disk._now.names:
                fd = disk._descriptor(disk._now.names[slot])
                disk.truncate(fd, 0)
            else:
                fd = disk._create(slot)
            disk.write(fd, data, 0)
            disk.sync(fd)
            disk.close(fd)
        disk.sync_directory(targets[0].parent)

    return patch.object(store, "commit", overwrite)


def renamed_before_file_sync() -> AbstractContextManager[Any]:
    """Everything is done, and the fsync last, after the directory's."""
    original = commit.commit

    def late(disk: ModelDisk, data: memoryview, targets: Sequence[Path], notice: Any) -> None:
        with no_file_sync():
            original(disk, data, targets, notice)
        for target in targets:
            fd, _ = disk.open(target)
            disk.sync(fd)
            disk.close(fd)

    return patch.object(store, "commit", late)


def copies_unsynced() -> AbstractContextManager[Any]:
    """Where there are no links, only the first of a save's files is synced."""
    original, write = commit.commit, commit._write_temp

    def first_synced(disk: ModelDisk, data: memoryview, targets: Sequence[Path], notice: Any) -> None:
        written = 0

        def write_temp(*args: Any) -> Path:
            nonlocal written
            written += 1
            if written == 1:
                return write(*args)
            with no_file_sync():
                return write(*args)

        with patch.object(commit, "_write_temp", write_temp):
            original(disk, data, targets, notice)

    return patch.object(store, "commit", first_synced)


def pins_forgotten() -> AbstractContextManager[Any]:
    to_delete = policy.to_delete
    return patch.object(
        policy, "to_delete", lambda entries, n: to_delete([replace(e, pinned=False) for e in entries], n)
    )


def phases_together() -> AbstractContextManager[Any]:
    """The best N of all phases are kept, not of each."""
    best_first = policy.best_first

    def to_delete(entries: Sequence[Any], n: int) -> list[Any]:
        best = [entry for entry in entries if entry.label == "best" and entry.metadata]
        phases = {entry.metadata.phase for entry in best}
        found = [entry for phase in phases for entry in best_first(best, phase)]
        return sorted(found, key=lambda entry: entry.metadata.loss)[n:]

    return patch.object(policy, "to_delete", to_delete)


def sidecars_believed() -> AbstractContextManager[Any]:
    return patch.object(Store, "_repair_sidecar", lambda self, entry: None)


def temps_left() -> AbstractContextManager[Any]:
    return patch.object(store, "TEMP_PREFIX", "no such prefix")


@contextmanager
def no_checksums() -> Iterator[None]:
    def blind(payload: Any, dtype: str, crc: int = 0) -> tuple[int, bool]:
        return 0, True

    with patch.object(reader, "crc_and_finite", blind), patch.object(image_module, "crc_and_finite", blind):
        yield


@dataclass(frozen=True)
class Mutant:
    """What is left out, how, and the run that is crashed; `red` whether it must break an invariant."""

    name: str
    breaks: Break
    program: programs.Program = ONE
    strategy: CheckpointStrategy = S.BEST_AND_LAST
    count: Callable[..., matrix.Count] = matrix.crashed
    red: bool = True

    def counted(self) -> matrix.Count:
        with self.breaks():
            return self.count(self.program, self.strategy)


_of = {program.name: program for program in programs.PROGRAMS}
MUTANTS = (
    Mutant("no fsync of the file", no_file_sync, strategy=S.LAST),
    Mutant("fsync of the file last, after the names", renamed_before_file_sync),
    Mutant("no fsync of a copy, where links are missing", copies_unsynced, _of["no hard links"]),
    Mutant("no fsync of the directory", no_directory_sync),
    Mutant("no fsync of the parent of a new directory", no_parent_sync, FIRST, S.LAST),
    Mutant("existing directories taken for durable, after a kill", directories_believed, FIRST, S.LAST,
           matrix.crashed_after_a_kill),
    Mutant("room made before what is seen is durable, after a kill", no_settling, ONE, S.BEST,
           matrix.crashed_after_a_kill),
    Mutant("deletions before the save", deleted_first, strategy=S.BEST),
    Mutant("deletions before the fsync of the directory", deleted_before_directory_sync, strategy=S.BEST),
    Mutant("written in place", in_place, strategy=S.LAST),
    Mutant("unlinked, then renamed", unlinked_first, strategy=S.LAST),
    Mutant("retention forgets what is pinned", pins_forgotten, _of["retention, one pinned"], S.BEST),
    Mutant("retention takes all phases together", phases_together, _of["phase change"], S.BEST),
    Mutant("sidecars believed", sidecars_believed, strategy=S.LAST),
    Mutant("temp files not swept", temps_left, strategy=S.LAST),
    Mutant("no checksums, all else in order", no_checksums, red=False),
)  # fmt: skip
