"""A disk in memory that logs each change, so that every state a crash may leave can be made from the log.

It is POSIX's as far as checkpoints need it: directories are tables of names, a file may have several, and
what is open lives on without any. Order: the log's records, an Image of the disk, ModelDisk.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.standin import Died
from tinyllm.checkpoint.commit import TEMP_PREFIX
from tinyllm.checkpoint.disk import Disk
from tinyllm.checkpoint.lock import LOCK_NAME

ROOT = 0  # the number of the directory "/"
Slot = tuple[int, str]  # a name's place: the directory's number and the name


class Names(NamedTuple):
    """Names that changed at once: what each place holds now, None for nothing."""

    changes: tuple[tuple[Slot, int | None], ...]


class Write(NamedTuple):
    file: int
    offset: int
    data: bytes


class Resize(NamedTuple):
    """A file is this long now; a new one is made so, at 0."""

    file: int
    size: int


class Sync(NamedTuple):
    """A file's bytes are durable; if `failed`, nobody knows, and no later Sync makes them so."""

    file: int
    failed: bool = False


class SyncDirectory(NamedTuple):
    directory: int


class Durable(NamedTuple):
    """The save of this number has been reported durable."""

    save: int


def is_unread(name: str) -> bool:
    """Whether nothing ever reads the file of this name, so that its content makes no difference."""
    return name.startswith(TEMP_PREFIX) or name == LOCK_NAME


Record = Names | Write | Resize | Sync | SyncDirectory | Durable


@dataclass
class Image:
    """What a disk holds: the numbers of files and directories by place, and the bytes of each file."""

    names: dict[Slot, int] = field(default_factory=dict)
    files: dict[int, bytes] = field(default_factory=dict)

    def copy(self) -> Image:
        return Image(dict(self.names), dict(self.files))


