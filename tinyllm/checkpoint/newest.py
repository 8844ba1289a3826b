"""What a path means to whoever reads: a file is that file, a directory the newest valid checkpoint in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tinyllm.checkpoint import policy, reader
from tinyllm.checkpoint.disk import Disk
from tinyllm.checkpoint.metadata import CheckpointError, printable
from tinyllm.checkpoint.store import Store

T = TypeVar("T")


def read_newest(path: Path, disk: Disk, read: Callable[[Path], T]) -> tuple[Path, T]:
    """Return (file, read(file)) of the file that `path` means; CheckpointError if there is none.

    In a directory a running trainer may delete what was found before it is read: then the newest is looked
    for again. A file that was named is looked for once.
    """
    if not disk.is_directory(path):
        return path, read(path)

    def look() -> tuple[Path, T]:
        ordered = policy.newest(Store(path, disk, lambda _: None).entries())
        if not ordered:
            raise CheckpointError(f"{printable(path)}: no checkpoint here that training can go on from")
        return ordered[0].path, read(ordered[0].path)

    return reader.patient(look)
