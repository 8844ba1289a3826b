"""Byte pair encoding: the commonest pair of neighbours becomes one token, again and again.

Text is first cut into chunks (words, runs of Han, numbers, punctuation), and pairs are counted and merged
only inside a chunk. In reading order: cutting text, applying merges, learning merges.
Sources: Gage 1994, "A new algorithm for data compression"; Sennrich, Haddow and Birch 2016, "Neural
machine translation of rare words with subword units"; minbpe, for how to explain it.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise

Pair = tuple[int, int]

# Every character is of exactly one class, and letters are what no other class names. The classes are
# written out because `\w` and `\s` follow the Unicode tables of the running Python: a checkpoint would
# read a text differently under the next one. It also keeps combining marks inside their words.
BLANK = r" \t\v\f"
NEWLINE = r"\r\n"
DIGIT = r"0-9０-９"
HAN = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # and kana
SYMBOL = (
    r"\x00-\x08\x0e-\x1f!-/:-@\[-`{-\xa9\xab-\xb4\xb6-\xb9\xbb-\xbf\xd7\xf7"
    r"\u2000-\u2bff\u2e00-\u2e7f\u3000-\u303f\ufe00-\ufe0f！-／：-＠［-｀｛-･\U0001f000-\U0001faff"
)
LETTER = f"^{BLANK}{NEWLINE}{DIGIT}{HAN}{SYMBOL}"

# A chunk is a run of one class, with at most one space before it (letters: or an apostrophe). Runs are
# bounded, so that a chunk is short whatever the text, and its merges take bounded time.
LONGEST_RUN = 16
LONGEST_CHUNK = 3 + 4 * LONGEST_RUN  # bytes: the apostrophe ’ and a run of four-byte characters
_CHUNK = re.compile(
    f"[ '’]?[{LETTER}]{{1,{LONGEST_RUN}}}| ?[{HAN}]{{1,{LONGEST_RUN}}}| ?[{DIGIT}]{{1,3}}"
    f"| ?[{SYMBOL}]{{1,{LONGEST_RUN}}}|[{NEWLINE}]{{1,{LONGEST_RUN}}}"
    f"|[{BLANK}]{{1,{LONGEST_RUN}}}(?= [^{BLANK}{NEWLINE}])"  # leaves one space to the word that follows
    f"|[{BLANK}]{{1,{LONGEST_RUN}}}"
)
_CUT = re.compile(
    f"(?s:.*)(?:[{LETTER}](?=[{LETTER[1:]}])|[{HAN}](?=[^{HAN}])|[{DIGIT}](?=[^{DIGIT}])"
    f"|(?!['’])[{SYMBOL}](?=[^{SYMBOL}]))"
)
SPLIT_VERSION = 1  # stored with every tokenizer: text that is cut otherwise has other ids

_NEVER = 1 << 62  # above every id: the rank of a pair that no merge joins


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


def apply_merges(ids: list[int], merges: Mapping[Pair, int]) -> list[int]:
    """Apply every merge that applies to `ids`, in place, in the order of their learning; return `ids`.

    `merges` maps a pair to its new id. A later merge has a greater id and may join what earlier ones made,
    so "the smallest new id first, from the left" is the order of learning.

    Example: list(b"abcab"), {(97, 98): 256, (256, 99): 257} -> [257, 256]
    """
    ranks = [merges.get(pair, _NEVER) for pair in pairwise(ids)]
    while (new := min(ranks, default=_NEVER)) != _NEVER:
        i = ranks.index(new)
        ids[i : i + 2] = [new]
        del ranks[i]
        if i > 0:
            ranks[i - 1] = merges.get((ids[i - 1], new), _NEVER)
        if i < len(ranks):
            ranks[i] = merges.get((new, ids[i + 1]), _NEVER)
    return ids


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
    words = [list(chunk.encode("utf-8", "surrogatepass")) for chunk in counts]
    times = list(counts.values())
    total: dict[Pair, int] = defaultdict(int)  # how often a pair occurs, at any moment
    where: dict[Pair, list[int]] = defaultdict(list)  # words that have, or once had, the pair
    for index, word in enumerate(words):
        for pair in pairwise(word):
            total[pair] += times[index]
            where[pair].append(index)

    pieces = [bytes([byte]) for byte in range(256)]
    # A pair's total can only fall after the merge that made its newer half, so the heap's entries are upper
    # bounds: the top one that is still true is the maximum.
    heap = [(-count, pair) for pair, count in total.items() if joinable(pieces[pair[0]], pieces[pair[1]])]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < how_many:
        bound, pair = heapq.heappop(heap)
        if total[pair] != -bound:
            heapq.heappush(heap, (-total[pair], pair))
            continue
        if total[pair] < 2:
            break
        new = 256 + len(merges)
        merges.append(pair)
        pieces.append(pieces[pair[0]] + pieces[pair[1]])
        born: dict[Pair, None] = {}
        for index in where.pop(pair):
            for change in _merge(words[index], pair, new, times[index], total):
                where[change].append(index)
                born[change] = None
        for change in born:
            if joinable(pieces[change[0]], pieces[change[1]]):
                heapq.heappush(heap, (-total[change], change))
    return merges


def _merge(word: list[int], pair: Pair, new: int, times: int, total: dict[Pair, int]) -> list[Pair]:
    """Merge `pair` in `word`, in place, keep `total` true, and return the pairs that came to be."""
    first, second = pair
    born: list[Pair] = []
    i = 0
    while i < len(word) - 1:
        if word[i] == first and word[i + 1] == second:
            total[pair] -= times
            if i > 0:
                total[word[i - 1], first] -= times
                total[word[i - 1], new] += times
                born.append((word[i - 1], new))
            if i + 2 < len(word):
                total[second, word[i + 2]] -= times
                total[new, word[i + 2]] += times
                born.append((new, word[i + 2]))
            word[i : i + 2] = [new]
        i += 1
    return born
