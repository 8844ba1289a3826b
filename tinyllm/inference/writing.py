"""Texts grow token by token: one alone, or several in one batch.

Order: Continuation, one alone, several in one batch, splitting them again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

from tinyllm.arena import Array
from tinyllm.inference.decode import Decoder
from tinyllm.inference.sampling import candidates, forbid_, sample
from tinyllm.inference.settings import Sampling
from tinyllm.rng import uniform
from tinyllm.text.utf8 import BOUNDARY, NOWHERE

MAX_TOGETHER = 8  # texts in a batch: beyond, a token of one more costs nearly what it costs alone


class Continuation:
    """What decides the next token of a text besides the logits; the same `address` samples the same text.

    With the `states` of a tokenizer the bytes of the text are always UTF-8, or the beginning of it.
    """

    def __init__(
        self, prompt: Array, sampling: Sampling, address: tuple[int, ...], end: int,
        max_tokens: int, min_tokens: int = 0, states: Array | None = None,
    ) -> None:  # fmt: skip
        self.prompt, self.sampling, self.address, self.end = prompt, sampling, address, end
        self.max_tokens, self.min_tokens, self.states = max_tokens, min_tokens, states
        self.seen = set(prompt.tolist()) - {end}
        self.count, self.state = 0, BOUNDARY

    @property
    def is_full(self) -> bool:
        """Whether it has max_tokens."""
        return self.count == self.max_tokens

    def sample(self, logits: Array) -> int | None:
        """Return the next token, or None where the text ends; logits (V,) are overwritten.

        A token whose bytes cannot continue the text is drawn again, among those that can. Raises
        SamplingError.
        """
        if self.count < self.min_tokens:
            logits[self.end] = -np.inf
        token = self._drawn(logits, "sample")
        if self.states is not None:
            if self.states[self.state, token] == NOWHERE:
                forbid_(logits, self.states[self.state])
                token = self._drawn(logits, "sample again")
            self.state = int(self.states[self.state, token])
        if token == self.end:
            return None
        self.seen.add(token)
        self.count += 1
        return token

    def _drawn(self, logits: Array, what: str) -> int:
        u = uniform(self.address[0], what, *self.address[1:], self.count)
        return sample(*candidates(logits, self.sampling, self.seen), u)


def generate(decoder: Decoder, continuation: Continuation) -> Iterator[int]:
    """Yield the tokens of one text; the decoder's first sequence keeps what it shares with the prompt."""
    prompt = continuation.prompt
    shared = decoder.cache.shared(0, prompt)
    decoder.cache.rewind(0, min(shared, prompt.size - 1))  # at least one token is read, for its logits
    logits = decoder.extend(0, prompt[decoder.cache.lengths[0] :])
    while (token := continuation.sample(logits)) is not None:
        yield token
        if continuation.is_full:
            return
        logits = decoder.step((0,), (token,))[0]


def generate_all(decoder: Decoder, continuations: Sequence[Continuation]) -> Iterator[tuple[int, int | None]]:
    """Yield (number of a text, its next token) as the texts grow in one batch, and None when one ends.

    Each is, to the bit, what it would be alone; when one ends, the next takes its sequence. Prompts are read
    one by one; a prompt equal to the one before it is copied in the cache.
    """
    waiting, free = deque(enumerate(continuations)), list(range(len(decoder.cache.lengths)))
    growing: dict[int, tuple[int, int]] = {}  # sequence: (number, newest token)

    def grow(b: int, number: int, logits: Array) -> Iterator[tuple[int, int | None]]:
        """Yield text `number`'s next token, then None if it is full; free its sequence b if it ended."""
        token = continuations[number].sample(logits)
        yield number, token
        if token is not None and not continuations[number].is_full:
            growing[b] = number, token
            return
        free.append(b)
        if token is not None:
            yield number, None

    while waiting or growing:
        previous: tuple[Array, int, Array] | None = None  # a prompt, its sequence, its logits
        while waiting and free:
            (number, continuation), b = waiting.popleft(), free.pop(0)
            if previous is not None and np.array_equal(previous[0], continuation.prompt):
                decoder.cache.copy(previous[1], b)
            else:
                decoder.cache.rewind(b, 0)
                logits = decoder.extend(b, continuation.prompt)
                previous = continuation.prompt, b, logits.copy()
            yield from grow(b, number, previous[2].copy())
        if growing:
            sequences, texts = list(growing), list(growing.values())
            growing.clear()
            rows = decoder.step(sequences, [token for _, token in texts])
            for b, (number, _), row in zip(sequences, texts, rows, strict=True):
                yield from grow(b, number, row)


def split(generated: Iterator[tuple[int, int | None]], count: int) -> list[Iterator[int]]:
    """Return one iterator per text over its tokens; those of others that come first wait for their reader."""
    waiting: list[deque[int | None]] = [deque() for _ in range(count)]

    def tokens(number: int) -> Iterator[int]:
        while True:
            while not waiting[number]:
                other, token = next(generated)
                waiting[other].append(token)
            token = waiting[number].popleft()
            if token is None:
                return
            yield token

    return [tokens(number) for number in range(count)]
