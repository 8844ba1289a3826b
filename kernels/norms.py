"""Sums of whole rows: the norm of the gradient, and the bias that every linear map adds."""

from __future__ import annotations

import numpy as np

from .jit import Array, jit, wide_vectors

ROWS = 64  # rows that are summed before they meet the total: keeps the float32 sum short


@jit
def sum_squares(x: Array) -> float:
    """Return the sum of x**2 over x (size,), accumulated in float64; NaN and inf come through."""
    wide_vectors()
    total = 0.0
    for i in range(x.size):
        value = np.float64(x[i])
        total += value * value
    return total


@jit
def add_and_sum_squares(total: Array, other: Array) -> float:
    """total += other, both (size,); return the `sum_squares` of what total then holds."""
    wide_vectors()
    squares = 0.0
    for i in range(total.size):
        value = total[i] + other[i]
        total[i] = value
        squares += np.float64(value) * np.float64(value)
    return squares


@jit
def add_bias_(y: Array, bias: Array) -> None:
    """y (N, C) += bias (C,)."""
    N, C = y.shape
    for n in range(N):
        for c in range(C):
            y[n, c] += bias[c]


@jit
def bias_backward(dbias: Array, dy: Array) -> None:
    """dbias (C,) += the sum over rows of dy (N, C)."""
    N, C = dy.shape
    part = np.zeros_like(dbias)  # over ROWS rows
    for first in range(0, N, ROWS):
        for n in range(first, min(first + ROWS, N)):
            for c in range(C):
                part[c] += dy[n, c]
        for c in range(C):
            dbias[c] += part[c]
            part[c] = dbias.dtype.type(0)
