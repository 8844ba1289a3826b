"""Plain documents <-> msgpack, such that reading a hostile one costs bounded time and memory.

msgpack's own decoder is safe code, but it believes a nested length before it has seen the bytes,
accepts a key twice, bytes as keys and timestamps. So every input is first walked without building
anything (`scan`), and what is written obeys the same rules: nothing is saved that could not be read.
Order: the limits, `pack`, `unpack`, `scan`.
"""

from __future__ import annotations

from typing import Any

import msgpack  # type: ignore[import-untyped]

MAX_BYTES = 1 << 26
MAX_OBJECTS = 1 << 22
MAX_DEPTH = 64

# First byte -> bytes of the value after it; no extension types, so no timestamps either.
_VALUE_BYTES = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8,
                0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}  # fmt: skip
# First byte -> (bytes of the count after it, objects an item has); 0 objects: bin and str count bytes.
_COUNTED = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0),
            0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}  # fmt: skip


def pack(document: Any) -> bytes:
    """Return `document` as msgpack; ValueError names what cannot be stored."""
    try:
        data: bytes = msgpack.packb(document)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{_culprit(document, '') or 'document'}: {error}") from error
    unpack(data)
    return data


def unpack(data: bytes) -> Any:
    """Return the one object that `data` holds; ValueError says which rule it breaks."""
    scan(data)
    try:
        return msgpack.unpackb(
            data, raw=False, strict_map_key=True, object_pairs_hook=_unique, max_ext_len=0,
            max_str_len=MAX_BYTES, max_bin_len=MAX_BYTES, max_array_len=MAX_OBJECTS, max_map_len=MAX_OBJECTS,
        )  # fmt: skip
    except ValueError as error:  # also UnicodeDecodeError
        raise ValueError(f"not readable as msgpack: {error}") from error


def scan(data: bytes) -> None:
    """Walk `data` as exactly one msgpack object without building it; ValueError where it is not.

    Every object takes at least one byte, so no more of them can be announced than bytes are left.
    """
    size, at, objects, pending = len(data), 0, 0, 1
    if size > MAX_BYTES:
        raise ValueError(f"{size} bytes, at most {MAX_BYTES} are allowed")
    depths = [1]  # objects still to come at each depth; `pending` is their sum
    while depths:
        if not depths[-1]:
            depths.pop()
            continue
        depths[-1] -= 1
        if at >= size:
            raise ValueError("ends in the middle of an object")
        skipped, items = _first_byte(data, at)
        at += skipped
        objects += 1
        pending += items - 1
        if at > size:
            raise ValueError("ends in the middle of an object")
        if pending > size - at:
            raise ValueError(f"announces {pending} more objects where {size - at} bytes are left")
        if objects + pending > MAX_OBJECTS:
            raise ValueError(f"more than {MAX_OBJECTS} objects")
        if items:
            depths.append(items)
            if len(depths) > MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if at != size:
        raise ValueError(f"{at} bytes belong to the object, {size} were expected")


def _first_byte(data: bytes, at: int) -> tuple[int, int]:
    """Return (bytes of the object at `at` without its items, number of its items)."""
    first = data[at]
    if first < 0x80 or first >= 0xE0:
        return 1, 0
    if first < 0x90:
        return 1, 2 * (first & 15)
    if first < 0xA0:
        return 1, first & 15
    if first < 0xC0:
        return 1 + (first & 31), 0
    if first in _VALUE_BYTES:
        return 1 + _VALUE_BYTES[first], 0
    width, each = _COUNTED.get(first, (0, 0))
    if not width:
        raise ValueError(f"byte {first:#04x} begins no object that is allowed here")
    if at + 1 + width > len(data):
        raise ValueError("ends in the middle of a length")
    count = int.from_bytes(data[at + 1 : at + 1 + width], "big")
    return (1 + width, count * each) if each else (1 + width + count, 0)


def _unique(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in one map")
    for key in found:
        if type(key) is not str:
            raise ValueError(f"key {key!r:.80} is not text")
    return found


def _culprit(value: Any, path: str) -> str:
    """Return the path of the first part of `value` that cannot be packed alone, or an empty string."""
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        try:
            msgpack.packb(child)
        except (TypeError, ValueError, OverflowError):
            here = f"{path}.{key}" if path else str(key)
            return _culprit(child, here) or here
    return ""
