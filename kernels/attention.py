"""The softmax of causal attention, one block of queries against one block of keys at a time.

A query sees the keys of its own document up to itself. Forward takes all keys that a block of queries can
see, so it has whole rows of the softmax; it keeps one number per row, from which backward recomputes the
probabilities, for any block of keys. Masked entries become exactly 0, so that the products with values and
keys may run over whole blocks: they are set to -inf, since a loop over all of a row is faster than one over
a part of it that ends anywhere. Dao et al. 2022, "FlashAttention", for what is kept and what is recomputed.

    T = 5, two documents of 3 and 2 tokens:     starts   0  0  0  3  3
    rows of p, queries 0 to 4; x is computed:   x0000  xx000  xxx00  000x0  000xx
"""

from __future__ import annotations

import math

import numpy as np

from .dropout import HASHES, hash_of, row_hash
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
    threshold, lower = np.uint32(rate * HASHES), np.uint32(mask)
    # Starts come from data, so they are checked, before anything is written.
    for b in range(B):
        for t in range(query, query + Q):
            if starts[b, t] < 0 or starts[b, t] > t:
                raise IndexError("starts: expected 0 <= starts[b, t] <= t")
    for b in range(B):
        for h in range(H):
            for t in range(query, query + Q):
                row = p[b, h, t - query]
                # Column s of the row is key `key + s`: hide the documents before, and the future.
                row[: starts[b, t] - key] = hidden
                row[t + 1 - key :] = hidden
                # Subtracting the maximum leaves the softmax as it is and keeps exp from overflowing. As the
                # scale is positive, it is that of the scaled scores too; and exp(-inf) is exactly 0.
                highest = hidden
                for s in range(K):
                    highest = maximum(highest, row[s])
                total = dtype(0)
                for s in range(K):
                    row[s] = exp((row[s] - highest) * factor)
                    total += row[s]
                lse[b, h, t] = highest * factor + dtype(math.log(total))
                share = dtype(1) / total  # one division per row; with dropout, also the kept values' scale
                if rate > 0:  # outside the loop, which a branch would keep from being vectorised
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
    (B, H, T) is sum(dp * p) over all keys of a query, which `attention_delta` computes without them:
    dscore = scale * P * (dP - delta), with P before dropout.
    """
    wide_vectors()
    B, H, Q, K = p.shape
    T = starts.shape[1]
    dtype = p.dtype.type
    factor, keep, drop, hidden = dtype(scale), dtype(1.0 / (1.0 - rate)), dtype(0), dtype(-np.inf)
    threshold, lower = np.uint32(rate * HASHES), np.uint32(mask)
    for b in range(B):
        for h in range(H):
            for t in range(query, query + Q):
                row, drow = p[b, h, t - query], dp[b, h, t - query]
                # Here the block may lie before the document or after the query, so both ends are clamped:
                # columns begin to end - 1 are visible, possibly none.
                end = max(min(t + 1 - key, K), 0)
                begin = min(max(starts[b, t] - key, 0), end)
                row[:begin] = hidden
                row[end:] = hidden
                drow[:begin] = drop
                drow[end:] = drop
                # exp(scale * score - lse) is the probability: no maximum and no sum over the row is needed.
                norm, inner = lse[b, h, t], delta[b, h, t]
                if rate > 0:
                    hashed = row_hash(mask, first + (b * H + h) * T + t)
                    for s in range(K):
                        # Forward's mask again: the hash depends on the key's number, not on the block.
                        kept = keep if hash_of(lower, hashed, key + s) >= threshold else drop
                        probability = exp(row[s] * factor - norm)
                        row[s] = probability * kept  # what forward multiplied with the values
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
                # y before the output projection: the heads stand side by side in its columns.
                part, dpart = y[n, h * D : (h + 1) * D], dy[n, h * D : (h + 1) * D]
                total = dy.dtype.type(0)
                for d in range(D):
                    total += part[d] * dpart[d]
                delta[b, h, t] = total


@jit
def transpose_heads(y: Array, x: Array) -> None:
    """y (B, H, D, at least T) = x (B, H, T, D) with its last two dimensions swapped; x may have gaps.

    OpenBLAS multiplies small matrices twice as fast if it need not transpose either of them.
    """
    B, H, T, D = x.shape
    whole = T - T % 8
    for b in range(B):
        # 8 rows at a time: LLVM knows how long the innermost loop is, and unrolls it.
        for first in range(0, whole, 8):
            for h in range(H):  # inside the loop over rows, because a row of x holds all its heads
                rows = x[b, h, first : first + 8]
                columns = y[b, h, :, first : first + 8]
                for d in range(D):
                    for t in range(8):
                        columns[d, t] = rows[t, d]
        for h in range(H):  # the last T % 8 rows
            for d in range(D):
                for t in range(whole, T):
                    y[b, h, d, t] = x[b, h, t, d]


@jit
def copy_heads(y: Array, x: Array) -> None:
    """y = x, both (B, H, T, D), x possibly with gaps; NumPy does this too, but slowly where D is small."""
    B, H, T, D = x.shape
    for b in range(B):
        for t in range(T):
            for h in range(H):
                source, target = x[b, h, t], y[b, h, t]
                for d in range(D):
                    target[d] = source[d]


@jit
def add_heads_(y: Array, x: Array) -> None:
    """y += x, both (B, H, T, D), both possibly with gaps; NumPy would allocate a buffer for it."""
    B, H, T, D = x.shape
    for b in range(B):
        for h in range(H):
            for t in range(T):
                source, target = x[b, h, t], y[b, h, t]
                for d in range(D):
                    target[d] += source[d]
