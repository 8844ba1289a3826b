"""Byte pair encoding: the commonest pair of neighbours becomes one token, again and again.

Text is first cut into chunks (words, runs of Han, numbers, punctuation), and pairs are counted and merged
only inside a chunk. Order: cutting text, what merges may join, learning merges; they are applied in
kernels/bpe.py, always the one that was learnt first, from the left.
Sources: Gage 1994, "A new algorithm for data compression"; Sennrich, Haddow and Birch 2016, "Neural
machine translation of rare words with subword units"; minbpe, for how to explain it.
"""

from __future__ import annotations

import heapq
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from tinyllm.arena import Array
from tinyllm.kernels import KINDS, LONGEST_NUMBER, LONGEST_RUN, bpe_merge

Pair = tuple[int, int]

# Every character is of exactly one class, and letters are what no other class names. The classes are
# written out because `\w` and `\s` follow the Unicode tables of the running Python: a checkpoint would
# read a text differently under the next one. It also keeps combining marks inside their words.
BLANK = " \t\v\f"
NEWLINE = "\r\n"
DIGIT = "0-9０-９"
HAN = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # and kana
SYMBOL = (
    "\x00-\x08\x0e-\x1f!-/:-@[-`{-\xa9\xab-\xb4\xb6-\xb9\xbb-\xbf\xd7\xf7"
    "\u2000-\u2bff\u2e00-\u2e7f\u3000-\u303f\ufe00-\ufe0f！-／：-＠［-｀｛-･\U0001f000-\U0001faff"
)
LETTER = f"^{BLANK}{NEWLINE}{DIGIT}{HAN}{SYMBOL}"

# A chunk is a run of one class, with at most one space before it (letters: or an apostrophe). Runs are
# bounded, so that a chunk is short whatever the text, and its merges take bounded time.
_CHUNK = re.compile(
    f"[ '’]?[{LETTER}]{{1,{LONGEST_RUN}}}| ?[{HAN}]{{1,{LONGEST_RUN}}}| ?[{DIGIT}]{{1,{LONGEST_NUMBER}}}"
    f"| ?[{SYMBOL}]{{1,{LONGEST_RUN}}}|[{NEWLINE}]{{1,{LONGEST_RUN}}}"
    f"|[{BLANK}]{{1,{LONGEST_RUN}}}(?= [^{BLANK}{NEWLINE}])"  # leaves one space to the word that follows
    f"|[{BLANK}]{{1,{LONGEST_RUN}}}"
)
_CUT = re.compile(
    f"(?s:.*)(?:[{LETTER}](?=[{LETTER[1:]}])|[{HAN}](?=[^{HAN}])|[{DIGIT}](?=[^{DIGIT}])"
    f"|(?!['’])[{SYMBOL}](?=[^{SYMBOL}]))"
)
SPLIT_VERSION = 1  # stored with every tokenizer: text that is cut otherwise has other ids


def split(text: str) -> list[str]:
    """Cut `text` into chunks; joined, they are the text again.

    Example: "I don't  know 12345，你好" -> ["I", " don", "'t", " ", " know", " 123", "45", "，", "你好"]
    """
    return _CHUNK.findall(text)


def last_safe_cut(text: str) -> int:
    """Return the last place where `text` may be cut without changing any chunk, or 0 if there is none.

    For every text t that goes on however it likes, and i = last_safe_cut(t):
    `split(t[:i]) + split(t[i:]) == split(t)`. Such a place lies between two characters of different classes,
    the first of them neither white space nor an apostrophe; so before the white space after a word, say.
    """
    found = _CUT.match(text)
    return found.end() if found else 0


def kinds_of_characters() -> Array:
    """Return which of KINDS every code point is, (0x110000,) uint8, as `bpe_encode` wants it."""
    letters, *others = KINDS
    kinds = np.full(sys.maxunicode + 1, letters, np.uint8)
    for kind, characters in zip(others, (HAN, DIGIT, SYMBOL, NEWLINE, BLANK), strict=True):
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
    return 0x80 <= second[0] < 0xC0  # goes on with a character


