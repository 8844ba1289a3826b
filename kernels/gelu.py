"""GELU in its tanh form, fused with the bias before it: one pass over the widest activation."""

from __future__ import annotations

import numpy as np

from .elementary import exp
from .jit import Array, jit, wide_vectors

# 0.5 (1 + tanh z) = 1 / (1 + e**(-2z)): one exp, and no cancellation where the sum is near 0.
SLOPE = 1.5957691216057308  # 2 sqrt(2 / pi)
CUBIC = 0.044715
ROWS = 64  # rows whose gradients are summed before they meet the total: keeps the float32 sum short


@jit
def bias_gelu_forward(y: Array, x: Array, bias: Array) -> None:
    """y (N, F) = u / (1 + exp(-s (u + 0.044715 u^3))) with u = x + bias (F,) and s = 2 sqrt(2 / pi).

    Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", the tanh form that GPT-2 uses.
    """
    wide_vectors()
    N, F = x.shape
    dtype = x.dtype.type
    one, slope, cubic = dtype(1), dtype(SLOPE), dtype(CUBIC)
    for n in range(N):
        for f in range(F):
            u = x[n, f] + bias[f]
            y[n, f] = u / (one + exp(-slope * (u + cubic * u * u * u)))


@jit
def bias_gelu_backward(dx: Array, y: Array, dbias: Array, x: Array, bias: Array) -> None:
    """dx (N, F) arrives as dy and leaves as dy * gelu'(x + bias); dbias (F,) += its sum over rows.

    gelu'(u) = g + u g (1 - g) s (1 + 3 * 0.044715 u^2) with g = 1 / (1 + exp(-s (u + 0.044715 u^3))).
    y = u g is written again: that costs one product here, and the forward pass need not keep it.
    """
    wide_vectors()
    N, F = x.shape
    dtype = x.dtype.type
    one, slope, cubic = dtype(1), dtype(SLOPE), dtype(CUBIC)
    three = dtype(3)
    part = np.zeros_like(bias)
    for first in range(0, N, ROWS):
        for n in range(first, min(first + ROWS, N)):
            for f in range(F):
                u = x[n, f] + bias[f]
                g = one / (one + exp(-slope * (u + cubic * u * u * u)))
                y[n, f] = u * g
                slope_here = g + u * g * (one - g) * slope * (one + three * cubic * u * u)
                dx[n, f] *= slope_here
                part[f] += dx[n, f]
        for f in range(F):
            dbias[f] += part[f]
            part[f] = dtype(0)
