"""Byte pair encoding: the most frequent pair of neighbours becomes one token, again and again.

Text is first cut into chunks (words, runs of Han, numbers, punctuation), and pairs are counted and merged
only inside a chunk. Chinese has no spaces between words, so how long its runs may be is a setting, `han_run`.
Order: cutting text, which pairs may be joined, learning merges; they are applied in kernels/bpe.py, always
the one that was learnt first, from the left.
Sources: Gage 1994, "A new algorithm for data compression"; Sennrich, Haddow and Birch 2016, "Neural
machine translation of rare words with subword units"; minbpe, for how to explain it.
"""

from __future__ import annotations

import heapq
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache

import numpy as np

from tinyllm.arena import Array
from tinyllm.config import HAN_RUN
from tinyllm.kernels import KINDS, LONGEST_NUMBER, LONGEST_RUN, bpe_merge

Pair = tuple[int, int]

# Every character is of exactly one class, and letters are what no other class names. The classes are
# written out because `\w` and `\s` follow the Unicode tables of the running Python: a checkpoint would
# read a text differently under the next one. It also keeps combining marks inside their words.
BLANK = " \t\v\f"
NEWLINE = "\r\n"
DIGIT = "0-9０-９"
KANA = "\u3040-\u30ff"
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
SYMBOL = (
    "\x00-\x08\x0e-\x1f!-/:-@[-`{-\xa9\xab-\xb4\xb6-\xb9\xbb-\xbf\xd7\xf7"
    "\u2000-\u2bff\u2e00-\u2e7f\u3000-\u303f\ufe00-\ufe0f！-／：-＠［-｀｛-･\U0001f000-\U0001faff"
)
LETTER = f"^{BLANK}{NEWLINE}{DIGIT}{KANA}{HAN}{SYMBOL}"

SPLIT_VERSION = 2  # stored with every tokenizer: text that is cut otherwise has other ids


@cache
def _chunk(han_run: int | None) -> re.Pattern[str]:
    """Return the pattern of a chunk: a run of one class, perhaps with one space or apostrophe before it.

    Runs are bounded, so that a chunk is short whatever the text, and its merges take bounded time. Before
    letters, numbers and symbols, the last space of several belongs to their chunk. Han and kana are scripts
    without spaces and take none; in split 1 they were one class, which did.
    """
    run = f"{{1,{LONGEST_RUN}}}"
    if han_run is None:
        east_asian, without_space = f" ?[{KANA}{HAN}]{run}", f"{BLANK}{NEWLINE}"
    else:
        east_asian = f"[{HAN}]{{1,{han_run}}}|[{KANA}]{run}"
        without_space = f"{BLANK}{NEWLINE}{KANA}{HAN}"
    return re.compile(
        f"[ '’]?[{LETTER}]{run}|{east_asian}| ?[{DIGIT}]{{1,{LONGEST_NUMBER}}}| ?[{SYMBOL}]{run}"
        f"|[{NEWLINE}]{run}|[{BLANK}]{run}(?= [^{without_space}])|[{BLANK}]{run}"
    )


# Everything up to the last character that certainly ends its chunk: `.*` takes as much as it can, then come a
# character and, not consumed, one of another class, in any version. LETTER[1:] is the complement of LETTER.
_CUT = re.compile(
    f"(?s:.*)(?:[{LETTER}](?=[{LETTER[1:]}])|[{KANA}{HAN}](?=[^{KANA}{HAN}])|[{DIGIT}](?=[^{DIGIT}])"
    f"|(?!['’])[{SYMBOL}](?=[^{SYMBOL}]))"
)


def split(text: str, han_run: int | None = HAN_RUN) -> list[str]:
    """Cut `text` into chunks, of at most `han_run` Han characters; joined, they are the text again.

    None is split 1: Han and kana are one class, and a run of them may have a space before it.

    Example: "I don't  know 12345，你好" -> ["I", " don", "'t", " ", " know", " 123", "45", "，", "你好"];
    with a `han_run` of 1, "你" and "好" are two chunks.
    """
    return _chunk(han_run).findall(text)


