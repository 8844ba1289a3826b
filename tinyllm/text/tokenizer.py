"""A tokenizer is a value: text to ids and back, exactly, and its fingerprint says which one it is.

Order: errors, what every tokenizer can do, byte pair encoding, one token per character, training.
The ids 0 to 255 of BPE are the bytes, so it encodes any string there is. The last id of every tokenizer is
the end of a text, <|endoftext|>: no text produces it, that name neither, and it decodes to nothing.
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyllm.config import HAN_RUN
from tinyllm.kernels import LONGEST_CHUNK, LONGEST_RUN, bpe_encode, merge_table
from tinyllm.text.bpe import (
    SPLIT_VERSION,
    Pair,
    count_chunks,
    is_whole,
    joinable,
    kinds_of_characters,
    learn_merges,
)
from tinyllm.text.utf8 import ERRORS, following_states
from tinyllm.words import counted

Ids = npt.NDArray[np.int32]

LARGEST_VOCABULARY = 1 << 20
_NO_TEXT = "found no text to train the tokenizer on; expected at least one character"


class TokenizerError(ValueError):
    """A text, an id or a stored tokenizer cannot be used; names what was found and what to do."""


class Tokenizer(ABC):
    """What all tokenizers share: from ids to text, and their identity."""

    pieces: tuple[bytes, ...]  # what each id stands for, in UTF-8; the last, the end of a text, is empty

    @abstractmethod
    def encode_all(self, texts: Sequence[str]) -> tuple[Ids, list[int]]:
        """Return the ids of all `texts`, int32 (n,), and where those of each text end."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return the tokenizer as a dict of plain msgpack types, for `from_dict`."""

    @property
    def vocab_size(self) -> int:
        """Number of ids; they are 0 to vocab_size - 1."""
        return len(self.pieces)

    @property
    def end_of_text(self) -> int:
        """The last id: the end of a text."""
        return len(self.pieces) - 1

    def encode(self, text: str) -> Ids:
        """Return the ids of `text`, int32 (n,)."""
        return self.encode_all([text])[0]

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer[Any]]) -> str:
        """Return the text of `ids` (n,): `decode(encode(text)) == text`, for every text `encode` takes.

        Ids may be no UTF-8 when joined: broken bytes become U+FFFD.
        """
        return self.decode_bytes(ids).decode("utf-8", ERRORS)

    def decode_bytes(self, ids: Sequence[int] | npt.NDArray[np.integer[Any]]) -> bytes:
        """Return the bytes of `ids` (n,), which may begin or end inside a character.

        Raises TokenizerError for an id outside the vocabulary.
        """
        pieces, found = self.pieces, ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        if found and not 0 <= min(found) <= max(found) < len(pieces):
            wrong = next(i for i in found if not 0 <= i < len(pieces))
            raise TokenizerError(
                f"id {wrong}: expected 0 to {len(pieces) - 1}; these are the ids of another tokenizer"
            )
        return b"".join(map(pieces.__getitem__, found))

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield the text of `ids` while they arrive, each character as soon as its last byte is there.

        The strings joined are `decode` of all the ids, but for a character at the end that is not whole.
        """
        decoder = codecs.getincrementaldecoder("utf-8")(ERRORS)
        for token in ids:
            if text := decoder.decode(self.decode_bytes([token])):
                yield text

    @cached_property
    def states(self) -> npt.NDArray[np.int8]:
        """The table (STATES, V) of `following_states`: which ids may continue a text in UTF-8."""
        return following_states(self.pieces)

    def fingerprint(self) -> str:
        """Return the SHA-256, in hexadecimal, of `to_dict()` as JSON: equal for equal tokenizers only."""
        content = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    @staticmethod
    def from_dict(fields: Any) -> Tokenizer:
        """Rebuild a tokenizer from its `to_dict()`; anything else raises TokenizerError."""
        kind = fields.get("kind") if isinstance(fields, dict) else None
        if kind == "bpe":
            version = fields.get("split", 1)
            if version is True or version not in (1, SPLIT_VERSION):
                raise TokenizerError(f"tokenizer.split: found {version!r:.80}, expected 1 or {SPLIT_VERSION}")
            names = {"kind", "split", "merges"} | ({"han_run"} if version > 1 else set())
            merges = _integers(fields, "merges", names)
            if len(merges) % 2:
                raise TokenizerError(
                    f"tokenizer.merges: expected pairs, found {counted(len(merges), 'number')}"
                )
            pairs = tuple(zip(merges[::2], merges[1::2], strict=True))
            return BPETokenizer(pairs, _checked_run(fields["han_run"]) if version > 1 else None)
        if kind == "char":
            return CharTokenizer(tuple(_integers(fields, "characters", {"kind", "characters"})))
        raise TokenizerError(f"tokenizer.kind: expected 'bpe' or 'char', found {kind!r:.80}")


@dataclass(frozen=True)
class BPETokenizer(Tokenizer):
    """Byte pair encoding: bytes are the ids 0 to 255, the i-th merge makes the id 256 + i.

    `han_run` is that of `split`: the most Han characters of a chunk, None for split 1.
    """

    merges: tuple[Pair, ...] = field(repr=False)
    han_run: int | None = HAN_RUN
    pieces: tuple[bytes, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.han_run is not None:
            _checked_run(self.han_run)
        if len(self.merges) > LARGEST_VOCABULARY - 257:
            raise TokenizerError(
                f"tokenizer: found {len(self.merges)} merges, expected at most {LARGEST_VOCABULARY - 257}"
            )
        if len(set(self.merges)) < len(self.merges):
            raise TokenizerError("tokenizer: a merge occurs twice, expected each once")
        # Merges may come from a file, so each is checked: could it have been learnt after those before it?
        pieces = [bytes([byte]) for byte in range(256)]
        for i, (first, second) in enumerate(self.merges):
            name, known = f"tokenizer: merge {i} joins {first} and {second}", range(256 + i)
            if first not in known or second not in known:
                raise TokenizerError(f"{name}; expected ids below {256 + i}, those before it")
            if len(pieces[first]) + len(pieces[second]) > LONGEST_CHUNK:
                raise TokenizerError(f"{name}; expected at most {LONGEST_CHUNK} bytes, the longest chunk")
            if not joinable(pieces[first], pieces[second]):
                raise TokenizerError(f"{name}; expected whole characters, or parts of one")
            pieces.append(pieces[first] + pieces[second])
        object.__setattr__(self, "pieces", (*pieces, b""))

    @cached_property
    def tables(self) -> tuple[Ids, Ids, Ids, int]:
        """The last arguments of `bpe_encode`: kinds and ids of characters, merges, longest Han run."""
        # By code point, the id that is that character, or -1. Encoding starts from these where it can: merges
        # join whole characters, each of which is one token by then.
        characters = np.full(sys.maxunicode + 1, -1, np.int32)
        for i, piece in enumerate(self.pieces[:-1]):
            if len(piece) <= 4 and is_whole(piece):
                text = piece.decode("utf-8", "surrogatepass")
                if len(text) == 1:
                    characters[ord(text)] = i
        pairs = np.array(self.merges, np.int64).reshape(-1, 2)
        table = merge_table(pairs[:, 0], pairs[:, 1])
        return kinds_of_characters(self.han_run), characters, table, self.han_run or LONGEST_RUN

    def encode_all(self, texts: Sequence[str]) -> tuple[Ids, list[int]]:
        """Return the ids of the texts, each encoded by itself; any string at all can be encoded.

        Text may be encoded in parts if it is cut as `tinyllm.text.bpe.last_safe_cut` says.
        """
        # One call of the kernel for all texts; there are at most as many tokens as bytes.
        joined = "".join(texts)
        ids = np.empty(len(joined.encode("utf-8", "surrogatepass")), np.int32)
        ends = np.empty(len(texts), np.int64)
        stops = np.cumsum([len(text) for text in texts], dtype=np.int64)
        bpe_encode(ids, ends, _code_points(joined), stops, *self.tables)
        found: list[int] = ends.tolist()
        return ids[: found[-1]] if found else ids, found

    def to_dict(self) -> dict[str, Any]:
        """Return {"kind": "bpe", "split": 2, "han_run": N, "merges": [first, second, first, ...]}.

        Split 1 has no "han_run".
        """
        split = {"split": 1} if self.han_run is None else {"split": SPLIT_VERSION, "han_run": self.han_run}
        return {"kind": "bpe", **split, "merges": [part for pair in self.merges for part in pair]}


@dataclass(frozen=True)
class CharTokenizer(Tokenizer):
    """One token per character; `characters` are the known code points, ascending."""

    characters: tuple[int, ...] = field(repr=False)
    pieces: tuple[bytes, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.characters:
            raise TokenizerError("tokenizer: found no characters, expected at least one")
        if any(one >= following for one, following in itertools.pairwise(self.characters)):
            raise TokenizerError("tokenizer: expected ascending characters, each once")
        if self.characters[0] < 0 or self.characters[-1] > 0x10FFFF:
            raise TokenizerError("tokenizer: expected characters from 0 to 0x10FFFF")
        pieces = [chr(code).encode("utf-8", "surrogatepass") for code in self.characters]
        object.__setattr__(self, "pieces", (*pieces, b""))

    @cached_property
    def _codes(self) -> Ids:
        return np.array(self.characters, np.int32)

    def encode_all(self, texts: Sequence[str]) -> tuple[Ids, list[int]]:
        """Return one id per character; TokenizerError for a character the training texts did not have."""
        text = "".join(texts)
        codes = _code_points(text)
        ids = np.searchsorted(self._codes, codes).astype(np.int32)
        known = self._codes[np.minimum(ids, len(self._codes) - 1)] == codes
        if not known.all():
            position = int(known.argmin())
            raise TokenizerError(
                f"found {text[position]!r} (U+{codes[position]:04X}) at position {position}, near "
                f"{text[max(0, position - 10) : position + 10]!r}; expected one of the "
                f"{counted(len(self._codes), 'character')} of the training texts. Leave it out, or train "
                f"with --tokenizer bpe, which encodes any text"
            )
        return ids, list(accumulate(map(len, texts)))

    def to_dict(self) -> dict[str, Any]:
        """Return {"kind": "char", "characters": [code points, ascending]}."""
        return {"kind": "char", "characters": list(self.characters)}


def train_bpe(texts: Iterable[str], vocab_size: int, han_run: int | None = HAN_RUN) -> BPETokenizer:
    """Return the BPE tokenizer of `texts`, with at most `vocab_size` ids: 256 bytes, merges, end of text.

    It has fewer where the texts have no more pairs that occur twice. `han_run` is that of `bpe.split`.
    Raises TokenizerError when there is no text, or `vocab_size` is below 257.
    """
    if not 257 <= vocab_size <= LARGEST_VOCABULARY:
        raise TokenizerError(
            f"vocab_size {vocab_size}: expected 257 (256 bytes, end of text) to {LARGEST_VOCABULARY}"
        )
    counts = count_chunks(texts, han_run)
    if not counts:
        raise TokenizerError(_NO_TEXT)
    return BPETokenizer(tuple(learn_merges(counts, vocab_size - 257)), han_run)


def train_char(texts: Iterable[str]) -> CharTokenizer:
    """Return the tokenizer whose ids are the characters of `texts`, sorted; TokenizerError if none."""
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    if not characters:
        raise TokenizerError(_NO_TEXT)
    return CharTokenizer(tuple(sorted(map(ord, characters))))


def _code_points(text: str) -> Ids:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<i4")


def _integers(fields: dict[str, Any], name: str, expected: set[str]) -> list[int]:
    """Return the list of integers called `name` of a dict that has exactly the `expected` fields."""
    if set(fields) != expected:
        raise TokenizerError(f"tokenizer: expected the fields {', '.join(sorted(expected))}")
    values = fields[name]
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise TokenizerError(f"tokenizer.{name}: expected a list of integers")
    return values


def _checked_run(value: Any) -> int:
    """Return the longest run of Han characters if it can be one."""
    if type(value) is not int or not 1 <= value <= LONGEST_RUN:
        raise TokenizerError(f"tokenizer.han_run: found {value!r:.80}, expected 1 to {LONGEST_RUN}")
    return value