class ModelDisk(Disk):
    """A Disk whose `base` is what was durable when it was plugged in and whose `log` tells all since.

    `before(action, path or None)` is called first of all by every action that changes something or reads.
    `room` is what `free` answers; `links` and `reserves`: whether hard links and preallocation are offered.
    """

    def __init__(self, base: Image | None = None, *, links: bool = True, reserves: bool = True) -> None:
        self.base = base or Image()
        self.links, self.reserves, self.room = links, reserves, 1 << 40
        self.log: list[Record] = []
        self.before: Callable[[str, Path | None], None] = lambda action, path: None
        self.process = 1
        self.dead = False
        self.opened: dict[int, int] = {}  # descriptor -> file
        self.locked: set[int] = set()  # files
        self._now = self.base.copy()
        self._content = {file: bytearray(data) for file, data in self.base.files.items()}
        self._numbers = itertools.count(1 + max([ROOT, *self.base.names.values()]))
        self._descriptors = itertools.count(3)

    def restart(self) -> None:
        """The process is gone, however it ended: its descriptors and locks with it; another begins."""
        self.opened.clear()
        self.locked.clear()
        self.process += 1
        self.dead = False

    def image(self) -> Image:
        """Return what the disk holds now, as who reads it sees it."""
        reachable = {number: bytes(self._content[number]) for number in self._now.names.values()
                     if number in self._content}  # fmt: skip
        return Image(dict(self._now.names), reachable)

    def content(self, path: Path) -> bytes:
        """Return a file's bytes; no action of the process under test."""
        return bytes(self._content[self._now.names[self._slot(path)]])

    # ---- files

    def create(self, path: Path) -> int:
        slot = self._begin("create", path)
        if slot in self._now.names:
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        return self._create(slot)

    def open(self, path: Path) -> tuple[int, int]:
        assert not is_unread(path.name), f"{path.name} is read, but its content is left out of the states"
        file = self._file(self._begin("open", path), path)
        return self._descriptor(file), len(self._content[file])

    def preallocate(self, fd: int, size: int) -> bool:
        self._begin("preallocate")
        if self.reserves and size > len(self._content[self.opened[fd]]):
            self._resize(self.opened[fd], size)
        return self.reserves

    def write(self, fd: int, data: memoryview, offset: int) -> int:
        self._begin("write")
        content = self._content[self.opened[fd]]
        if len(data):  # as POSIX has it, writing nothing does not extend a file
            content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data
        self.log.append(Write(self.opened[fd], offset, bytes(data)))
        return len(data)

    def direct(self, fd: int, on: bool) -> bool:
        return False

    def read(self, fd: int, into: memoryview, offset: int) -> int:
        self._begin("read")
        data = self._content[self.opened[fd]][offset : offset + len(into)]
        into[: len(data)] = data
        return len(data)

    def sync(self, fd: int) -> None:
        self._begin("sync")
        self.log.append(Sync(self.opened[fd]))

    def close(self, fd: int) -> None:
        self._begin("close")
        self.locked.discard(self.opened.pop(fd))

    def truncate(self, fd: int, size: int) -> None:
        self._begin("truncate")
        self._resize(self.opened[fd], size)

    # ---- names

    def rename(self, source: Path, target: Path) -> None:
        old, new = self._begin("rename", source), self._slot(target)
        file = self._file(old, source)
        if self._now.names.get(new) != file:  # of one file's two names, rename(2) drops none
            self._name((old, None), (new, file))

    def link(self, source: Path, target: Path) -> bool:
        old, new = self._begin("link", source), self._slot(target)
        if not self.links:
            return False
        file = self._file(old, source)
        if new in self._now.names:
            raise FileExistsError(errno.EEXIST, "File exists", str(target))
        self._name((new, file))
        return True

    def unlink(self, path: Path) -> None:
        slot = self._begin("unlink", path)
        self._file(slot, path)
        self._name((slot, None))

    # ---- directories

    def is_directory(self, path: Path) -> bool:
        try:
            return self._directory(path) is not None
        except OSError:
            return False

    def make_directory(self, path: Path) -> None:
        slot = self._begin("make_directory", path)
        if slot in self._now.names:
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        self._name((slot, next(self._numbers)))

    def names(self, path: Path) -> list[str]:
        self._begin("names", path)
        directory = self._directory(path)
        return sorted(name for place, name in self._now.names if place == directory)

    def sync_directory(self, path: Path) -> bool:
        self._begin("sync_directory", path)
        self.log.append(SyncDirectory(self._directory(path)))
        return True

    def free(self, path: Path) -> int:
        self._begin("free", path)
        return self.room

    # ---- the lock

    def lock(self, path: Path) -> tuple[int, bool]:
        slot = self._begin("lock", path)
        if self._now.names.get(slot) in self.locked:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable", str(path))
        if list(self._now.names.values()).count(self._now.names.get(slot, ROOT)) > 1:
            raise OSError(errno.EMLINK, "has other names", str(path))
        fd = self._descriptor(self._now.names[slot]) if slot in self._now.names else self._create(slot)
        self.locked.add(self.opened[fd])
        return fd, True

    def is_at(self, fd: int, path: Path) -> bool:
        return self._now.names.get(self._slot(path)) == self.opened[fd]

    def place_of(self, fd: int) -> Path | None:
        return None

    def identity(self) -> tuple[int, str]:
        return self.process, "model"

    # ---- inside

    def _begin(self, action: str, path: Path | None = None) -> Slot:
        if self.dead:
            raise Died
        self.before(action, path)
        return self._slot(path) if path is not None and path.parent != path else (ROOT, "")

    def _slot(self, path: Path) -> Slot:
        return self._directory(path.parent), path.name

    def _directory(self, path: Path) -> int:
        number = ROOT
        for part in path.parts[1:]:
            found = self._now.names.get((number, part))
            if found is None:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
            if found in self._content:
                raise NotADirectoryError(errno.ENOTDIR, "Not a directory", str(path))
            number = found
        return number

    def _file(self, slot: Slot, path: Path) -> int:
        file = self._now.names.get(slot)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        if file not in self._content:
            raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
        return file

    def _descriptor(self, file: int) -> int:
        fd = next(self._descriptors)
        self.opened[fd] = file
        return fd

    def _create(self, slot: Slot) -> int:
        file = next(self._numbers)
        self._content[file] = bytearray()
        self.log.append(Resize(file, 0))
        self._name((slot, file))
        return self._descriptor(file)

    def _resize(self, file: int, size: int) -> None:
        content = self._content[file]
        content.extend(bytes(max(0, size - len(content))))
        del content[size:]
        self.log.append(Resize(file, size))

    def _name(self, *changes: tuple[Slot, int | None]) -> None:
        for slot, number in changes:
            if number is None:
                del self._now.names[slot]
            else:
                self._now.names[slot] = number
        self.log.append(Names(changes))