def last_safe_cut(text: str) -> int:
    """Return the last position at which `text` may be cut without changing any chunk, 0 if there is none.

    For every text t that begins with `text`, i = last_safe_cut(text), and any `han_run`:
    `split(t[:i]) + split(t[i:]) == split(t)`. Such a position lies between two characters of different
    classes, the first of them neither white space nor an apostrophe: for example after a word.
    """
    found = _CUT.match(text)
    return found.end() if found else 0


def kinds_of_characters(han_run: int | None) -> Array:
    """Return which of KINDS every code point is, (0x110000,) uint8, as `bpe_encode` wants it."""
    letters, east_asian, digit, symbol, newline, blank, han, kana = KINDS
    kinds = np.full(sys.maxunicode + 1, letters, np.uint8)
    if han_run is None:
        han = kana = east_asian
    classes = {DIGIT: digit, SYMBOL: symbol, NEWLINE: newline, BLANK: blank, HAN: han, KANA: kana}
    for characters, kind in classes.items():
        for first, last in re.findall("(?s)(.)(?:-(.))?", characters):
            kinds[ord(first) : ord(last or first) + 1] = kind
    return kinds


def joinable(first: bytes, second: bytes) -> bool:
    """Return whether a merge may join the two pieces: a token is whole characters, or a part of one.

    So no token ends inside a character that it did not begin, which a model would only get wrong; and how a
    character is encoded does not depend on its neighbours.

    Example: e4 bd + a0 (they make 你) and 你 + 好, but neither 你 + e5 nor a0 + e5.
    """
    if is_whole(first) or is_whole(second):
        return is_whole(first) and is_whole(second)
    return 0x80 <= second[0] < 0xC0  # a continuation byte: the second piece begins no character


def is_whole(piece: bytes) -> bool:
    """Return whether the bytes are whole characters, lone surrogates included."""
    try:
        piece.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


DISTINCT_CHUNKS = 1 << 16  # bounds the time and memory of learning on texts without spaces


