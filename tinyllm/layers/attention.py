"""Causal multi-head self-attention: every position takes a weighted mean of the values before it.

Vaswani et al. 2017, arXiv:1706.03762, computed in blocks as in Dao et al. 2022, arXiv:2205.14135: no
(T, T) array is kept or even made, and blocks in which nothing is visible, being in the future or in
another document, are not computed. (N, 3C) is seen as heads (B, H, T, D) through strides, which BLAS
accepts: queries and all results are read and written in place. Keys and values, the right-hand sides, are
copied for a few sequences at a time, transposed where the product wants them so; the copies cost a tenth
of what BLAS then saves.

Order: shapes, who sees whom, forward, backward.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np

from tinyllm.arena import Array, tensor
from tinyllm.kernels import (
    add_bias_,
    add_heads_,
    attention_backward,
    attention_delta,
    attention_forward,
    bias_backward,
    copy_heads,
    transpose_heads,
)
from tinyllm.layers import dropout, linear

BLOCK = 64  # queries of a block forward, keys of a block backward
SMALL = 1_000_000  # OpenBLAS packs nothing, and is twice as fast, where rows * columns * depth stay below
PAD = 16  # columns to spare: rows whose lengths are powers of two would fight for a few lines of the cache
SCORES = 1 << 17  # scores at a time, where there are several sequences: 512 KiB, half of a common L2 cache


class Params(NamedTuple):
    """What is learned."""

    qkv_weight: Array  # (3C, C) rows: all queries, all keys, all values
    qkv_bias: Array  # (3C,)
    out_weight: Array  # (C, C)
    out_bias: Array  # (C,) added together with the residual


class Acts(NamedTuple):
    """What backward must remember."""

    qkv: Array  # (N, 3C)
    lse: Array  # (B, H, T) log of the sum of e**score: from it backward makes probabilities again
    mix: Array  # (N, C) weighted means of the values, heads side by side


class Scratch(NamedTuple):
    """Working memory, shared by all blocks."""

    scores: Array  # (some,) one block of scores, then of probabilities
    dscores: Array  # (some,)
    dqkv: Array  # (N, 3C)
    dmix: Array  # (N, C)
    delta: Array  # (B, H, T) the sum of probability times its gradient
    straight: Array  # (G, H, T, D) values, or in backward keys
    turned: Array  # (2, G, H, D, T + PAD) keys, and in backward values
    share: Array  # (G, H, T, D) what a block adds to its rows of a result


def params(C: int, L: int) -> Params:
    """Return the Specs; the output projection is scaled by 1/sqrt(2L) as in GPT-2."""
    return Params(
        tensor(3 * C, C, std=0.02), tensor(3 * C), tensor(C, C, std=0.02 / math.sqrt(2 * L)), tensor(C)
    )


def acts(B: int, T: int, C: int, H: int) -> Acts:
    """Return the Specs of what backward must remember."""
    N = B * T
    return Acts(tensor(N, 3 * C), tensor(B, H, T), tensor(N, C))


def scratch(B: int, T: int, C: int, H: int) -> Scratch:
    """Return the Specs of working memory, shared by all blocks."""
    N, G = B * T, group(B, H, T)
    D, scores = C // H, tensor(G * H * T * min(BLOCK, T))
    straight = tensor(G, H, T, D)
    return Scratch(
        scores, scores, tensor(N, 3 * C), tensor(N, C), tensor(B, H, T),
        straight, tensor(2, G, H, D, T + PAD), straight,
    )  # fmt: skip


def heads(x: Array, k: int, B: int, H: int) -> Array:
    """Return x (N, k*C) seen as (k, B, H, T, D), without a copy."""
    return x.reshape(B, x.shape[0] // B, k, H, -1).transpose(2, 0, 3, 1, 4)


def group(B: int, H: int, T: int) -> int:
    """Return how many of B sequences are attended in at a time."""
    return max(1, min(B, SCORES // (H * T * min(BLOCK, T))))


class Group(NamedTuple):
    """Sequences that are attended in together, and the blocks in which something is visible."""

    sequences: slice
    forward: tuple[
        tuple[slice, slice, tuple[slice, ...]], ...
    ]  # (queries, all keys they see, parts of these)
    backward: tuple[tuple[slice, slice, bool], ...]  # (keys, queries, whether these keys are new)


class Documents(NamedTuple):
    """Who sees whom: the same for all layers, forward and backward."""

    starts: Array  # int32 (B, T) index of the first token of each token's document
    groups: tuple[Group, ...]


def documents(starts: Array, H: int, D: int) -> Documents:
    """Return the blocks of sequences whose documents begin at starts (B, T), which never falls along T."""
    B, T = starts.shape
    G, groups = group(B, H, T), []
    borders = [(first, min(first + BLOCK, T)) for first in range(0, T, BLOCK)]
    for first in range(0, B, G):
        rows = starts[first : min(first + G, B)]
        forward, backward = [], []
        for begin, end in borders:
            seen = min(int(row[begin]) for row in rows)
            forward.append((slice(begin, end), slice(seen, end), _parts(0, end - seen, D)))
            # The queries that see key end - 1 go on as long as their document began before `end`.
            last = max(int(row.searchsorted(end)) for row in rows)
            backward += [(slice(begin, end), part, part.start == begin) for part in _parts(begin, last, D)]
        groups.append(Group(slice(first, first + len(rows)), tuple(forward), tuple(backward)))
    return Documents(starts, tuple(groups))


def _parts(begin: int, end: int, D: int) -> tuple[slice, ...]:
    """Cut a range so that a product of a part with BLOCK rows, D deep, stays SMALL."""
    count = -(-(end - begin) // max(BLOCK, SMALL // (BLOCK * D) // BLOCK * BLOCK))
    borders = [begin + (end - begin) * i // count for i in range(count + 1)]
    return tuple(slice(a, b) for a, b in itertools.pairwise(borders))


def forward(p: Params, a: Acts, s: Scratch, x: Array, y: Array, docs: Documents, mask: dropout.Mask) -> Array:
    """Attend within each document: x (N, C) to y (N, C), without its last bias; return y."""
    B, H, T = a.lse.shape
    scale = 1 / math.sqrt(x.shape[1] // H)
    linear.forward(a.qkv, x, p.qkv_weight)
    add_bias_(a.qkv, p.qkv_bias)
    q, k, v = heads(a.qkv, 3, B, H)
    mix = heads(a.mix, 1, B, H)[0]
    for b, blocks, _ in docs.groups:
        G, first = b.stop - b.start, mask.first + b.start * H * T
        kt, values = s.turned[0, :G], s.straight[:G]
        transpose_heads(kt, k[b])
        copy_heads(values, v[b])
        for rows, keys, parts in blocks:
            prob, seen, held = _block(s.scores, G, H, rows, keys), kt[..., keys], values[:, :, keys]
            for part in parts:
                np.matmul(q[b, :, rows], seen[..., part], out=prob[..., part])
            attention_forward(
                prob, a.lse[b], docs.starts[b], rows.start, keys.start, scale, mask.key, first, mask.rate
            )
            for part in parts:
                _multiply(mix[b, :, rows], prob[..., part], held[:, :, part], s.share, part.start > 0)
    return linear.forward(y, a.mix, p.out_weight)


def backward(
    p: Params, g: Params, a: Acts, s: Scratch, x: Array, dy: Array, dx: Array, later: linear.Later,
    docs: Documents, mask: dropout.Mask,
) -> None:  # fmt: skip
    """Undo `forward`: g +=, dx (N, C) =; dy (N, C) is the gradient of y plus its bias."""
    B, H, T = a.lse.shape
    scale = 1 / math.sqrt(x.shape[1] // H)
    linear.backward(s.dmix, g.out_weight, dy, a.mix, p.out_weight, later)
    attention_delta(s.delta, s.dmix, a.mix)
    (q, k, v), (dq, dk, dv) = heads(a.qkv, 3, B, H), heads(s.dqkv, 3, B, H)
    dmix = heads(s.dmix, 1, B, H)[0]
    for b, _, blocks in docs.groups:
        G, first = b.stop - b.start, mask.first + b.start * H * T
        (kt, vt), ks = s.turned[:, :G], s.straight[:G]
        transpose_heads(kt, k[b])
        transpose_heads(vt, v[b])
        copy_heads(ks, k[b])
        for keys, rows, new in blocks:
            prob, dscore = _block(s.scores, G, H, rows, keys), _block(s.dscores, G, H, rows, keys)
            np.matmul(q[b, :, rows], kt[..., keys], out=prob)
            np.matmul(dmix[b, :, rows], vt[..., keys], out=dscore)
            attention_backward(
                prob, dscore, a.lse[b], s.delta[b], docs.starts[b], rows.start, keys.start, scale,
                mask.key, first, mask.rate,
            )  # fmt: skip
            # In the forward pass: mix = prob · v, and scores = q · kᵀ.
            _multiply(dv[b, :, keys], prob.swapaxes(2, 3), dmix[b, :, rows], s.share, not new)
            _multiply(dk[b, :, keys], dscore.swapaxes(2, 3), q[b, :, rows], s.share, not new)
            _multiply(dq[b, :, rows], dscore, ks[:, :, keys], s.share, keys.start > 0)
            if keys.start == 0:
                dq[b, :, rows.stop :] = 0  # what does not see the first keys begins with what it sees later
    bias_backward(g.qkv_bias, s.dqkv)
    linear.backward(dx, g.qkv_weight, s.dqkv, x, p.qkv_weight, later)
    later.finish()


def _block(memory: Array, G: int, H: int, rows: slice, columns: slice) -> Array:
    """Return the front of `memory` as the block (G, H, rows, columns)."""
    shape = G, H, rows.stop - rows.start, columns.stop - columns.start
    return memory[: math.prod(shape)].reshape(shape)


def _multiply(y: Array, left: Array, right: Array, share: Array, add: bool) -> None:
    """Write y = left · right, or add it to y; all (G, H, rows, columns)."""
    if add:
        part = share[: len(y), :, : y.shape[2]]
        np.matmul(left, right, out=part)
        add_heads_(y, part)
    else:
        np.matmul(left, right, out=y)
