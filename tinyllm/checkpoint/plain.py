"""Plain values <-> msgpack, such that reading hostile bytes costs bounded time and memory.

msgpack's own decoder is safe code, but it believes a nested length before it has seen the bytes,
accepts a key twice, bytes as keys and timestamps. So every input is first walked without building
anything (`scan`), and `pack` obeys the same rules: nothing is saved that could not be read.
Order: the limits, `pack`, `unpack`, `scan`.
"""

from __future__ import annotations

from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np

MAX_BYTES = 1 << 26
MAX_MEMORY = 20 << 20  # of what is built, by the estimate below: room for a vocabulary of 2^18 merges
MAX_DEPTH = 64

_NUMBER_BYTES = {0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9,
                 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}  # fmt: skip
# First byte -> bytes of the whole object, 0 where more must be read to know: numbers and short texts.
_FIXED_BYTES = [
    1 if first < 0x80 or first >= 0xE0 else 1 + (first & 31) if 0xA0 <= first < 0xC0
    else _NUMBER_BYTES.get(first, 0) for first in range(256)
]  # fmt: skip
# Upper bounds of what CPython takes for each object, in bytes; a text takes four for each byte of it.
_NUMBER_COST, _BINARY_COST, _TEXT_COST, _ARRAY_COST, _MAP_COST = 32, 56, 80, 80, 256
_ITEM_COST, _PAIR_COST = 8, 128  # a list's slot; a dict's, and the (key, value) tuple before it
_FIXED_COST = [
    _TEXT_COST + 4 * (first & 31) if 0xA0 <= first < 0xC0 else _NUMBER_COST for first in range(256)
]
# First byte -> (bytes of the count after it, objects an item has); 0 objects: bin and str count bytes.
# No extension types, so no timestamps either.
_COUNTED = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0),
            0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}  # fmt: skip


def pack(value: Any) -> bytes:
    """Return `value` as msgpack; ValueError names what cannot be stored."""
    try:
        data: bytes = msgpack.packb(value, default=_of_scalar)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{_culprit(value, '') or 'value'}: {error}") from error
    unpack(data)
    return data


def _of_scalar(value: Any) -> Any:
    """Return Python's number for one of NumPy's; TypeError for anything else."""
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return value.item()
    raise TypeError(f"can not serialize {type(value).__name__!r} object")


def unpack(data: bytes | memoryview, memory: int = MAX_MEMORY) -> Any:
    """Return the one object in `data`, built in at most `memory` bytes; ValueError names the broken rule."""
    scan(data, memory)
    try:
        return msgpack.unpackb(
            data, raw=False, strict_map_key=True, object_pairs_hook=_unique, max_ext_len=0,
            max_str_len=MAX_BYTES, max_bin_len=MAX_BYTES, max_array_len=MAX_BYTES, max_map_len=MAX_BYTES,
        )  # fmt: skip
    except ValueError as error:  # also UnicodeDecodeError
        raise ValueError(f"not readable as msgpack: {error}") from error


def scan(data: bytes | memoryview, memory: int = MAX_MEMORY) -> None:
    """Walk `data` as exactly one msgpack object without building it; ValueError where it is not.

    No container may announce more items than there are bytes after it, and the whole may not take more
    memory than the limit. A container counts as soon as it is announced, since a decoder allocates it then.
    """
    size, at, cost = len(data), 0, 0
    if size > MAX_BYTES:
        raise ValueError(f"{size} bytes, at most {MAX_BYTES} are allowed")
    left, outer = 1, [0]  # objects still to come in this container, and in those around it
    while left or len(outer) > 1:
        if not left:  # this container is complete: back to the one around it
            left = outer.pop()
            continue
        left -= 1
        if at >= size:
            raise ValueError("ends in the middle of an object")
        first = data[at]
        fixed = _FIXED_BYTES[first]
        if fixed:  # a number or a short text: the first byte tells the size
            at += fixed
            cost += _FIXED_COST[first]
            continue
        skipped, items, own_cost = _counted(data, at)  # a longer text, bytes, an array or a map
        at += skipped
        cost += own_cost
        if at > size:
            raise ValueError("ends in the middle of an object")
        if items > size - at:
            raise ValueError(f"announces more objects ({items}) than bytes remain ({size - at})")
        if cost > memory:
            break
        outer.append(left)  # its items come next; texts and bytes have none
        left = items
        if len(outer) > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if cost > memory:
        raise ValueError(f"takes more than the {memory} bytes of memory that are allowed")
    if at != size:
        raise ValueError(f"its object ends at byte {at} of {size}")


def _counted(data: bytes | memoryview, at: int) -> tuple[int, int, int]:
    """Return (bytes, items, memory) of the object at `at`, its items' own bytes and memory not included."""
    first = data[at]
    if 0x80 <= first < 0xA0:
        width, count, each = 0, first & 15, 2 if first < 0x90 else 1
    else:
        width, each = _COUNTED.get(first, (0, 0))
        if not width:
            raise ValueError(f"byte {first:#04x} is not the start of an allowed object")
        if at + 1 + width > len(data):
            raise ValueError("ends in the middle of a length")
        count = int.from_bytes(data[at + 1 : at + 1 + width], "big")
    if each == 2:
        return 1 + width, 2 * count, _MAP_COST + _PAIR_COST * count
    if each == 1:
        return 1 + width, count, _ARRAY_COST + _ITEM_COST * count
    if first < 0xC7:
        return 1 + width + count, 0, _BINARY_COST + count
    return 1 + width + count, 0, _TEXT_COST + 4 * count


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
            msgpack.packb(child, default=_of_scalar)
        except (TypeError, ValueError, OverflowError):
            here = f"{path}.{key}" if path else str(key)
            return _culprit(child, here) or here
    return ""
