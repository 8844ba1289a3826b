"""The GPT: embedding, L blocks, a final norm, and the embedding again as output head.

GPT-2's architecture exactly (Radford et al. 2019; pre-norm blocks, tied head), so that its weights
fit. What a network must offer is said in network.py. Order: shapes, forward, loss, backward, one block
in both directions, what others ask of it.

Between two sub-layers stand a residual connection and the norm that reads it, and these two are one pass:
so the stream goes embedding, norm, attention, residual + norm, MLP, residual + norm, attention, ...

Letters: B sequences, T positions, N = B*T rows, C channels, H heads, F = 4C, V vocabulary, L blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tinyllm.arena import Array, Layout, tensor
from tinyllm.config import ModelConfig
from tinyllm.kernels import ROOM, embedding_forward
from tinyllm.layers import attention, blockwise, embedding, head, layernorm, linear, mlp, residual_norm
from tinyllm.network import PLAIN, Memory, Pass, Purpose


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
    end: residual_norm.Acts  # the stream after the MLP, and the norm that reads it next


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
    stream: residual_norm.Scratch
    products: Array  # memory for matrix products, see linear.Products


def params(config: ModelConfig, V: int) -> Params:
    """Return the Specs of all parameters; their paths are the names in checkpoints."""
    C, L = config.n_embd, config.n_layer
    block = BlockParams(
        layernorm.params(C), attention.params(C, L), layernorm.params(C), mlp.params(C, 4 * C, L)
    )
    return Params(embedding.params(V, config.block_size, C), (block,) * L, layernorm.params(C))


def acts(config: ModelConfig, B: int, purpose: Purpose) -> Acts:
    """Return the Specs of everything that backward must remember for B sequences.

    With `purpose.recompute`, every block but the first keeps only its residual stream and that norm's mean
    and rstd, and borrows the rest; without backward, one block's memory serves all: see `share`.
    """
    T, C, H, L = config.block_size, config.n_embd, config.n_head, config.n_layer
    N, stream = B * T, residual_norm.acts(B * T, C)
    block = BlockActs(attention.acts(B, T, C, H), stream, mlp.acts(N, 4 * C), stream)
    others = (block,) * (L - 1)
    if purpose.recompute:
        slim = stream._replace(norm=stream.norm._replace(y=tensor(0)))
        none = BlockActs(attention.acts(0, 0, 0, 0), residual_norm.acts(0, 0), mlp.acts(0, 0), slim)
        others = (none,) * (L - 1)
    elif not purpose.backward:
        others = ()
    return Acts(embedding.acts(N, C), layernorm.acts(N, C), (block, *others))


def share(a: Acts, config: ModelConfig, purpose: Purpose) -> Acts:
    """Let all blocks use the first one's memory, for what backward computes again or nothing remembers.

    Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174.
    """
    first = a.blocks[0]
    if purpose.recompute:
        ends = [b.end._replace(norm=b.end.norm._replace(y=first.end.norm.y)) for b in a.blocks]
        return a._replace(blocks=tuple(first._replace(end=end) for end in ends))
    return a if purpose.backward else a._replace(blocks=(first,) * config.n_layer)


def scratch(config: ModelConfig, V: int, B: int, purpose: Purpose) -> Scratch:
    """Return the Specs of the working memory that all blocks share."""
    T, C, H = config.block_size, config.n_embd, config.n_head
    N, rows, none = B * T, tensor(B * T, C), tensor(0)
    if not purpose.backward:
        unused = attention.Scratch(blockwise.no_scratch(), none, none)
        stream = residual_norm.Scratch(rows, none, none)
        return Scratch(unused, mlp.scratch(N, 4 * C), head.Scratch(none, none), stream, none)
    # BLAS cannot add to a gradient: the token table's is one over blocks of rows, all are over micro-batches.
    products = C * V if head.block_rows(N, V) < N else 0
    if purpose.own:
        products = ROOM
    elif purpose.accumulate:
        products = C * max(V, 4 * C)
    return Scratch(
        attention.scratch(B, T, C, H), mlp.scratch(N, 4 * C), head.scratch(N, V, C, purpose.all_rows),
        residual_norm.Scratch(rows, rows, rows), tensor(products),
    )  # fmt: skip


def forward(p: Params, m: Memory, how: Pass) -> Array:
    """Return the final norm's output (N, C), from which the head makes logits."""
    how, a, inputs = _attending(how, m), m.acts, m.inputs
    mask = how.drop.mask("embedding", 0, inputs.starts.shape[1])
    x = embedding.forward(p.embedding, a.embedding, inputs.tokens, inputs.positions, mask)
    y = layernorm.forward(p.blocks[0].norm1, a.norm1, x)
    for i in range(len(p.blocks)):
        x, y = _block_forward(p, m, how, i, x, y)
    return y


