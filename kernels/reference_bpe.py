"""The kernels of byte pair encoding again in plain Python; reference.py has the others."""

from __future__ import annotations

import re
from itertools import pairwise

from .jit import Array

_CHUNK = re.compile(r"[_']?L{1,16}|_?H{1,16}|_?D{1,3}|_?[S']{1,16}|N{1,16}|[B_]{1,16}(?=_[^B_N])|[B_]{1,16}")


def bpe_encode(
    ids: Array, ends: Array, text: Array, stops: Array, kinds: Array, characters: Array, merges: Array
) -> None:
    """Chunks are cut by the kinds of characters (_ is the space); of a chunk's merges the least is next."""
    known = {entry >> 20: entry & 0xFFFFF for entry in merges.tolist() if entry}
    signs = {ord(" "): "_", ord("'"): "'", ord("’"): "'"}
    codes = text.tolist()
    cut = "".join(signs.get(code, "LHDSNB"[kinds[code]]) for code in codes)
    begin, count = 0, 0
    for k, stop in enumerate(stops.tolist()):
        for chunk in _CHUNK.findall(cut[begin:stop]):
            word: list[int] = []
            for code in codes[begin : begin + len(chunk)]:
                one = int(characters[code])
                word += [one] if one >= 0 else chr(code).encode("utf-8", "surrogatepass")
            news = [0]
            while news:
                news = [known[a << 20 | b] for a, b in pairwise(word) if a << 20 | b in known]
                if news:
                    i = [known.get(a << 20 | b) for a, b in pairwise(word)].index(min(news))
                    word[i : i + 2] = [min(news)]
            ids[count : count + len(word)] = word
            begin, count = begin + len(chunk), count + len(word)
        ends[k] = count


def bpe_merge(
    places: Array, born: Array, ids: Array, left: Array, right: Array, times: Array, first: int, second: int,
    new: int, bound: int,
) -> tuple[int, int, int]:  # fmt: skip
    """Where the pair still is; if it is as common as was thought, it becomes one token there."""
    found = [p for p in places if (ids[p], ids[right[p]]) == (first, second)]
    places[: len(found)] = found
    total = sum(int(times[p]) for p in found)
    if total != bound:
        return total, len(found), 0
    for p in found:
        if (ids[p], ids[right[p]]) == (first, second):
            gone = right[p]
            ids[p], ids[gone] = new, -1
            right[p], left[right[gone]] = right[gone], p
    begins = {q for p in found if ids[p] == new for q in (left[p], p)}
    births = sorted(q for q in begins if ids[q] >= 0 and ids[right[q]] >= 0)
    born[: len(births)] = births
    return total, len(found), len(births)
