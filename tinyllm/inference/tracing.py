"""What happens inside a model that reads one prompt: who attends to whom, what comes next, how large all is.

Forward and backward are those of training. Training keeps no attention weights, so they are made again, from
the queries and keys that it does keep, by the readable attention of `tinyllm.kernels.reference`.
Order: what is found, finding it, its parts.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyllm import model
from tinyllm.arena import Array, Layout
from tinyllm.checkpoint.disk import Disk
from tinyllm.checkpoint.format import DTYPES
from tinyllm.checkpoint.reader import CheckpointFile
from tinyllm.config import ModelConfig
from tinyllm.inference.weights import Weights
from tinyllm.kernels import sum_squares
from tinyllm.kernels.reference import attention_forward  # type: ignore[import-not-found]
from tinyllm.layers import attention, dropout
from tinyllm.run.state import Workspace, layout_of

POSITIONS = 256  # that a page has room for
NUMBERS = 1 << 20  # attention weights that a page has room for, 4 bytes each


class Prediction(NamedTuple):
    """What the model expects after one position."""

    likeliest: Array  # int64 (k,) tokens, the most probable first
    probabilities: Array  # float64 (k,)
    rank: int | None  # of the true next token, from 1; None where no token follows
    probability: float | None  # of the true next token
    loss: float | None  # nats, -log of that


class Norms(NamedTuple):
    """Euclidean norms of one tensor; None where there is no gradient, or the file holds no moments."""

    name: str
    shape: tuple[int, ...]
    parameter: float
    gradient: float | None
    m: float | None
    v: float | None


class Trace(NamedTuple):
    """All that is shown of n positions."""

    tokens: Array  # int32 (n,)
    following: Array  # int32 (n,) the token after each; -1 where the prompt ends
    attention: Array  # (L, H, n, n) row t: the weights with which position t takes the values of all others
    predictions: tuple[Prediction, ...]  # n
    norms: tuple[Norms, ...]  # of every tensor, in the layout's order
    loss: float | None  # nats per token that follows another; None where none does


def room(config: ModelConfig) -> int:
    """Return how many positions can be traced: no more than the model sees, nor than a page can show."""
    maps = config.n_layer * config.n_head
    longest = (math.isqrt(8 * max(NUMBERS // maps, 1) + 1) - 1) // 2  # n (n + 1) / 2 weights a map
    return min(config.block_size, POSITIONS, longest)


def trace(weights: Weights, prompt: Array, k: int, file: Path | None = None) -> Trace:
    """Return what the model does with the first `room` tokens of the prompt (n,), and its k best guesses.

    No position sees what follows it, so leaving out the end changes nothing before it. Adam's moments are
    read from `file`. Raises CheckpointError.
    """
    n = min(len(prompt), room(weights.config))
    layout = layout_of(weights.config, weights.vocabulary)
    work = Workspace(
        dataclasses.replace(weights.config, block_size=n, dropout=0.0), weights.vocabulary, 1, layout,
        weights.row.dtype, accumulate=False,
    )  # fmt: skip
    inputs = work.inputs
    inputs.tokens[:], inputs.positions[:], inputs.targets[:] = prompt[:n], np.arange(n), -1
    following = prompt[1 : n + 1]
    inputs.targets[: len(following)] = following
    y = model.forward(weights.params, work.acts, work.scratch, inputs, dropout.OFF)
    seen = np.stack([_attention(block.attention, work.acts) for block in work.acts.blocks])
    predictions = tuple(
        _predict(y[t] @ weights.params.embedding.token.T, inputs.targets[t], k) for t in range(n)
    )
    if len(following):
        work.begin()
        model.backward(
            weights.params, work.grads, work.acts, work.scratch, work.losses, inputs, dropout.OFF,
            1 / len(following), first=True,
        )  # fmt: skip
    gradient = work.gradient if len(following) else None
    moments = {role: _moment_norms(file, role) if file else {} for role in ("m", "v")}
    loss = math.fsum(work.losses) / len(following) if len(following) else None
    norms = _norms(layout, weights.row, gradient, moments)
    return Trace(prompt[:n], inputs.targets, seen, predictions, norms, loss)


def _attention(a: attention.Acts, acts: model.Acts) -> Array:
    """Return one layer's weights (H, n, n)."""
    _, H, n = a.lse.shape
    q, k, _ = attention.heads(a.qkv, 3, 1, H)
    p, starts = q @ k.swapaxes(2, 3), np.zeros((1, n), np.int32)
    scale = 1 / math.sqrt(acts.embedding.x.shape[1] // H)
    attention_forward(p, np.empty_like(a.lse), starts, 0, 0, scale, dropout.NO_MASK.key, 0, 0.0)
    weights: Array = p[0]
    return weights


def _predict(logits: Array, target: int, k: int) -> Prediction:
    """Return the prediction that logits (V,) make; a target of -1 is none."""
    z = logits.astype(np.float64)
    z -= z.max()
    p = np.exp(z)
    total = p.sum()
    p /= total
    likeliest = np.argsort(-p, kind="stable")[:k]
    if target < 0:
        return Prediction(likeliest, p[likeliest], None, None, None)
    rank = 1 + int(np.count_nonzero(p > p[target]))
    return Prediction(likeliest, p[likeliest], rank, float(p[target]), float(np.log(total) - z[target]))


def _norms(
    layout: Layout, params: Array, gradient: Array | None, moments: dict[str, dict[str, float]]
) -> tuple[Norms, ...]:
    rows = layout.named(params), layout.named(params if gradient is None else gradient)
    return tuple(
        Norms(
            name, tensor.shape, _norm(tensor), None if gradient is None else _norm(rows[1][name]),
            moments["m"].get(name), moments["v"].get(name),
        )
        for name, tensor in rows[0].items()
    )  # fmt: skip


def _norm(tensor: Array) -> float:
    return math.sqrt(sum_squares(tensor.reshape(-1)))


def _moment_norms(file: Path, role: str) -> dict[str, float]:
    """Return {path of a parameter: norm} of one of Adam's moments; empty where the file holds none."""
    found = {}
    with CheckpointFile(file, Disk()) as opened:
        for tensor, end in opened.tensors(role):
            pieces = opened.payloads(tensor, end)
            squares = (sum_squares(np.frombuffer(piece, DTYPES[tensor.dtype])) for piece in pieces)
            found[tensor.name.partition("/")[2]] = math.sqrt(math.fsum(squares))
    return found
