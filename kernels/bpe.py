"""Byte pair encoding in one pass over a text: cut off a chunk, merge its pairs, go on behind it.

What a chunk is, and in which order its pairs are merged, is said in tinyllm/text/bpe.py. Order: the table of
merges, a pair's merge, the end of a chunk, the pass; and a merge in all places at once, for learning.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import Array, jit

KINDS = LETTER, HAN, DIGIT, SYMBOL, NEWLINE, BLANK = range(6)  # of characters
SPACE, APOSTROPHE, QUOTE = ord(" "), ord("'"), ord("’")
LONGEST_RUN, LONGEST_NUMBER = 16, 3
LONGEST_CHUNK = 3 + 4 * LONGEST_RUN  # bytes: the apostrophe ’ and a run of four-byte characters
NO_MERGE = 1 << 20  # above every id


def _place(first: Any, second: Any, size: int) -> Any:
    """Return where a table of `size` places, a power of two, has a pair, unless others took the place."""
    return ((first * 0x9E3779B1 + second * 0x7F4A7C15) >> 12) & (size - 1)


place = jit(_place)


def merge_table(firsts: Array, seconds: Array) -> Array:
    """Return the hash table of merges, int64; number i joins firsts[i] and seconds[i] (M,) into 256 + i.

    An entry is first << 40 | second << 20 | new, and 0 where there is none. A pair that finds its place taken
    goes to the next free one (Knuth, "The Art of Computer Programming", 6.4, algorithm L).
    """
    firsts, seconds = firsts.astype(np.int64), seconds.astype(np.int64)
    size = 1 << (4 * len(firsts)).bit_length()
    table = np.zeros(size, np.int64)
    entries = firsts << 40 | seconds << 20 | np.arange(256, 256 + len(firsts))
    places = _place(firsts, seconds, size)
    while len(entries):
        free = table[places] == 0
        table[places[free]] = entries[free]  # of several for one place, the last stays
        out = table[places] != entries
        entries, places = entries[out], (places[out] + 1) & (size - 1)
    return table


@jit
def _merged(merges: Array, first: np.int64, second: np.int64) -> int:
    """Return the id that a pair is joined to, or NO_MERGE."""
    pair = first << 20 | second
    at = place(first, second, merges.size)
    while merges[at]:
        if merges[at] >> 20 == pair:
            return int(merges[at] & 0xFFFFF)
        at = (at + 1) & (merges.size - 1)
    return NO_MERGE


@jit
def _chunk_end(text: Array, begin: int, stop: int, kinds: Array) -> int:
    """Return where the chunk that begins at `begin` ends, in a text that ends at `stop`."""
    first, body = text[begin], begin
    if begin + 1 < stop and first in (SPACE, APOSTROPHE, QUOTE):
        following = kinds[text[begin + 1]]
        if following == LETTER or (first == SPACE and following < NEWLINE):
            body = begin + 1
    kind = kinds[text[body]]
    # Two blanks more than a run has: whether the last one of them belongs to a word is seen behind it.
    longest = LONGEST_NUMBER if kind == DIGIT else LONGEST_RUN + 2 if kind == BLANK else LONGEST_RUN
    end = body + 1
    while end < stop and end < body + longest and kinds[text[end]] == kind:
        end += 1
    if kind == BLANK:
        length = end - begin
        if 1 < length < longest and end < stop and text[end - 1] == SPACE and kinds[text[end]] != NEWLINE:
            return end - 1
        return min(end, begin + LONGEST_RUN)
    return end


@jit
def bpe_encode(
    ids: Array, ends: Array, text: Array, stops: Array, kinds: Array, characters: Array, merges: Array
) -> None:
    """Write the tokens of texts to `ids`, int32, and where those of each text end to `ends` (k,).

    The code points `text` (n,) int32 are k texts, number i up to stops[i]. Of every code point, `kinds` says
    which of KINDS it is, and `characters` its id, or -1 if merges do not make it one token. `merges` is as
    `merge_table` made it. `ids` has room for the bytes of the texts in UTF-8.
    """
    word = np.empty(LONGEST_CHUNK, np.int64)  # the tokens of a chunk
    news = np.empty(LONGEST_CHUNK, np.int64)  # what each of them and the next are joined to
    begin: Any = np.int64(0)  # 0 is a literal to Numba, of another type, and would compile _chunk_end twice
    count = 0
    for k in range(stops.size):
        while begin < stops[k]:
            end = _chunk_end(text, begin, stops[k], kinds)
            n = 0
            for i in range(begin, end):
                code = np.int64(text[i])
                if characters[code] >= 0:
                    word[n] = characters[code]
                else:  # its bytes in UTF-8: the first says how many follow, and those have six bits each
                    more = 1 if code < 0x800 else 2 if code < 0x10000 else 3
                    word[n] = (0xF80 >> more) & 0xFF | code >> (6 * more)
                    for shift in range(6 * more - 6, -6, -6):
                        n += 1
                        word[n] = 0x80 | (code >> shift) & 0x3F
                n += 1
            for i in range(n - 1):
                news[i] = _merged(merges, word[i], word[i + 1])
            while n > 1:
                at = 0
                for i in range(1, n - 1):
                    if news[i] < news[at]:
                        at = i
                new = news[at]
                if new == NO_MERGE:
                    break
                n -= 1
                word[at] = new
                for i in range(at + 1, n):
                    word[i] = word[i + 1]
                    news[i - 1] = news[i]
                if at > 0:
                    news[at - 1] = _merged(merges, word[at - 1], new)
                if at < n - 1:
                    news[at] = _merged(merges, new, word[at + 1])
            for i in range(n):
                ids[count + i] = word[i]
            count += n
            begin = end
        ends[k] = count


@jit
def bpe_merge(
    places: Array, born: Array, ids: Array, left: Array, right: Array, times: Array, first: int, second: int,
    new: int, bound: int,
) -> tuple[int, int, int]:  # fmt: skip
    """Count a pair, and merge it into `new` if it occurs `bound` times; return (times, places, births).

    `ids` (n,) is a row of tokens, below 0 where there is none; a token knows its neighbours by `left` and
    `right`, and counts times[i] times. The pair is looked for at the ascending `places`; those where it is
    found move to the front. Where the pairs of `new` and its neighbours begin is written to `born`.
    """
    count, total = 0, 0
    for i in range(places.size):
        place = places[i]
        if ids[place] == first and ids[right[place]] == second:
            places[count] = place
            count += 1
            total += times[place]
    births = 0
    if total == bound:
        for i in range(count):
            place = places[i]
            if ids[place] == first and ids[right[place]] == second:  # else merged in part: aaa is aa, a
                gone = right[place]
                right[place] = right[gone]
                left[right[gone]] = place
                ids[place], ids[gone] = new, -1
        for i in range(count):
            place = places[i]
            if ids[place] == new:
                before, after = ids[left[place]], ids[right[place]]
                if before >= 0 and before != new:  # or it was born as the one before it and its successor
                    born[births] = left[place]
                    births += 1
                if after >= 0:
                    born[births] = place
                    births += 1
    return total, count, births
