"""Reading a .bin from the disk: its head, its tensors into given memory, or all of it to verify.

Every failure is a CheckpointError that names the file; bytes that no save wrote are a DamagedError. Order:
CheckpointFile, then what the rest of the program reads with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tinyllm.arena import Array
from tinyllm.checkpoint.disk import Disk
from tinyllm.checkpoint.format import (
    DTYPES,
    HEADER_BYTES,
    Head,
    Tensor,
    chunk_prefix,
    crc_and_finite,
    parse_head,
    parse_header,
)
from tinyllm.checkpoint.metadata import (
    CheckpointError,
    CheckpointMetadata,
    DamagedError,
    GoneError,
)
from tinyllm.escape import printable

_SCRATCH_BYTES = 1 << 22
_TWO_THREADS_BYTES = 1 << 23  # smaller files are read faster by one thread
_ATTEMPTS = 100  # at a directory that changes faster than it is read
T = TypeVar("T")


class CheckpointFile:
    """An open .bin whose header is valid; it reads the same bytes even if the name is replaced meanwhile."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self.path, self._disk = path, disk
        self.file = printable(path)
        with _naming(self.file):
            self._fd, self.size = disk.open(path)
        try:
            with _naming(self.file):
                first = self._read(0, min(HEADER_BYTES, self.size))
                self.header = parse_header(first, self.size, self.file)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> CheckpointFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; errors are ignored, since it was only read."""
        with suppress(OSError):
            self._disk.close(self._fd)

    @cached_property
    def head(self) -> Head:
        """All but the payloads, read and checked at the first access."""
        with _naming(self.file):
            rest = self._read(HEADER_BYTES, self.header.map_bytes + self.header.index_bytes)
        return parse_head(self.header, rest, self.file)

    def payloads(self, tensor: Tensor, end: int, into: memoryview | None = None) -> Iterator[memoryview]:
        """Yield a tensor's bytes piece by piece; its chunks follow byte `end`.

        With `into` (the tensor's memory) every piece is read there; otherwise into a small scratch that the
        next piece reuses. Raises DamagedError, at a chunk's end at the latest, if its padding, checksum or
        finiteness is wrong: no piece may be trusted before that.
        """
        scratch = memoryview(bytearray(min(_SCRATCH_BYTES, tensor.nbytes))) if into is None else into
        done = 0  # bytes of the tensor
        for number, chunk in enumerate(tensor.chunks):
            where = f"{self.file}: {printable(tensor.name)}: chunk {number}"
            with _naming(self.file):
                if self._read(end, chunk.offset - end) != chunk_prefix(end, chunk.length):
                    raise DamagedError(f"{where}: the bytes before it are not the expected padding")
            crc, finite = 0, True
            for start in range(0, chunk.length, _SCRATCH_BYTES):
                length = min(_SCRATCH_BYTES, chunk.length - start)
                piece = scratch[:length] if into is None else into[done : done + length]
                with _naming(self.file):
                    self._read_into(piece, chunk.offset + start)
                crc, fine = crc_and_finite(piece, tensor.dtype, crc)
                finite, done = finite and fine, done + length
                yield piece
            if crc != chunk.crc:
                raise DamagedError(
                    f"{where}: checksum differs in bytes {chunk.offset} to {chunk.offset + chunk.length}"
                )
            if not finite:
                raise DamagedError(f"{where}: holds NaN or infinity")
            end = chunk.offset + chunk.length

    def tensors(self, role: str | None = None) -> Iterator[tuple[Tensor, int]]:
        """Yield (tensor, end of the bytes before it), all or those of one role."""
        end = self.header.index_at + self.header.index_bytes
        for tensor in self.head.tensors:
            if role is None or tensor.role == role:
                yield tensor, end
            if tensor.chunks:
                end = tensor.chunks[-1].offset + tensor.chunks[-1].length

    def _read(self, offset: int, size: int) -> bytearray:
        data = bytearray(size)
        self._read_into(memoryview(data), offset)
        return data

    def _read_into(self, view: memoryview, offset: int) -> None:
        while len(view):
            count = self._disk.read(self._fd, view, offset)
            if not count:
                raise DamagedError(f"{self.file}: ends at byte {offset}, before its last chunk does")
            view, offset = view[count:], offset + count


@contextmanager
def _naming(file: str) -> Iterator[None]:
    """Turn an OSError into a CheckpointError that names the file."""
    try:
        yield
    except OSError as error:
        kind = GoneError if isinstance(error, FileNotFoundError) else CheckpointError
        raise kind(f"{file}: cannot be read: {error.strerror or error}") from error


def retry_if_gone(read: Callable[[], T]) -> T:
    """Return `read()`, repeated while it raises GoneError: a running trainer may delete what was listed.

    A trainer deletes nothing before its replacement is durable, so that the next attempt finds that.
    """
    for _ in range(_ATTEMPTS - 1):
        with suppress(GoneError):
            return read()
    return read()


def read_head(path: Path, disk: Disk) -> Head:
    """Return the head of a .bin; the payloads are not read."""
    with CheckpointFile(path, disk) as file:
        return file.head


def verify(path: Path, disk: Disk) -> Head:
    """Read every byte of a .bin against its checksums and return its head; CheckpointError otherwise."""
    with CheckpointFile(path, disk) as file:
        _read_all(file, lambda tensor: None)
        return file.head


def digests(path: Path, disk: Disk) -> tuple[Head, dict[str, str]]:
    """Return (head, {role: SHA-256 in hex}), over all payload bytes of a role's tensors in file order."""
    with CheckpointFile(path, disk) as file:
        found: dict[str, Any] = {}
        for tensor, end in file.tensors():
            digest = found.setdefault(tensor.role, hashlib.sha256())
            for piece in file.payloads(tensor, end):
                digest.update(piece)
        return file.head, {role: digest.hexdigest() for role, digest in found.items()}


def read_state(path: Path, disk: Disk, state_type: Any) -> tuple[Any, CheckpointMetadata]:
    """Return (state, metadata); payloads are read straight into the tensors of `state_type.from_dict`."""
    with CheckpointFile(path, disk) as file:
        head = file.head
        if head.kind != "state":
            raise CheckpointError(
                f"{file.file}: holds weights only, without Adam's moments; training cannot resume from it "
                f"(generate and chat can use it)"
            )
        try:
            state = state_type.from_dict(head.fields)
            views: Mapping[str, Array] = state.tensors()
        except Exception as error:  # hostile fields may raise anything
            raise CheckpointError(f"{file.file}: document: not a valid state: {error}") from error
        _compare(head, views, file.file)
        _read_all(file, lambda tensor: _memory(views[tensor.name]))
        return state, head.metadata


def read_weights(path: Path, disk: Disk) -> tuple[Head, dict[str, Array]]:
    """Return (head, {path of a parameter: array}); Adam's moments are skipped, not read."""
    with CheckpointFile(path, disk) as file:
        found = {
            tensor.name: np.empty(tensor.shape, DTYPES[tensor.dtype]) for tensor, _ in file.tensors("params")
        }
        if not found:
            raise CheckpointError(f"{file.file}: holds no parameters")
        _read_all(file, lambda tensor: _memory(found[tensor.name]), "params")
        return file.head, {name.partition("/")[2]: array for name, array in found.items()}


def _read_all(
    file: CheckpointFile, into: Callable[[Tensor], memoryview | None], role: str | None = None
) -> None:
    """Read and check every tensor, or those of one role, into the memory that `into` returns.

    Two at a time: checking on one core is slower than reading. The first error is raised.
    """

    def read(each: tuple[Tensor, int]) -> None:
        for _ in file.payloads(*each, into(each[0])):
            pass

    tensors = list(file.tensors(role))
    if file.size < _TWO_THREADS_BYTES:
        for each in tensors:
            read(each)
        return
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(read, tensors):
            pass


def _memory(array: Array) -> memoryview:
    assert array.flags.c_contiguous  # reshape would copy any other, and the bytes would be read into the copy
    return array.reshape(-1).view(np.uint8).data


def _compare(head: Head, views: Mapping[str, Array], file: str) -> None:
    """Raise CheckpointError unless the index lists exactly the state's tensors."""
    expected = {name: f"{view.dtype} {view.shape}" for name, view in views.items()}
    found = {tensor.name: f"{tensor.dtype} {tensor.shape}" for tensor in head.tensors}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"{file}: {printable(name)}: the document implies {expected.get(name, 'no such tensor')}, "
                f"the index has {found.get(name, 'none')}"
            )
