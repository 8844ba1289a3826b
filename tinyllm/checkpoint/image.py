"""Writing a .bin in memory: the training thread fills an Image, the writer seals it.

No file is touched. Order: what can be saved, the map, the index, Image.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import msgpack  # type: ignore[import-untyped]
import numpy as np

from tinyllm.arena import Array, aligned_empty
from tinyllm.checkpoint import plain
from tinyllm.checkpoint.format import (
    DTYPES,
    HEADER_BYTES,
    MAX_NAME,
    Chunk,
    Header,
    Tensor,
    check,
    lead,
    pack_header,
    place,
)
from tinyllm.checkpoint.metadata import CheckpointError, CheckpointMetadata, progress

_CHUNK = struct.Struct(">BBQBIBBBI")  # integers of fixed width: an index is as long before its crcs are known
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_TWO_THREADS_BYTES = 1 << 22  # less is copied sooner than a thread begins
_SLACK_BYTES = 1 << 20  # a document may grow so much before a new buffer is needed


class State(Protocol):
    """What can be saved: TrainState, or anything with these two."""

    def document(self) -> dict[str, Any]:
        """Return everything but the tensors, of plain msgpack types, `progress` among them."""
        ...

    def tensors(self) -> Mapping[str, Array]:
        """Return {"params/...", "m/...", "v/...": array} in the file's order."""
        ...


def pack_map(
    document: Mapping[str, Any], metadata: CheckpointMetadata, *, kind: str = "state", epoch_end: bool = True
) -> bytes:
    """Return the map's bytes; CheckpointError names the field that cannot be stored."""
    try:
        progress(document)
        return plain.pack(
            {"kind": kind, "epoch_end": epoch_end, "metadata": metadata.document(), "document": document}
        )
    except ValueError as error:
        raise CheckpointError(f"this state cannot be stored: {error}") from error


def estimated_bytes(state: State) -> int:
    """Return about the size of its file, never less; CheckpointError if it could not be stored."""
    nobody = CheckpointMetadata(0, 0.0, 0.0, "2000-01-01 00:00:00", "m" * 64)
    size = HEADER_BYTES + len(pack_map(state.document(), nobody))
    for name, array in state.tensors().items():
        size += (
            array.nbytes + (array.nbytes >> 10) + 4 * len(name) + 512
        )  # chunks' entries, name, shape, pads
    return size


def _pack_index(tensors: Sequence[Tensor]) -> bytes:
    packer = msgpack.Packer(autoreset=False)
    packer.pack_array_header(len(tensors))
    parts = [packer.bytes()]
    for name, dtype, shape, chunks in tensors:
        packer.reset()
        packer.pack_array_header(4)
        for value in (name, dtype, shape):
            packer.pack(value)
        packer.pack_array_header(len(chunks))
        parts.append(packer.bytes())
        parts += [
            _CHUNK.pack(0x95, 0xCF, c.offset, 0xCE, c.length, c.codec, c.store, 0xCE, c.crc) for c in chunks
        ]
    return b"".join(parts)


