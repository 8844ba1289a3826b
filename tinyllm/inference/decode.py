"""One more token costs one row: a decoder lets sequences grow, each from what it holds.

Order: Decoder, the window's rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyllm.arena import Array
from tinyllm.inference import prompt
from tinyllm.inference.cache import Cache
from tinyllm.inference.weights import Weights
from tinyllm.kernels import decode_
from tinyllm.parallel.team import Team

FEW = 16  # new tokens up to which rows of their own are quicker than a block with its matrix products


class Decoder:
    """B sequences that grow, and all the memory that takes; one more token allocates no array.

    What a sequence gives depends on its own tokens only, to the bit: not on the others that grow beside it,
    and in `step` not on the number of threads either.
    """

    def __init__(self, weights: Weights, B: int = 1, threads: int = 1) -> None:
        config, dtype, R = weights.config, weights.row.dtype, max(B, FEW)
        C, L = config.n_embd, config.n_layer
        self.weights, self.team = weights, Team(threads)
        self.cache = Cache(config, B, dtype)
        self._logits = np.zeros((B, weights.vocabulary), dtype)
        self._x, self._mix, self._wide = (np.zeros((R, width), dtype) for width in (C, C, 4 * C))
        self._norms = np.zeros(threads * R * C, dtype)
        self._scores = np.zeros((threads, config.block_size), dtype)
        self._counters = np.zeros((5 * L + 1, 2), np.int64)
        self._tokens, self._sequences, self._positions = np.zeros((3, R), np.int32)

    def extend(self, b: int, tokens: Array) -> Array:
        """Append tokens (n,) to sequence b; return the logits (V,) after the last, valid until the next call.

        Equal, to rounding, to the network's forward of the whole window. If the tokens do not fit into
        block_size, the window slides: it restarts with the newest `kept` tokens. Raises IndexError for a
        token outside the vocabulary, ValueError if there is no token.
        """
        if tokens.ndim != 1 or not tokens.size:
            raise ValueError(f"tokens: expected (at least 1,), found {tokens.shape}")
        self._check(int(tokens.min()), int(tokens.max()))
        self._extend(b, tokens, self._logits[:1])
        logits: Array = self._logits[0]
        return logits

    def step(self, sequences: Sequence[int], tokens: Sequence[int]) -> Array:
        """Append one token to each of R different sequences; return the logits (R, V), as `extend` does."""
        cache, T = self.cache, self.weights.config.block_size
        self._check(min(tokens), max(tokens))
        logits: Array = self._logits[: len(sequences)]
        if self.weights.offsets is None or any(cache.lengths[b] == T for b in sequences):
            # The kernel cannot, or a window slides: one after the other.
            for r, (b, token) in enumerate(zip(sequences, tokens, strict=True)):
                self._extend(b, np.array([token], np.int32), logits[r : r + 1])
            return logits
        for r, (b, token) in enumerate(zip(sequences, tokens, strict=True)):
            self._set_row(r, b, token, cache.lengths[b])
        self._run(len(sequences), logits)
        for b, token in zip(sequences, tokens, strict=True):
            cache.tokens[b, cache.lengths[b]] = token
            cache.lengths[b] += 1
        return logits

    def _check(self, lowest: int, highest: int) -> None:
        if lowest < 0 or highest >= self.weights.vocabulary:
            raise IndexError(
                f"tokens: found {lowest} to {highest}, expected 0 to {self.weights.vocabulary - 1}"
            )

    def _extend(self, b: int, tokens: Array, logits: Array) -> None:
        cache, T = self.cache, self.weights.config.block_size
        if cache.lengths[b] + len(tokens) > T:
            window = np.concatenate([cache.tokens[b, : cache.lengths[b]], tokens])
            tokens = window[-kept(T) :]
            cache.rewind(b, 0)
        tokens = np.ascontiguousarray(tokens, np.int32)
        if self.weights.offsets is None or len(tokens) > FEW:
            prompt.read(self.weights, cache, b, tokens, logits)
            return
        for r, token in enumerate(tokens):
            self._set_row(r, b, token, cache.lengths[b] + r)
        self._run(len(tokens), logits)
        cache.add(b, tokens)

    def _set_row(self, r: int, b: int, token: int, position: int) -> None:
        self._tokens[r], self._sequences[r], self._positions[r] = token, b, position

    def _run(self, R: int, logits: Array) -> None:
        """Take R rows through the model; write the logits (n, V) of the last n."""
        assert self.weights.offsets is not None
        x, positions, ranks = self._x[:R], self._positions[:R], self.team.size
        norms = self._norms[: ranks * x.size].reshape(ranks, *x.shape)
        self.weights.network.embed(self.weights.params, x, self._tokens[:R], positions)
        arguments = (
            self.cache.memory, logits, x, norms, self._wide[:R], self._mix[:R], self._scores,
            self._counters, self.weights.row, self.weights.offsets, self._sequences[:R], positions,
        )  # fmt: skip
        self._counters[:] = 0
        try:
            self.team.run(lambda rank: decode_(*arguments, rank))
        except BaseException:
            # Interrupted while another rank may still be counting: let it end with its own counters.
            self._counters = np.zeros_like(self._counters)
            raise


def kept(T: int) -> int:
    """Return how many of the newest tokens a full window of T keeps: three quarters.

    Positions are learned and absolute, so what is kept moves to the front and must be computed again. Keeping
    more would mean doing so more often, keeping less would forget more at once.
    """
    return T - T // 4
