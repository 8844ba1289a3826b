"""A prompt goes through the model in blocks: its memory is bounded, and matrix products do the work.

The layers are those of training; only attention differs, since earlier keys and values come from the cache.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tinyllm import model
from tinyllm.arena import Array, Layout, aligned_empty, tensor
from tinyllm.inference.cache import Cache
from tinyllm.inference.weights import Weights
from tinyllm.kernels import add_bias_, attention_forward
from tinyllm.layers import attention, dropout, embedding, layernorm, linear, mlp, residual_norm

BLOCK = 512  # positions at a time: with 256, reading 512 at 124 million parameters took 7 % longer
QUERIES = attention.BLOCK  # of them, those whose scores exist at a time


class Rows(NamedTuple):
    """Working memory for n positions, shared by all blocks of the model."""

    embedding: embedding.Acts
    norm1: layernorm.Acts
    qkv: Array  # (n, 3C)
    mix: Array  # (n, C)
    h: Array  # (n, C) a sub-layer's output
    middle: residual_norm.Acts
    end: residual_norm.Acts
    mlp: mlp.Acts
    gelu: mlp.Scratch
    scores: Array  # (H * QUERIES * T,)
    lse: Array  # (1, H, T)


def rows(weights: Weights, n: int, dtype: npt.DTypeLike) -> Rows:
    """Return working memory for n positions."""
    C, H, T = weights.config.n_embd, weights.config.n_head, weights.config.block_size
    stream = residual_norm.acts(n, C)
    tree = Rows(
        embedding.acts(n, C), layernorm.acts(n, C), tensor(n, 3 * C), tensor(n, C), tensor(n, C),
        stream, stream, mlp.acts(n, 4 * C), mlp.scratch(n, 4 * C),
        tensor(H * min(QUERIES, n) * T), tensor(1, H, T),
    )  # fmt: skip
    layout = Layout(tree)
    views: Rows = layout.views(aligned_empty(layout.size, dtype))
    return views


def read(weights: Weights, cache: Cache, b: int, tokens: Array, logits: Array) -> None:
    """Append tokens (n,), which must fit, to sequence b; write the logits (1, V) after the last of them."""
    dtype = cache.memory.dtype
    for first in range(0, len(tokens), BLOCK):
        block = tokens[first : first + BLOCK]
        y = _read_block(weights, cache, b, block, rows(weights, len(block), dtype))
        cache.add(b, block)
    linear.forward(logits, y[-1:], weights.params.embedding.token)


def _read_block(weights: Weights, cache: Cache, b: int, tokens: Array, r: Rows) -> Array:
    """Return the final norm's output (n, C) for n tokens that follow what sequence b holds."""
    p, past = weights.params, cache.lengths[b]
    positions = np.arange(past, past + len(tokens), dtype=np.int32)
    x = embedding.forward(p.embedding, r.embedding, tokens, positions, dropout.NO_MASK)
    y = layernorm.forward(p.blocks[0].norm1, r.norm1, x)
    for i, (bp, memory) in enumerate(zip(p.blocks, cache.memory, strict=True)):
        h = _attend(bp.attention, r, memory[:, b], y, past)
        y = residual_norm.forward(bp.norm2, r.middle, x, h, bp.attention.out_bias, dropout.NO_MASK)
        h = mlp.forward(bp.mlp, r.mlp, r.gelu, y, r.h)
        y = residual_norm.forward(
            model.next_norm(p, i), r.end, r.middle.x, h, bp.mlp.down_bias, dropout.NO_MASK
        )
        x = r.end.x
    return y


def _attend(p: attention.Params, r: Rows, memory: Array, x: Array, past: int) -> Array:
    """Attend from n new positions to all before them; memory (2, H, T, D) takes the new keys and values."""
    _, H, T, D = memory.shape
    linear.forward(r.qkv, x, p.qkv_weight)
    add_bias_(r.qkv, p.qkv_bias)
    q, k, v = attention.heads(r.qkv, 3, 1, H)
    n, starts, no_mask = len(x), np.zeros((1, T), np.int32), dropout.NO_MASK
    memory[0, :, past : past + n], memory[1, :, past : past + n] = k[0], v[0]
    mix = attention.heads(r.mix, 1, 1, H)[0]
    for first in range(0, n, QUERIES):
        stop = min(first + QUERIES, n)
        keys, values = memory[:, None, :, : past + stop]
        prob = r.scores[: H * (stop - first) * (past + stop)].reshape(1, H, stop - first, past + stop)
        np.matmul(q[:, :, first:stop], keys.swapaxes(2, 3), out=prob)
        attention_forward(prob, r.lse, starts, past + first, 0, 1 / math.sqrt(D), no_mask.key, 0, 0.0)
        np.matmul(prob, values, out=mix[:, :, first:stop])
    return linear.forward(r.h, r.mix, p.out_weight)
