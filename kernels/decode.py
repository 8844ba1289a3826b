"""One more token for each of a few sequences: the whole model in one kernel, which all ranks run together.

Its cost is reading the weights once, so little stands between the products with them: no Python, no
allocation, five meetings of the ranks per block. Every number is computed in the same order whatever the
other rows, the number of ranks and their pace (see `dot`), so a sequence continues with the same bits alone
or among others. Order: the kernel, then its parts in the order of use.
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

# Outputs of a product that a rank takes at a time. The same for any number of ranks: in a part of another
# length, other elements would be in a vector loop's scalar tail, which may round differently.
PART = 32
# What follows a product while its part is in the cache. No Python integers: Numba would compile `_linear`
# once for each.
EPILOGUES: Any = np.arange(4)
BIAS, STREAM, GELU, NOTHING = EPILOGUES


@jit
def decode_(
    cache: Array, logits: Array, x: Array, y: Array, wide: Array, mix: Array, scores: Array, counters: Array,
    params: Array, offsets: Array, sequences: Array, positions: Array, rank: int,
) -> None:  # fmt: skip
    """Take R embedded tokens through the model; write the logits (n, V) of the last n of them, n at most R.

    cache (L, 2, B, H, T, D) receives row r's key and value at positions[r] of sequences[r], and row r sees
    that sequence up to there: what is before is cached already, or among the rows; no two rows have one
    position. sequences, positions (R,) int32. x (R, C) is the residual stream, at first the embeddings, and
    is overwritten. params (size,) holds all parameters; offsets (L + 1, 12) int64 says where each begins: of
    a block norm1's gain and bias, weight and bias of qkv and of out, norm2's, those of up and of down; in the
    last row the final norm's and the head's weight. Scratch: y (ranks, R, C), wide (R, 4C), mix (R, C),
    scores (ranks, T). counters (5L + 1, 2) int64 are zero before, and every rank calls this with its number.
    """
    L, (R, C) = cache.shape[0], x.shape
    norm, phase = y[rank], 0  # all ranks share x, wide and mix; the normalised rows are each rank's own
    for block in range(L):
        at = offsets[block]
        # Five phases: every call but `_normalise` returns when all its parts are done, so the next may begin.
        _normalise(norm, x, params, at[0], at[1])
        _linear(wide, x, norm, params, at[2], at[3], 3 * C, BIAS, counters[phase])
        _attend(mix, scores[rank], wide, cache[block], sequences, positions, counters[phase + 1])
        _linear(norm, x, mix, params, at[4], at[5], C, STREAM, counters[phase + 2])
        _normalise(norm, x, params, at[6], at[7])
        _linear(wide, x, norm, params, at[8], at[9], 4 * C, GELU, counters[phase + 3])
        _linear(norm, x, wide, params, at[10], at[11], C, STREAM, counters[phase + 4])
        phase += 5
    at = offsets[L]
    _normalise(norm, x, params, at[0], at[1])
    # Of a prompt only the last row is to be continued, so most rows need no logits.
    wanted = norm[R - logits.shape[0] :]
    _linear(logits, x, wanted, params, at[2], at[3], logits.shape[1], NOTHING, counters[phase])


@jit
def _normalise(y: Array, x: Array, params: Array, gain: int, bias: int) -> None:
    """y (R, C) = layer norm of x (R, C), as `layernorm_forward` has it.

    Each rank does this for itself, which is faster than meeting. A rank that comes late may read an x that is
    already being changed; but then all parts of the next product are taken, and this rank's y is not used.
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
    y: Array, stream: Array, x: Array, params: Array, weight: int, bias: int, outputs: int, epilogue: int,
    counters: Array,
) -> None:  # fmt: skip
    """y (R, outputs) = x (R, .) · weightᵀ + bias, then GELU; or added to the stream; or without the bias.

    The ranks take parts of the outputs until there are none, and return when all parts are done.
    """
    dtype = x.dtype.type
    slope, cubic = dtype(SLOPE), dtype(CUBIC)
    parts = (outputs + PART - 1) // PART
    part = take(counters)
    while part < parts:
        first, stop = part * PART, min((part + 1) * PART, outputs)
        product(y, x, params, weight, first, stop)
        for r in range(x.shape[0]):
            if epilogue == GELU:
                # Slices that are indexed from 0: otherwise LLVM does not vectorise the loop.
                row, b = y[r, first:stop], params[bias + first : bias + stop]
                for o in range(row.size):
                    u = row[o] + b[o]
                    row[o] = u / (dtype(1) + exp(-slope * (u + cubic * u * u * u)))
            elif epilogue == STREAM:
                # The residual connection, in place: no other rank has these columns.
                for o in range(first, stop):
                    stream[r, o] += y[r, o] + params[bias + o]
            elif epilogue == BIAS:
                for o in range(first, stop):
                    y[r, o] += params[bias + o]
        done(counters)
        part = take(counters)
    await_all(counters, parts)


@jit
def _attend(
    mix: Array, scores: Array, qkv: Array, cache: Array, sequences: Array, positions: Array, counters: Array
) -> None:  # fmt: skip
    """mix (R, C) = what each row's query finds in its sequence, head by head; cache (2, B, H, T, D).

    Vaswani et al. 2017, "Attention Is All You Need", equation 1.
    """
    R, C = mix.shape
    H, D = cache.shape[2], cache.shape[4]
    dtype = mix.dtype.type
    factor = dtype(1 / math.sqrt(D))
    h = take(counters)  # a part is a head, of all rows
    while h < H:
        # First the keys and values of all rows: some rows may be of one sequence and see each other.
        for r in range(R):
            for d in range(D):
                cache[0, sequences[r], h, positions[r], d] = qkv[r, C + h * D + d]
                cache[1, sequences[r], h, positions[r], d] = qkv[r, 2 * C + h * D + d]
        for r in range(R):
            keys, values, seen = cache[0, sequences[r], h], cache[1, sequences[r], h], positions[r] + 1
            query, out = qkv[r, h * D : (h + 1) * D], mix[r, h * D : (h + 1) * D]
            # softmax(q · k / sqrt(D)) over the positions up to the row's own, in `scores`.
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
            # The values' mean; divided by the sum of weights at the end, once per channel.
            out[:] = dtype(0)
            for s in range(seen):
                for d in range(D):
                    out[d] += scores[s] * values[s, d]
            for d in range(D):
                out[d] /= total
        done(counters)
        h = take(counters)
    await_all(counters, H)
