"""A snapshot (fields and tensors of a state) <-> the bytes of a .bin: pure, no file is touched here.

The file is a plain msgpack stream; any msgpack library walks it from end to end:

    header   a bin object of 64 bytes (_HEADER): magic, version, sequence, lengths, checksums
    map      {kind, epoch_end, metadata, document}; `document` is the state's to_dict()
    index    [[name, dtype, shape, [[offset, length, codec, store, crc32], ...]], ...]
    chunks   bin objects of at most 64 MiB, each payload at a multiple of 64 bytes: where the distance
             requires it, a bin of zeros (a pad) comes first

Numbers in payloads are little-endian. All chunk offsets follow from the lengths before them, so a
reader computes them and accepts no others: overlaps, holes and trailing bytes cannot be expressed.
Codec 0 is raw and store 0 is this file; other values are reserved for compression and shards.
Order: the records, what reading and writing share, reading. Writing is image.py.
"""

from __future__ import annotations

import math
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tinyllm.arena import Array
from tinyllm.checkpoint import plain
from tinyllm.checkpoint.metadata import (
    CheckpointMetadata,
    DamagedError,
    UnknownVersionError,
    is_count,
    read_standing,
)
from tinyllm.option import LARGEST_COUNT
from tinyllm.words import counted

MAGIC = b"\x89TLM\r\n\x1a\n"  # as PNG's: shows text-mode and 7-bit damage
VERSION = 1
HEADER_BYTES = 64
CHUNK_BYTES = 1 << 26
MAX_NAME = 512
INDEX_MEMORY = 8 << 20  # of the unpacked index: ten thousand tensors, or two terabytes of chunks
PIECE_BYTES = 1 << 20  # checked for checksum, then for finiteness: small enough to stay in the cache
DTYPES = {name: np.dtype(code) for name, code in
          {"float32": "<f4", "float64": "<f8", "int32": "<i4", "int64": "<i8"}.items()}  # fmt: skip

# c4 3e, magic, version, flags, then the fields of Header in their order, zeros
_HEADER = struct.Struct("<2s8sHHQQIIQII6s")
_CRC = struct.Struct("<I")  # of the 60 bytes before it


Bytes = bytes | bytearray


class Chunk(NamedTuple):
    """Bytes `offset` to `offset + length` of the file; crc32 of the payload."""

    offset: int
    length: int
    codec: int
    store: int
    crc: int


class Tensor(NamedTuple):
    """One tensor of the index; `role` of "params/wte" is "params"."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]

    @property
    def role(self) -> str:
        """The row of the state that the tensor is a part of: params, m or v."""
        return self.name.partition("/")[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all payloads together; exact, however hostile the shape."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


class Header(NamedTuple):
    """The first 64 bytes; `sequence` orders all saves of a directory."""

    sequence: int
    file_bytes: int
    map_bytes: int
    map_crc: int
    index_at: int
    index_bytes: int
    index_crc: int


class Head(NamedTuple):
    """All of a file but its payloads; `kind` is "state" (training can resume) or "weights".

    `fields` is stored under the key "document": all of the state but its tensors.
    """

    header: Header
    kind: str
    epoch_end: bool
    metadata: CheckpointMetadata
    fields: dict[str, Any]
    tensors: tuple[Tensor, ...]


def chunk_prefix(end: int, length: int) -> bytes:
    """Return the bytes between `end` and the next payload: a pad if one is needed, then the bin's header."""
    pad = _gap(end) - 5  # 5: the type byte and the length of the chunk's own bin
    zeros = bytes((0xC4, pad - 2)) + bytes(pad - 2) if pad else b""  # a bin too, whose header takes 2 bytes
    return zeros + b"\xc6" + length.to_bytes(4, "big")


def crc_and_finite(payload: memoryview, dtype: str, crc: int = 0) -> tuple[int, bool]:
    """Return (crc32 continued from `crc`, whether every number is finite) in one pass."""
    crc32, all_finite = _checks()
    finite = True
    for start in range(0, len(payload), PIECE_BYTES):
        piece = np.frombuffer(payload[start : start + PIECE_BYTES], np.uint8)
        crc = crc32(piece, crc)
        if finite and dtype.startswith("float"):
            finite = all_finite(piece.view(DTYPES[dtype]))
    return crc, finite


