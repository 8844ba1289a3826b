"""The GPT: embedding, L blocks, a final norm, and the embedding again as output head.

GPT-2's architecture exactly (Radford et al. 2019; pre-norm blocks, tied head), so that its weights
fit. Order: shapes, forward, loss, backward.

Between two sub-layers stand a residual connection and the norm that reads it, and these two are one pass:
so the stream goes embedding, norm, attention, residual + norm, MLP, residual + norm, attention, ...

Letters: B sequences, T positions, N = B*T rows, C channels, H heads, F = 4C, V vocabulary, L blocks.
"""

from __future__ import annotations

from typing import NamedTuple

from tinyllm.arena import Array, tensor
from tinyllm.config import ModelConfig
from tinyllm.layers import attention, dropout, embedding, head, layernorm, linear, mlp, residual_norm


class BlockParams(NamedTuple):
    """What one block learns."""

    norm1: layernorm.Params
    attention: attention.Params
    norm2: layernorm.Params
    mlp: mlp.Params


class Params(NamedTuple):
    """All that is learned; its gradients have the same shapes."""

    embedding: embedding.Params
    blocks: tuple[BlockParams, ...]
    norm: layernorm.Params


class BlockActs(NamedTuple):
    """What one block's backward must remember."""

    attention: attention.Acts
    middle: residual_norm.Acts  # the stream after attention, and norm2 of it
    mlp: mlp.Acts
    end: residual_norm.Acts  # the stream after the MLP, and the norm of whoever comes next


class Acts(NamedTuple):
    """All that backward must remember."""

    embedding: embedding.Acts
    norm1: layernorm.Acts  # of the first block, before which there is no residual
    blocks: tuple[BlockActs, ...]


class Scratch(NamedTuple):
    """Working memory that all blocks share."""

    attention: attention.Scratch
    mlp: mlp.Scratch
    head: head.Scratch
    h: Array  # (N, C) a sub-layer's output; in backward its gradient, where dropout changes it
    dx: Array  # (N, C) gradient of the residual stream
    dy: Array  # (N, C) gradient of a norm's output, which is a sub-layer's input
    product: Array  # a weight's gradient before it is added, where any is


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


def acts(config: ModelConfig, B: int, recompute: bool = False) -> Acts:
    """Return the Specs of everything that backward must remember for B sequences.

    With `recompute`, all blocks but the first remember the stream alone, and borrow the rest: see `share`.
    """
    T, C, H, L = config.block_size, config.n_embd, config.n_head, config.n_layer
    N, stream = B * T, residual_norm.acts(B * T, C)
    block = BlockActs(attention.acts(B, T, C, H), stream, mlp.acts(N, 4 * C), stream)
    rest = block
    if recompute:
        slim = stream._replace(norm=stream.norm._replace(y=tensor(0)))
        rest = BlockActs(attention.acts(0, 0, 0, 0), residual_norm.acts(0, 0), mlp.acts(0, 0), slim)
    return Acts(embedding.acts(N, C), layernorm.acts(N, C), (block, *(rest,) * (L - 1)))


def share(a: Acts) -> Acts:
    """Let all blocks use the first one's memory for what backward then computes again, block by block.

    Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174.
    """
    first = a.blocks[0]
    ends = [b.end._replace(norm=b.end.norm._replace(y=first.end.norm.y)) for b in a.blocks]
    return a._replace(blocks=tuple(first._replace(end=end) for end in ends))


def scratch(config: ModelConfig, V: int, B: int, accumulate: bool = True) -> Scratch:
    """Return the Specs of the working memory that all blocks share.

    Without `accumulate` there is none to add a second micro-batch's gradients with.
    """
    T, C, H = config.block_size, config.n_embd, config.n_head
    N, stream = B * T, tensor(B * T, C)
    in_blocks = head.block_rows(N, V) < N  # which are added up
    product = C * max(V, 4 * C) if accumulate else C * V if in_blocks else 0
    return Scratch(
        attention.scratch(B, T, C, H), mlp.scratch(N, 4 * C), head.scratch(N, V),
        stream, stream, stream, tensor(product),
    )  # fmt: skip


def forward(p: Params, a: Acts, s: Scratch, inputs: Inputs, drop: dropout.Address) -> Array:
    """Return the final norm's output (N, C), from which the head makes logits."""
    docs = _documents(a, inputs)
    mask = drop.mask("embedding", 0, inputs.starts.shape[1])
    x = embedding.forward(p.embedding, a.embedding, inputs.tokens, inputs.positions, mask)
    y = layernorm.forward(p.blocks[0].norm1, a.norm1, x)
    for i in range(len(p.blocks)):
        x, y = _block_forward(p, a, s, docs, drop, i, x, y)
    return y


def loss(p: Params, a: Acts, s: Scratch, losses: Array, inputs: Inputs) -> None:
    """Write each row's loss (nats, 0 where there is no target) into losses, float64 (N,); after `forward`."""
    head.forward(p.embedding.token, s.head, losses, a.blocks[-1].end.norm.y, inputs.targets)


