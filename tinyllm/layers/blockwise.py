"""Who sees whom, and the softmax of attention over it, one block of queries or of keys at a time.

Dao et al. 2022, arXiv:2205.14135: no (T, T) array is kept or even made, and blocks in which nothing is
visible, being in the future or in another document, are not computed. Queries and all results are read and
written in place, through strides that BLAS accepts. Keys and values, the right-hand sides of the products,
are copied for a few sequences at a time, transposed where the product wants them so; the copies cost a tenth
of what BLAS then saves.

Order: sizes, memory, the block mask, forward, backward, the products.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np

from tinyllm.arena import Array, tensor
from tinyllm.kernels import (
    add_heads_,
    attention_backward,
    attention_forward,
    copy_heads,
    transpose_heads,
)
from tinyllm.layers import dropout

BLOCK = 64  # queries of a block forward, keys of a block backward
SMALL = 1_000_000  # OpenBLAS packs nothing, and is twice as fast, where rows * columns * depth stay below
PAD = 16  # spare columns: rows whose lengths are powers of two would map to the same sets of the cache
SCORES = 1 << 17  # scores at a time, where there are several sequences: 512 KiB, half of a common L2 cache


class Scratch(NamedTuple):
    """Working memory, shared by all blocks of the model; G sequences are processed at a time."""

    scores: Array  # (G*H*T*BLOCK,) one block of scores, then of probabilities
    dscores: Array  # (G*H*T*BLOCK,) their gradients
    delta: Array  # (B, H, T) the sum of probability times its gradient
    plain: Array  # (G, H, T, D) values, or in backward keys
    transposed: Array  # (2, G, H, D, T + PAD) keys, and in backward values
    partial: Array  # (G, H, T, D) what a block adds to its rows of a result


def scratch(B: int, T: int, C: int, H: int) -> Scratch:
    """Return the Specs of working memory."""
    G, D = group_size(B, H, T), C // H
    scores, plain = tensor(G * H * T * min(BLOCK, T)), tensor(G, H, T, D)
    return Scratch(scores, scores, tensor(B, H, T), plain, tensor(2, G, H, D, T + PAD), plain)


def no_scratch() -> Scratch:
    """Return the Specs where no blocks are computed."""
    return Scratch(*[tensor(0) for _ in Scratch._fields])


def group_size(B: int, H: int, T: int) -> int:
    """Return how many of B sequences are processed at a time."""
    return max(1, min(B, SCORES // (H * T * min(BLOCK, T))))


class Group(NamedTuple):
    """Sequences that are processed together, and the blocks in which something is visible."""

    sequences: slice
    forward: tuple[tuple[slice, slice, tuple[slice, ...]], ...]  # queries, the keys they see, parts of these
    backward: tuple[tuple[slice, slice, bool], ...]  # keys, queries that see them, are these keys new


class BlockMask(NamedTuple):
    """Who sees whom: the same for all layers, forward and backward."""

    starts: Array  # int32 (B, T) index of the first token of each token's document
    groups: tuple[Group, ...]


def block_mask(starts: Array, H: int, D: int) -> BlockMask:
    """Return the blocks of sequences whose documents begin at starts (B, T), which never falls along T."""
    B, T = starts.shape
    G, groups = group_size(B, H, T), []
    borders = [(first, min(first + BLOCK, T)) for first in range(0, T, BLOCK)]
    for first in range(0, B, G):
        rows = starts[first : min(first + G, B)]
        forward, backward = [], []
        for begin, end in borders:
            # Forward: the first query of the block reaches furthest back, to the start of its document.
            seen = min(int(row[begin]) for row in rows)
            forward.append((slice(begin, end), slice(seen, end), _parts(0, end - seen, D)))
            # Backward: key end - 1 is seen by all queries whose documents began before `end`.
            last = max(int(row.searchsorted(end)) for row in rows)
            backward += [(slice(begin, end), part, part.start == begin) for part in _parts(begin, last, D)]
        groups.append(Group(slice(first, first + len(rows)), tuple(forward), tuple(backward)))
    return BlockMask(starts, tuple(groups))


def _parts(begin: int, end: int, D: int) -> tuple[slice, ...]:
    """Cut a range so that a product of a part with BLOCK rows, D deep, stays SMALL."""
    count = -(-(end - begin) // max(BLOCK, SMALL // (BLOCK * D) // BLOCK * BLOCK))
    borders = [begin + (end - begin) * i // count for i in range(count + 1)]
    return tuple(slice(a, b) for a, b in itertools.pairwise(borders))


class Heads(NamedTuple):
    """Rows (N, C) seen as heads (B, H, T, D), without a copy; or the gradients of all these."""

    q: Array
    k: Array
    v: Array
    mix: Array  # weighted means of the values


def forward(x: Heads, lse: Array, s: Scratch, blocks: BlockMask, mask: dropout.Mask) -> None:
    """Write x.mix from queries, keys and values; lse (B, H, T) keeps log(sum(e**score)) of each query."""
    _, H, T, D = x.q.shape
    scale = 1 / math.sqrt(D)
    for b, visible, _ in blocks.groups:
        # The right-hand sides of both products, side by side in memory: keys as (D, T), values as (T, D).
        G, first = b.stop - b.start, mask.first + b.start * H * T
        kt, values = s.transposed[0, :G], s.plain[:G]
        transpose_heads(kt, x.k[b])
        copy_heads(values, x.v[b])
        for rows, keys, parts in visible:
            # Scores of BLOCK queries against all keys they see: a row is whole, so its softmax is too.
            prob, seen, held = _block(s.scores, G, H, rows, keys), kt[..., keys], values[:, :, keys]
            for part in parts:
                np.matmul(x.q[b, :, rows], seen[..., part], out=prob[..., part])
            attention_forward(
                prob, lse[b], blocks.starts[b], rows.start, keys.start, scale, mask.key, first, mask.rate
            )
            for part in parts:
                _multiply(x.mix[b, :, rows], prob[..., part], held[:, :, part], s.partial, part.start > 0)


def backward(
    x: Heads, dx: Heads, lse: Array, s: Scratch, blocks: BlockMask, mask: dropout.Mask
) -> None:  # fmt: skip
    """Undo `forward`: write dx.q, dx.k and dx.v from dx.mix; needs lse and s.delta (B, H, T)."""
    _, H, T, D = x.q.shape
    scale = 1 / math.sqrt(D)
    for b, _, visible in blocks.groups:
        G, first = b.stop - b.start, mask.first + b.start * H * T
        (kt, vt), keys_plain = s.transposed[:, :G], s.plain[:G]
        transpose_heads(kt, x.k[b])
        transpose_heads(vt, x.v[b])
        copy_heads(keys_plain, x.k[b])
        for keys, rows, new in visible:
            # Scores and dLoss/dprobability of one block of keys, for the queries that see them.
            prob, dscore = _block(s.scores, G, H, rows, keys), _block(s.dscores, G, H, rows, keys)
            np.matmul(x.q[b, :, rows], kt[..., keys], out=prob)
            np.matmul(dx.mix[b, :, rows], vt[..., keys], out=dscore)
            # In place: scores become probabilities again, by way of lse, and their gradients dLoss/dscore.
            attention_backward(
                prob, dscore, lse[b], s.delta[b], blocks.starts[b], rows.start, keys.start, scale,
                mask.key, first, mask.rate,
            )  # fmt: skip
            # In the forward pass: mix = prob · v, and scores = q · kᵀ.
            _multiply(dx.v[b, :, keys], prob.swapaxes(2, 3), dx.mix[b, :, rows], s.partial, not new)
            _multiply(dx.k[b, :, keys], dscore.swapaxes(2, 3), x.q[b, :, rows], s.partial, not new)
            _multiply(dx.q[b, :, rows], dscore, keys_plain[:, :, keys], s.partial, keys.start > 0)
            if keys.start == 0 and new:
                # The other parts of the first block of keys overwrite their rows, later blocks add to theirs:
                # those that do not see the first keys must begin at 0.
                dx.q[b, :, rows.stop :] = 0


def _block(memory: Array, G: int, H: int, rows: slice, columns: slice) -> Array:
    """Return the front of `memory` as the block (G, H, rows, columns)."""
    shape = G, H, rows.stop - rows.start, columns.stop - columns.start
    return memory[: math.prod(shape)].reshape(shape)


def _multiply(y: Array, left: Array, right: Array, partial: Array, add: bool) -> None:
    """Write y = left · right, or add it to y; all (G, H, rows, columns)."""
    if add:
        part = partial[: len(y), :, : y.shape[2]]
        np.matmul(left, right, out=part)
        add_heads_(y, part)
    else:
        np.matmul(left, right, out=y)