def _checks() -> tuple[Callable[[Array, int], int], Callable[[Array], bool]]:
    """Return both checks, compiled if the kernels are loaded, as in training; loading Numba is slow."""
    kernels = sys.modules.get("tinyllm.kernels")
    return (kernels.crc32, kernels.all_finite) if kernels else (_crc32, _all_finite)


def _crc32(data: Array, crc: int) -> int:
    return zlib.crc32(data.data, crc)


def _all_finite(numbers: Array) -> bool:
    return bool(np.isfinite(numbers.min()) and np.isfinite(numbers.max()))  # NaN passes through both


def chunk_spans(end: int, nbytes: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of each chunk of a tensor of `nbytes` that is written after byte `end`."""
    while nbytes:
        length = min(nbytes, CHUNK_BYTES)
        offset = end + _gap(end)
        yield offset, length
        end, nbytes = offset + length, nbytes - length


def _gap(end: int) -> int:
    pad = -(end + 5) % 64
    return 5 + (65 if pad == 1 else pad)  # a pad takes two bytes at least


def pack_header(header: Header) -> bytes:
    """Return the file's first 64 bytes."""
    data = _HEADER.pack(b"\xc4\x3e", MAGIC, VERSION, 0, *header, bytes(6))
    return data + _CRC.pack(zlib.crc32(data))


# ---- reading; `file` is only named in errors


def parse_header(data: Bytes, size: int, file: str) -> Header:
    """Return the header in the first 64 bytes of a file of `size`; DamagedError, UnknownVersionError."""
    if len(data) != HEADER_BYTES or size < HEADER_BYTES:
        raise DamagedError(
            f"{file}: a file of {counted(size, 'byte')} is no checkpoint; the header alone has {HEADER_BYTES}"
        )
    start, magic, version, flags, *numbers, zeros = _HEADER.unpack(data[:-4])
    if magic != MAGIC or start != b"\xc4\x3e":
        raise DamagedError(f"{file}: header: does not start like a tinyllm checkpoint")
    if _CRC.unpack(data[-4:])[0] != zlib.crc32(data[:-4]):
        raise DamagedError(f"{file}: header: checksum differs")
    if version != VERSION or flags:
        raise UnknownVersionError(
            f"{file}: format version {version} (flags {flags:#x}), this program reads version {VERSION}; "
            f"use the tinyllm that wrote it, or a newer one"
        )
    header = Header(*numbers)
    if header.file_bytes != size:
        raise DamagedError(f"{file}: {counted(size, 'byte')}, the header says {header.file_bytes:,}")
    room = size - HEADER_BYTES
    if header.map_bytes > (most := min(plain.MAX_BYTES, room)):
        raise DamagedError(f"{file}: header.map_bytes: {header.map_bytes}, at most {most} are possible")
    if header.index_bytes > (most := min(plain.MAX_BYTES, room - header.map_bytes)):
        raise DamagedError(f"{file}: header.index_bytes: {header.index_bytes}, at most {most} are possible")
    if (
        header.index_at != HEADER_BYTES + header.map_bytes
        or zeros != bytes(6)
        or header.sequence >= LARGEST_COUNT
    ):
        raise DamagedError(f"{file}: header: the index offset, sequence or reserved bytes are invalid")
    return header


def parse_head(header: Header, data: Bytes, file: str) -> Head:
    """Return the head of a file from the bytes of its map and index; DamagedError if they are invalid."""
    view = memoryview(data)  # slices without copies: both parts may be large
    packed_map, packed_index = view[: header.map_bytes], view[header.map_bytes :]
    if zlib.crc32(packed_map) != header.map_crc:
        raise DamagedError(f"{file}: map: checksum differs")
    if zlib.crc32(packed_index) != header.index_crc or len(packed_index) != header.index_bytes:
        raise DamagedError(f"{file}: index: checksum differs")
    try:
        kind, epoch_end, metadata, fields = _parse_map(plain.unpack(packed_map))
    except (ValueError, MemoryError) as error:
        raise DamagedError(f"{file}: map: {error}") from error
    try:
        tensors = _parse_index(plain.unpack(packed_index, INDEX_MEMORY), header)
    except (ValueError, MemoryError) as error:
        raise DamagedError(f"{file}: index: {error}") from error
    return Head(header, kind, epoch_end, metadata, fields, tensors)


def _parse_map(found: Any) -> tuple[str, bool, CheckpointMetadata, dict[str, Any]]:
    if not isinstance(found, dict):
        raise ValueError("expected a map")
    kind, epoch_end, fields = (found.get(key) for key in ("kind", "epoch_end", "document"))
    if kind not in ("state", "weights"):
        raise ValueError(f"kind: expected state or weights, found {kind!r:.80}")
    if not isinstance(epoch_end, bool):
        raise ValueError(f"epoch_end: expected true or false, found {epoch_end!r:.80}")
    try:
        metadata = CheckpointMetadata.from_dict(found.get("metadata"))
    except ValueError as error:
        raise ValueError(f"metadata: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError("document: expected a map")
    read_standing(fields)
    return kind, epoch_end, metadata, fields


def _parse_index(found: Any, header: Header) -> tuple[Tensor, ...]:
    if not isinstance(found, list):
        raise ValueError("expected an array")
    tensors: dict[str, Tensor] = {}
    end = header.index_at + header.index_bytes  # of the chunks read so far
    for number, entry in enumerate(found):
        try:
            tensor = _parse_tensor(entry)
            if tensor.name in tensors:
                raise ValueError("its name occurs twice")
            end = _check_spans(tensor, end, header.file_bytes)
        except ValueError as error:
            raise ValueError(f"entry {number}: {error}") from error
        tensors[tensor.name] = tensor
    if end != header.file_bytes:
        raise ValueError(f"its chunks end at byte {end}, the file at {header.file_bytes}")
    return tuple(tensors.values())


def _parse_tensor(entry: Any) -> Tensor:
    if not isinstance(entry, list) or len(entry) != 4:
        raise ValueError("expected [name, dtype, shape, chunks]")
    name, dtype, shape, chunks = entry
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise ValueError(f"name: expected 1 to {MAX_NAME} printable characters, found {name!r:.80}")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{name!r}: dtype: expected one of {', '.join(DTYPES)}, found {dtype!r:.80}")
    if not isinstance(shape, list) or len(shape) > 32 or not all(is_count(side) for side in shape):
        raise ValueError(f"{name!r}: shape: expected at most 32 whole numbers, found {shape!r:.80}")
    if math.prod(max(side, 1) for side in shape) > LARGEST_COUNT // 8:  # NumPy counts zero-sized ones too
        raise ValueError(f"{name!r}: shape: {shape!r:.80} is larger than any memory")
    if not isinstance(chunks, list):
        raise ValueError(f"{name!r}: chunks: expected an array")
    for chunk in chunks:
        if not isinstance(chunk, list) or len(chunk) != 5 or not all(is_count(number) for number in chunk):
            raise ValueError(f"{name!r}: chunk: expected [offset, length, codec, store, crc32]")
        if chunk[2:4] != [0, 0]:
            raise ValueError(
                f"{name!r}: chunk: codec {chunk[2]}, store {chunk[3]}: this program knows only 0, 0"
            )
    return Tensor(name, dtype, tuple(shape), tuple(Chunk(*chunk) for chunk in chunks))


def _check_spans(tensor: Tensor, end: int, file_bytes: int) -> int:
    """Return the end of the tensor's last chunk; ValueError unless all lie where `chunk_spans` puts them."""
    if tensor.nbytes > file_bytes:
        raise ValueError(f"{tensor.name!r}: {tensor.nbytes} bytes, more than the file has")
    expected = list(chunk_spans(end, tensor.nbytes))
    found = [chunk[:2] for chunk in tensor.chunks]
    if found != expected:
        raise ValueError(f"{tensor.name!r}: chunks (offset, length) {found!r:.80}, expected {expected!r:.80}")
    return sum(expected[-1]) if expected else end
