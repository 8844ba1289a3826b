"""Dropout whose mask is a function of (key, row, column): nothing is stored, backward computes it again.

Order: the hash, which is inlined into every kernel that drops; then dropout alone, forward and backward.

    keep element (row, column)   if hash_of(lower half of key, row_hash(key, row), column) >= rate * 2**32
"""

from __future__ import annotations

import numpy as np

from .jit import Array, jit

HASHES = 1 << 32  # possible ones, of which a fraction `rate` drops
GOLDEN = 0x9E3779B9  # odd, so that its multiples pass through all 32-bit numbers


@jit
def mix(h: np.uint32) -> np.uint32:
    """Scatter 32 bits one to one; constants: lowbias32 (Wellons 2018, "Prospecting for hash functions")."""
    h = np.uint32(h ^ np.uint32(h >> np.uint32(16)))
    h = np.uint32(h * np.uint32(0x7FEB352D))
    h = np.uint32(h ^ np.uint32(h >> np.uint32(15)))
    h = np.uint32(h * np.uint32(0x846CA68B))
    return np.uint32(h ^ np.uint32(h >> np.uint32(16)))


@jit
def row_hash(key: np.uint64, row: int) -> np.uint32:
    """Hash a row's number with the key's upper half; in 32 bits: few processors multiply wider."""
    # Both halves of the 64-bit row number count. mix(0) is 0, so GOLDEN is added to the upper one, usually 0.
    row64 = np.uint64(row)
    upper = mix(np.uint32(np.uint32(row64 >> np.uint64(32)) + np.uint32(GOLDEN)))
    return mix(np.uint32(mix(np.uint32(np.uint32(row64) + np.uint32(key >> np.uint64(32)))) ^ upper))


@jit
def hash_of(lower: np.uint32, row: np.uint32, column: int) -> np.uint32:
    """Hash one element: `lower` is the key's lower half, `row` what `row_hash` returned."""
    # The row costs one hash per row, the column one multiplication, and their mix one hash per element.
    return mix(np.uint32(np.uint32(np.uint32(column) * np.uint32(GOLDEN) + lower) ^ row))


@jit
def _dropout(y: Array, x: Array, key: np.uint64, first: int, rate: float) -> None:
    N, C = x.shape
    dtype = x.dtype.type
    keep, drop = dtype(1.0 / (1.0 - rate)), dtype(0)
    # A hash is uniform in 0..2**32 - 1, so it is below the threshold with probability `rate`. What is kept is
    # scaled up by 1 / (1 - rate), so that the expected value stays.
    threshold, lower = np.uint32(rate * HASHES), np.uint32(key)
    part = np.empty(C, x.dtype)  # LLVM vectorises no loop whose y may be x
    for n in range(N):
        row = row_hash(key, first + n)
        for c in range(C):
            # A product, not a choice: a NaN in a dropped element must still be seen.
            part[c] = x[n, c] * (keep if hash_of(lower, row, c) >= threshold else drop)
        for c in range(C):
            y[n, c] = part[c]


def dropout_forward(y: Array, x: Array, key: int | np.uint64, first: int, rate: float) -> None:
    """y = x * mask / (1 - rate), both (N, C); mask is 0 with probability `rate`; y may be x itself.

    Row n draws from a hash of the 64-bit `key`, of `first + n` and of the column, so rows may be masked
    together or apart, in any order. Srivastava et al. 2014, in its inverted form. Raises ValueError for
    a rate outside [0, 1).
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"rate: found {rate}, expected 0 <= rate < 1")
    # Always uint64: Numba would take a key below 2**63 for int64, and compile a second version.
    _dropout(y, x, np.uint64(key), int(first), float(rate))


def dropout_backward(dx: Array, dy: Array, key: int | np.uint64, first: int, rate: float) -> None:
    """dx = dy * mask / (1 - rate), both (N, C): linear and diagonal, so its own transpose."""
    dropout_forward(dx, dy, key, first, rate)