def backward(
    p: Params, g: Params, a: Acts, s: Scratch, losses: Array, inputs: Inputs, drop: dropout.Address,
    scale: float, first: bool, later: linear.Later | None = None,
) -> None:  # fmt: skip
    """Write `losses` (N,) as `loss` does, and add the gradient of scale * sum(losses) to g; after `forward`.

    In the first micro-batch of a step the gradients of the weights are overwritten, whatever they held.
    `later` lets other workers help with them.
    """
    if later is None:
        later = linear.Later([s.product])
    later = later._replace(add=not first)
    docs = _documents(a, inputs)
    y = a.blocks[-1].end.norm.y
    head.backward(
        p.embedding.token, g.embedding.token, s.head, losses, y, s.dy, inputs.targets, scale,
        s.product, not first,
    )  # fmt: skip
    s.dx[...] = 0
    for i in reversed(range(len(p.blocks))):
        if _shares(a):
            _remember(p, a, s, docs, drop, i)
        _block_backward(p, g, a, s, docs, drop, later, i)
    layernorm.backward(p.blocks[0].norm1, g.blocks[0].norm1, a.norm1, a.embedding.x, s.dy, s.dx)
    mask = drop.mask("embedding", 0, inputs.starts.shape[1])
    embedding.backward(g.embedding, s.dx, inputs.tokens, inputs.positions, mask)


def _block_forward(
    p: Params, a: Acts, s: Scratch, docs: attention.Documents, drop: dropout.Address, i: int, x: Array,
    y: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """Take the stream x and its norm y through block i; return them as the next block needs them."""
    bp, ba = p.blocks[i], a.blocks[i]
    y = _first_half(p, a, s, docs, drop, i, x, y)
    h = mlp.forward(bp.mlp, ba.mlp, s.mlp, y, s.h)
    mask = drop.mask("mlp output", i, docs.starts.shape[1])
    y = residual_norm.forward(next_norm(p, i), ba.end, ba.middle.x, h, bp.mlp.down_bias, mask)
    return ba.end.x, y


def _first_half(
    p: Params, a: Acts, s: Scratch, docs: attention.Documents, drop: dropout.Address, i: int, x: Array,
    y: Array,
) -> Array:  # fmt: skip
    """Take the stream x and its norm y through block i's attention; return the next norm's output."""
    bp, ba, (_, H, T) = p.blocks[i], a.blocks[i], a.blocks[i].attention.lse.shape
    mask = drop.mask("attention", i, H * T)
    h = attention.forward(bp.attention, ba.attention, s.attention, y, s.h, docs, mask)
    mask = drop.mask("attention output", i, T)
    return residual_norm.forward(bp.norm2, ba.middle, x, h, bp.attention.out_bias, mask)


def _block_backward(
    p: Params, g: Params, a: Acts, s: Scratch, docs: attention.Documents, drop: dropout.Address,
    later: linear.Later, i: int,
) -> None:  # fmt: skip
    """Undo `_block_forward`: s.dy and s.dx go from the gradients of its results to those of y and x."""
    bp, bg, ba, (_, H, T) = p.blocks[i], g.blocks[i], a.blocks[i], a.blocks[i].attention.lse.shape
    mask = drop.mask("mlp output", i, T)
    dh = residual_norm.backward(
        next_norm(p, i), next_norm(g, i), bg.mlp.down_bias, ba.end, s.dy, s.dx, s.h, mask
    )
    mlp.backward(bp.mlp, bg.mlp, ba.mlp, s.mlp, ba.middle.norm.y, dh, s.dy, later)
    mask = drop.mask("attention output", i, T)
    dh = residual_norm.backward(bp.norm2, bg.norm2, bg.attention.out_bias, ba.middle, s.dy, s.dx, s.h, mask)
    attention.backward(
        bp.attention, bg.attention, ba.attention, s.attention, _before(a, i)[1].y, dh, s.dy, later, docs,
        drop.mask("attention", i, H * T),
    )  # fmt: skip


def _remember(
    p: Params, a: Acts, s: Scratch, docs: attention.Documents, drop: dropout.Address, i: int
) -> None:
    """Compute again what block i's backward needs and later blocks have overwritten, from the stream."""
    x, norm = _before(a, i)
    y = layernorm.forward(p.blocks[i].norm1, norm, x)
    y = _first_half(p, a, s, docs, drop, i, x, y)
    mlp.remember(p.blocks[i].mlp, a.blocks[i].mlp, y)


def _before(a: Acts, i: int) -> tuple[Array, layernorm.Acts]:
    """Return the stream as it enters block i, and the norm of it."""
    return (a.blocks[i - 1].end.x, a.blocks[i - 1].end.norm) if i else (a.embedding.x, a.norm1)


def next_norm(p: Params, i: int) -> layernorm.Params:
    """Return the norm that reads the stream after block i: the next block's first, or the final one."""
    return p.blocks[i + 1].norm1 if i + 1 < len(p.blocks) else p.norm


def _documents(a: Acts, inputs: Inputs) -> attention.Documents:
    H = a.blocks[0].attention.lse.shape[1]
    return attention.documents(inputs.starts, H, a.embedding.x.shape[1] // H)


def _shares(a: Acts) -> bool:
    return len(a.blocks) > 1 and a.blocks[0].mlp.up is a.blocks[1].mlp.up