class Image:
    """A file as it will lie on the disk, in memory that is kept from save to save.

    `fill` is the training thread's part, one memory copy a tensor; `seal` is the writer's: checksums,
    index and header. Between the two the training may go on.
    """

    def __init__(self) -> None:
        self._buffer: Array = np.empty(0, np.uint8)
        self._map = b""
        self._shape: list[Any] | None = None  # for which the next three were made
        self._tensors: list[Tensor] = []  # with offsets as if all began at byte 0
        self._index_bytes = self._shift = 0
        self.size = 0

    def reserve(self, size: int) -> None:
        """Get memory for `size` bytes and touch it, so that no save pays for it."""
        if size > self._buffer.size:
            self._buffer = np.empty(0, np.uint8)  # give the old one back first
            self._buffer = aligned_empty(size + _SLACK_BYTES, np.uint8)
            self._buffer.fill(0)

    def fill(self, packed_map: bytes, tensors: Mapping[str, Array]) -> None:
        """Copy the snapshot to its place; CheckpointError if a dtype cannot be stored."""
        shape = [(name, array.dtype, array.shape) for name, array in tensors.items()]
        if shape != self._shape:
            self._shape, self._tensors = shape, _lay_out(tensors)
            self._index_bytes = len(_pack_index(self._tensors))
        self._map, end = packed_map, HEADER_BYTES + len(packed_map) + self._index_bytes
        self._shift = _first(end) - _first(0)
        ends = [chunk.offset + chunk.length + self._shift for each in self._tensors for chunk in each.chunks]
        self.size = ends[-1] if ends else end
        self.reserve(self.size)
        copies = []
        for tensor, array in zip(self._tensors, tensors.values(), strict=True):
            flat, done = np.ascontiguousarray(array).reshape(-1).view(np.uint8), 0
            for chunk in tensor.chunks:
                offset, length = chunk.offset + self._shift, chunk.length
                self._buffer[end:offset] = np.frombuffer(lead(end, length), np.uint8)
                copies.append((self._buffer[offset : offset + length], flat[done : done + length]))
                done, end = done + length, offset + length
        _copy(copies)

    def seal(self, sequence: int) -> memoryview:
        """Write checksums, index and header; return the bytes; CheckpointError names NaN or infinity."""
        view = self._buffer.data[: self.size]
        sealed = []
        for tensor in self._tensors:
            chunks = []
            for chunk in tensor.chunks:
                offset = chunk.offset + self._shift
                crc, finite = check(view[offset : offset + chunk.length], tensor.dtype)
                if not finite:
                    raise CheckpointError(f"{tensor.name} holds NaN or infinity; such a state is never saved")
                chunks.append(chunk._replace(offset=offset, crc=crc))
            sealed.append(tensor._replace(chunks=tuple(chunks)))
        index, index_at = _pack_index(sealed), HEADER_BYTES + len(self._map)
        header = Header(sequence, self.size, len(self._map), zlib.crc32(self._map),
                        index_at, len(index), zlib.crc32(index))  # fmt: skip
        view[: index_at + len(index)] = pack_header(header) + self._map + index
        return view


def _lay_out(tensors: Mapping[str, Array]) -> list[Tensor]:
    """Return the index of `tensors` as if the chunks began at byte 0; the crcs are still zero.

    Where they really begin adds the same multiple of 64 to every offset.
    """
    placed, end = [], 0
    for name, array in tensors.items():
        if not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise CheckpointError(f"{name!r:.80}: a tensor's name has 1 to {MAX_NAME} printable characters")
        if array.dtype not in _DTYPE_NAMES:
            raise CheckpointError(f"{name}: dtype {array.dtype} cannot be stored, only {', '.join(DTYPES)}")
        chunks = tuple(Chunk(offset, length, 0, 0, 0) for offset, length in place(end, array.nbytes))
        placed.append(Tensor(name, _DTYPE_NAMES[array.dtype], array.shape, chunks))
        if chunks:
            end = chunks[-1].offset + chunks[-1].length
    return placed


def _first(end: int) -> int:
    """Return where the first payload after the byte `end` begins, a multiple of 64."""
    return next(place(end, 1))[0]


def _copy(copies: Sequence[tuple[Array, Array]]) -> None:
    """Copy (target, source) pairs, the second half of the bytes in another thread.

    One core alone cannot fill the way to the memory, and the training waits meanwhile.
    """
    total, first, split = sum(source.size for _, source in copies), 0, 0
    while 2 * first < total:
        first, split = first + copies[split][1].size, split + 1
    if total < _TWO_THREADS_BYTES:
        split = len(copies)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(_copy_all, copies[split:]) if split < len(copies) else None
        _copy_all(copies[:split])
        if other is not None:
            other.result()


def _copy_all(copies: Sequence[tuple[Array, Array]]) -> None:
    for target, source in copies:
        np.copyto(target, source)
