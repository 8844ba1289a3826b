"""Every file that the program writes is opened here: a new one, or its own; never one behind a link.

A run's directory may come from someone else. A name in it may be a symbolic link to any file of the user's,
or a second name (hard link) of one, and what is opened for writing under that name would be overwritten. So
a new file gets a name that nobody can know beforehand and must not exist; a file that is continued must be a
regular one with no other name. One that is only read may lie behind a link, but must be a file: a pipe would
be waited for, and a device read for ever. Order: opening, replacing, directories, what is found at a path.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_BYTES = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_ALWAYS = _BYTES | getattr(os, "O_NOFOLLOW", 0)
_NO_WAITING = getattr(os, "O_NONBLOCK", 0)  # as a pipe without a reader would
_HEAD_BYTES = 4096


def open_to_read(path: Path) -> int:
    """Open a regular file, or a link to one, for reading; OSError at once for anything else."""
    fd = os.open(path, os.O_RDONLY | _NO_WAITING | _BYTES)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return fd


def create(path: Path) -> int:
    """Open a new file for writing; FileExistsError if the name is taken, be it by a link."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _ALWAYS, 0o666)


def open_own(path: Path, flags: int = 0) -> int:
    """Open a file of the program's own for reading and writing, or make it; `flags` may add os.O_APPEND.

    OSError for a symbolic link, for anything but a regular file, and for a file that has another name.
    """
    if os.path.islink(path):  # asked first for the message, and for systems without O_NOFOLLOW
        raise OSError(errno.ELOOP, "a symbolic link, which is never written through; remove it", str(path))
    fd = os.open(path, os.O_RDWR | os.O_CREAT | _NO_WAITING | _ALWAYS | flags, 0o666)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file; remove it", str(path))
        if status.st_nlink > 1:
            raise OSError(
                errno.EMLINK,
                f"has {status.st_nlink} names (hard links), and writing would change the file under all of "
                f"them; replace it by a copy",
                str(path),
            )
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_at(fd: int, path: Path) -> bool:
    """Return whether `path` is now a name of the open file, and no link to it."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file that becomes `path` at the end, in one instant; after an error nothing has changed.

    There is no fsync. A link of that name is replaced itself, not followed.
    """
    temporary = path.with_name(f"{_drawn_prefix(path)}{secrets.token_hex(8)}")
    fd = create(temporary)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def remove_leftovers(path: Path) -> None:
    """Delete what killed processes have left of replacing `path`; no other process may be replacing it."""
    for name in os.listdir(path.parent):
        if name.startswith(_drawn_prefix(path)):
            with suppress(OSError):
                os.unlink(path.with_name(name))


def _drawn_prefix(path: Path) -> str:
    return f".{path.name}."


def own_directory(path: Path) -> None:
    """Make the directory in an existing one, unless it is there; NotADirectoryError for a link to one."""
    with suppress(FileExistsError):
        os.mkdir(path)
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise NotADirectoryError(
            errno.ENOTDIR,
            "not a directory but a file or a link, which is never followed; remove it",
            str(path),
        )


def check_replaceable(path: Path, kind: str, is_kind: Callable[[bytes], bool], force: bool) -> None:
    """Raise FileExistsError if replacing `path` would lose a file other than an earlier one of this kind.

    `is_kind` decides by the first bytes. An empty file may be replaced; any other file or link with `force`;
    what is neither a file nor a link never.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISLNK(status.st_mode):
        found = "is a symbolic link"
    elif not stat.S_ISREG(status.st_mode):
        raise FileExistsError(errno.EEXIST, "exists and is not a file; give another name", str(path))
    elif not status.st_size or is_kind(_head(path)):
        return
    else:
        found = f"exists and is not {kind}"
    if not force:
        raise FileExistsError(
            errno.EEXIST, f"{found}; give another name, or --force to replace it", str(path)
        )


def _head(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | _NO_WAITING | _ALWAYS)
    with os.fdopen(fd, "rb") as file:
        return file.read(_HEAD_BYTES)
