"""Composing a .bin in memory: the training thread fills an Image, the writer thread seals it.

No file is touched. Order: what can be saved, the map, the index, Image, its parts.
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
    chunk_prefix,
    chunk_spans,
    crc_and_finite,
    pack_header,
)
from tinyllm.checkpoint.metadata import CheckpointError, CheckpointMetadata, read_standing

_CHUNK = struct.Struct(">BBQBIBBBI")  # integers of fixed width: an index is as long before its crcs are known
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_TWO_THREADS_BYTES = 1 << 22  # less is copied before a second thread has started
_SLACK_BYTES = 1 << 20  # the map may grow by so much before a new buffer is needed


class State(Protocol):
    """What can be saved: TrainState, or anything with these two methods."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the tensors as plain msgpack types, `progress` included."""
        ...

    def tensors(self) -> Mapping[str, Array]:
        """Return {"params/...", "m/...", "v/...": array} in the file's order."""
        ...


def pack_map(
    fields: Mapping[str, Any], metadata: CheckpointMetadata, *, kind: str = "state", epoch_end: bool = True
) -> bytes:
    """Return the map's bytes; CheckpointError names the field that cannot be stored."""
    try:
        read_standing(fields)
        return plain.pack(
            {"kind": kind, "epoch_end": epoch_end, "metadata": metadata.to_dict(), "document": fields}
        )
    except ValueError as error:
        raise CheckpointError(f"this state cannot be stored: {error}") from error


def estimated_bytes(state: State) -> int:
    """Return an upper bound of the size of its file; CheckpointError if it could not be stored."""
    longest = CheckpointMetadata(0, 0.0, 0.0, "2000-01-01 00:00:00", "m" * 64)
    size = HEADER_BYTES + len(pack_map(state.to_dict(), longest))
    for name, array in state.tensors().items():
        overhead = (array.nbytes >> 10) + 4 * len(name) + 512  # chunks' entries, name, shape, pads
        size += array.nbytes + overhead
    return size


def _pack_index(tensors: Sequence[Tensor]) -> bytes:
    """Return the index's bytes; their number does not depend on the values of offsets and crcs."""
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
    """A file as it will be on the disk, in memory that is reused from save to save.

    `fill` is the training thread's part, one memory copy per tensor; `seal` is the writer's: checksums,
    index and header. Training continues as soon as `fill` returns.
    """

    def __init__(self) -> None:
        self._buffer: Array = np.empty(0, np.uint8)
        self._map = b""
        self._shapes: list[Any] | None = None  # of the tensors for which the next two were made
        self._tensors: list[Tensor] = []  # offsets as if the first chunk followed byte 0
        self._index_bytes = 0
        self._shift = 0  # what the map and the index before the chunks add to every offset
        self.size = 0

    def reserve(self, size: int) -> None:
        """Allocate memory for `size` bytes and touch it, so that no save pays for it."""
        if size > self._buffer.size:
            self._buffer = np.empty(0, np.uint8)  # free the old one first
            self._buffer = aligned_empty(size + _SLACK_BYTES, np.uint8)
            self._buffer.fill(0)

    def fill(self, packed_map: bytes, tensors: Mapping[str, Array]) -> None:
        """Copy a snapshot into the image; CheckpointError if a dtype cannot be stored."""
        # In one run the shapes never change, only the map does: the layout is made once and shifted.
        shapes = [(name, array.dtype, array.shape) for name, array in tensors.items()]
        if shapes != self._shapes:
            self._shapes, self._tensors = shapes, _lay_out(tensors)
            self._index_bytes = len(_pack_index(self._tensors))
        self._map, end = packed_map, HEADER_BYTES + len(packed_map) + self._index_bytes
        self._shift = _first_payload(end) - _first_payload(0)
        ends = [chunk.offset + chunk.length + self._shift for each in self._tensors for chunk in each.chunks]
        self.size = ends[-1] if ends else end
        self.reserve(self.size)
        # Pads and bin headers are written here; the payloads, nearly all of the bytes, by two threads below.
        copies = []
        for tensor, array in zip(self._tensors, tensors.values(), strict=True):
            flat, done = np.ascontiguousarray(array).reshape(-1).view(np.uint8), 0
            for chunk in tensor.chunks:
                offset, length = chunk.offset + self._shift, chunk.length
                self._buffer[end:offset] = np.frombuffer(chunk_prefix(end, length), np.uint8)
                copies.append((self._buffer[offset : offset + length], flat[done : done + length]))
                done, end = done + length, offset + length
        _copy(copies)

    def seal(self, sequence: int) -> memoryview:
        """Write index and header with all checksums; return the file's bytes.

        Raises CheckpointError if a tensor holds NaN or infinity.
        """
        view = self._buffer.data[: self.size]
        sealed = []
        for tensor in self._tensors:
            chunks = []
            for chunk in tensor.chunks:
                offset = chunk.offset + self._shift
                crc, finite = crc_and_finite(view[offset : offset + chunk.length], tensor.dtype)
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
    """Return the index of `tensors` as if the chunks followed byte 0; the crcs are still zero.

    Their true start adds the same multiple of 64 to every offset.
    """
    placed, end = [], 0
    for name, array in tensors.items():
        if not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise CheckpointError(f"{name!r:.80}: a tensor's name has 1 to {MAX_NAME} printable characters")
        if array.dtype not in _DTYPE_NAMES:
            raise CheckpointError(f"{name}: dtype {array.dtype} cannot be stored, only {', '.join(DTYPES)}")
        chunks = tuple(Chunk(offset, length, 0, 0, 0) for offset, length in chunk_spans(end, array.nbytes))
        placed.append(Tensor(name, _DTYPE_NAMES[array.dtype], array.shape, chunks))
        if chunks:
            end = chunks[-1].offset + chunks[-1].length
    return placed


def _first_payload(end: int) -> int:
    """Return the offset of the first payload after byte `end`, a multiple of 64."""
    return next(chunk_spans(end, 1))[0]


def _copy(copies: Sequence[tuple[Array, Array]]) -> None:
    """Copy (target, source) pairs, the second half of the bytes in another thread.

    One core cannot use the full memory bandwidth, and training waits until the copy is done.
    """
    total, first, split = sum(source.size for _, source in copies), 0, 0
    while 2 * first < total:  # the first `split` copies, `first` bytes, are about half
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