def count_chunks(texts: Iterable[str], han_run: int | None = HAN_RUN) -> Counter[str]:
    """Count the chunks of all texts; of very many different ones only the most frequent are kept.

    When more than twice DISTINCT_CHUNKS are known, and at the end, the rarest are dropped. `han_run` is that
    of `split`.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split(text, han_run))
        if len(counts) > 2 * DISTINCT_CHUNKS:
            counts = Counter(dict(counts.most_common(DISTINCT_CHUNKS)))
    return Counter(dict(counts.most_common(DISTINCT_CHUNKS)))


def learn_merges(counts: Mapping[str, int], how_many: int) -> list[Pair]:
    """Return up to `how_many` merges: the i-th joins its pair into the id 256 + i.

    Each is the pair that occurs most often once all earlier merges are applied, of equals the smallest.
    Learning ends early when no pair occurs twice: what was seen once is no pattern.

    Example: {"aaabdaaabac": 1}, 3 -> [(97, 97), (97, 98), (256, 257)]: aa, ab, aaab
    """
    words = _Words(counts, how_many)
    # A heap of (-count, first, second, positions), whose smallest entry is the most frequent pair. Counts are
    # not updated when a merge takes tokens away from other pairs. But once both its tokens exist, a pair can
    # only become rarer, so each count is an upper bound: the top pair is counted again, and if its count
    # still holds, no other pair is more frequent. Otherwise it goes back with its present count.
    heap = words.pairs(np.flatnonzero((words.ids[:-1] >= 0) & (words.ids[1:] >= 0)))
    heapq.heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < how_many:
        negative, first, second, positions = heapq.heappop(heap)
        total, positions, created = words.merge(first, second, 256 + len(merges), -negative, positions)
        if total == -negative:
            merges.append((first, second))
            for pair in words.pairs(created):
                heapq.heappush(heap, pair)
        elif total > 1:
            heapq.heappush(heap, (-total, first, second, positions))
    return merges


class _Words:
    """The different chunks as one row of ids, each token knowing its neighbours; -1 stands between chunks.

    The chunks "ab", 5 times, and "abc", twice, before any merge and after that of a and b into 256:

        position     0   1   2   3   4   5   6   7           0   1   2   3   4   5   6   7
        ids         -1   a   b  -1   a   b   c  -1          -1 256  -1  -1 256  -1   c  -1
        right        1   2   3   4   5   6   7   8           1   3   3   4   6   6   7   8
        times        0   5   5   5   2   2   2   2           the same

    A merged token stays where its first part was; where its second part was there is -1, which `left` and
    `right` of its neighbours skip. So a position never moves, and a pair is found again where it once began.
    """

    def __init__(self, counts: Mapping[str, int], how_many: int) -> None:
        chunks = [chunk.encode("utf-8", "surrogatepass") for chunk in counts]
        row = np.frombuffer(b"\xff" + b"".join([chunk + b"\xff" for chunk in chunks]), np.uint8)
        self.ids = np.where(row == 0xFF, -1, row.astype(np.int32))  # 0xff is no byte of UTF-8
        self.left = np.arange(-1, row.size - 1)
        self.right = np.arange(1, row.size + 1)
        lengths = [1, *(len(chunk) + 1 for chunk in chunks)]
        self.times = np.repeat([0, *counts.values()], lengths)  # how often the chunk at a position occurs
        # By id, how many bytes of a character are missing after the token: 0 for whole characters, below 0
        # for tokens that begin inside one. A merge adds these numbers: e4 (2) + bd (-1) = e4 bd (1).
        self.missing = np.zeros(256 + how_many, np.int8)
        for first, last, missing in (0x80, 0xBF, -1), (0xC0, 0xDF, 1), (0xE0, 0xEF, 2), (0xF0, 0xFF, 3):
            self.missing[first : last + 1] = missing

    def merge(
        self, first: int, second: int, new: int, expected: int, positions: Array
    ) -> tuple[int, Array, Array]:
        """Count a pair, and merge it into `new` if it occurs `expected` times.

        `positions` are those where it once began. Returns how often it occurs, the positions where it begins,
        and those where the pairs begin that the merge has created.
        """
        created = np.empty(2 * positions.size, np.int64)  # a merge creates a pair on either side of itself
        total, count, pairs = bpe_merge(
            positions, created, self.ids, self.left, self.right, self.times, first, second, new, expected
        )
        if pairs:
            self.missing[new] = self.missing[first] + self.missing[second]
        return total, positions[:count], created[:pairs]

    def pairs(self, positions: Array) -> list[tuple[int, int, int, Array]]:
        """Return (-count, first, second, positions) of the pairs that begin at `positions`.

        Only of those that may be joined and occur twice or more.
        """
        first, second = self.ids[positions], self.ids[self.right[positions]]
        # As `joinable` has it: two whole tokens, or a part of a character and one that continues it.
        may_join = np.where(self.missing[first] == 0, self.missing[second] == 0, self.missing[second] < 0)
        pair = (first.astype(np.int64) << 32 | second)[may_join]
        # Sorted, equal pairs are neighbours, in runs from starts[i] to stops[i]; as the sort is stable,
        # positions ascend within a run: merges are applied from the left.
        order = np.argsort(pair, kind="stable")
        pair, positions = pair[order], positions[may_join][order]
        starts = np.flatnonzero(np.diff(pair, prepend=-1))
        totals = np.add.reduceat(self.times[positions], starts) if starts.size else starts
        stops = np.append(starts[1:], pair.size)
        frequent = totals > 1
        found = (totals[frequent], pair[starts[frequent]], starts[frequent], stops[frequent])
        return [
            (-total, one >> 32, one & 0xFFFFFFFF, positions[start:stop])
            for total, one, start, stop in zip(*(part.tolist() for part in found), strict=True)
        ]
