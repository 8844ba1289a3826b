"""Writing a .bin in memory: the training thread fills an Image, the writer seals it. No file is touched.

Order: the map, the index, Image.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

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
_SLACK_BYTES = 1 << 20  # a document may grow so much before a new buffer is needed


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
        self._tensors: list[Tensor] = []
        self.size = 0

    def reserve(self, size: int) -> None:
        """Get memory for `size` bytes and touch it, so that no save pays for it."""
        if size > self._buffer.size:
            self._buffer = np.empty(0, np.uint8)  # give the old one back first
            self._buffer = aligned_empty(size + _SLACK_BYTES, np.uint8)
            self._buffer.fill(0)

    def fill(self, packed_map: bytes, tensors: Mapping[str, Array]) -> None:
        """Copy the snapshot to its place; CheckpointError if a dtype cannot be stored."""
        start = HEADER_BYTES + len(packed_map)
        placed = _lay_out(tensors, 0)  # for the index's length, which depends on no offset
        placed = _lay_out(tensors, start + len(_pack_index(placed)))
        ends = [chunk.offset + chunk.length for tensor in placed for chunk in tensor.chunks]
        end = start + len(_pack_index(placed))
        self.size = ends[-1] if ends else end
        self.reserve(self.size)
        for tensor, array in zip(placed, tensors.values(), strict=True):
            flat, done = np.ascontiguousarray(array).reshape(-1).view(np.uint8), 0
            for offset, length, *_ in tensor.chunks:
                self._buffer[end:offset] = np.frombuffer(lead(end, length), np.uint8)
                np.copyto(self._buffer[offset : offset + length], flat[done : done + length])
                done, end = done + length, offset + length
        self._map, self._tensors = packed_map, placed

    def seal(self, sequence: int) -> memoryview:
        """Write checksums, index and header; return the file's bytes. NaN or infinity is refused by name."""
        view = self._buffer.data[: self.size]
        sealed = []
        for tensor in self._tensors:
            chunks = []
            for chunk in tensor.chunks:
                crc, finite = check(view[chunk.offset : chunk.offset + chunk.length], tensor.dtype)
                if not finite:
                    raise CheckpointError(f"{tensor.name} holds NaN or infinity; such a state is never saved")
                chunks.append(chunk._replace(crc=crc))
            sealed.append(tensor._replace(chunks=tuple(chunks)))
        index, index_at = _pack_index(sealed), HEADER_BYTES + len(self._map)
        header = Header(sequence, self.size, len(self._map), zlib.crc32(self._map),
                        index_at, len(index), zlib.crc32(index))  # fmt: skip
        view[: index_at + len(index)] = pack_header(header) + self._map + index
        return view


def _lay_out(tensors: Mapping[str, Array], end: int) -> list[Tensor]:
    """Return the index of `tensors` whose chunks follow the byte `end`; the crcs are still zero."""
    placed = []
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
