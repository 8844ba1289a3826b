"""The plainest byte pair encoding there is, which the real one must equal, and texts to try both on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import strategies as st

from tinyllm.config import HAN_RUN
from tinyllm.text.bpe import Pair, split

PROSE = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in "
    "want of a wife.\r\nHowever little known the feelings or views of such a man may be, it's fixed in the "
    "minds of 1234567 families.\n\n    return {'x': -1}\t# ok 🎉🎉\n"
    "道可道，非常道；名可名，非常名。无名天地之始，有名万物之母。故常无欲以观其妙，常有欲以观其徼。\n"
) * 3

HAN_RUNS = (None, 1, 2, 16)  # None: split 1
han_runs = st.sampled_from(HAN_RUNS)
any_text = st.text(st.characters())  # unlike st.text(), lone surrogates included
# Few characters, so that pairs repeat; of every class that chunks are made of, and of one to four bytes.
dense_text = st.text(st.sampled_from("ab'’é1２ \t\n\r-，。你好吗のカ한🎉\ud83d\x00"), max_size=60)
mixed_text = st.lists(st.one_of(dense_text, any_text, st.sampled_from(PROSE.split()))).map("".join)


def joinable(first: bytes, second: bytes) -> bool:
    """The rule in other words: whole characters, or bytes of which only the first may begin one."""
    joined = first + second
    try:
        joined.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return all(0x80 <= byte < 0xC0 for byte in joined[1:])
    return True


def replaced(word: list[int], pair: Pair, new: int) -> list[int]:
    """Return the word with `pair` replaced by `new`, from the left."""
    out: list[int] = []
    for token in word:
        if out and (out[-1], token) == pair:
            out[-1] = new
        else:
            out.append(token)
    return out


def learnt_naively(texts: list[str], how_many: int, han_run: int | None = HAN_RUN) -> list[Pair]:
    """Count every pair again after every merge."""
    words = [list(chunk.encode("utf-8", "surrogatepass")) for text in texts for chunk in split(text, han_run)]
    pieces = [bytes([byte]) for byte in range(256)]
    merges: list[Pair] = []
    while len(merges) < how_many:
        counts = Counter(pair for word in words for pair in pairwise(word))
        frequent = [(-n, (a, b)) for (a, b), n in counts.items() if n > 1 and joinable(pieces[a], pieces[b])]
        if not frequent:
            break
        pair = min(frequent)[1]
        words = [replaced(word, pair, 256 + len(merges)) for word in words]
        pieces.append(pieces[pair[0]] + pieces[pair[1]])
        merges.append(pair)
    return merges


def encoded_naively(text: str, merges: Sequence[Pair], han_run: int | None = HAN_RUN) -> list[int]:
    """Go through all merges for every chunk."""
    ids: list[int] = []
    for chunk in split(text, han_run):
        word = list(chunk.encode("utf-8", "surrogatepass"))
        for i, pair in enumerate(merges):
            word = replaced(word, pair, 256 + i)
        ids += word
    return ids
