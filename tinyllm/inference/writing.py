"""Texts grow by tokens that are drawn: one alone, or several together.

Order: Text, one alone, several together, telling them apart again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

from tinyllm.arena import Array
from tinyllm.inference.decode import Decoder
from tinyllm.inference.sampling import draw, likely
from tinyllm.inference.settings import Sampling
from tinyllm.rng import uniform

TOGETHER = 8  # texts: beyond, a token of one more costs nearly what it costs alone


class Text:
    """What decides a text's next token besides the logits; the same `address` draws the same text."""

    def __init__(
        self, prompt: Array, sampling: Sampling, address: tuple[int, ...], end: int,
        max_tokens: int, at_least: int = 0,
    ) -> None:  # fmt: skip
        self.prompt, self.sampling, self.address, self.end = prompt, sampling, address, end
        self.max_tokens, self.at_least = max_tokens, at_least
        self.seen = set(prompt.tolist()) - {end}
        self.count = 0

    @property
    def is_full(self) -> bool:
        """Whether it has max_tokens."""
        return self.count == self.max_tokens

    def draw(self, logits: Array) -> int | None:
        """Return the next token, or None where the text ends; logits (V,) are used up.

        Raises SamplingError.
        """
        if self.count < self.at_least:
            logits[self.end] = -np.inf
        chance = uniform(self.address[0], "sample", *self.address[1:], self.count)
        token = draw(*likely(logits, self.sampling, self.seen), chance)
        if token == self.end:
            return None
        self.seen.add(token)
        self.count += 1
        return token


def write(decoder: Decoder, text: Text) -> Iterator[int]:
    """Yield a text's tokens; what the decoder's first sequence holds of the prompt is not computed again."""
    held = decoder.cache.shared(0, text.prompt)
    decoder.cache.rewind(0, min(held, text.prompt.size - 1))
    logits = decoder.extend(0, text.prompt[decoder.cache.lengths[0] :])
    while (token := text.draw(logits)) is not None:
        yield token
        if text.is_full:
            return
        logits = decoder.step((0,), (token,))[0]


def write_all(decoder: Decoder, texts: Sequence[Text]) -> Iterator[tuple[int, int | None]]:
    """Yield (number of a text, its next token) as the texts grow side by side, and None when one ends.

    Each is, to the bit, what it would be alone; when one ends, the next takes its place. Prompts are read one
    by one, a prompt that is equal to the one before it is copied.
    """
    waiting, free = deque(enumerate(texts)), list(range(len(decoder.cache.lengths)))
    growing: dict[int, tuple[int, int]] = {}  # sequence: (number, newest token)
    while waiting or growing:
        read: tuple[Array, int, Array] | None = None  # a prompt, its sequence, its logits
        while waiting and free:
            (number, text), b = waiting.popleft(), free.pop(0)
            if read is not None and np.array_equal(read[0], text.prompt):
                decoder.cache.copy(read[1], b)
            else:
                decoder.cache.rewind(b, 0)
                read = text.prompt, b, decoder.extend(b, text.prompt).copy()
            token = text.draw(read[2].copy())
            yield number, token
            yield from _goes_on(text, number, token, b, growing, free)
        if growing:
            sequences = list(growing)
            logits = decoder.step(sequences, [growing[b][1] for b in sequences])
            for b, row in zip(sequences, logits, strict=True):
                number, _ = growing.pop(b)
                token = texts[number].draw(row)
                yield number, token
                yield from _goes_on(texts[number], number, token, b, growing, free)


def _goes_on(
    text: Text, number: int, token: int | None, b: int, growing: dict[int, tuple[int, int]], free: list[int]
) -> Iterator[tuple[int, None]]:
    """Let sequence b go on with its newest token; or free it, and say that its text ends where it is full."""
    if token is None or text.is_full:
        free.append(b)
        if token is not None:
            yield number, None
    else:
        growing[b] = number, token


def apart(grown: Iterator[tuple[int, int | None]], count: int) -> list[Iterator[int]]:
    """Return the tokens of each of `count` texts; what comes for the others waits for its reader."""
    waiting: list[deque[int | None]] = [deque() for _ in range(count)]

    def tokens(number: int) -> Iterator[int]:
        while True:
            while not waiting[number]:
                other, token = next(grown)
                waiting[other].append(token)
            token = waiting[number].popleft()
            if token is None:
                return
            yield token

    return [tokens(number) for number in range(count)]
