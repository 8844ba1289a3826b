"""Causal multi-head self-attention: every position takes a weighted mean of the values before it.

Vaswani et al. 2017, arXiv:1706.03762, computed in blocks as in Dao et al. 2022, arXiv:2205.14135: no
(T, T) array is kept or even made, and blocks in which nothing is visible, being in the future or in
another document, are not computed. Heads are read and written in place: (N, 3C) is seen as (B, H, T, D)
through strides, which BLAS accepts, so nothing is transposed or copied.

Order: shapes, who sees whom, forward, backward.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tinyllm.arena import Array, tensor
from tinyllm.kernels import (
    add_bias_,
    attention_backward,
    attention_delta,
    attention_forward,
    bias_backward,
)
from tinyllm.layers import dropout, linear

BLOCK = 64  # queries, or keys, of a block
SCORES = 1 << 17  # scores at a time, where there are several sequences: 512 KiB, half of a common L2 cache


class Params(NamedTuple):
    qkv_weight: Array  # (3C, C) rows: all queries, all keys, all values
    qkv_bias: Array  # (3C,)
    out_weight: Array  # (C, C)
    out_bias: Array  # (C,) added together with the residual


class Acts(NamedTuple):
    qkv: Array  # (N, 3C)
    lse: Array  # (B, H, T) log of the sum of e**score: from it backward makes probabilities again
    mix: Array  # (N, C) weighted means of the values, heads side by side


class Scratch(NamedTuple):
    scores: Array  # (some,) one block of scores, then of probabilities
    dscores: Array  # (some,)
    dqkv: Array  # (N, 3C)
    dmix: Array  # (N, C)
    delta: Array  # (B, H, T) the sum of probability times its gradient
    dq: Array  # (some,) one block's share of dq


def params(C: int, L: int) -> Params:
    """Return the Specs; the output projection is scaled by 1/sqrt(2L) as in GPT-2."""
    return Params(
        tensor(3 * C, C, std=0.02), tensor(3 * C), tensor(C, C, std=0.02 / math.sqrt(2 * L)), tensor(C)
    )


def acts(B: int, T: int, C: int, H: int) -> Acts:
    """Return the Specs of what backward must remember."""
    N = B * T
    return Acts(tensor(N, 3 * C), tensor(B, H, T), tensor(N, C))


def scratch(B: int, T: int, C: int, H: int) -> Scratch:
    """Return the Specs of working memory, shared by all blocks."""
    N, G = B * T, group(B, H, T)
    scores = tensor(G * H * T * min(BLOCK, T))
    return Scratch(scores, scores, tensor(N, 3 * C), tensor(N, C), tensor(B, H, T), tensor(G * T * C))


def heads(x: Array, k: int, B: int, H: int) -> Array:
    """Return x (N, k*C) seen as (k, B, H, T, D), without a copy."""
    return x.reshape(B, x.shape[0] // B, k, H, -1).transpose(2, 0, 3, 1, 4)


def group(B: int, H: int, T: int) -> int:
    """Return how many of B sequences are attended in at a time."""
    return max(1, min(B, SCORES // (H * T * min(BLOCK, T))))


class Group(NamedTuple):
    """Sequences that are attended in together, and the blocks in which something is visible."""

    sequences: slice
    by_query: tuple[tuple[slice, slice], ...]  # (queries, all keys that one of them sees)
    by_key: tuple[tuple[slice, slice], ...]  # (keys, all queries that see one of them)


class Documents(NamedTuple):
    """Who sees whom: the same for all layers, forward and backward."""

    starts: Array  # int32 (B, T) index of the first token of each token's document
    groups: tuple[Group, ...]


def documents(starts: Array, H: int) -> Documents:
    """Return the blocks of sequences whose documents begin at starts (B, T), which never falls along T."""
    B, T = starts.shape
    G, groups = group(B, H, T), []
    borders = [(first, min(first + BLOCK, T)) for first in range(0, T, BLOCK)]
    for first in range(0, B, G):
        rows = starts[first : min(first + G, B)]
        by_query = tuple(
            (slice(begin, end), slice(min(int(row[begin]) for row in rows), end)) for begin, end in borders
        )
        # The queries that see key end - 1 go on as long as their document began before `end`.
        by_key = tuple(
            (slice(begin, end), slice(begin, max(int(row.searchsorted(end)) for row in rows)))
            for begin, end in borders
        )
        groups.append(Group(slice(first, first + len(rows)), by_query, by_key))
    return Documents(starts, tuple(groups))


def forward(p: Params, a: Acts, s: Scratch, x: Array, y: Array, docs: Documents, mask: dropout.Mask) -> Array:
    """Attend within each document: x (N, C) to y (N, C), without its last bias; return y."""
    B, H, T = a.lse.shape
    scale = 1 / math.sqrt(x.shape[1] // H)
    linear.forward(a.qkv, x, p.qkv_weight)
    add_bias_(a.qkv, p.qkv_bias)
    q, k, v = heads(a.qkv, 3, B, H)
    mix = heads(a.mix, 1, B, H)[0]
    for b, by_query, _ in docs.groups:
        first = mask.first + b.start * H * T
        for rows, keys in by_query:
            prob = _products(s.scores, q[b, :, rows], k[b, :, keys])
            attention_forward(
                prob, a.lse[b], docs.starts[b], rows.start, keys.start, scale, mask.key, first, mask.rate
            )
            np.matmul(prob, v[b, :, keys], out=mix[b, :, rows])
    return linear.forward(y, a.mix, p.out_weight)


def backward(
    p: Params, g: Params, a: Acts, s: Scratch, x: Array, dy: Array, dx: Array, product: Array | None,
    docs: Documents, mask: dropout.Mask,
) -> None:  # fmt: skip
    """Undo `forward`: g +=, dx (N, C) =; dy (N, C) is the gradient of y plus its bias."""
    B, H, T = a.lse.shape
    scale = 1 / math.sqrt(x.shape[1] // H)
    linear.backward(s.dmix, g.out_weight, dy, a.mix, p.out_weight, product)
    attention_delta(s.delta, s.dmix, a.mix)
    (q, k, v), (dq, dk, dv) = heads(a.qkv, 3, B, H), heads(s.dqkv, 3, B, H)
    dmix = heads(s.dmix, 1, B, H)[0]
    for b, _, by_key in docs.groups:
        first = mask.first + b.start * H * T
        for keys, rows in by_key:
            prob = _products(s.scores, q[b, :, rows], k[b, :, keys])
            dscore = _products(s.dscores, dmix[b, :, rows], v[b, :, keys])
            attention_backward(
                prob, dscore, a.lse[b], s.delta[b], docs.starts[b], rows.start, keys.start, scale,
                mask.key, first, mask.rate,
            )  # fmt: skip
            # In the forward pass: mix = prob · v, and scores = q · kᵀ.
            np.matmul(prob.swapaxes(2, 3), dmix[b, :, rows], out=dv[b, :, keys])
            np.matmul(dscore.swapaxes(2, 3), q[b, :, rows], out=dk[b, :, keys])
            if keys.start == 0:
                np.matmul(dscore, k[b, :, keys], out=dq[b, :, rows])
                dq[b, :, rows.stop :] = 0
            else:  # these queries have seen earlier keys too
                sum_, share = dq[b, :, rows], s.dq[: dq[b, :, rows].size].reshape(dq[b, :, rows].shape)
                sum_ += np.matmul(dscore, k[b, :, keys], out=share)
    bias_backward(g.qkv_bias, s.dqkv)
    linear.backward(dx, g.qkv_weight, s.dqkv, x, p.qkv_weight, product)


def _products(memory: Array, rows: Array, columns: Array) -> Array:
    """Write rows (B, H, Q, D) · columnsᵀ (B, H, K, D) into the front of `memory`; return it as (B, H, Q, K)."""
    shape = (*rows.shape[:3], columns.shape[2])
    return np.matmul(rows, columns.swapaxes(2, 3), out=memory[: math.prod(shape)].reshape(shape))
