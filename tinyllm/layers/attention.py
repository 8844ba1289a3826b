"""Causal multi-head self-attention: every position takes a weighted mean of the values before it.

Vaswani et al. 2017, arXiv:1706.03762. Heads are read and written in place: (N, 3C) is seen as
(B, H, T, D) through strides, which BLAS accepts, so nothing is transposed or copied.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tinyllm.arena import Array, tensor
from tinyllm.kernels import add_bias_, bias_backward, causal_softmax_backward, causal_softmax_forward
from tinyllm.layers import dropout, linear


class Params(NamedTuple):
    qkv_weight: Array  # (3C, C) rows: all queries, all keys, all values
    qkv_bias: Array  # (3C,)
    out_weight: Array  # (C, C)
    out_bias: Array  # (C,) added by the block, together with the residual


class Acts(NamedTuple):
    qkv: Array  # (N, 3C)
    prob: Array  # (B, H, T, T) attention probabilities, before dropout
    mix: Array  # (N, C) weighted means of the values, heads side by side
    y: Array  # (N, C) the output, without its bias


class Scratch(NamedTuple):
    dropped: Array  # (B, H, T, T) probabilities after dropout; shape (0,) when there is none
    dprob: Array  # (B, H, T, T)
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
    return Acts(tensor(N, 3 * C), tensor(B, H, T, T), tensor(N, C), tensor(N, C))


def scratch(B: int, T: int, C: int, H: int, drop: bool) -> Scratch:
    """Return the Specs of working memory, shared by all blocks."""
    N = B * T
    dropped = tensor(B, H, T, T) if drop else tensor(0)
    return Scratch(dropped, tensor(B, H, T, T), tensor(N, 3 * C), tensor(N, C))


def heads(x: Array, k: int, B: int, H: int) -> Array:
    """Return x (N, k*C) seen as (k, B, H, T, D), without a copy."""
    return x.reshape(B, x.shape[0] // B, k, H, -1).transpose(2, 0, 3, 1, 4)


def forward(
    p: Params, a: Acts, s: Scratch, x: Array, starts: Array, drop: dropout.Address, layer: int
) -> Array:
    """Attend within each document; x (N, C), starts int32 (B, T); return a.y (N, C) without its bias."""
    B, H = a.prob.shape[:2]
    D = x.shape[1] // H
    linear.forward(a.qkv, x, p.qkv_weight)
    add_bias_(a.qkv, p.qkv_bias)
    q, k, v = heads(a.qkv, 3, B, H)
    np.matmul(q, k.swapaxes(2, 3), out=a.prob)
    causal_softmax_forward(a.prob, starts, 1 / math.sqrt(D))
    prob = a.prob
    if drop.rate:
        prob = s.dropped
        dropout.forward(prob, a.prob, drop, "attention", layer)
    np.matmul(prob, v, out=heads(a.mix, 1, B, H)[0])
    return linear.forward(a.y, a.mix, p.out_weight)


def backward(
    p: Params, g: Params, a: Acts, s: Scratch, x: Array, dy: Array, dx: Array, product: Array,
    starts: Array, drop: dropout.Address, layer: int,
) -> None:  # fmt: skip
    """Undo `forward`: g +=, dx (N, C) =; dy (N, C) is the gradient of a.y plus its bias."""
    B, H = a.prob.shape[:2]
    D = x.shape[1] // H
    q, k, v = heads(a.qkv, 3, B, H)
    dq, dk, dv = heads(s.dqkv, 3, B, H)
    linear.backward(s.dmix, g.out_weight, dy, a.mix, p.out_weight, product)
    dmix = heads(s.dmix, 1, B, H)[0]
    prob = a.prob
    if drop.rate:
        prob = s.dropped
        dropout.forward(prob, a.prob, drop, "attention", layer)
    # In the forward pass: mix = prob · v.
    np.matmul(prob.swapaxes(2, 3), dmix, out=dv)
    np.matmul(dmix, v.swapaxes(2, 3), out=s.dprob)
    if drop.rate:
        dropout.backward(s.dprob, s.dprob, drop, "attention", layer)
    causal_softmax_backward(s.dprob, a.prob, starts, 1 / math.sqrt(D))
    # In the forward pass: scores = q · kᵀ.
    np.matmul(s.dprob, k, out=dq)
    np.matmul(s.dprob.swapaxes(2, 3), q, out=dk)
    bias_backward(g.qkv_bias, s.dqkv)
    linear.backward(dx, g.qkv_weight, s.dqkv, x, p.qkv_weight, product)
