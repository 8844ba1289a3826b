"""One more token costs one row: the keys and values of all earlier positions are kept, not computed again.

The layers are those of training; only attention differs, since its keys and values come from the cache.
Order: Cache, extend, the window's rule, the pass through the model.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tinyllm import model
from tinyllm.arena import Array, Layout, Spec
from tinyllm.config import ModelConfig
from tinyllm.kernels import add_bias_
from tinyllm.layers import attention, dropout, embedding, layernorm, linear, mlp, residual_norm


class Rows(NamedTuple):
    """Working memory for N = B * (new tokens) rows, shared by all blocks."""

    embedding: embedding.Acts
    norm1: layernorm.Acts
    qkv: Array  # (N, 3C)
    mix: Array  # (N, C)
    h: Array  # (N, C) a sub-layer's output
    middle: residual_norm.Acts
    end: residual_norm.Acts
    mlp: mlp.Acts
    gelu: mlp.Scratch


def _rows(N: int, C: int, dtype: npt.DTypeLike) -> Rows:
    stream: Any = Spec((N, C))
    qkv: Any = Spec((N, 3 * C))
    layout = Layout(
        Rows(
            embedding.acts(N, C),
            layernorm.acts(N, C),
            qkv,
            stream,
            stream,
            residual_norm.acts(N, C),
            residual_norm.acts(N, C),
            mlp.acts(N, 4 * C),
            mlp.scratch(N, 4 * C),
        )
    )
    views: Rows = layout.views(np.empty(layout.size, dtype))
    return views


class Cache:
    """What the model remembers of B sequences of equal length, at most block_size; allocated once."""

    def __init__(self, config: ModelConfig, B: int = 1, dtype: npt.DTypeLike = np.float32) -> None:
        T, C, H = config.block_size, config.n_embd, config.n_head
        self.config = config
        self.memory = np.empty((config.n_layer, 2, B, H, T, C // H), dtype)  # keys, values
        self.tokens = np.zeros((B, T), np.int32)  # those of the window, valid up to `length`
        self.length = 0
        self.rows = _rows(B, C, dtype)

    def shared(self, tokens: Array) -> int:
        """Return how many positions hold, in every sequence, what tokens (n,) begins with."""
        n = min(self.length, len(tokens))
        differs = (self.tokens[:, :n] != tokens[:n]).any(axis=0)
        return int(differs.argmax()) if differs.any() else n

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` positions."""
        if not 0 <= length <= self.length:
            raise ValueError(f"rewind: found {length}, expected 0 to {self.length}")
        self.length = length

    def reorder_(self, parents: Array) -> None:
        """Let sequence b go on from what was sequence parents[b]; parents (B,) integers."""
        if not np.array_equal(parents, np.arange(len(self.tokens))):
            self.tokens[:] = self.tokens[parents]
            for block in self.memory:  # one block at a time bounds the temporary copy
                block[..., : self.length, :] = block[:, parents, :, : self.length]

    def copies(self, B: int) -> Cache:
        """Return a new cache of B sequences, each equal to the first of this one."""
        other = Cache(self.config, B, self.memory.dtype)
        other.length = self.length
        other.tokens[:] = self.tokens[:1]
        other.memory[..., : self.length, :] = self.memory[:, :, :1, :, : self.length]
        return other


def extend(p: model.Params, cache: Cache, tokens: Array) -> Array:
    """Append tokens (B, n) to the cache's sequences; return the logits (B, V) after the last of them.

    Equal, to rounding, to `model.forward` of the whole window. If the tokens do not fit into block_size,
    the window slides: it begins anew with the newest `kept` tokens. Raises IndexError for a token outside
    the vocabulary, ValueError if there is no token.
    """
    if tokens.ndim != 2 or len(tokens) != len(cache.tokens) or not tokens.size:
        raise ValueError(f"tokens: expected ({len(cache.tokens)}, at least 1), found {tokens.shape}")
    T = cache.config.block_size
    if cache.length + tokens.shape[1] > T:
        window = np.concatenate([cache.tokens[:, : cache.length], tokens], axis=1)
        tokens, cache.length = window[:, -kept(T) :], 0
    logits = _forward(p, cache, np.ascontiguousarray(tokens, np.int32))
    stop = cache.length + tokens.shape[1]
    cache.tokens[:, cache.length : stop] = tokens
    cache.length = stop
    return logits


def kept(T: int) -> int:
    """Return how many of the newest tokens a full window of T keeps: three quarters.

    Positions are learned and absolute, so what is kept moves to the front and must be computed again, as one
    block. Keeping more would mean doing so more often, keeping less would forget more at once.
    """
    return T - T // 4


def _forward(p: model.Params, cache: Cache, tokens: Array) -> Array:
    B, n = tokens.shape
    C, past = cache.config.n_embd, cache.length
    rows = cache.rows if n == 1 else _rows(B * n, C, cache.memory.dtype)
    positions = np.tile(np.arange(past, past + n, dtype=np.int32), B)
    x = embedding.forward(p.embedding, rows.embedding, tokens.reshape(-1), positions, dropout.NO_MASK)
    y = layernorm.forward(p.blocks[0].norm1, rows.norm1, x)
    for i, (bp, memory) in enumerate(zip(p.blocks, cache.memory, strict=True)):
        h = _attend(bp.attention, rows, memory, y, past)
        y = residual_norm.forward(bp.norm2, rows.middle, x, h, bp.attention.out_bias, dropout.NO_MASK)
        h = mlp.forward(bp.mlp, rows.mlp, rows.gelu, y, rows.h)
        norm = model.next_norm(p, i)
        y = residual_norm.forward(norm, rows.end, rows.middle.x, h, bp.mlp.down_bias, dropout.NO_MASK)
        x = rows.end.x
    last = np.ascontiguousarray(y.reshape(B, n, C)[:, -1])
    return linear.forward(np.empty((B, len(p.embedding.token)), x.dtype), last, p.embedding.token)


def _attend(p: attention.Params, rows: Rows, memory: Array, x: Array, past: int) -> Array:
    """Attend from n new positions to `past + n`; memory (2, B, H, T, D) takes the new keys and values."""
    _, B, H, _, D = memory.shape
    linear.forward(rows.qkv, x, p.qkv_weight)
    add_bias_(rows.qkv, p.qkv_bias)
    q, k, v = attention.heads(rows.qkv, 3, B, H)
    n = q.shape[2]
    memory[0, :, :, past : past + n], memory[1, :, :, past : past + n] = k, v
    keys, values = memory[:, :, :, : past + n]
    scores = np.matmul(q, keys.swapaxes(2, 3))
    scores *= 1 / math.sqrt(D)
    if n > 1:  # a single new position sees everything
        scores[..., past:][..., np.triu(np.ones((n, n), np.bool_), 1)] = -np.inf
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    np.matmul(scores, values, out=attention.heads(rows.mix, 1, B, H)[0])
    return linear.forward(rows.h, rows.mix, p.out_weight)
