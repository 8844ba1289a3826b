"""The lock of a run's directory, which one process holds until it releases it or ends, however it ends.

A lock is worth nothing once the directory is elsewhere: a second trainer can then lock what stands in its
place. So a writer compares first. Order: taking it, comparing, releasing.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from tinyllm.checkpoint.commit import Notice, write_all
from tinyllm.checkpoint.disk import Disk
from tinyllm.checkpoint.metadata import CheckpointError
from tinyllm.escape import printable

LOCK_NAME = ".lock"
_SMALL_BYTES = 1 << 16  # no lock file of ours is larger


class DirectoryLock:
    """The lock of one directory, not taken yet."""

    def __init__(self, directory: Path, disk: Disk, notice: Notice) -> None:
        self.path, self._disk, self._notice = directory / LOCK_NAME, disk, notice
        self._fd: int | None = None
        self._process = 0  # that took it

    @property
    def held(self) -> bool:
        """Whether it was taken and not released, be it by the process that this one was forked from."""
        return self._fd is not None

    def take(self) -> None:
        """Lock the directory; CheckpointError if it is in use or its lock file is not a file of its own."""
        try:
            self._fd, offered = self._disk.lock(self.path)
        except BlockingIOError as error:
            raise CheckpointError(
                f"{self}: in use by {self._holder()}; two writers must not share a directory: "
                f"stop that one or use another directory"
            ) from error
        except OSError as error:
            raise CheckpointError(
                f"{printable(self.path)}: cannot be locked: {error.strerror or error}"
            ) from error
        if not offered:
            self._notice(f"{self}: file locks are not supported; nothing keeps a second trainer out")
        self._process, host = self._disk.identity()
        with suppress(OSError):  # only for the other process's error message
            self._disk.truncate(self._fd, 0)
            about = json.dumps({"pid": self._process, "host": host})
            write_all(self._disk, self._fd, memoryview(about.encode()))

    def _holder(self) -> str:
        try:
            fd, size = self._disk.open(self.path)
            try:
                data = bytearray(min(size, _SMALL_BYTES))
                count = self._disk.read(fd, memoryview(data), 0)
            finally:
                self._disk.close(fd)
            found = json.loads(data[:count])
            return f"process {printable(int(found['pid']))} on {printable(found['host'])}"
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return "another process"

    @property
    def is_inherited(self) -> bool:
        """Whether another process took it: this one was forked from that, and must write nothing."""
        return self.held and self._disk.identity()[0] != self._process

    def check(self) -> None:
        """Raise CheckpointError, which says what was found, unless the directory is still the locked one."""
        if self._fd is None:
            return
        if self.is_inherited:
            raise CheckpointError(
                f"{self}: in use by process {self._process}, from which this one was forked; only that one "
                f"may write there: open a CheckpointManager of another directory"
            )
        try:
            if self._disk.is_at(self._fd, self.path):
                return
            place = self._disk.place_of(self._fd)
        except OSError as error:
            raise CheckpointError(f"{self}: cannot be found: {error.strerror or error}") from error
        if place is not None:
            found = f"was moved to {printable(place.parent)}"
        elif not self._disk.is_directory(self.path.parent):
            found = "was deleted, moved or unmounted"
        else:
            found = f"was replaced by another one, or its {LOCK_NAME} was deleted,"
        raise CheckpointError(f"{self}: this directory {found} while the run was using it")

    def release(self) -> None:
        """Let others have the directory; nothing where it was not taken by this process."""
        if self._fd is not None and not self.is_inherited:
            fd, self._fd = self._fd, None
            with suppress(OSError):
                self._disk.close(fd)

    def __str__(self) -> str:
        return printable(self.path.parent)
