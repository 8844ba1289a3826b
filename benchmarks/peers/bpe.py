"""Byte pair encoding here, in Hugging Face tokenizers and in tiktoken, all with the same merges and chunks.

Order: the pattern of chunks, what each encoder can do, the three of them.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tinyllm.config import HAN_RUN
from tinyllm.text import bpe
from tinyllm.text.tokenizer import BPETokenizer, train_bpe

Learner = Callable[[Sequence[str], int], object]


def pattern(han_run: int = HAN_RUN) -> str:
    """Return the pattern of chunks in the regular expressions of Oniguruma and Rust."""

    def ranges(characters: str) -> str:
        pairs = re.findall("(?s)(.)(?:-(.))?", characters)
        return "".join(rf"\x{{{ord(a):x}}}-\x{{{ord(b or a):x}}}" for a, b in pairs)

    letter = "^" + ranges(bpe.LETTER[1:])
    blank, newline, digit, symbol = map(ranges, (bpe.BLANK, bpe.NEWLINE, bpe.DIGIT, bpe.SYMBOL))
    kana, han = ranges(bpe.KANA), ranges(bpe.HAN)
    run = f"{{1,{bpe.LONGEST_RUN}}}"
    return (
        f"[ '’]?[{letter}]{run}|[{han}]{{1,{han_run}}}|[{kana}]{run}"
        f"| ?[{digit}]{{1,{bpe.LONGEST_NUMBER}}}| ?[{symbol}]{run}|[{newline}]{run}"
        f"|[{blank}]{run}(?= [^{blank}{newline}{kana}{han}])|[{blank}]{run}"
    )


class Encoder(ABC):
    """A byte pair encoder with the merges of `tokenizer`, which has met no text yet."""

    package = ""

    @abstractmethod
    def __init__(self, tokenizer: BPETokenizer) -> None: ...

    @staticmethod
    def learner(threads: int) -> Learner | None:
        """Return what learns so many ids from texts with so many threads, if there is such a thing."""
        return None

    @abstractmethod
    def encode(self, texts: list[str], threads: int) -> Any:
        """Return the tokens of each text, in the form that this encoder gives them."""

    @abstractmethod
    def ids(self, text: str) -> list[int]:
        """Return the tokens of a text."""

    @abstractmethod
    def decode(self, ids: list[int]) -> str:
        """Return the text of tokens."""


class Own(Encoder):
    """tinyllm's."""

    package = "tinyllm"

    def __init__(self, tokenizer: BPETokenizer) -> None:
        self.tokenizer = BPETokenizer(tokenizer.merges, tokenizer.han_run)
        self.tokenizer.encode("")  # its tables, as the others make theirs at once

    @staticmethod
    def learner(threads: int) -> Learner | None:
        return train_bpe if threads == 1 else None

    def encode(self, texts: list[str], threads: int) -> Any:
        if threads == 1:
            return [self.tokenizer.encode(text) for text in texts]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(self.tokenizer.encode, texts))

    def ids(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer.encode(text).tolist()
        return found

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)


class HuggingFace(Encoder):
    """The tokenizers package; its threads are Rayon's, so one or all."""

    package = "tokenizers"

    def __init__(self, tokenizer: BPETokenizer) -> None:
        from tokenizers import Tokenizer, models

        letters = _letters_of_bytes()
        names = ["".join(letters[byte] for byte in piece) for piece in tokenizer.pieces[:-1]]
        merges = [(names[first], names[second]) for first, second in tokenizer.merges]
        vocabulary = {name: i for i, name in enumerate(names)}
        self.tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
        _cut(self.tokenizer)

    @staticmethod
    def learner(threads: int) -> Learner | None:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        def learn(texts: Sequence[str], vocab_size: int) -> object:
            _set_threads(threads)
            tokenizer = Tokenizer(models.BPE())
            _cut(tokenizer)
            alphabet = pre_tokenizers.ByteLevel.alphabet()
            trainer = trainers.BpeTrainer(
                vocab_size=vocab_size - 1, initial_alphabet=alphabet, min_frequency=2, show_progress=False
            )
            tokenizer.train_from_iterator(texts, trainer)
            return tokenizer

        return learn

    def encode(self, texts: list[str], threads: int) -> Any:
        _set_threads(threads)
        return self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)

    def ids(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer.encode(text).ids
        return found

    def decode(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids)
        return text


class TikToken(Encoder):
    """OpenAI's, which encodes only."""

    package = "tiktoken"

    def __init__(self, tokenizer: BPETokenizer) -> None:
        from tiktoken import Encoding

        ranks = {piece: i for i, piece in enumerate(tokenizer.pieces[:-1])}
        self.encoding = Encoding("tinyllm", pat_str=pattern(), mergeable_ranks=ranks, special_tokens={})

    def encode(self, texts: list[str], threads: int) -> Any:
        if threads == 1:
            return [self.encoding.encode_ordinary(text) for text in texts]
        return self.encoding.encode_ordinary_batch(texts, num_threads=threads)

    def ids(self, text: str) -> list[int]:
        found: list[int] = self.encoding.encode_ordinary(text)
        return found

    def decode(self, ids: list[int]) -> str:
        text: str = self.encoding.decode(ids)
        return text


ENCODERS: dict[str, type[Encoder]] = {"tinyllm": Own, "tokenizers": HuggingFace, "tiktoken": TikToken}


def _cut(tokenizer: Any) -> None:
    """Let a Hugging Face tokenizer cut text into our chunks, and take each for its bytes."""
    from tokenizers import Regex, decoders, pre_tokenizers

    chunks = pre_tokenizers.Split(Regex(pattern()), "isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([chunks, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()


def _set_threads(threads: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"


def _letters_of_bytes() -> list[str]:
    """Return the printable character that stands for each byte in Hugging Face's files, as in GPT-2's."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
