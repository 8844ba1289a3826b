"""A second network in one file: RMSNorm, sinusoidal positions, a squared-ReLU MLP, a head of its own.

It shares attention, linear maps and the head with model.py, and nothing else; plain NumPy otherwise. What it
must offer is said in tinyllm/network.py. Order: shapes, forward, loss, backward, what others ask of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinyllm.arena import Array, Layout, tensor
from tinyllm.config import ModelConfig
from tinyllm.kernels import ROOM
from tinyllm.layers import attention, blockwise, head, linear
from tinyllm.network import PLAIN, Memory, Pass, Purpose


class BlockParams(NamedTuple):
    gain1: Array
    attention: attention.Params
    gain2: Array
    up: Array
    down: Array


class Params(NamedTuple):
    token: Array
    blocks: tuple[BlockParams, ...]
    gain: Array
    head: Array


class BlockActs(NamedTuple):
    norm1: Array
    attention: attention.Acts
    x1: Array
    norm2: Array
    up: Array
    x2: Array


class Acts(NamedTuple):
    x: Array
    blocks: tuple[BlockActs, ...]
    y: Array


class Scratch(NamedTuple):
    attention: attention.Scratch
    head: head.Scratch
    h: Array
    dy: Array
    products: Array


def params(config: ModelConfig, V: int) -> Params:
    C, L = config.n_embd, config.n_layer
    block = BlockParams(
        tensor(C, fill=1.0), attention.params(C, L), tensor(C, fill=1.0),
        tensor(3 * C, C, std=0.02), tensor(C, 3 * C, std=0.02),
    )  # fmt: skip
    return Params(tensor(V, C, std=0.02), (block,) * L, tensor(C, fill=1.0), tensor(V, C, std=0.02))


def acts(config: ModelConfig, B: int, purpose: Purpose) -> Acts:
    T, C = config.block_size, config.n_embd
    rows = tensor(B * T, C)
    block = BlockActs(rows, attention.acts(B, T, C, config.n_head), rows, rows, tensor(B * T, 3 * C), rows)
    return Acts(rows, (block,) * config.n_layer, rows)


def share(a: Acts, config: ModelConfig, purpose: Purpose) -> Acts:
    return a


def scratch(config: ModelConfig, V: int, B: int, purpose: Purpose) -> Scratch:
    T, C = config.block_size, config.n_embd
    rows = tensor(B * T, C)
    products = tensor(ROOM if purpose.own else C * max(V, 3 * C))
    logits = head.scratch(B * T, V, C, purpose.all_rows)
    return Scratch(attention.scratch(B, T, C, config.n_head), logits, rows, rows, products)


def rms(x: Array) -> Array:
    return np.sqrt((x * x).mean(axis=1, keepdims=True) + x.dtype.type(1e-5))


def rms_backward(gain: Array, dgain: Array, x: Array, dy: Array) -> Array:
    r = rms(x)
    dgain += (dy * x / r).sum(axis=0)
    scaled = dy * gain
    return (scaled - x * (scaled * x).mean(axis=1, keepdims=True) / (r * r)) / r


def waves(positions: Array, C: int, dtype: Any) -> Array:
    rates = positions[:, None] / 100.0 ** (np.arange(C) / C)
    return (0.02 * np.where(np.arange(C) % 2, np.cos(rates), np.sin(rates))).astype(dtype)


def forward(p: Params, m: Memory, how: Pass) -> Array:
    how, a = _attending(p, m, how), m.acts
    embed(p, a.x, m.inputs.tokens, m.inputs.positions)
    x = a.x
    for i, (bp, ba) in enumerate(zip(p.blocks, a.blocks, strict=True)):
        ba.norm1[:] = bp.gain1 * x / rms(x)
        h = attention.forward(
            bp.attention, ba.attention, m.scratch.attention, ba.norm1, m.scratch.h, _site(how, i)
        )
        ba.x1[:] = x + h + bp.attention.out_bias
        ba.norm2[:] = bp.gain2 * ba.x1 / rms(ba.x1)
        linear.forward(ba.up, ba.norm2, bp.up, how.products)
        h = linear.forward(m.scratch.h, np.maximum(ba.up, 0) ** 2, bp.down, how.products)
        ba.x2[:] = ba.x1 + h
        x = ba.x2
    a.y[:] = p.gain * x / rms(x)
    return a.y


def loss(p: Params, m: Memory, how: Pass = PLAIN) -> None:
    head.forward(p.head, m.scratch.head, _rows(m), how.products)


def backward(p: Params, m: Memory, how: Pass, scale: float, deferred: linear.DeferredGradients) -> None:
    how, a, g, s = _attending(p, m, how), m.acts, m.grads, m.scratch
    head.backward(p.head, g.head, s.head, _rows(m), scale, deferred)
    dx = rms_backward(p.gain, g.gain, a.blocks[-1].x2, s.dy)
    for i in reversed(range(len(p.blocks))):
        bp, bg, ba = p.blocks[i], g.blocks[i], a.blocks[i]
        x = a.blocks[i - 1].x2 if i else a.x
        relu, dwide = np.maximum(ba.up, 0), np.empty_like(ba.up)
        linear.backward(dwide, bg.down, dx, relu**2, bp.down, deferred)
        dnorm = np.empty_like(dx)
        linear.backward(dnorm, bg.up, 2 * relu * dwide, ba.norm2, bp.up, deferred)
        deferred.finish()
        dx = dx + rms_backward(bp.gain2, bg.gain2, ba.x1, dnorm)
        bg.attention.out_bias[:] += dx.sum(axis=0)
        flow = linear.Flow(ba.norm1, dx, dnorm, deferred)
        attention.backward(bp.attention, bg.attention, ba.attention, s.attention, flow, _site(how, i))
        dx = dx + rms_backward(bp.gain1, bg.gain1, x, dnorm)
    np.add.at(g.token, m.inputs.tokens, dx)


def _attending(p: Params, m: Memory, how: Pass) -> Pass:
    if how.source is not None:
        return how
    H = m.acts.blocks[0].attention.lse.shape[1]
    blocks = blockwise.block_mask(m.inputs.starts, H, p.token.shape[1] // H)
    return how._replace(source=attention.Within(blocks))


def _site(how: Pass, i: int) -> attention.Site:
    return attention.Site(how.source, i, how.drop._replace(rate=0.0).mask("attention", i, 1), how.products)


def _rows(m: Memory) -> head.Rows:
    return head.Rows(m.acts.y, m.inputs.targets, m.losses, m.scratch.dy)


def vocabulary(p: Params) -> int:
    return len(p.token)


def accumulators(g: Params) -> tuple[Array, ...]:
    return (g.token,)


def logits(p: Params, y: Array, out: Array) -> Array:
    return linear.forward(out, y, p.head)


def attention_weights(m: Memory) -> Array:
    return np.stack([attention.weights(block.attention, m.inputs.starts) for block in m.acts.blocks])


def embed(p: Params, x: Array, tokens: Array, positions: Array) -> None:
    x[:] = p.token[tokens] + waves(positions, x.shape[1], x.dtype)


def kernel_offsets(config: ModelConfig, layout: Layout) -> None:
    return None