def loss(p: Params, m: Memory, how: Pass = PLAIN) -> None:
    """Write each row's loss (nats, 0 where there is no target) into m.losses; after `forward`."""
    head.forward(p.embedding.token, m.scratch.head, _rows(m), how.products)


def backward(p: Params, m: Memory, how: Pass, scale: float, deferred: linear.DeferredGradients) -> None:
    """Write m.losses as `loss` does, and add the gradient of scale * sum(m.losses) to m.grads.

    After `forward`. Unless `deferred.add`, as in the first micro-batch of a step, the gradients of the
    weights are overwritten, whatever they held.
    """
    how, a, g, stream = _attending(how, m), m.acts, m.grads, m.scratch.stream
    head.backward(p.embedding.token, g.embedding.token, m.scratch.head, _rows(m), scale, deferred)
    stream.dx[...] = 0
    for i in reversed(range(len(p.blocks))):
        if _is_shared(a):
            _recompute(p, m, how, i)
        _block_backward(p, m, how, deferred, i)
    layernorm.backward(p.blocks[0].norm1, g.blocks[0].norm1, a.norm1, a.embedding.x, stream.dy, stream.dx)
    mask = how.drop.mask("embedding", 0, m.inputs.starts.shape[1])
    embedding.backward(g.embedding, stream.dx, m.inputs.tokens, m.inputs.positions, mask)


# One block


def _block_forward(p: Params, m: Memory, how: Pass, i: int, x: Array, y: Array) -> tuple[Array, Array]:
    """Take the stream x and its norm y through block i; return them as the next block needs them."""
    bp, ba = p.blocks[i], m.acts.blocks[i]
    y = _first_half(p, m, how, i, x, y)
    h = mlp.forward(bp.mlp, ba.mlp, m.scratch.mlp, y, m.scratch.stream.h, how.products)
    mask = how.drop.mask("mlp output", i, m.inputs.starts.shape[1])
    y = residual_norm.forward(_next_norm(p, i), ba.end, ba.middle.x, h, bp.mlp.down_bias, mask)
    return ba.end.x, y


def _first_half(p: Params, m: Memory, how: Pass, i: int, x: Array, y: Array) -> Array:
    """Take the stream x and its norm y through block i's attention; return the next norm's output."""
    bp, ba, s = p.blocks[i], m.acts.blocks[i], m.scratch
    h = attention.forward(bp.attention, ba.attention, s.attention, y, s.stream.h, _site(m, how, i))
    mask = how.drop.mask("attention output", i, m.inputs.starts.shape[1])
    return residual_norm.forward(bp.norm2, ba.middle, x, h, bp.attention.out_bias, mask)


def _block_backward(p: Params, m: Memory, how: Pass, deferred: linear.DeferredGradients, i: int) -> None:
    """Undo `_block_forward`: the stream's dy and dx go from gradients of its results to those of y and x."""
    bp, bg, ba, s = p.blocks[i], m.grads.blocks[i], m.acts.blocks[i], m.scratch
    T = m.inputs.starts.shape[1]
    mask = how.drop.mask("mlp output", i, T)
    dh = residual_norm.backward(
        _next_norm(p, i), _next_norm(m.grads, i), bg.mlp.down_bias, ba.end, s.stream, mask
    )
    flow = linear.Flow(ba.middle.norm.y, dh, s.stream.dy, deferred)
    mlp.backward(bp.mlp, bg.mlp, ba.mlp, s.mlp, flow)
    mask = how.drop.mask("attention output", i, T)
    dh = residual_norm.backward(bp.norm2, bg.norm2, bg.attention.out_bias, ba.middle, s.stream, mask)
    flow = linear.Flow(_before(m.acts, i)[1].y, dh, s.stream.dy, deferred)
    attention.backward(bp.attention, bg.attention, ba.attention, s.attention, flow, _site(m, how, i))


