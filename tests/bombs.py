"""Files made to harm whoever opens them, all checksums right: the corpus of the hostile tests and the fuzzer.

Order: how a file is forged, large bombs, small ones in the map, the index and the header, all of them.
"""

from __future__ import annotations

import copy
import zlib
from typing import Any

import msgpack

from tests.standin import file_bytes, metadata
from tests.test_promises import some_state
from tinyllm.checkpoint.format import HEADER_BYTES, Header, pack_header

MIB = 1 << 20


def forge(packed_map: bytes, packed_index: bytes, rest: bytes = b"", **changes: int) -> bytes:
    """Return a file with any content whose checksums are all right; `changes` are fields of its header."""
    index_at = HEADER_BYTES + len(packed_map)
    size = index_at + len(packed_index) + len(rest)
    fields = {
        "sequence": 1, "file_bytes": size, "map_bytes": len(packed_map), "map_crc": zlib.crc32(packed_map),
        "index_at": index_at, "index_bytes": len(packed_index), "index_crc": zlib.crc32(packed_index),
    }  # fmt: skip
    return pack_header(Header(**{**fields, **changes})) + packed_map + packed_index + rest


NO_TENSORS = msgpack.packb([])
FIELDS = some_state().to_dict()


def whole_map(fields: Any = FIELDS, **changes: Any) -> bytes:
    """Return a map like that of a real save, but for `changes`."""
    whole = {"kind": "state", "epoch_end": True, "metadata": metadata().to_dict(), "document": fields}
    return msgpack.packb({**whole, **changes})


