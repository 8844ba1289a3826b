"""The one door to the operating system: nothing else in this package opens, writes, renames or lists.

Each method of Disk is one action, so that a test may put another Disk in its place: one that traces,
fails or dies at the n-th action, or keeps files in memory and shows every state a crash may leave.
What a platform does not support is answered with False, and the caller says so in a notice; every other
failure is an OSError. Order: files, names, the directory, the lock, and what becomes of it in a fork.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tinyllm import safe_files

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_CLOEXEC = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_UNSUPPORTED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
_NO_LINKS = _UNSUPPORTED | {errno.EPERM, errno.EMLINK, errno.EXDEV}


class Disk:
    """The real file system; threads may read and write at the same time."""

    _seeking = threading.Lock()  # where a file's position has to be set first

    # ---- files, by descriptor

    def create(self, path: Path) -> int:
        """Open a new file for writing; FileExistsError if the name is taken, be it by a link."""
        return safe_files.create(path)

    def open(self, path: Path) -> tuple[int, int]:
        """Open a regular file for reading; return (descriptor, size); never waits, as a pipe would."""
        fd = safe_files.open_to_read(path)
        return fd, os.fstat(fd).st_size

    def preallocate(self, fd: int, size: int) -> bool:
        """Reserve `size` bytes, so that a full disk shows now; False where that is not supported."""
        if not size or not hasattr(os, "posix_fallocate"):
            return False
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return False
            raise
        return True

    def write(self, fd: int, data: memoryview, offset: int) -> int:
        """Write `data` at `offset`; return how many bytes were taken, which may be fewer."""
        if hasattr(os, "pwrite"):
            return os.pwrite(fd, data, offset)
        with self._seeking:
            os.lseek(fd, offset, os.SEEK_SET)
            return os.write(fd, data)

    def direct(self, fd: int, on: bool) -> bool:
        """Let writes bypass the page cache, or no longer; False where that is not supported.

        Memory, offset and length must then be multiples of the disk's block; else `write` raises EINVAL.
        """
        if fcntl is None or not hasattr(os, "O_DIRECT"):
            return False
        try:
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)
        except OSError:
            return False
        return True

    def read(self, fd: int, into: memoryview, offset: int) -> int:
        """Read at `offset` into memory; return how many bytes came, 0 at the end of the file."""
        if hasattr(os, "preadv"):
            return os.preadv(fd, [into], offset)
        with self._seeking:
            os.lseek(fd, offset, os.SEEK_SET)
            data = os.read(fd, len(into))
        into[: len(data)] = data
        return len(data)

    def sync(self, fd: int) -> None:
        """Make the file's bytes durable; an error is final, the kernel may have dropped the bytes."""
        os.fsync(fd)

    def close(self, fd: int) -> None:
        """Close the descriptor, locks included; a quota or network error may show only here."""
        if fd in _locked:
            _locked.discard(fd)
            with suppress(OSError):  # a program that is being started may still hold a copy of the descriptor
                fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)

    # ---- names

    def rename(self, source: Path, target: Path) -> None:
        """Rename `source` to `target`, atomically replacing any file of that name."""
        os.replace(source, target)

    def link(self, source: Path, target: Path) -> bool:
        """Give a file a second name, which must be free; False where links are not supported."""
        if not hasattr(os, "link"):
            return False
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno in _NO_LINKS:
                return False
            raise
        return True

    def unlink(self, path: Path) -> None:
        """Remove a name; FileNotFoundError if there is none."""
        os.unlink(path)

    def check_replaceable(
        self, path: Path, kind: str, is_kind: Callable[[bytes], bool], force: bool
    ) -> None:  # fmt: skip
        """Raise FileExistsError if replacing `path` would lose what is no earlier file of this kind."""
        safe_files.check_replaceable(path, kind, is_kind, force)

    # ---- the directory

    def is_directory(self, path: Path) -> bool:
        """Whether `path` is a directory."""
        return os.path.isdir(path)

    def make_directory(self, path: Path) -> None:
        """Make one directory in an existing one; FileExistsError if the name is taken."""
        os.mkdir(path)

    def names(self, path: Path) -> list[str]:
        """Return the sorted names in a directory."""
        return sorted(os.listdir(path))

    def sync_directory(self, path: Path) -> bool:
        """Make a directory's names durable; False where that is not supported."""
        if os.name == "nt":
            return False
        fd = os.open(path, os.O_RDONLY | _CLOEXEC)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return False
            raise
        finally:
            os.close(fd)
        return True

    def free(self, path: Path) -> int:
        """Return the free bytes of the directory's file system."""
        return shutil.disk_usage(path).free

    # ---- the lock

    def lock(self, path: Path) -> tuple[int, bool]:
        """Open (or create) `path` and lock it until it is closed or the process ends, however it ends.

        Returns (descriptor, whether locks are supported here); BlockingIOError if another process holds it.
        A forked child does not hold the lock.
        """
        fd = safe_files.open_own(path)
        if fcntl is None:
            return fd, False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise
        except OSError as error:
            if error.errno in _UNSUPPORTED | {errno.ENOLCK}:
                return fd, False
            os.close(fd)
            raise
        _locked.add(fd)
        return fd, True

    def is_at(self, fd: int, path: Path) -> bool:
        """Whether `path` is now a name of the open file, which a deletion or a renaming may have ended."""
        return safe_files.is_at(fd, path)

    def place_of(self, fd: int) -> Path | None:
        """Return where an open file is now; None if it is deleted, or where the system does not tell."""
        try:
            found = Path(os.readlink(f"/proc/self/fd/{fd}"))
            return found if self.is_at(fd, found) else None
        except OSError:
            return None

    def truncate(self, fd: int, size: int) -> None:
        """Make the file `size` bytes long."""
        os.truncate(fd, size)

    def identity(self) -> tuple[int, str]:
        """Return (process id, host name), by which a lock's holder is found."""
        return os.getpid(), socket.gethostname()


# A lock belongs to the open file, which a forked child shares: it would last until the child has ended too.
_locked: set[int] = set()


def _leave_locks() -> None:
    """Close a forked child's copies of the locked descriptors; the parent's locks stay."""
    while _locked:
        os.close(_locked.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks)
