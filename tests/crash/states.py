"""What a disk may hold after a crash, from the log of what was done to it, under three models.

kill     The process is gone, the system is not: all that was done, and a write's first sectors.
ordered  Power is gone, under a journal as ext4's: names changed in the order they were changed in, up to any
         one since the last fsync of anything; of a file that was not synced any sectors, and any size it had.
posix    Power is gone, and only what POSIX promises holds: each name by itself is anything it was since its
         directory was synced, so that renames and links are halved and reordered at will; each sector of an
         unsynced file is old, new, torn in its middle, or the bytes of another file that once lay there.

A sector is SECTOR bytes, the unit that disks write whole or not at all. Every combination is made. Two
things are left out because nothing reads them: what temp files and the lock contain (ModelDisk fails if
they are read), and the numbers in the temp files' names. Order: State, History.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from tests.crash.disk import ROOT, Image, Names, Record, Resize, Slot, Sync, SyncDirectory, Write, is_unread
from tinyllm.checkpoint.commit import TEMP_PREFIX

SECTOR = 512
SEVERAL = 2  # temp files stand for any larger number of them
MODELS = ("kill", "ordered", "posix")

State = tuple[tuple[str, bytes | None], ...]  # sorted (path, bytes; None for a directory)


def state_of(image: Image) -> State:
    """Return what a reader can tell of an image: all paths with their bytes."""
    return _state(image.names, image.files)


def image_of(state: State) -> Image:
    """Return an image that holds just this."""
    image, numbers = Image(), {"": ROOT}
    for number, (path, data) in enumerate(state, ROOT + 1):
        folder, _, name = path.rpartition("/")
        image.names[numbers[folder], name] = numbers[path] = number
        if data is not None:
            image.files[number] = data
    return image


def _state(names: dict[Slot, int], files: dict[int, bytes]) -> State:
    """Return the sorted paths below the root; temp files are numbered again, since they are all alike."""
    found: list[tuple[str, bytes | None]] = []
    below: dict[int, list[tuple[str, int]]] = {}
    for (directory, name), number in names.items():
        below.setdefault(directory, []).append((name, number))
    folders = [("", ROOT)]
    for path, directory in folders:
        temps = 0
        for name, number in below.get(directory, ()):
            if name.startswith(TEMP_PREFIX):
                if temps < SEVERAL:
                    found.append((f"{path}/{TEMP_PREFIX}0-{temps}", b""))
                temps += 1
            elif number in files:
                found.append((f"{path}/{name}", b"" if is_unread(name) else files[number]))
            else:
                found.append((f"{path}/{name}", None))
                folders.append((f"{path}/{name}", number))
    return tuple(sorted(found, key=lambda entry: entry[0]))


class History:
    """A disk's log so far, split into what is durable and what may be."""

    def __init__(self, base: Image) -> None:
        self._names, self._files = dict(base.names), dict(base.files)  # what the living system sees
        self._durable_names, self._durable_files = dict(base.names), dict(base.files)
        self._values: dict[Slot, list[int | None]] = {}  # of each place, since its directory was synced
        self._pending: dict[int, list[Write | Resize]] = {}  # of each file, since it was synced
        self._journalled = dict(base.names)  # when anything was last synced
        self._changes: list[Names] = []  # since then
        self._lost: set[int] = set()  # files whose fsync failed: no later one helps
        self._former = max(base.files.values(), key=len, default=b"\xaa" * SECTOR)

    def apply(self, record: Record) -> None:
        """Add one record of the log."""
        match record:
            case Names():
                self._changes.append(record)
                for slot, number in record.changes:
                    values = self._values.setdefault(slot, [self._durable_names.get(slot)])
                    if number not in values:
                        values.append(number)
                    _put(self._names, slot, number)
            case Write(file) | Resize(file):
                self._files[file] = _after(self._files.get(file, b""), record)
                self._durable_files.setdefault(file, b"")
                self._pending.setdefault(file, []).append(record)
            case Sync(file, failed=True):
                self._lost.add(file)
            case Sync(file):
                self._commit()
                if file not in self._lost:
                    self._durable_files[file] = self._files[file]
                    self._pending.pop(file, None)
            case SyncDirectory(directory):
                self._commit()
                for slot in [slot for slot in self._values if slot[0] == directory]:
                    del self._values[slot]
                    _put(self._durable_names, slot, self._names.get(slot))

    def states(self, model: str, following: Record | None = None) -> Iterator[State]:
        """Yield every state that a crash now may leave, some more than once.

        `following` is the next record: a write may be killed after any of its sectors.
        """
        if model == "kill":
            return self._killed(following)
        return self._ordered() if model == "ordered" else self._posix()

    def _commit(self) -> None:
        self._journalled = dict(self._names)
        self._changes.clear()

    def _killed(self, following: Record | None) -> Iterator[State]:
        yield _state(self._names, self._files)
        if isinstance(following, Write):
            file, offset, data = following
            for end in range(SECTOR - offset % SECTOR, len(data), SECTOR):
                begun = _after(self._files[file], Write(file, offset, data[:end]))
                yield _state(self._names, {**self._files, file: begun})

    def _ordered(self) -> Iterator[State]:
        names = dict(self._journalled)
        yield from self._with_contents(names, reordered=False)
        for record in self._changes:
            for slot, number in record.changes:
                _put(names, slot, number)
            yield from self._with_contents(names, reordered=False)

    def _posix(self) -> Iterator[State]:
        temps = [slot for slot in self._values if slot[1].startswith(TEMP_PREFIX)]
        others = [slot for slot in self._values if slot not in temps]
        for some in _so_many_of(temps, self._values):
            for chosen in itertools.product(*(self._values[slot] for slot in others)):
                names = dict(self._durable_names)
                for slot, number in itertools.chain(some, zip(others, chosen, strict=True)):
                    _put(names, slot, number)
                yield from self._with_contents(names, reordered=True)

    def _with_contents(self, names: dict[Slot, int], reordered: bool) -> Iterator[State]:
        """Yield the states of these names, with every content that each unsynced file may have."""
        read = {number for (_, name), number in names.items() if not is_unread(name)}
        unsynced = sorted(read & self._pending.keys())
        for contents in itertools.product(*(self._contents(file, reordered) for file in unsynced)):
            yield _state(names, {**self._durable_files, **dict(zip(unsynced, contents, strict=True))})

    def _contents(self, file: int, reordered: bool) -> list[bytes]:
        versions = [self._durable_files[file]]
        sizes = {len(versions[0])}
        for change in self._pending[file]:
            versions.append(_after(versions[-1], change))
            sizes.add(len(versions[-1]))
            if isinstance(change, Write):
                sizes.update(range(len(versions[-2]) // SECTOR * SECTOR, len(versions[-1]), SECTOR))
        sectors = []
        for start in range(0, max(sizes), SECTOR):
            options = list(dict.fromkeys(_sector(version, start) for version in versions))
            if reordered:
                half = SECTOR // 2
                options += [a[:half] + b[half:] for a, b in itertools.permutations(options, 2)]
                options.append(_sector(self._former, start))
            sectors.append(options)
        found = {}
        for size in sorted(sizes):
            for chosen in itertools.product(*sectors[: -(-size // SECTOR)]):
                found[b"".join(chosen)[:size]] = None
        return list(found)


def _sector(data: bytes, start: int) -> bytes:
    return data[start : start + SECTOR].ljust(SECTOR, b"\0")


def _put(names: dict[Slot, int], slot: Slot, number: int | None) -> None:
    if number is None:
        names.pop(slot, None)
    else:
        names[slot] = number


def _after(data: bytes, change: Write | Resize) -> bytes:
    if isinstance(change, Resize):
        return data[: change.size].ljust(change.size, b"\0")
    data = data.ljust(change.offset, b"\0")
    return data[: change.offset] + change.data + data[change.offset + len(change.data) :]


def _so_many_of(
    temps: Sequence[Slot], values: dict[Slot, list[int | None]]
) -> Iterator[list[tuple[Slot, int | None]]]:
    """Yield one choice for each number of temp files that may be left: which ones makes no difference."""
    must = [(slot, values[slot][0]) for slot in temps if None not in values[slot]]
    may = [slot for slot in temps if None in values[slot]]
    for count in range(min(len(may), SEVERAL) + 1):
        some = [(slot, next(n for n in values[slot] if n is not None)) for slot in may[:count]]
        yield [*must, *some, *((slot, None) for slot in may[count:])]
