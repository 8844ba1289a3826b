"""The softmax of causal attention, one block of queries against one block of keys at a time.

A query sees the keys of its own document up to itself. Forward takes all keys that a block of queries can
see, so a row's softmax is whole; it keeps one number a row, from which backward makes the probabilities
again, for any block of keys. Masked places become exactly 0, so that the products with values and keys
may run over whole blocks: they are set to -inf, since a loop over all of a row is faster than one over a
part of it that ends anywhere. Dao et al. 2022, "FlashAttention", for what is kept and what is made again.
"""

from __future__ import annotations

import math

import numpy as np

from .dropout import PAGE, hash_of, row_hash
from .elementary import exp, maximum
from .jit import Array, jit, wide_vectors


@jit
def attention_forward(
    p: Array, lse: Array, starts: Array, query: int, key: int, scale: float, mask: np.uint64, first: int,
    rate: float,
) -> None:  # fmt: skip
    """p (B, H, Q, K) goes in place from scores to softmax(scale * score), then through dropout.

    Its rows are queries `query` to `query + Q`, its columns keys `key` to `key + K`, which must hold all
    that these queries see: starts[b, t] <= s <= t for query t; starts (B, T) int32. lse (B, H, T) keeps
    log(sum(exp(scale * score))). Vaswani et al. 2017, "Attention Is All You Need", equation 1. The
    mask of query t of head h is row first + (b * H + h) * T + t of the key `mask`. Raises IndexError
    for a start outside 0..t: such a query would have no key at all.
    """
    wide_vectors()
    B, H, Q, K = p.shape
    T = starts.shape[1]
    dtype = p.dtype.type
    factor, keep, drop, hidden = dtype(scale), dtype(1.0 / (1.0 - rate)), dtype(0), dtype(-np.inf)
    threshold, lower = np.uint32(rate * PAGE), np.uint32(mask)
    for b in range(B):
        for t in range(query, query + Q):
            if starts[b, t] < 0 or starts[b, t] > t:
                raise IndexError("starts: expected 0 <= starts[b, t] <= t")
    for b in range(B):
        for h in range(H):
            for t in range(query, query + Q):
                row = p[b, h, t - query]
                row[: starts[b, t] - key] = hidden
                row[t + 1 - key :] = hidden
                highest = hidden
                for s in range(K):
                    highest = maximum(highest, row[s])
                total = dtype(0)
                for s in range(K):
                    row[s] = exp((row[s] - highest) * factor)
                    total += row[s]
                lse[b, h, t] = highest * factor + dtype(math.log(total))
                share = dtype(1) / total
                if rate > 0:
                    hashed = row_hash(mask, first + (b * H + h) * T + t)
                    share *= keep
                    for s in range(K):
                        row[s] *= share if hash_of(lower, hashed, key + s) >= threshold else drop
                else:
                    for s in range(K):
                        row[s] *= share


@jit
def attention_backward(
    p: Array, dp: Array, lse: Array, delta: Array, starts: Array, query: int, key: int, scale: float,
    mask: np.uint64, first: int, rate: float,
) -> None:  # fmt: skip
    """Both in place: p from scores to probabilities after dropout, dp from their gradient to dLoss/dscore.

    p and dp (B, H, Q, K) hold queries `query` to `query + Q` and any keys `key` to `key + K`. delta
    (B, H, T) is sum(dp * p) over all keys of a query, which `attention_delta` has found another way:
    dscore = scale * P * (dP - delta), with P before dropout.
    """
    wide_vectors()
    B, H, Q, K = p.shape
    T = starts.shape[1]
    dtype = p.dtype.type
    factor, keep, drop, hidden = dtype(scale), dtype(1.0 / (1.0 - rate)), dtype(0), dtype(-np.inf)
    threshold, lower = np.uint32(rate * PAGE), np.uint32(mask)
    for b in range(B):
        for h in range(H):
            for t in range(query, query + Q):
                row, drow = p[b, h, t - query], dp[b, h, t - query]
                end = max(min(t + 1 - key, K), 0)
                begin = min(max(starts[b, t] - key, 0), end)
                row[:begin] = hidden
                row[end:] = hidden
                drow[:begin] = drop
                drow[end:] = drop
                norm, inner = lse[b, h, t], delta[b, h, t]
                if rate > 0:
                    hashed = row_hash(mask, first + (b * H + h) * T + t)
                    for s in range(K):
                        kept = keep if hash_of(lower, hashed, key + s) >= threshold else drop
                        probability = exp(row[s] * factor - norm)
                        row[s] = probability * kept
                        drow[s] = factor * probability * (drow[s] * kept - inner)
                else:
                    for s in range(K):
                        probability = exp(row[s] * factor - norm)
                        row[s] = probability
                        drow[s] = factor * probability * (drow[s] - inner)


@jit
def attention_delta(delta: Array, dy: Array, y: Array) -> None:
    """delta (B, H, T) = sum over a head's channels of dy * y, both (N, C): the sum of dp * p over all keys.

    Because y = sum_s p_s v_s and dp_s = dy . v_s, so sum_s p_s dp_s = dy . y (Dao et al. 2022, appendix B).
    """
    B, H, T = delta.shape
    D = dy.shape[1] // H
    for b in range(B):
        for t in range(T):
            n = b * T + t
            for h in range(H):
                part, dpart = y[n, h * D : (h + 1) * D], dy[n, h * D : (h + 1) * D]
                total = dy.dtype.type(0)
                for d in range(D):
                    total += part[d] * dpart[d]
                delta[b, h, t] = total


@jit
def transpose_heads(y: Array, x: Array) -> None:
    """y (B, H, D, at least T) = x (B, H, T, D) with its last two dimensions swapped; x may have gaps.

    OpenBLAS multiplies small matrices twice as fast if neither is to be transposed on the way.
    """
    B, H, T, D = x.shape
    whole = T - T % 8
    for b in range(B):
        # 8 rows at a time: LLVM knows how long the innermost loop is, and unrolls it.
        for first in range(0, whole, 8):
            for h in range(H):  # inside, because the heads of a row of x stand side by side
                rows = x[b, h, first : first + 8]
                columns = y[b, h, :, first : first + 8]
                for d in range(D):
                    for t in range(8):
                        columns[d, t] = rows[t, d]
        for h in range(H):
            for d in range(D):
                for t in range(whole, T):
                    y[b, h, d, t] = x[b, h, t, d]


@jit
def copy_heads(y: Array, x: Array) -> None:
    """y = x, both (B, H, T, D); x may have gaps; NumPy does it too, but slowly where D is small."""
    B, H, T, D = x.shape
    for b in range(B):
        for t in range(T):
            for h in range(H):
                source, target = x[b, h, t], y[b, h, t]
                for d in range(D):
                    target[d] = source[d]


@jit
def add_heads_(y: Array, x: Array) -> None:
    """y += x, both (B, H, T, D); both may have gaps; NumPy does it too, but allocates a buffer to do so."""
    B, H, T, D = x.shape
    for b in range(B):
        for h in range(H):
            for t in range(T):
                source, target = x[b, h, t], y[b, h, t]
                for d in range(D):
                    target[d] += source[d]
