"""Layer normalisation: every row gets mean 0 and variance 1, then a learned scale and shift."""

from __future__ import annotations

import numpy as np

from .jit import Array, jit, wide_vectors

EPSILON = 1e-5
ROWS = 64  # rows whose gradients are summed before they meet the total: keeps the float32 sum short


@jit
def layernorm_forward(y: Array, mean: Array, rstd: Array, x: Array, gain: Array, bias: Array) -> None:
    """y (N, C) = (x - mean) * rstd * gain + bias; keeps mean and rstd = 1 / sqrt(var + 1e-5), both (N,).

    Ba, Kiros and Hinton 2016, "Layer Normalization".
    """
    wide_vectors()
    N, C = x.shape
    dtype = x.dtype.type
    for n in range(N):
        total = dtype(0)
        for c in range(C):
            total += x[n, c]
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
def layernorm_backward(
    dx: Array, dgain: Array, dbias: Array, dy: Array, x: Array, gain: Array, mean: Array, rstd: Array
) -> None:
    """Add to dx (N, C), dgain (C,) and dbias (C,) what dy (N, C) sends back through `layernorm_forward`.

    With xhat = (x - mean) * rstd and dxhat = dy * gain:
    dx += rstd * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)).
    """
    wide_vectors()
    N, C = x.shape
    dtype = x.dtype.type
    dgain_part, dbias_part = np.zeros_like(gain), np.zeros_like(gain)
    for first in range(0, N, ROWS):
        for n in range(first, min(first + ROWS, N)):
            # First pass over the row: its two means, and the parameters' gradients on the way.
            mu, r = mean[n], rstd[n]
            sum_dxhat, sum_dxhat_xhat = dtype(0), dtype(0)
            for c in range(C):
                xhat = (x[n, c] - mu) * r
                dxhat = dy[n, c] * gain[c]
                sum_dxhat += dxhat
                sum_dxhat_xhat += dxhat * xhat
                dgain_part[c] += dy[n, c] * xhat
                dbias_part[c] += dy[n, c]
            # Second pass: the formula above, with xhat computed again rather than stored.
            a, b = sum_dxhat / dtype(C), sum_dxhat_xhat / dtype(C)
            for c in range(C):
                dx[n, c] += r * (dy[n, c] * gain[c] - a - (x[n, c] - mu) * r * b)
        for c in range(C):
            dgain[c] += dgain_part[c]
            dbias[c] += dbias_part[c]
            dgain_part[c] = dbias_part[c] = dtype(0)
