"""The GPT: embedding, L blocks, a final norm, and the embedding again as output head.

GPT-2's architecture exactly (Radford et al. 2019; pre-norm blocks, tied head), so that its weights
fit. Order: shapes, forward, backward; the two read side by side.

Letters: B sequences, T positions, N = B*T rows, C channels, H heads, F = 4C, V vocabulary, L blocks.
"""

from __future__ import annotations

from typing import NamedTuple

from tinyllm.arena import Array, tensor
from tinyllm.config import ModelConfig
from tinyllm.kernels import cross_entropy_backward, cross_entropy_forward
from tinyllm.layers import attention, dropout, embedding, layernorm, linear, mlp, residual


class BlockParams(NamedTuple):
    norm1: layernorm.Params
    attention: attention.Params
    norm2: layernorm.Params
    mlp: mlp.Params


class Params(NamedTuple):
    embedding: embedding.Params
    blocks: tuple[BlockParams, ...]
    norm: layernorm.Params


class BlockActs(NamedTuple):
    norm1: layernorm.Acts
    attention: attention.Acts
    middle: Array  # (N, C) the residual stream after attention
    norm2: layernorm.Acts
    mlp: mlp.Acts
    y: Array  # (N, C) the residual stream after the block


class Acts(NamedTuple):
    embedding: embedding.Acts
    blocks: tuple[BlockActs, ...]
    norm: layernorm.Acts
    logits: Array  # (N, V); probabilities after the loss, their gradient after backward


class Scratch(NamedTuple):
    attention: attention.Scratch
    mlp: mlp.Scratch
    dx: Array  # (N, C) gradient of the residual stream
    dy: Array  # (N, C) gradient of a sub-layer's input
    dh: Array  # (N, C) gradient of a sub-layer's output, where dropout changes it
    product: Array  # the largest weight's size: a weight gradient before it is added


class Inputs(NamedTuple):
    """A worker's share of a batch."""

    tokens: Array  # int32 (N,)
    positions: Array  # int32 (N,) place of each token in its own document
    targets: Array  # int32 (N,) the next token; -1 where there is no loss
    starts: Array  # int32 (B, T) index of the first token of each token's document


def params(config: ModelConfig, V: int) -> Params:
    """Return the Specs of all parameters; their paths are the names in checkpoints."""
    C, L = config.n_embd, config.n_layer
    block = BlockParams(
        layernorm.params(C), attention.params(C, L), layernorm.params(C), mlp.params(C, 4 * C, L)
    )
    return Params(embedding.params(V, config.block_size, C), (block,) * L, layernorm.params(C))


def acts(config: ModelConfig, V: int, B: int) -> Acts:
    """Return the Specs of everything that backward must remember for B sequences."""
    T, C, H = config.block_size, config.n_embd, config.n_head
    N, stream = B * T, tensor(B * T, C)
    block = BlockActs(
        layernorm.acts(N, C), attention.acts(B, T, C, H), stream,
        layernorm.acts(N, C), mlp.acts(N, C, 4 * C), stream,
    )  # fmt: skip
    logits = tensor(N, V)
    return Acts(embedding.acts(N, C), (block,) * config.n_layer, layernorm.acts(N, C), logits)


def scratch(config: ModelConfig, V: int, B: int) -> Scratch:
    """Return the Specs of the working memory that all blocks share."""
    T, C, H = config.block_size, config.n_embd, config.n_head
    stream = tensor(B * T, C)
    return Scratch(
        attention.scratch(B, T, C, H, config.dropout > 0), mlp.scratch(B * T, 4 * C),
        stream, stream, stream, tensor(C * max(V, 4 * C)),
    )  # fmt: skip


def forward(p: Params, a: Acts, s: Scratch, losses: Array, inputs: Inputs, drop: dropout.Address) -> None:
    """Write each row's loss (nats, 0 where there is no target) into `losses`, float64 (N,)."""
    x = embedding.forward(p.embedding, a.embedding, inputs.tokens, inputs.positions, drop)
    for i, (bp, ba) in enumerate(zip(p.blocks, a.blocks, strict=True)):
        y = layernorm.forward(bp.norm1, ba.norm1, x)
        h = attention.forward(bp.attention, ba.attention, s.attention, y, inputs.starts, drop, i)
        x = residual.forward(ba.middle, x, h, bp.attention.out_bias, drop, "attention output", i)
        y = layernorm.forward(bp.norm2, ba.norm2, x)
        h = mlp.forward(bp.mlp, ba.mlp, y)
        x = residual.forward(ba.y, x, h, bp.mlp.down_bias, drop, "mlp output", i)
    y = layernorm.forward(p.norm, a.norm, x)
    linear.forward(a.logits, y, p.embedding.token)
    cross_entropy_forward(losses, a.logits, inputs.targets)


def backward(
    p: Params, g: Params, a: Acts, s: Scratch, inputs: Inputs, drop: dropout.Address, scale: float
) -> None:
    """Add the gradient of scale * sum(losses) to g; call after `forward` with the same arguments."""
    cross_entropy_backward(a.logits, inputs.targets, scale)
    linear.backward(s.dy, g.embedding.token, a.logits, a.norm.y, p.embedding.token, s.product)
    dx = s.dx
    dx[...] = 0
    streams = [a.embedding.x, *(ba.y for ba in a.blocks)]
    layernorm.backward(p.norm, g.norm, a.norm, streams[-1], s.dy, dx)
    for i in reversed(range(len(p.blocks))):
        bp, bg, ba = p.blocks[i], g.blocks[i], a.blocks[i]
        dh = residual.backward(s.dh, bg.mlp.down_bias, dx, drop, "mlp output", i)
        mlp.backward(bp.mlp, bg.mlp, ba.mlp, s.mlp, ba.norm2.y, dh, s.dy, s.product)
        layernorm.backward(bp.norm2, bg.norm2, ba.norm2, ba.middle, s.dy, dx)
        dh = residual.backward(s.dh, bg.attention.out_bias, dx, drop, "attention output", i)
        attention.backward(
            bp.attention, bg.attention, ba.attention, s.attention, ba.norm1.y, dh, s.dy, s.product,
            inputs.starts, drop, i,
        )  # fmt: skip
        layernorm.backward(bp.norm1, bg.norm1, ba.norm1, streams[i], s.dy, dx)
    embedding.backward(g.embedding, dx, inputs.tokens, inputs.positions, drop)
