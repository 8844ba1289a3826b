"""A path to read from: a file means itself, a directory the newest valid checkpoint in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tinyllm.checkpoint import policy, reader
from tinyllm.checkpoint.disk import Disk
from tinyllm.checkpoint.metadata import CheckpointError
from tinyllm.checkpoint.store import Store
from tinyllm.escape import printable

T = TypeVar("T")


def read_newest(path: Path, disk: Disk, read: Callable[[Path], T]) -> tuple[Path, T]:
    """Return (file, read(file)) of the file that `path` means; CheckpointError if there is none.

    A running trainer may delete the newest file between the listing and the reading: then the directory is
    listed again. A path that names a file is tried once.
    """
    if not disk.is_directory(path):
        return path, read(path)

    def look() -> tuple[Path, T]:
        ordered = policy.newest_first(Store(path, disk, lambda _: None).entries())
        if not ordered:
            raise CheckpointError(f"{printable(path)}: no checkpoint here that training can resume from")
        return ordered[0].path, read(ordered[0].path)

    return reader.retry_if_gone(look)
