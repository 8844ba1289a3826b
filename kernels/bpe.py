"""Byte pair encoding in one pass over a text: cut off a chunk, merge its pairs, continue after it.

tinyllm/text/bpe.py defines chunks and the order in which their pairs are merged. Order: the hash table of
merges, looking up a pair, the end of a chunk, encoding; and one merge applied to all chunks, for learning.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import Array, jit

# Kinds of characters. The first four take a space before their run into its chunk. EAST_ASIAN is what split 1
# makes of Han and kana, which are kinds of their own since.
KINDS = LETTER, EAST_ASIAN, DIGIT, SYMBOL, NEWLINE, BLANK, HAN, KANA = range(8)
SPACE, APOSTROPHE, QUOTE = ord(" "), ord("'"), ord("’")
LONGEST_RUN, LONGEST_NUMBER = 16, 3
LONGEST_CHUNK = 3 + 4 * LONGEST_RUN  # bytes: the apostrophe ’ and a run of four-byte characters
NO_MERGE = 1 << 20  # above every id


def _hash(first: Any, second: Any, size: int) -> Any:
    """Return the slot at which a table of `size` slots, a power of two, begins to look for a pair."""
    # The low bits of the sum are the least mixed, so they are shifted out.
    return ((first * 0x9E3779B1 + second * 0x7F4A7C15) >> 12) & (size - 1)


slot_of = jit(_hash)  # for kernels; `merge_table` calls the plain function, on whole arrays


def merge_table(firsts: Array, seconds: Array) -> Array:
    """Return the hash table of merges, int64; number i joins firsts[i] and seconds[i] (M,) into 256 + i.

    An entry is first << 40 | second << 20 | new, and 0 in an empty slot. A pair that finds its slot taken
    moves to the next free one (Knuth, "The Art of Computer Programming", 6.4, algorithm L).
    """
    firsts, seconds = firsts.astype(np.int64), seconds.astype(np.int64)
    size = 1 << (4 * len(firsts)).bit_length()  # at most a quarter full, so a search soon meets a 0
    table = np.zeros(size, np.int64)
    entries = firsts << 40 | seconds << 20 | np.arange(256, 256 + len(firsts))
    # All pairs at once: each writes itself where its slot is free, and those that are not there afterwards
    # try the next slot. A slot once taken stays taken, as a search needs it to.
    slots = _hash(firsts, seconds, size)
    while len(entries):
        free = table[slots] == 0
        table[slots[free]] = entries[free]  # where several want one slot, the last of them stays
        waiting = table[slots] != entries
        entries, slots = entries[waiting], (slots[waiting] + 1) & (size - 1)
    return table


@jit
def _merge_of(merges: Array, first: np.int64, second: np.int64) -> int:
    """Return the id that a pair is merged into, or NO_MERGE."""
    pair = first << 20 | second
    slot = slot_of(first, second, merges.size)
    while merges[slot]:
        if merges[slot] >> 20 == pair:
            return int(merges[slot] & 0xFFFFF)
        slot = (slot + 1) & (merges.size - 1)
    return NO_MERGE


@jit
def _chunk_end(text: Array, begin: int, stop: int, kinds: Array, han_run: int) -> int:
    """Return where the chunk that begins at `begin` ends, in a text that ends at `stop`."""
    # A chunk is a run of one kind, and may begin with one character of another: a space before all but white
    # space, an apostrophe before letters. `body` is where the run begins.
    first, body = text[begin], begin
    if begin + 1 < stop and first in (SPACE, APOSTROPHE, QUOTE):
        following = kinds[text[begin + 1]]
        if following == LETTER or (first == SPACE and following < NEWLINE):
            body = begin + 1
    kind = kinds[text[body]]
    # Two blanks more than a run may have, to see whether the last blank of the run stands before a word.
    longest = LONGEST_NUMBER if kind == DIGIT else han_run if kind == HAN else LONGEST_RUN
    longest += 2 if kind == BLANK else 0
    end = body + 1
    while end < stop and end < body + longest and kinds[text[end]] == kind:
        end += 1
    if kind == BLANK:
        # Of several blanks before a word, the last one goes to the word's chunk if it is a space.
        length = end - begin
        if 1 < length < longest and end < stop and text[end - 1] == SPACE and kinds[text[end]] < NEWLINE:
            return end - 1
        return min(end, begin + LONGEST_RUN)
    return end


@jit
def _first_tokens(word: Array, text: Array, begin: Any, end: Any, characters: Array) -> int:
    """Write the tokens of text[begin:end] before any merge that joins characters; return how many."""
    n = 0
    for i in range(begin, end):
        code = np.int64(text[i])
        if characters[code] >= 0:
            word[n] = characters[code]
        else:
            # Its bytes in UTF-8: the first says how many follow, each of those has six bits of the code.
            # 你 is U+4F60, 0100 111101 100000, in 1110 and 10 twice: e4 bd a0.
            more = 1 if code < 0x800 else 2 if code < 0x10000 else 3
            word[n] = (0xF80 >> more) & 0xFF | code >> (6 * more)
            for shift in range(6 * more - 6, -6, -6):
                n += 1
                word[n] = 0x80 | (code >> shift) & 0x3F
        n += 1
    return n


@jit
def bpe_encode(
    ids: Array, ends: Array, text: Array, stops: Array, kinds: Array, characters: Array, merges: Array,
    han_run: int,
) -> None:  # fmt: skip
    """Write the tokens of texts to `ids`, int32, and where those of each text end to `ends` (k,).

    The code points `text` (n,) int32 are k texts, number i up to stops[i]. Of every code point, `kinds` says
    which of KINDS it is, and `characters` its id, or -1 if merges do not make it one token. `merges` is as
    `merge_table` made it. A chunk has up to `han_run` characters of the kind HAN, at most LONGEST_RUN. `ids`
    has room for the bytes of the texts in UTF-8.
    """
    word = np.empty(LONGEST_CHUNK, np.int64)  # the tokens of one chunk
    merged = np.empty(LONGEST_CHUNK, np.int64)  # merged[i]: what word[i] and word[i + 1] merge into
    begin: Any = np.int64(0)  # 0 is a literal to Numba, of another type, and would compile _chunk_end twice
    count = 0
    for k in range(stops.size):
        while begin < stops[k]:
            end = _chunk_end(text, begin, stops[k], kinds, han_run)
            n = _first_tokens(word, text, begin, end, characters)
            for i in range(n - 1):
                merged[i] = _merge_of(merges, word[i], word[i + 1])
            # Merges in the order in which they were learnt, which is that of their ids: the smallest is next,
            # the leftmost of equals. A chunk has few tokens, so searching them all beats any heap.
            while n > 1:
                at = 0
                for i in range(1, n - 1):
                    if merged[i] < merged[at]:
                        at = i
                new = merged[at]
                if new == NO_MERGE:
                    break
                # Write the new token over the left one, close the gap of the right one, and look up the only
                # two pairs that have changed.
                n -= 1
                word[at] = new
                for i in range(at + 1, n):
                    word[i] = word[i + 1]
                    merged[i - 1] = merged[i]
                if at > 0:
                    merged[at - 1] = _merge_of(merges, word[at - 1], new)
                if at < n - 1:
                    merged[at] = _merge_of(merges, new, word[at + 1])
            for i in range(n):
                ids[count + i] = word[i]
            count += n
            begin = end
        ends[k] = count


@jit
def bpe_merge(
    positions: Array, created: Array, ids: Array, left: Array, right: Array, times: Array, first: int,
    second: int, new: int, expected: int,
) -> tuple[int, int, int]:  # fmt: skip
    """Count a pair, and merge it into `new` if it occurs `expected` times; return (total, count, pairs).

    It occurs `total` times, at `count` positions, and merging it has created pairs at `pairs` positions.
    `ids` (n,) is a row of tokens, below 0 where there is none; a token has its neighbours at `left` and
    `right`, and counts times[i] times. The pair is looked for at the ascending `positions`; those where it is
    found move to the front. Where the pairs of `new` and its neighbours begin is written to `created`.
    """
    count, total = 0, 0
    for i in range(positions.size):
        at = positions[i]
        if ids[at] == first and ids[right[at]] == second:
            positions[count] = at
            count += 1
            total += times[at]
    pairs = 0
    if total == expected:
        for i in range(count):
            at = positions[i]
            # Again, since the merge before may have taken a token: of aaa, only the first aa is merged.
            if ids[at] == first and ids[right[at]] == second:
                gone = right[at]
                right[at] = right[gone]
                left[right[gone]] = at
                ids[at], ids[gone] = new, -1
        # Only now, when all neighbours are final: each merge makes one pair on either side of itself.
        for i in range(count):
            at = positions[i]
            if ids[at] == new:
                before, after = ids[left[at]], ids[right[at]]
                if before >= 0 and before != new:  # if it is new too, it has recorded this pair itself
                    created[pairs] = left[at]
                    pairs += 1
                if after >= 0:
                    created[pairs] = at
                    pairs += 1
    return total, count, pairs
