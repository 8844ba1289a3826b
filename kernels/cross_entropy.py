"""Softmax and cross entropy over rows of logits, which become their own gradient in place.

Bridle 1990, "Probabilistic interpretation of feedforward classification network outputs".
"""

from __future__ import annotations

import math

import numpy as np

from .elementary import exp, maximum
from .jit import Array, jit, wide_vectors


@jit
def cross_entropy_forward(losses: Array, logits: Array, targets: Array) -> None:
    """losses (N,) float64 = -log softmax(logits)[target], 0 where the target is -1; targets (N,) int32.

    log-sum-exp after subtracting the row's maximum: no overflow, and no epsilon in a log. A NaN or +inf
    logit makes the loss NaN. Raises IndexError for a target outside -1..V-1, before anything is written.
    """
    wide_vectors()
    N, V = logits.shape
    dtype = logits.dtype.type
    for n in range(N):
        if targets[n] < -1 or targets[n] >= V:
            raise IndexError("targets: expected -1 (masked) or a token below the vocabulary size")
    for n in range(N):
        row, target = logits[n], targets[n]
        losses[n] = 0.0
        if target < 0:
            continue
        # With m the largest logit, -log(exp(z - m) / sum exp(z - m)) = log(sum exp(z - m)) + (m - z). Neither
        # term is below 0, so they do not cancel.
        highest = row[0]
        for v in range(V):
            highest = maximum(highest, row[v])
        total = dtype(0)
        for v in range(V):
            total += exp(row[v] - highest)
        losses[n] = math.log(np.float64(total)) + (np.float64(highest) - np.float64(row[target]))


@jit
def cross_entropy_backward(losses: Array, dlogits: Array, targets: Array, scale: float) -> None:
    """dlogits (N, V), in place: from logits to (softmax - onehot(target)) * scale; losses as forward's.

    A row whose target is -1 becomes 0, whatever it held. Raises IndexError as `cross_entropy_forward` does.
    """
    wide_vectors()
    N, V = dlogits.shape
    dtype = dlogits.dtype.type
    factor = dtype(scale)
    for n in range(N):
        if targets[n] < -1 or targets[n] >= V:
            raise IndexError("targets: expected -1 (masked) or a token below the vocabulary size")
    for n in range(N):
        row, target = dlogits[n], targets[n]
        losses[n] = 0.0
        if target < 0:
            row[:] = dtype(0)  # not skipped: the products that follow read all rows
            continue
        highest = row[0]
        for v in range(V):
            highest = maximum(highest, row[v])
        # From here on the row is exp(z - m), then the gradient: the target's logit is read before.
        wanted = row[target]
        total = dtype(0)
        for v in range(V):
            row[v] = exp(row[v] - highest)
            total += row[v]
        losses[n] = math.log(np.float64(total)) + (np.float64(highest) - np.float64(wanted))
        share = factor / total
        for v in range(V):
            row[v] *= share
        row[target] -= factor
