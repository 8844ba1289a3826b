"""Making bytes durable under one or more names of a directory, each replaced in one instant.

Temp file in the same directory, preallocate, write, fsync; link and rename; fsync the directory: only
then is it committed. No name is ever without a file in between, and a failed fsync is never retried
on the same file. Every failure is an OSError. Order: `commit`, its parts, `make_directories`.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from tinyllm.checkpoint.disk import Disk
from tinyllm.escape import printable

TEMP_PREFIX = ".tmp-"
_WRITE_BYTES = 1 << 26
_BLOCK_BYTES = 4096  # no disk has larger ones
_DIRECT_BYTES = 1 << 23  # for smaller files the cache costs nothing that can be measured

Notice = Callable[[str], None]


def commit(disk: Disk, data: memoryview, targets: Sequence[Path], notice: Notice) -> None:
    """Make `data` durable under all `targets` of one directory, or raise OSError and leave no temp file.

    Each target is replaced in one instant; where hard links are supported all of them are one file.
    """
    directory, temps = targets[0].parent, []
    try:
        temps.append(_write_temp(disk, data, directory, notice))
        for target in targets[1:]:
            twin = temp_name(directory)
            if disk.link(temps[0], twin):
                temps.append(twin)
            else:
                notice(f"{printable(directory)}: hard links are not supported; each name gets its own copy")
                temps.append(_write_temp(disk, data, directory, notice))
            disk.rename(temps[-1], target)
            temps.pop()
        disk.rename(temps[0], targets[0])
        temps.pop()
        if not disk.sync_directory(directory):
            notice(f"{printable(directory)}: no directory sync here; a power cut may lose the newest save")
    except BaseException:
        for temp in temps:
            with suppress(OSError):
                disk.unlink(temp)
        raise


def _write_temp(disk: Disk, data: memoryview, directory: Path, notice: Notice) -> Path:
    path = temp_name(directory)
    fd = disk.create(path)
    try:
        try:
            if not disk.preallocate(fd, len(data)):
                notice(f"{printable(directory)}: space cannot be reserved; a full disk is noticed late")
            _write_large(disk, fd, data)
            disk.sync(fd)
        except BaseException:
            with suppress(OSError):
                disk.close(fd)
            raise
        disk.close(fd)
    except BaseException:
        with suppress(OSError):
            disk.unlink(path)
        raise
    return path


def _write_large(disk: Disk, fd: int, data: memoryview) -> None:
    """Write `data`, bypassing the page cache for all whole blocks where that is supported.

    Training needs the memory bandwidth that a copy to the cache would take, and nothing reads the file
    soon. If the system refuses a direct write after all (EINVAL), everything is written through the cache.
    """
    whole = len(data) // _BLOCK_BYTES * _BLOCK_BYTES
    done = 0
    if whole >= _DIRECT_BYTES and _address(data) % _BLOCK_BYTES == 0 and disk.direct(fd, True):
        try:
            write_all(disk, fd, data[:whole])
            done = whole
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        finally:
            disk.direct(fd, False)
    write_all(disk, fd, data, done)


def _address(data: memoryview) -> int:
    return int(np.frombuffer(data, np.uint8).ctypes.data)


def write_all(disk: Disk, fd: int, data: memoryview, offset: int = 0) -> None:
    """Write `data[offset:]` to the file at `offset`, however little the system takes at a time."""
    while offset < len(data):
        count = disk.write(fd, data[offset : offset + _WRITE_BYTES], offset)
        if count <= 0:
            raise OSError(0, "the system takes no more bytes")
        offset += count


def make_directories(disk: Disk, path: Path) -> None:
    """Make `path` and its missing parents, each durable in the directory above it.

    Existing ones are synced too: the process that made them may have been killed before its sync.
    """
    if path.parent == path:
        return
    make_directories(disk, path.parent)
    made = not disk.is_directory(path)
    if made:
        with suppress(FileExistsError):
            disk.make_directory(path)
    try:
        disk.sync_directory(path.parent)
    except PermissionError:  # a parent that only others may read
        if made:
            raise


def temp_name(directory: Path) -> Path:
    """Return a name in `directory` that nothing else uses or can foresee, and that recovery deletes."""
    return directory / f"{TEMP_PREFIX}{secrets.token_hex(8)}"
