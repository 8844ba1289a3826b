"""The softmax of causal attention, one block of queries against one block of keys at a time.

A query sees the keys of its own document up to itself. Forward takes all keys that a block of queries can
see, so a row's softmax is whole; it keeps one number a row, from which backward makes the probabilities
again, for any block of keys. Masked places become exactly 0, so that the products with values and keys
may run over whole blocks. Dao et al. 2022, "FlashAttention", for what is kept and what is computed again.
"""

from __future__ import annotations

import math

import numpy as np

from .dropout import PAGE, hash_of, row_hash
from .elementary import exp, maximum
from .jit import Array, jit


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
    B, H, Q, _ = p.shape
    T = starts.shape[1]
    dtype = p.dtype.type
    factor, keep, drop = dtype(scale), dtype(1.0 / (1.0 - rate)), dtype(0)
    threshold, lower = np.uint32(rate * PAGE), np.uint32(mask)
    for b in range(B):
        for t in range(query, query + Q):
            if starts[b, t] < 0 or starts[b, t] > t:
                raise IndexError("starts: expected 0 <= starts[b, t] <= t")
    for b in range(B):
        for h in range(H):
            for t in range(query, query + Q):
                row = p[b, h, t - query]
                begin, end = max(starts[b, t] - key, 0), t + 1 - key
                seen = row[begin:end]  # a slice: LLVM vectorises loops that count from 0
                highest = seen[0]
                for s in range(seen.size):
                    highest = maximum(highest, seen[s])
                total = dtype(0)
                for s in range(seen.size):
                    seen[s] = exp((seen[s] - highest) * factor)
                    total += seen[s]
                lse[b, h, t] = highest * factor + dtype(math.log(total))
                share = dtype(1) / total
                if rate > 0:
                    hashed = row_hash(mask, first + (b * H + h) * T + t)
                    share *= keep
                    for s in range(seen.size):
                        seen[s] *= share if hash_of(lower, hashed, key + begin + s) >= threshold else drop
                else:
                    for s in range(seen.size):
                        seen[s] *= share
                row[:begin] = drop
                row[end:] = drop


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
    B, H, Q, K = p.shape
    T = starts.shape[1]
    dtype = p.dtype.type
    factor, keep, drop = dtype(scale), dtype(1.0 / (1.0 - rate)), dtype(0)
    threshold, lower = np.uint32(rate * PAGE), np.uint32(mask)
    for b in range(B):
        for h in range(H):
            for t in range(query, query + Q):
                row, drow = p[b, h, t - query], dp[b, h, t - query]
                end = max(min(t + 1 - key, K), 0)
                begin = min(max(starts[b, t] - key, 0), end)
                seen, dseen = row[begin:end], drow[begin:end]
                norm, inner = lse[b, h, t], delta[b, h, t]
                if rate > 0:
                    hashed = row_hash(mask, first + (b * H + h) * T + t)
                    for s in range(seen.size):
                        kept = keep if hash_of(lower, hashed, key + begin + s) >= threshold else drop
                        probability = exp(seen[s] * factor - norm)
                        seen[s] = probability * kept
                        dseen[s] = factor * probability * (dseen[s] * kept - inner)
                else:
                    for s in range(seen.size):
                        probability = exp(seen[s] * factor - norm)
                        seen[s] = probability
                        dseen[s] = factor * probability * (dseen[s] - inner)
                row[:begin] = drop
                row[end:] = drop
                drow[:begin] = drop
                drow[end:] = drop


@jit
def attention_delta(delta: Array, dy: Array, y: Array) -> None:
    """delta (B, H, T) = sum over a head's channels of dy * y, both (N, C): the sum of dp * p over all keys.

    Because y = sum_s p_s v_s and dp_s = dy . v_s, so sum_s p_s dp_s = dy . y (Dao et al. 2022, appendix B).
    """
    B, H, T = delta.shape
    dtype = dy.dtype.type
    D = dy.shape[1] // H
    for b in range(B):
        for t in range(T):
            row, drow = y[b * T + t], dy[b * T + t]
            for h in range(H):
                total = dtype(0)
                for d in range(h * D, (h + 1) * D):
                    total += row[d] * drow[d]
                delta[b, h, t] = total
