"""The residual connection and the norm that reads it, in one pass over the rows.

A row is dropped, added and normalised while it is in the first-level cache. Layer normalisation alone is in
layernorm.py; here the same lines stand between the two halves of a block.
"""

from __future__ import annotations

import numpy as np

from .dropout import HASHES, hash_of, row_hash
from .jit import Array, jit, wide_vectors
from .layernorm import EPSILON, ROWS


@jit
def residual_norm_forward(
    x: Array, y: Array, mean: Array, rstd: Array, skip: Array, h: Array, h_bias: Array, gain: Array,
    bias: Array, key: np.uint64, first: int, rate: float,
) -> None:  # fmt: skip
    """x = skip + dropout(h + h_bias), then y, mean, rstd = layernorm(x); all (N, C) but the vectors.

    He et al. 2016, "Deep Residual Learning"; Ba, Kiros and Hinton 2016, "Layer Normalization". The mask
    of row n is the one `dropout_forward` draws for row `first + n`; at rate 0 there is none.
    """
    wide_vectors()
    N, C = x.shape
    dtype = x.dtype.type
    keep, drop = dtype(1.0 / (1.0 - rate)), dtype(0)
    threshold, lower = np.uint32(rate * HASHES), np.uint32(key)
    for n in range(N):
        # The sum, and in the same pass over the row its total for the mean. The test of the rate stands
        # outside the loop, which a branch would keep from being vectorised.
        total = dtype(0)
        if rate > 0:
            row = row_hash(key, first + n)
            for c in range(C):
                mask = keep if hash_of(lower, row, c) >= threshold else drop
                value = skip[n, c] + (h[n, c] + h_bias[c]) * mask
                x[n, c] = value
                total += value
        else:
            for c in range(C):
                value = skip[n, c] + (h[n, c] + h_bias[c])
                x[n, c] = value
                total += value
        # The variance from the differences: mean(x**2) - mean(x)**2 would cancel where the mean is large.
        mu = total / dtype(C)
        squares = dtype(0)
        for c in range(C):
            squares += (x[n, c] - mu) * (x[n, c] - mu)
        r = dtype(1) / np.sqrt(squares / dtype(C) + dtype(EPSILON))
        for c in range(C):
            y[n, c] = (x[n, c] - mu) * r * gain[c] + bias[c]
        mean[n], rstd[n] = mu, r


@jit
def residual_norm_backward(
    dx: Array, dh: Array, dh_bias: Array, dgain: Array, dbias: Array, dy: Array, x: Array, gain: Array,
    mean: Array, rstd: Array, key: np.uint64, first: int, rate: float,
) -> None:  # fmt: skip
    """Add to dx, dgain, dbias what dy sends back through the norm; then dh = mask * dx, dh_bias += its sum.

    dx (N, C) arrives as the gradient of x from later layers and leaves as that of `skip`. At rate 0
    that of h is the same, and dh is left alone.
    """
    wide_vectors()
    N, C = x.shape
    dtype = x.dtype.type
    keep, drop = dtype(1.0 / (1.0 - rate)), dtype(0)
    threshold, lower = np.uint32(rate * HASHES), np.uint32(key)
    # The parameters' gradients are summed over ROWS rows, then added to the total: a float32 sum of many
    # numbers loses accuracy as it grows.
    dgain_part, dbias_part, dh_part = np.zeros_like(gain), np.zeros_like(gain), np.zeros_like(gain)
    for start in range(0, N, ROWS):
        for n in range(start, min(start + ROWS, N)):
            # First pass over the row: sums for mean(dxhat) and mean(dxhat * xhat), see `layernorm_backward`,
            # and the parameters' gradients on the way.
            mu, r = mean[n], rstd[n]
            sum_dxhat, sum_dxhat_xhat = dtype(0), dtype(0)
            for c in range(C):
                xhat = (x[n, c] - mu) * r
                dxhat = dy[n, c] * gain[c]
                sum_dxhat += dxhat
                sum_dxhat_xhat += dxhat * xhat
                dgain_part[c] += dy[n, c] * xhat
                dbias_part[c] += dy[n, c]
            a, b = sum_dxhat / dtype(C), sum_dxhat_xhat / dtype(C)
            # Second pass: `value` is the gradient of x, hence of skip; through the mask it is that of h.
            if rate > 0:
                row = row_hash(key, first + n)
                for c in range(C):
                    value = dx[n, c] + r * (dy[n, c] * gain[c] - a - (x[n, c] - mu) * r * b)
                    masked = value * (keep if hash_of(lower, row, c) >= threshold else drop)
                    dx[n, c], dh[n, c] = value, masked
                    dh_part[c] += masked
            else:
                for c in range(C):
                    value = dx[n, c] + r * (dy[n, c] * gain[c] - a - (x[n, c] - mu) * r * b)
                    dx[n, c] = value
                    dh_part[c] += value
        for c in range(C):
            dgain[c] += dgain_part[c]
            dbias[c] += dbias_part[c]
            dh_bias[c] += dh_part[c]
            dgain_part[c] = dbias_part[c] = dh_part[c] = dtype(0)
