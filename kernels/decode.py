"""One token more for each of a few sequences: the whole model in one kernel, which all ranks run together.

What it costs is reading the weights once, so nothing stands between their products but what must: no Python,
no allocation, five meetings of the ranks in a block. Every number is computed in the same order whatever
the other rows, the number of ranks and their pace (see `dot`), so a sequence goes on with the same bits
alone or among others. Order: the kernel, then its parts in the order of use.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .dot import product
from .elementary import exp, maximum
from .gelu import CUBIC, SLOPE
from .jit import Array, jit
from .layernorm import EPSILON
from .shares import await_all, done, take

PART = (
    32  # outputs of a product that a rank takes at a time; fixed, because a vector loop's tail depends on it
)
THENS: Any = np.arange(4)  # no Python integers: Numba would compile `_linear` anew for each
BIAS, STREAM, GELU, NOTHING = THENS


@jit
def decode_(
    memory: Array, logits: Array, x: Array, y: Array, wide: Array, mix: Array, scores: Array, counters: Array,
    params: Array, places: Array, sequences: Array, positions: Array, rank: int,
) -> None:  # fmt: skip
    """Take R embedded tokens through the model; write the logits (n, V) of the last n of them, n at most R.

    memory (L, 2, B, H, T, D) receives row r's key and value at positions[r] of sequences[r], and row r sees
    that sequence up to there: what is before is in memory already, or among the rows; no place occurs twice.
    sequences, positions (R,) int32. x (R, C) is the residual stream, at first the embeddings, and is used up.
    params (size,) holds all parameters; places (L + 1, 12) int64 says where each begins: of a block norm1's
    gain and bias, weight and bias of qkv and of out, norm2's, those of up and of down; in the last row the
    final norm's and the head's weight. Scratch: y (ranks, R, C), wide (R, 4C), mix (R, C), scores (ranks, T).
    counters (5L + 1, 2) int64 are zero before, and every rank calls this with its number.
    """
    L, (R, C) = memory.shape[0], x.shape
    norm, phase = y[rank], 0
    for block in range(L):
        at = places[block]
        _normalise(norm, x, params, at[0], at[1])
        _linear(wide, x, norm, params, at[2], at[3], 3 * C, BIAS, counters[phase])
        _attend(mix, scores[rank], wide, memory[block], sequences, positions, counters[phase + 1])
        _linear(norm, x, mix, params, at[4], at[5], C, STREAM, counters[phase + 2])
        _normalise(norm, x, params, at[6], at[7])
        _linear(wide, x, norm, params, at[8], at[9], 4 * C, GELU, counters[phase + 3])
        _linear(norm, x, wide, params, at[10], at[11], C, STREAM, counters[phase + 4])
        phase += 5
    at = places[L]
    _normalise(norm, x, params, at[0], at[1])
    wanted = norm[R - logits.shape[0] :]
    _linear(logits, x, wanted, params, at[2], at[3], logits.shape[1], NOTHING, counters[phase])


@jit
def _normalise(y: Array, x: Array, params: Array, gain: int, bias: int) -> None:
    """y (R, C) = layer norm of x (R, C), as `layernorm_forward` has it.

    Each rank does this for itself: it is quicker than to meet. A rank that comes late may read an x that is
    already being changed; but then every part of the phase has been taken, and nobody uses its y.
    """
    R, C = x.shape
    dtype = x.dtype.type
    for r in range(R):
        total, squares = dtype(0), dtype(0)
        for c in range(C):
            total += x[r, c]
        mean = total / dtype(C)
        for c in range(C):
            squares += (x[r, c] - mean) * (x[r, c] - mean)
        rstd = dtype(1) / np.sqrt(squares / dtype(C) + dtype(EPSILON))
        for c in range(C):
            y[r, c] = (x[r, c] - mean) * rstd * params[gain + c] + params[bias + c]


@jit
def _linear(
    y: Array, stream: Array, x: Array, params: Array, weight: int, bias: int, outputs: int, then: int,
    counters: Array,
) -> None:  # fmt: skip
    """y (R, outputs) = x (R, .) · weightᵀ + bias, then GELU; or added to the stream; or without the bias."""
    dtype = x.dtype.type
    slope, cubic = dtype(SLOPE), dtype(CUBIC)
    parts = (outputs + PART - 1) // PART
    part = take(counters)
    while part < parts:
        first, stop = part * PART, min((part + 1) * PART, outputs)
        product(y, x, params, weight, first, stop)
        for r in range(x.shape[0]):
            if then == GELU:
                row, b = y[r, first:stop], params[bias + first : bias + stop]  # slices: LLVM makes vectors
                for o in range(row.size):
                    u = row[o] + b[o]
                    row[o] = u / (dtype(1) + exp(-slope * (u + cubic * u * u * u)))
            elif then == STREAM:
                for o in range(first, stop):
                    stream[r, o] += y[r, o] + params[bias + o]
            elif then == BIAS:
                for o in range(first, stop):
                    y[r, o] += params[bias + o]
        done(counters)
        part = take(counters)
    await_all(counters, parts)


@jit
def _attend(
    mix: Array, scores: Array, qkv: Array, memory: Array, sequences: Array, positions: Array, counters: Array
) -> None:  # fmt: skip
    """mix (R, C) = what each row's query finds in its sequence, head by head; memory (2, B, H, T, D).

    All rows' keys and values of a head are put into memory first: some rows may follow one another in one
    sequence. Vaswani et al. 2017, "Attention Is All You Need", equation 1.
    """
    R, C = mix.shape
    H, D = memory.shape[2], memory.shape[4]
    dtype = mix.dtype.type
    factor = dtype(1 / math.sqrt(D))
    h = take(counters)
    while h < H:
        for r in range(R):
            for d in range(D):
                memory[0, sequences[r], h, positions[r], d] = qkv[r, C + h * D + d]
                memory[1, sequences[r], h, positions[r], d] = qkv[r, 2 * C + h * D + d]
        for r in range(R):
            keys, values, seen = memory[0, sequences[r], h], memory[1, sequences[r], h], positions[r] + 1
            query, out = qkv[r, h * D : (h + 1) * D], mix[r, h * D : (h + 1) * D]
            highest = dtype(-np.inf)
            for s in range(seen):
                score = dtype(0)
                for d in range(D):
                    score += query[d] * keys[s, d]
                scores[s] = score
                highest = maximum(highest, score)
            total = dtype(0)
            for s in range(seen):
                scores[s] = exp((scores[s] - highest) * factor)
                total += scores[s]
            out[:] = dtype(0)
            for s in range(seen):
                for d in range(D):
                    out[d] += scores[s] * values[s, d]
            for d in range(D):
                out[d] /= total
        done(counters)
        h = take(counters)
    await_all(counters, H)
