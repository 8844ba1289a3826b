"""The kernels of byte pair encoding again in plain Python; reference.py has the others."""

from __future__ import annotations

import re
from itertools import pairwise

from .jit import Array

_CHUNK = (
    r"[_']?L{1,16}|_?E{1,16}|_?D{1,3}|_?[S']{1,16}|N{1,16}|H{1,%d}|K{1,16}"
    r"|[B_]{1,16}(?=_[LEDS'])|[B_]{1,16}"
)


def bpe_encode(
    ids: Array, ends: Array, text: Array, stops: Array, kinds: Array, characters: Array, merges: Array,
    han_run: int,
) -> None:  # fmt: skip
    """Chunks are cut by the kinds of characters (_ is the space); the smallest id of all merges is next."""
    known = {entry >> 20: entry & 0xFFFFF for entry in merges.tolist() if entry}
    # The text as a string of its characters' kinds, so that one regular expression finds the chunks.
    signs = {ord(" "): "_", ord("'"): "'", ord("’"): "'"}
    codes = text.tolist()
    cut = "".join(signs.get(code, "LEDSNBHK"[kinds[code]]) for code in codes)
    begin, count = 0, 0
    for k, stop in enumerate(stops.tolist()):
        for chunk in re.findall(_CHUNK % han_run, cut[begin:stop]):
            word: list[int] = []
            for code in codes[begin : begin + len(chunk)]:
                one = int(characters[code])
                word += [one] if one >= 0 else chr(code).encode("utf-8", "surrogatepass")
            while merged := [known[a << 20 | b] for a, b in pairwise(word) if a << 20 | b in known]:
                i = [known.get(a << 20 | b) for a, b in pairwise(word)].index(min(merged))
                word[i : i + 2] = [min(merged)]
            ids[count : count + len(word)] = word
            begin, count = begin + len(chunk), count + len(word)
        ends[k] = count


def bpe_merge(
    positions: Array, created: Array, ids: Array, left: Array, right: Array, times: Array, first: int,
    second: int, new: int, expected: int,
) -> tuple[int, int, int]:  # fmt: skip
    """Where the pair still is; if it is as frequent as expected, it becomes one token there."""
    found = [p for p in positions if (ids[p], ids[right[p]]) == (first, second)]
    positions[: len(found)] = found
    total = sum(int(times[p]) for p in found)
    if total != expected:
        return total, len(found), 0
    for p in found:
        if (ids[p], ids[right[p]]) == (first, second):
            gone = right[p]
            ids[p], ids[gone] = new, -1
            right[p], left[right[gone]] = right[gone], p
    # A pair begins at the new token, and at the one before it, unless one of the two is a wall.
    begins = {q for p in found if ids[p] == new for q in (left[p], p)}
    pairs = sorted(q for q in begins if ids[q] >= 0 and ids[right[q]] >= 0)
    created[: len(pairs)] = pairs
    return total, len(found), len(pairs)
