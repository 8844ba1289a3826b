"""The softmax of causal attention: each query sees the keys of its own document up to itself.

Masked places are neither read nor left as they were: they become exactly 0, so that the products with
values and keys may run over whole rows.
"""

from __future__ import annotations

from .elementary import exp, maximum
from .jit import Array, jit


@jit
def causal_softmax_forward(p: Array, starts: Array, scale: float) -> None:
    """p (B, H, T, T) goes from scores to probabilities in place: softmax(scale * score) over the keys
    starts[b, t] <= s <= t of query t, and 0 elsewhere; starts (B, T) int32, scale > 0.

    Vaswani et al. 2017, "Attention Is All You Need", equation 1. Raises IndexError for a start
    outside 0..t: such a query would have no key at all.
    """
    B, H, T, _ = p.shape
    dtype = p.dtype.type
    factor = dtype(scale)
    for b in range(B):
        for t in range(T):
            if starts[b, t] < 0 or starts[b, t] > t:
                raise IndexError("starts: expected 0 <= starts[b, t] <= t")
    for b in range(B):
        for h in range(H):
            for t in range(T):
                start = starts[b, t]
                seen = p[b, h, t, start : t + 1]  # a slice: LLVM vectorises loops that count from 0
                highest = seen[0]
                for s in range(seen.size):
                    highest = maximum(highest, seen[s])
                total = dtype(0)
                for s in range(seen.size):
                    seen[s] = exp((seen[s] - highest) * factor)
                    total += seen[s]
                share = dtype(1) / total
                for s in range(seen.size):
                    seen[s] *= share
                p[b, h, t, :start] = dtype(0)
                p[b, h, t, t + 1 :] = dtype(0)


@jit
def causal_softmax_backward(dp: Array, p: Array, starts: Array, scale: float) -> None:
    """dp (B, H, T, T) goes in place from dLoss/dprobability to dLoss/dscore = scale * p * (dp - sum(dp * p)),
    and to 0 in masked places; p is what `causal_softmax_forward` left.
    """
    B, H, T, _ = p.shape
    dtype = p.dtype.type
    factor = dtype(scale)
    for b in range(B):
        for h in range(H):
            for t in range(T):
                start = starts[b, t]
                seen, dseen = p[b, h, t, start : t + 1], dp[b, h, t, start : t + 1]
                inner = dtype(0)
                for s in range(seen.size):
                    inner += dseen[s] * seen[s]
                for s in range(seen.size):
                    dseen[s] = factor * seen[s] * (dseen[s] - inner)
                dp[b, h, t, :start] = dtype(0)
                dp[b, h, t, t + 1 :] = dtype(0)