def is_whole(piece: bytes) -> bool:
    """Return whether the bytes are whole characters, lone surrogates included."""
    try:
        piece.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


DISTINCT_CHUNKS = 1 << 16  # bounds the time and memory of learning on texts without spaces


def count_chunks(texts: Iterable[str]) -> Counter[str]:
    """Count the chunks of all texts; of very many different ones only the commonest are kept.

    When more than twice DISTINCT_CHUNKS are known, and at the end, the rarest are forgotten.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split(text))
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
    # A pair can only become rarer after the merge that made its newer half, so the heap's entries are upper
    # bounds: the top one that is still true is the maximum.
    heap = words.pairs(np.flatnonzero((words.ids[:-1] >= 0) & (words.ids[1:] >= 0)))
    heapq.heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < how_many:
        bound, first, second, places = heapq.heappop(heap)
        total, places, born = words.merge(first, second, 256 + len(merges), -bound, places)
        if total == -bound:
            merges.append((first, second))
            for pair in words.pairs(born):
                heapq.heappush(heap, pair)
        elif total > 1:
            heapq.heappush(heap, (-total, first, second, places))
    return merges


class _Words:
    """The different chunks as one row of ids, each token knowing its neighbours; -1 stands between chunks."""

    def __init__(self, counts: Mapping[str, int], how_many: int) -> None:
        chunks = [chunk.encode("utf-8", "surrogatepass") for chunk in counts]
        row = np.frombuffer(b"\xff" + b"".join([chunk + b"\xff" for chunk in chunks]), np.uint8)
        self.ids = np.where(row == 0xFF, -1, row.astype(np.int32))  # 0xff is no byte of UTF-8
        self.left = np.arange(-1, row.size - 1)
        self.right = np.arange(1, row.size + 1)
        lengths = [1, *(len(chunk) + 1 for chunk in chunks)]
        self.times = np.repeat([0, *counts.values()], lengths)  # how often the chunk at a place occurs
        # Bytes of its character that come after a token: 0 for whole characters, below 0 for what begins in
        # the middle of one. A merge adds these numbers.
        self.missing = np.zeros(256 + how_many, np.int8)
        for first, last, missing in (0x80, 0xBF, -1), (0xC0, 0xDF, 1), (0xE0, 0xEF, 2), (0xF0, 0xFF, 3):
            self.missing[first : last + 1] = missing

    def merge(self, first: int, second: int, new: int, bound: int, places: Array) -> tuple[int, Array, Array]:
        """Count a pair, and merge it if it occurs `bound` times; `places` are those where it once began.

        Returns how often it occurs, where, and where the pairs begin that came to be.
        """
        born = np.empty(2 * places.size, np.int64)
        total, count, births = bpe_merge(
            places, born, self.ids, self.left, self.right, self.times, first, second, new, bound
        )
        if births:
            self.missing[new] = self.missing[first] + self.missing[second]
        return total, places[:count], born[:births]

    def pairs(self, places: Array) -> list[tuple[int, int, int, Array]]:
        """Return (-count, first, second, its places) of each joinable pair that occurs twice at `places`."""
        first, second = self.ids[places], self.ids[self.right[places]]
        may_join = np.where(self.missing[first] == 0, self.missing[second] == 0, self.missing[second] < 0)
        pair = (first.astype(np.int64) << 32 | second)[may_join]
        order = np.argsort(pair, kind="stable")
        pair, places = pair[order], places[may_join][order]
        starts = np.flatnonzero(np.diff(pair, prepend=-1))
        totals = np.add.reduceat(self.times[places], starts) if starts.size else starts
        stops = np.append(starts[1:], pair.size)
        often = totals > 1
        found = (totals[often], pair[starts[often]], starts[often], stops[often])
        return [
            (-total, one >> 32, one & 0xFFFFFFFF, places[start:stop])
            for total, one, start, stop in zip(*(part.tolist() for part in found), strict=True)
        ]