def changed(fields: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a copy of nested fields with the one at `path` replaced."""
    fields = copy.deepcopy(fields)
    *parents, last = path.split(".")
    place = fields
    for parent in parents:
        place = place[parent]
    place[last] = value
    return fields


def extra(packed: bytes) -> bytes:
    """Return a whole map with one more field, `extra`, that is the object `packed`."""
    whole = whole_map()
    assert 0x80 <= whole[0] < 0x8F
    return bytes([whole[0] + 1]) + whole[1:] + msgpack.packb("extra") + packed


def array(items: bytes, count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + items


def long_merges(count: int) -> list[int]:
    """Return distinct merges whose pieces are as long as a chunk may be, as far as that goes."""
    letters = range(ord("a"), ord("z") + 1)
    pairs = [(a, b) for a in letters for b in letters]
    longest = 256 + len(pairs)
    pairs += [(256 + n, 256 + n) for n in range(len(pairs))]  # four letters
    for first in range(256, longest):
        pairs += [(longest + (first + n) % len(letters) ** 2, longest + n) for n in range(len(letters) ** 2)]
    return [part for pair in pairs[:count] for part in pair]


def text(size: int) -> bytes:
    """Return, packed, ASCII whose last character makes all of them four bytes wide."""
    return b"\xdb" + size.to_bytes(4, "big") + b"a" * (size - 4) + "😀".encode()


def empty(count: int) -> bytes:
    """Return an index of tensors without elements, which need no payload."""
    return array(b"".join(msgpack.packb([f"{n:x}", "float32", [0], []]) for n in range(count)), count)


def large() -> dict[str, bytes]:
    """Return files of up to 16 MiB that blow up when they are built, "as many" just below the limits."""
    keys = b"".join(b"\xa4" + b"%04x" % n + b"\x80" for n in range(1 << 16))
    pairs = b"\xdf" + (1 << 16).to_bytes(4, "big") + keys
    characters = {
        n: {"kind": "char", "characters": list(range(1000, 1000 + n))} for n in (519_000, 1_000_000)
    }
    merges = {"kind": "bpe", "split": 1, "merges": long_merges(260_000)}
    many_merges = whole_map(changed(FIELDS, "tokenizer", merges))
    found = {
        "four million empty maps": extra(array(b"\x80" * (4 * MIB - 9), 4 * MIB - 9)),
        "a million arrays of one": extra(array(b"\x91\xc0" * MIB, MIB)),
        "maps of one key": extra(array(b"\x81\xa1a\xc0" * 200_000, 200_000)),
        "floats": extra(array(b"\xcb\x3f\xf8\0\0\0\0\0\x01" * MIB, MIB)),
        "short texts": extra(array(b"\xa2\xc3\xa9" * MIB, MIB)),
        "distinct keys": extra(array(pairs * 4, 4)),
        "a text that widens": extra(text(16 * MIB)),
        "a long binary": extra(b"\xc6" + (16 * MIB).to_bytes(4, "big") + bytes(16 * MIB)),
        "a long status": whole_map(changed(FIELDS, "progress.status", "s" * 4 * MIB)),
        "nested announcements": extra(b"\xdd\x00\x0f\xff\xff" * 60 + b"\xc0" * MIB),
        "a million deep": extra(b"\x91" * MIB + b"\xc0"),
        "characters without end": whole_map(changed(FIELDS, "tokenizer", characters[1_000_000])),
        "as many characters as fit": whole_map(changed(FIELDS, "tokenizer", characters[519_000])),
        "as many merges as fit": many_merges,
        "as many arrays as fit": extra(array(b"\x91\xc0" * 160_000, 160_000)),
        "as many wide letters as fit": extra(text(5 * MIB - 5000)),
    }
    files = {f"map: {name}": forge(packed, NO_TENSORS) for name, packed in found.items()}
    files["index: empty tensors without end"] = forge(whole_map(), empty(150_000))
    files["index: as many empty tensors as fit"] = forge(whole_map(), empty(11_000))
    files["both: as many as fit"] = forge(many_merges, empty(11_000))
    files["header: zeros"] = bytes(MIB)
    return files


def maps() -> dict[str, bytes]:
    """Return small maps that claim, nest, repeat, or ask for a state beyond any machine."""
    giant = {"n_layer": 1000, "n_head": 1, "n_embd": 1 << 16, "block_size": 1 << 20, "dropout": 0.0}
    deep = {**giant, "n_embd": 8, "block_size": 8}
    merges = {"kind": "bpe", "split": 1, "merges": [0, 0] * 900}
    return {
        "sixty deep": extra(b"\x91" * 60 + b"\xc0"),
        "seventy deep": extra(b"\x91" * 70 + b"\xc0"),
        "announces everything": extra(b"\xdf\xff\xff\xff\xff"),
        "announces all bytes": extra(b"\xc6\xff\xff\xff\xff"),
        "a key twice": extra(b"\x82\xa1a\x01\xa1a\x02"),
        "a key twice in two spellings": extra(b"\x82\xa1a\x01\xd9\x01a\x02"),
        "a giant model": whole_map(changed(FIELDS, "config.model", giant)),
        "a thousand layers": whole_map(changed(FIELDS, "config.model", deep)),
        "merges of the same": whole_map(changed(FIELDS, "tokenizer", merges)),
        "an escape as status": whole_map(changed(FIELDS, "progress.status", "\x1b[2J\x1b]0;owned\x07")),
        "an escape in the environment": whole_map(changed(FIELDS, "environment", {"\x1b[31mpython": "\r\n"})),
        "counts as large as can be": whole_map(changed(FIELDS, "progress.step", 2**62 - 1)),
        "a count beyond": whole_map(changed(FIELDS, "progress.step", 2**64 - 1)),
        "infinite losses": whole_map(changed(FIELDS, "progress.loss_sum", float("inf"))),
        "a dropout of NaN": whole_map(changed(FIELDS, "config.model.dropout", float("nan"))),
    }


def indexes() -> dict[str, bytes]:
    """Return small indexes whose names, types, shapes and chunks lie."""

    def one(name: Any = "params/w", dtype: Any = "float32", shape: Any = (4,), chunks: Any = ()) -> bytes:
        return msgpack.packb([[name, dtype, shape, chunks]])

    return {
        "chunks without end": one(chunks=[[64, 16, 0, 0, 0]] * 9000),
        "sides without end": one(shape=[1] * 50_000),
        "a shape beyond any number": one(shape=[2**62, 2**62, 2**62]),
        "a shape of zero times everything": one(shape=[0, 2**62, 2**62]),
        "a name of many letters": one(name="n" * 100_000),
        "a name that clears the screen": one(name="params/\x1b[2J"),
        "a name with an override of direction": one(name="params/\u202egnp.w"),
        "objects": one(dtype="O"),
        "void without end": one(dtype="V2147483647"),
        "two chunks over each other": one(shape=[8], chunks=[[1024, 16, 0, 0, 0], [1024, 16, 0, 0, 0]]),
        "a chunk beyond the file": one(chunks=[[2**61, 16, 0, 0, 0]]),
        "a chunk in the header": one(chunks=[[0, 16, 0, 0, 0]]),
        "a compressed chunk": one(chunks=[[1024, 16, 1, 0, 0]]),
        "a chunk in another file": one(chunks=[[1024, 16, 0, 7, 0]]),
        "a terabyte": one(shape=[2**38]),
    }


def headers() -> dict[str, bytes]:
    """Return files whose header claims what is not there."""
    good = whole_map()
    changes: dict[str, dict[str, int]] = {
        "a file of exabytes": {"file_bytes": 2**62},
        "a map of gigabytes": {"map_bytes": 2**32 - 1},
        "an index of gigabytes": {"index_bytes": 2**32 - 1},
        "an index before the header": {"index_at": 0},
        "an index far away": {"index_at": 2**62},
        "a sequence of everything": {"sequence": 2**64 - 1},
    }
    found = {name: forge(good, NO_TENSORS, **change) for name, change in changes.items()}
    return {**found, "nothing at all": b"", "a text": b"epoch: 1\n" * 99}


def small() -> dict[str, bytes]:
    """Return {name: bytes of a file}; the last is a good one: not everything is refused."""
    found = {f"map: {name}": forge(packed, NO_TENSORS) for name, packed in maps().items()}
    found |= {f"index: {name}": forge(whole_map(), packed) for name, packed in indexes().items()}
    found |= {f"header: {name}": data for name, data in headers().items()}
    return {**found, "a good file": file_bytes(some_state())}
