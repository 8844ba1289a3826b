"""One token more for each of a few sequences: the whole model in one kernel, which all ranks run together.

What it costs is reading the weights once, so there is nothing between their products but what must be:
no Python, no allocation, five meetings of the ranks in a block. Every number is computed in the same order
whatever the other rows, the number of ranks and their pace (see `dot`), so a text comes out the same alone
or among others. Order: the kernel, then its parts in the order of use.
"""

from __future__ import annotations

import math

import numpy as np

from .dot import OUTPUTS, ROWS, many, one, several
from .elementary import exp, maximum
from .gelu import CUBIC, SLOPE
from .jit import Array, jit
from .layernorm import EPSILON
from .shares import shares

PLAIN, BIAS, STREAM, GELU = np.arange(4)
PART = 32  # outputs of a product that a rank takes at a time; a multiple of every vector's length


@jit
def decode_(
    memory: Array, logits: Array, x: Array, y: Array, wide: Array, mix: Array, scores: Array, counters: Array,
    params: Array, places: Array, tokens: Array, sequences: Array, positions: Array, rank: int,
) -> None:  # fmt: skip
    """Put R tokens into the memory of keys and values; write the logits of the last of them, as many as fit.

    memory (L, 2, B, H, T, D) takes row r's key and value at positions[r] of sequences[r], and row r sees
    that sequence up to there: the rest of it must be in memory, or among the rows. tokens, sequences,
    positions (R,) int32, no place twice. params is the row of all parameters; places (L + 1, 12) int64 says
    where in it each begins: of a block norm1's gain and bias, the weight and bias of qkv, out, norm2 (gain),
    up and down; at last token and position embeddings and the final gain and bias. Scratch: x (R, C), y
    (ranks, R, C), wide (R, 4C), mix (R, C), scores (ranks, T); counters (5L + 2, 2) int64, zeroed before.
    logits (n, V), n at most R. Every rank calls this, with its number. Raises IndexError, in every rank and
    before anything is written, for a token, sequence or position that does not exist.
    """
    L, _, B, H, T, D = memory.shape
    (R, C), V = x.shape, logits.shape[1]
    norm, phase = y[rank], 0
    for block in range(L):
        at = places[block]
        _normalise(norm, x, params, at[0], at[1])
        _linear(wide, x, norm, params, at[2], at[3], 3 * C, BIAS, counters[phase])
        _attention(mix, scores[rank], wide, memory[block], sequences, positions, counters[phase + 1])
        _linear(norm, x, mix, params, at[4], at[5], C, STREAM, counters[phase + 2])
        _normalise(norm, x, params, at[6], at[7])
        _linear(wide, x, norm, params, at[8], at[9], 4 * C, GELU, counters[phase + 3])
        _linear(norm, x, wide, params, at[10], at[11], C, STREAM, counters[phase + 4])
        phase += 5
    wanted = R - logits.shape[0]
    _normalise(norm, x, params, places[L, 2], places[L, 3])
    _linear(logits, x, norm[wanted:], params, places[L, 0], places[L, 3], V, PLAIN, counters[phase])


@jit
def _normalise(y: Array, x: Array, params: Array, gain: int, bias: int) -> None:
    """y (R, C) = layer norm of x (R, C).

    Each rank does this for itself: it is quicker than to meet. A rank that comes late may read an x that is
    already being changed, but then every part of the phase has been taken, and nobody reads its y.
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
    y: Array, stream: Array, x: Array, params: Array, weight: int, bias: int, outputs: int, then: int, counters: Array
) -> None:  # fmt: skip
    """y (R, outputs) = x (R, C) · weightᵀ, and what `then` says."""
    R = x.shape[0]
    dtype = x.dtype.type
    slope, cubic = dtype(SLOPE), dtype(CUBIC)
    for part in shares(counters, (outputs + PART - 1) // PART):
        first, stop = part * PART, min((part + 1) * PART, outputs)
        o = first
        while o + OUTPUTS <= stop:
            r = 0
            while r + ROWS <= R:
                many(y, x, params, weight, o, r)
                r += ROWS
            while r < R:
                several(y, x, params, weight, o, r)
                r += 1
            o += OUTPUTS
        while o < stop:
            for r in range(R):
                one(y, x, params, weight, o, r)
            o += 1
        for r in range(R):
            row, b = y[r, first:stop], params[bias + first : bias + stop]
            if then == BIAS:
                for o in range(row.size):
                    row[o] += b[o]
            elif then == STREAM:
                to = stream[r, first:stop]
                for o in range(row.size):
                    to[o] += row[o] + b[o]
            elif then == GELU:
                for o in range(row.size):
                    u = row[o] + b[o]
                    row[o] = u / (dtype(1) + exp(-slope * (u + cubic * u * u * u)))


@jit
def _attention(
    mix: Array, scores: Array, qkv: Array, memory: Array, sequences: Array, positions: Array, counters: Array
) -> None:  # fmt: skip
    _, B, H, T, D = memory.shape
    R, C = mix.shape
    dtype = mix.dtype.type
    factor = dtype(1 / math.sqrt(D))
    for h in shares(counters, H):
        for r in range(R):
            key, value = memory[0, sequences[r], h, positions[r]], memory[1, sequences[r], h, positions[r]]
            for d in range(D):
                key[d] = qkv[r, C + h * D + d]
                value[d] = qkv[r, 2 * C + h * D + d]
        for r in range(R):
            keys, values = memory[0, sequences[r], h], memory[1, sequences[r], h]
            query, to = qkv[r, h * D : (h + 1) * D], mix[r, h * D : (h + 1) * D]
            p = scores[: positions[r] + 1]
            highest = dtype(-np.inf)
            for s in range(p.size):
                score = dtype(0)
                for d in range(D):
                    score += query[d] * keys[s, d]
                p[s] = score
                highest = maximum(highest, score)
            total = dtype(0)
            for s in range(p.size):
                p[s] = exp((p[s] - highest) * factor)
                total += p[s]
            for d in range(D):
                to[d] = dtype(0)
            for s in range(p.size):
                for d in range(D):
                    to[d] += p[s] * values[s, d]
            share = dtype(1) / total
            for d in range(D):
                to[d] *= share
