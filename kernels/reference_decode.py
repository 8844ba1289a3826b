"""`decode_` again in plain NumPy: a whole GPT-2 in thirty lines, for a few rows at a time."""

from __future__ import annotations

import numpy as np

from .jit import Array


def decode_(
    cache: Array, logits: Array, x: Array, y: Array, wide: Array, mix: Array, scores: Array, counters: Array,
    params: Array, offsets: Array, sequences: Array, positions: Array, rank: int,
) -> None:  # fmt: skip
    """The model on R rows, each of which sees its sequence up to its position (Radford et al. 2019).

    Scratch is not used.
    """
    C, D = x.shape[1], cache.shape[5]

    def tensor(block: int, i: int, *shape: int) -> Array:
        return params[offsets[block, i] :][: np.prod(shape)].reshape(shape)

    def norm(block: int, i: int) -> Array:
        xhat = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
        return xhat * tensor(block, i, C) + tensor(block, i + 1, C)

    def linear(x: Array, block: int, i: int, outputs: int) -> Array:
        return x @ tensor(block, i, outputs, x.shape[1]).T + tensor(block, i + 1, outputs)

    for block, (keys, values) in enumerate(cache):
        # Attention: cache the rows' keys and values, then each row's weighted mean of the values it sees.
        qkv = linear(norm(block, 0), block, 2, 3 * C)
        q, k, v = qkv.reshape(len(x), 3, -1, D).swapaxes(0, 1)  # each (R, H, D)
        keys[sequences, :, positions], values[sequences, :, positions] = k, v
        means = np.empty_like(q)
        for r, (b, position) in enumerate(zip(sequences, positions, strict=True)):
            z = np.einsum("hd,htd->ht", q[r], keys[b, :, : position + 1]) / np.sqrt(D)
            e = np.exp(z - z.max(axis=1, keepdims=True))
            means[r] = np.einsum("ht,htd->hd", e / e.sum(axis=1, keepdims=True), values[b, :, : position + 1])
        x += linear(means.reshape(len(x), C), block, 4, C)
        # MLP, on the residual stream as attention left it.
        u = linear(norm(block, 6), block, 8, 4 * C)
        gelu = 0.5 * u * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3)))
        x += linear(gelu, block, 10, C)
    last, V = len(cache), logits.shape[1]
    logits[:] = norm(last, 0)[len(x) - len(logits) :] @ tensor(last, 2, V, C).T
