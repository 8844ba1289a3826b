"""What a model remembers of its sequences: the keys and values of every position, computed once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tinyllm.arena import Array, aligned_empty
from tinyllm.config import ModelConfig


class Cache:
    """The memory of B sequences, each with a length of its own, at most block_size; allocated once."""

    def __init__(self, config: ModelConfig, B: int = 1, dtype: npt.DTypeLike = np.float32) -> None:
        T, C, H = config.block_size, config.n_embd, config.n_head
        shape = (config.n_layer, 2, B, H, T, C // H)  # 2: keys, values
        self.memory = aligned_empty(int(np.prod(shape)), dtype).reshape(shape)
        self.tokens = np.zeros((B, T), np.int32)  # those of the window, valid up to the length
        self.lengths = [0] * B

    def shared(self, b: int, tokens: Array) -> int:
        """Return how many positions of sequence b hold what tokens (n,) begins with."""
        n = min(self.lengths[b], len(tokens))
        differs = self.tokens[b, :n] != tokens[:n]
        return int(differs.argmax()) if differs.any() else n

    def rewind(self, b: int, length: int) -> None:
        """Forget all but the first `length` positions of sequence b; ValueError if it has fewer."""
        if not 0 <= length <= self.lengths[b]:
            raise ValueError(f"rewind: found {length}, expected 0 to {self.lengths[b]}")
        self.lengths[b] = length

    def add(self, b: int, tokens: Array) -> None:
        """Count tokens (n,) as a part of sequence b: their keys and values are in memory."""
        start, stop = self.lengths[b], self.lengths[b] + len(tokens)
        self.tokens[b, start:stop] = tokens
        self.lengths[b] = stop

    def copy(self, source: int, b: int) -> None:
        """Let sequence b be what `source` is."""
        length = self.lengths[b] = self.lengths[source]
        self.tokens[b] = self.tokens[source]
        self.memory[:, :, b, :, :length] = self.memory[:, :, source, :, :length]

    def reorder_(self, parents: Array) -> None:
        """Let sequence b continue what was sequence parents[b]; parents (B,) integers."""
        if np.array_equal(parents, np.arange(len(self.tokens))):
            return
        self.tokens[:] = self.tokens[parents]
        self.lengths = [self.lengths[parent] for parent in parents]
        length = max(self.lengths)
        for block in self.memory:  # one block at a time bounds the temporary copy
            block[..., :length, :] = block[:, parents, :, :length]
