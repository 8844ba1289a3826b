"""A prompt goes through the network in blocks: its memory is bounded, and matrix products do the work.

The network's own forward is used; only attention differs, since earlier keys and values come from the cache.
Order: reading a prompt, the cache as a source of keys and values.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from tinyllm.arena import Array
from tinyllm.inference.cache import Cache
from tinyllm.inference.weights import Weights
from tinyllm.kernels import attention_forward
from tinyllm.layers import attention, blockwise, dropout
from tinyllm.network import READING, Pass
from tinyllm.run.state import Workspace

BLOCK = 512  # positions at a time: with 256, reading 512 at 124 million parameters took 7 % longer
QUERIES = blockwise.BLOCK  # whose scores exist at a time


def read(weights: Weights, cache: Cache, b: int, tokens: Array, logits: Array) -> None:
    """Append tokens (n,), n > 0, which must fit, to sequence b; write the logits (1, V) after the last."""
    for first in range(0, len(tokens), BLOCK):
        y = _read_block(weights, cache, b, tokens[first : first + BLOCK])
    weights.network.logits(weights.params, y[-1:], logits)


def _read_block(weights: Weights, cache: Cache, b: int, tokens: Array) -> Array:
    """Append n tokens to sequence b; return what the network makes of them, (n, C)."""
    n, past = len(tokens), cache.lengths[b]
    config = dataclasses.replace(weights.config, block_size=n)
    work = Workspace(config, weights.vocabulary, 1, cache.memory.dtype, READING)
    inputs = work.memory.inputs
    inputs.tokens[:], inputs.positions[:] = tokens, np.arange(past, past + n)
    y = weights.network.forward(weights.params, work.memory, Pass(source=Cached(cache, b, n)))
    cache.add(b, tokens)
    return y


class Cached:
    """The Source of generation: n new positions see all of their sequence up to themselves.

    Their keys and values are put into the cache behind those of earlier positions.
    """

    def __init__(self, cache: Cache, b: int, n: int) -> None:
        _, _, _, H, T, _ = cache.memory.shape
        dtype = cache.memory.dtype
        self.memory, self.past = cache.memory[:, :, b], cache.lengths[b]  # (L, 2, H, T, D)
        self.scores = np.empty(H * min(QUERIES, n) * T, dtype)
        self.lse, self.starts = np.empty((1, H, T), dtype), np.zeros((1, T), np.int32)

    def attend(self, a: attention.Acts, s: attention.Scratch, site: attention.Site) -> None:
        """Write a.mix (n, C), and this layer's new keys and values into the cache."""
        memory, past, none = self.memory[site.layer], self.past, dropout.NO_MASK
        _, H, _, D = memory.shape
        q, k, v = attention.heads(a.qkv, 3, 1, H)
        mix, n = attention.heads(a.mix, 1, 1, H)[0], len(a.qkv)
        memory[0, :, past : past + n], memory[1, :, past : past + n] = k[0], v[0]
        for first in range(0, n, QUERIES):
            # A few queries against all keys up to the last of them, in the cache's own memory.
            stop = min(first + QUERIES, n)
            seen = past + stop
            keys, values = memory[:, None, :, :seen]
            prob = self.scores[: H * (stop - first) * seen].reshape(1, H, stop - first, seen)
            np.matmul(q[:, :, first:stop], keys.swapaxes(2, 3), out=prob)
            attention_forward(
                prob,
                self.lse,
                self.starts,
                past + first,
                0,
                1 / math.sqrt(D),
                none.key,
                none.first,
                none.rate,
            )
            np.matmul(prob, values, out=mix[:, :, first:stop])
