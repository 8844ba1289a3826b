"""What happens inside a model that reads one prompt: attention, the next tokens, the norms of all tensors.

Forward and backward are those of training, which keeps no attention weights: the network computes them again
from the queries and keys that it does keep.
Order: what is found, finding it, its parts.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyllm.arena import Array
from tinyllm.checkpoint.disk import Disk
from tinyllm.checkpoint.format import DTYPES
from tinyllm.checkpoint.reader import CheckpointFile
from tinyllm.config import ModelConfig
from tinyllm.inference.weights import Weights
from tinyllm.kernels import sum_squares
from tinyllm.layers import linear
from tinyllm.network import Pass, Purpose
from tinyllm.run.state import Workspace, layout_of

POSITIONS = 256  # that a page has room for
NUMBERS = 1 << 20  # attention weights that a page has room for, 4 bytes each


class Prediction(NamedTuple):
    """What the model expects after one position."""

    top: Array  # int64 (k,) tokens, the most probable first
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
    config = dataclasses.replace(weights.config, block_size=n, dropout=0.0)
    work = Workspace(config, weights.vocabulary, 1, weights.row.dtype, Purpose(accumulate=False))
    inputs, losses, following = work.memory.inputs, work.memory.losses, prompt[1 : n + 1]
    inputs.tokens[:], inputs.positions[:], inputs.targets[:] = prompt[:n], np.arange(n), -1
    inputs.targets[: len(following)] = following
    y = weights.network.forward(weights.params, work.memory, Pass())
    seen = weights.network.attention_weights(work.memory)[:, 0]
    logits = weights.network.logits(weights.params, y, np.empty((n, weights.vocabulary), y.dtype))
    predictions = tuple(_predict(logits[t], inputs.targets[t], k) for t in range(n))
    if len(following):
        work.clear_gradients()
        deferred = linear.DeferredGradients([linear.Products(work.memory.scratch.products)])
        weights.network.backward(weights.params, work.memory, Pass(), 1 / len(following), deferred)
    # Of the position table there are gradients for n rows; those of all others are zero.
    gradient = layout_of(config, weights.vocabulary).named(work.gradient) if len(following) else None
    moments = {role: _moment_norms(file, role) if file else {} for role in ("m", "v")}
    loss = math.fsum(losses) / len(following) if len(following) else None
    norms = _norms(weights.layout.named(weights.row), gradient, moments)
    return Trace(prompt[:n], inputs.targets, seen, predictions, norms, loss)


def _predict(logits: Array, target: int, k: int) -> Prediction:
    """Return the prediction that logits (V,) make; a target of -1 is none."""
    z = logits.astype(np.float64)
    z -= z.max()
    p = np.exp(z)
    total = p.sum()
    p /= total
    top = np.argsort(-p, kind="stable")[:k]
    if target < 0:
        return Prediction(top, p[top], None, None, None)
    rank = 1 + int(np.count_nonzero(p > p[target]))
    return Prediction(top, p[top], rank, float(p[target]), float(np.log(total) - z[target]))


def _norms(
    params: dict[str, Array], gradient: dict[str, Array] | None, moments: dict[str, dict[str, float]]
) -> tuple[Norms, ...]:
    return tuple(
        Norms(
            name, tensor.shape, _norm(tensor), None if gradient is None else _norm(gradient[name]),
            moments["m"].get(name), moments["v"].get(name),
        )
        for name, tensor in params.items()
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
