"""The model again in plain float64 NumPy, from the equations, and its losses."""

from __future__ import annotations

import math

import numpy as np


def plain(p, ids, H):
    """Return (attention weights (L, H, n, n), logits (n, V)) in float64, from the equations."""

    def norm(x, q):
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * q.gain + q.bias

    n, seen = len(ids), []
    x = p.embedding.token[ids] + p.embedding.position[:n]
    for b in p.blocks:
        qkv = norm(x, b.norm1) @ b.attention.qkv_weight.T + b.attention.qkv_bias
        q, k, v = qkv.reshape(n, 3, H, -1).transpose(1, 2, 0, 3)
        scores = np.where(np.tri(n, dtype=bool), q @ k.swapaxes(1, 2) / math.sqrt(q.shape[2]), -np.inf)
        weights = np.exp(scores - scores.max(2, keepdims=True))
        weights /= weights.sum(2, keepdims=True)
        seen.append(weights)
        mix = (weights @ v).transpose(1, 0, 2).reshape(n, -1)
        x = x + mix @ b.attention.out_weight.T + b.attention.out_bias
        u = norm(x, b.norm2) @ b.mlp.up_weight.T + b.mlp.up_bias
        gelu = u / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
        x = x + gelu @ b.mlp.down_weight.T + b.mlp.down_bias
    return np.stack(seen), norm(x, p.norm) @ p.embedding.token.T


def losses(logits, following):
    rows = np.arange(len(following))
    p = np.exp(logits - logits.max(1, keepdims=True))
    return -np.log(p[rows, following] / p.sum(1)[rows])