def _recompute(p: Params, m: Memory, how: Pass, i: int) -> None:
    """Compute again what block i's backward needs and later blocks have overwritten, from the stream."""
    x, norm = _before(m.acts, i)
    y = layernorm.forward(p.blocks[i].norm1, norm, x)
    y = _first_half(p, m, how, i, x, y)
    mlp.remember(p.blocks[i].mlp, m.acts.blocks[i].mlp, y, how.products)


def _site(m: Memory, how: Pass, i: int) -> attention.Site:
    _, H, T = m.acts.blocks[i].attention.lse.shape
    assert how.source is not None
    return attention.Site(how.source, i, how.drop.mask("attention", i, H * T), how.products)


def _attending(how: Pass, m: Memory) -> Pass:
    """Return the pass with a source of keys and values: if none is given, the documents of the inputs."""
    if how.source is not None:
        return how
    H = m.acts.blocks[0].attention.lse.shape[1]
    blocks = blockwise.block_mask(m.inputs.starts, H, m.acts.embedding.x.shape[1] // H)
    return how._replace(source=attention.Within(blocks))


def _before(a: Acts, i: int) -> tuple[Array, layernorm.Acts]:
    """Return the stream as it enters block i, and the norm of it."""
    return (a.blocks[i - 1].end.x, a.blocks[i - 1].end.norm) if i else (a.embedding.x, a.norm1)


def _next_norm(p: Params, i: int) -> layernorm.Params:
    """Return the norm that reads the stream after block i: the next block's first, or the final one."""
    return p.blocks[i + 1].norm1 if i + 1 < len(p.blocks) else p.norm


def _rows(m: Memory) -> head.Rows:
    return head.Rows(m.acts.blocks[-1].end.norm.y, m.inputs.targets, m.losses, m.scratch.stream.dy)


def _is_shared(a: Acts) -> bool:
    return len(a.blocks) > 1 and a.blocks[0].mlp.up is a.blocks[1].mlp.up


# What others ask


def vocabulary(p: Params) -> int:
    """Return V."""
    return len(p.embedding.token)


def accumulators(g: Params) -> tuple[Array, ...]:
    """Return the gradients of matrices that backward always adds to: the position table's, row by row."""
    return (g.embedding.position,)


def logits(p: Params, y: Array, out: Array) -> Array:
    """Write the logits (n, V) of rows y (n, C) of `forward` into out, and return it."""
    return linear.forward(out, y, p.embedding.token)


def attention_weights(m: Memory) -> Array:
    """Return the attention weights (L, B, H, T, T) of the last forward pass."""
    return np.stack([attention.weights(block.attention, m.inputs.starts) for block in m.acts.blocks])


def embed(p: Params, x: Array, tokens: Array, positions: Array) -> None:
    """Write token + position rows, both indexed by int32 (n,), into x (n, C)."""
    embedding_forward(x, tokens, positions, p.embedding.token, p.embedding.position)


# As kernels/decode.py numbers them.
KERNEL_BLOCK = (
    "norm1.gain", "norm1.bias", "attention.qkv_weight", "attention.qkv_bias",
    "attention.out_weight", "attention.out_bias", "norm2.gain", "norm2.bias",
    "mlp.up_weight", "mlp.up_bias", "mlp.down_weight", "mlp.down_bias",
)  # fmt: skip
KERNEL_LAST = ("norm.gain", "norm.bias", "embedding.token")


def kernel_offsets(config: ModelConfig, layout: Layout) -> Array:
    """Return where the decoding kernel finds each tensor in the row, int64 (L + 1, 12)."""
    start = {slot.name: slot.start for slot in layout.slots}
    offsets = np.zeros((config.n_layer + 1, len(KERNEL_BLOCK)), np.int64)
    for i in range(config.n_layer):
        offsets[i] = [start[f"blocks.{i}.{name}"] for name in KERNEL_BLOCK]
    offsets[-1, : len(KERNEL_LAST)] = [start[name] for name in KERNEL_LAST]
    return offsets
