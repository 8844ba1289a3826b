"""Causal multi-head self-attention: every position takes a weighted mean of the values up to its own.

Vaswani et al. 2017, arXiv:1706.03762. The layer itself is two linear maps: rows to queries, keys and values,
and means of values back to rows. What stands between them depends on where keys and values come from, and is
passed in as a Source: training attends within the documents of a batch (`Within`, in blocks: blockwise.py,
after Dao et al. 2022), generation to a cache.

Order: shapes, sources, forward, backward, the weights for inspection.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np

from tinyllm.arena import Array, tensor
from tinyllm.kernels import add_bias_, attention_delta, attention_forward, bias_backward
from tinyllm.layers import blockwise, dropout, linear


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

    blocks: blockwise.Scratch
    dqkv: Array  # (N, 3C)
    dmix: Array  # (N, C)


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
    N = B * T
    return Scratch(blockwise.scratch(B, T, C, H), tensor(N, 3 * C), tensor(N, C))


def heads(x: Array, k: int, B: int, H: int) -> Array:
    """Return x (N, k*C) seen as (k, B, H, T, D), without a copy."""
    return x.reshape(B, x.shape[0] // B, k, H, -1).transpose(2, 0, 3, 1, 4)


class Source(Protocol):
    """Where keys and values come from, and which of them each query sees."""

    def attend(self, a: Acts, s: Scratch, site: Site) -> None:
        """Write the means a.mix (N, C) of the values that the queries in a.qkv (N, 3C) see."""


class Site(NamedTuple):
    """One layer's attention in a forward or backward pass."""

    source: Source
    layer: int
    mask: dropout.Mask
    products: linear.Products = linear.BLAS  # of forward


class Within(NamedTuple):
    """The Source of training: a query sees the keys of its own document up to itself."""

    blocks: blockwise.BlockMask

    def attend(self, a: Acts, s: Scratch, site: Site) -> None:
        """Write a.mix (N, C), and into a.lse (B, H, T) what backward needs."""
        x = _heads(a.qkv, a.mix, a)
        blockwise.forward(x, a.lse, s.blocks, self.blocks, site.mask)


def forward(p: Params, a: Acts, s: Scratch, x: Array, y: Array, site: Site) -> Array:
    """Map x (N, C) to y (N, C), without its last bias, and return it."""
    linear.forward(a.qkv, x, p.qkv_weight, site.products)
    add_bias_(a.qkv, p.qkv_bias)
    site.source.attend(a, s, site)
    return linear.forward(y, a.mix, p.out_weight, site.products)


def backward(p: Params, g: Params, a: Acts, s: Scratch, flow: linear.Flow, site: Site) -> None:
    """Undo `forward`: g +=, flow.dx (N, C) =; flow.dy (N, C) is the gradient of y plus its bias."""
    x, dy, dx, deferred = flow
    assert isinstance(site.source, Within)  # no other source is trained through
    linear.backward(s.dmix, g.out_weight, dy, a.mix, p.out_weight, deferred)
    attention_delta(s.blocks.delta, s.dmix, a.mix)
    blockwise.backward(
        _heads(a.qkv, a.mix, a), _heads(s.dqkv, s.dmix, a), a.lse, s.blocks, site.source.blocks, site.mask
    )
    bias_backward(g.qkv_bias, s.dqkv)
    linear.backward(dx, g.qkv_weight, s.dqkv, x, p.qkv_weight, deferred)
    deferred.finish()  # before the next block overwrites s.dqkv, s.dmix and dy


def _heads(qkv: Array, mix: Array, a: Acts) -> blockwise.Heads:
    B, H, _ = a.lse.shape
    q, k, v = heads(qkv, 3, B, H)
    return blockwise.Heads(q, k, v, heads(mix, 1, B, H)[0])


def weights(a: Acts, starts: Array) -> Array:
    """Return the softmax weights (B, H, T, T), which training does not keep; starts int32 (B, T).

    Row t: the weights of query t over all keys, 0 where masked; without dropout.
    """
    B, H, _ = a.lse.shape
    q, k, _ = heads(a.qkv, 3, B, H)
    p: Array = q @ k.swapaxes(2, 3)
    none = dropout.NO_MASK
    attention_forward(
        p, np.empty_like(a.lse), starts, 0, 0, 1 / math.sqrt(q.shape[3]), none.key, none.first, none.rate
    )
    return p
