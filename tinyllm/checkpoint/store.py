"""A directory of checkpoints: locked, recovered, listed, and changed so that no crash loses one.

A save is committed first; only then are sidecars, which are derived, written and old checkpoints deleted.
Order: the lock and recovery, then put, list and delete, then small parts.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from tinyllm.checkpoint import policy, reader
from tinyllm.checkpoint.commit import TEMP_PREFIX, Notice, commit, make_directories, temp_name, write_all
from tinyllm.checkpoint.disk import Disk
from tinyllm.checkpoint.format import Head, Header
from tinyllm.checkpoint.lock import LOCK_NAME, DirectoryLock
from tinyllm.checkpoint.metadata import (
    CheckpointError,
    DamagedError,
    Entry,
    GoneError,
    UnknownVersionError,
    by_sequence,
    read_standing,
    sidecar,
)
from tinyllm.escape import printable

RESERVE_BYTES = 1 << 16  # for sidecars and the directory itself
_SMALL_BYTES = 1 << 16  # no sidecar of ours is larger


def describe(path: Path, label: str, head: Head) -> Entry:
    """Return the entry of a file whose head is `head`."""
    standing = read_standing(head.fields)
    return Entry(
        path, label, head.metadata, head.header.sequence, size=head.header.file_bytes,
        weights_only=head.kind == "weights", epoch_end=head.epoch_end, **standing._asdict(),
    )  # fmt: skip


def _entry(path: Path, found: Entry | CheckpointError) -> Entry:
    if isinstance(found, Entry):
        return found
    return Entry(path, policy.label_of(path.name) or "", problem=str(found))


def _is_no_regular_file(problem: CheckpointError) -> bool:
    """Whether the name belongs to a pipe, a directory or the like, which was never a checkpoint."""
    return isinstance(problem.__cause__, OSError) and problem.__cause__.errno == errno.EINVAL


class Store:
    """The checkpoints of one directory; only a locked store (`open`) may change anything."""

    def __init__(self, directory: Path, disk: Disk, notice: Notice) -> None:
        self.directory, self.disk, self._notice = directory, disk, notice
        self.lock = DirectoryLock(directory, disk, notice)
        self._known: dict[Path, tuple[Header, Entry]] = {}

    # ---- the lock, and recovery, which needs it

    def open(self) -> None:
        """Make the directory and lock it until `close`; CheckpointError if it is in use."""
        try:
            make_directories(self.disk, self.directory)
            self.lock.take()
        except OSError as error:
            raise CheckpointError(
                f"{self}: cannot be written to: {error.strerror or error}; give another directory"
            ) from error

    def close(self) -> None:
        """Release the lock."""
        self.lock.release()

    def is_locked_by_runs(self) -> bool:
        """Whether a run has ever locked this directory."""
        return LOCK_NAME in self._names()

    def recover(self) -> list[Entry]:
        """Delete temp files, set damaged files aside, rebuild sidecars; return the remaining entries.

        Raises CheckpointError at a file of a newer format, and at one that cannot be read: the sequence of
        the next save must be larger than its own, which only its bytes tell.
        """
        names, entries = self._names(), []
        for name in names:
            if name.startswith(TEMP_PREFIX):
                self._remove(self.directory / name)
        for path, found in self._read(names):
            if isinstance(found, UnknownVersionError):
                raise CheckpointError(f"{found}; or choose another directory") from found
            if isinstance(found, GoneError):
                continue
            if isinstance(found, DamagedError):
                self.set_aside(path, found)
                continue
            if isinstance(found, Entry):
                self._repair_sidecar(found)
            elif _is_no_regular_file(found):
                self._notice(str(found))
            else:
                raise CheckpointError(f"{found}; make it readable, or move it elsewhere") from found
            entries.append(_entry(path, found))
        bins = {entry.path for entry in entries}
        for name in names:  # sidecars without their .bin
            path = self.directory / name
            if name.endswith(".json") and policy.label_of(name) and path.with_suffix(".bin") not in bins:
                self._remove(path)
        return sorted(entries, key=by_sequence)

    def set_aside(self, path: Path, problem: CheckpointError) -> None:
        """Rename a damaged file to `<name>.corrupt`, so that nothing uses it; it is never deleted."""
        try:
            taken = set(self.disk.names(self.directory))
            names = (
                f"{path.name}.corrupt{number}" for number in itertools.chain([""], range(2, len(taken) + 3))
            )
            target = self.directory / next(name for name in names if name not in taken)
            self.disk.rename(path, target)
            self._notice(f"{problem}; set aside as {printable(target.name)}")
        except OSError as error:
            self._notice(f"{problem}; it could not be set aside: {error.strerror or error}")

    def set_aside_damaged(self, entries: Iterable[Entry]) -> None:
        """Set aside the entries whose problem is that their bytes are damaged."""
        for path, found in self._read(entry.path.name for entry in entries if entry.problem):
            if isinstance(found, DamagedError):
                self.set_aside(path, found)

    # ---- put, list, delete

    def put(self, data: memoryview, targets: Sequence[Path]) -> None:
        """Save `data` under all `targets`; CheckpointError, which names the first, if that fails."""
        try:
            if targets[0].parent != self.directory:
                make_directories(self.disk, targets[0].parent)
            commit(self.disk, data, targets, self._notice)
        except OSError as error:
            raise CheckpointError(
                f"{printable(targets[0])}: not saved: {error.strerror or error}; "
                f"earlier checkpoints are still there"
            ) from error

    def make_durable(self) -> None:
        """Sync the directory, so that no deletion is durable before an earlier rename; or CheckpointError."""
        try:
            self.disk.sync_directory(self.directory)
        except OSError as error:
            raise CheckpointError(
                f"{self}: cannot be made durable, so nothing is deleted: {error.strerror or error}"
            ) from error

    def missing_bytes(self, size: int, directory: Path) -> int:
        """Return how many bytes `directory` lacks for a file of `size`; 0 where that is unknown."""
        try:
            return max(0, size + RESERVE_BYTES - self.disk.free(directory))
        except OSError:
            return 0

    def entries(self) -> list[Entry]:
        """Return the directory's checkpoints by sequence; a bad file is an entry with a problem."""
        missing = set[Path]()  # listed but gone; at the second time it is a link to nothing

        def look() -> list[Entry]:
            found = []
            for path, each in self._read(self._names()):
                if not isinstance(each, GoneError):
                    found.append(_entry(path, each))
                elif path not in missing:
                    missing.add(path)
                    raise each
            return sorted(found, key=by_sequence)

        return reader.retry_if_gone(look)

    def delete(self, entry: Entry) -> None:
        """Delete a checkpoint and its sidecar; a failure is only a notice."""
        self._remove(entry.path)
        self._remove(entry.path.with_suffix(".json"))

    def write_sidecar(self, entry: Entry) -> None:
        """Write the .json beside a .bin; it is derived, so a failure is only a notice."""
        if entry.label == "final" or entry.metadata is None:
            return
        temp = temp_name(self.directory)
        try:
            fd = self.disk.create(temp)
            try:
                write_all(self.disk, fd, memoryview(sidecar(entry)))
            finally:
                self.disk.close(fd)
            self.disk.rename(temp, entry.path.with_suffix(".json"))
        except OSError as error:
            with suppress(OSError):
                self.disk.unlink(temp)
            self._notice(
                f"{printable(entry.path.with_suffix('.json'))}: not written: {error.strerror or error}"
            )

    def first_intact(self, candidates: Iterable[Entry]) -> Entry | None:
        """Return the first entry whose bytes all match their checksums; damaged ones are set aside."""
        for entry in candidates:
            try:
                reader.verify(entry.path, self.disk)
                return entry
            except GoneError:
                raise
            except DamagedError as problem:
                if not self.lock.held:
                    self._notice(f"{problem}; skipped")
                else:
                    self.set_aside(entry.path, problem)
            except CheckpointError as problem:
                self._notice(f"{problem}; skipped")
        return None

    def __str__(self) -> str:
        return printable(self.directory)

    def _names(self) -> list[str]:
        try:
            return self.disk.names(self.directory)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CheckpointError(f"{self}: cannot be listed: {error.strerror or error}") from error

    def _read(self, names: Iterable[str]) -> Iterable[tuple[Path, Entry | CheckpointError]]:
        """Yield (path, entry or error) per checkpoint; where the header is unchanged, only that is read."""
        for name in names:
            label = policy.label_of(name)
            if label is None or not name.endswith(".bin"):
                continue
            path = self.directory / name
            try:
                with reader.CheckpointFile(path, self.disk) as file:
                    header, known = self._known.get(path, (None, None))
                    if known is None or header != file.header:
                        known = describe(path, label, file.head)
                        self._known[path] = file.header, known
                yield path, known
            except CheckpointError as error:
                yield path, error

    def _repair_sidecar(self, entry: Entry) -> None:
        with suppress(OSError):
            if self._read_small(entry.path.with_suffix(".json")) == sidecar(entry):
                return
        self.write_sidecar(entry)

    def _remove(self, path: Path) -> None:
        try:
            self.disk.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._notice(f"{printable(path)}: not deleted: {error.strerror or error}")

    def _read_small(self, path: Path) -> bytes:
        fd, size = self.disk.open(path)
        try:
            data = bytearray(min(size, _SMALL_BYTES))
            count = self.disk.read(fd, memoryview(data), 0)
        finally:
            self.disk.close(fd)
        return bytes(data[:count])
