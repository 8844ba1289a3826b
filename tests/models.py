"""Small models with drawn weights, and their logits by the model's own forward."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tinyllm import model
from tinyllm.arena import Array
from tinyllm.config import ModelConfig
from tinyllm.layers import dropout
from tinyllm.state import Workspace, layout_of

V = 11


def random_model(
    config: ModelConfig, seed: int, dtype: npt.DTypeLike = np.float32, vocab: int = V
) -> model.Params:
    """Return parameters far from their initial values, biases and gains included."""
    layout = layout_of(config, vocab)
    row = np.zeros(layout.size, dtype)
    rng = np.random.default_rng(seed)
    for view in layout.named(row).values():
        view[...] = 0.7 * rng.standard_normal(view.shape)
    p: model.Params = layout.views(row)
    return p


def full_logits(config: ModelConfig, p: model.Params, tokens: Array) -> Array:
    """Return the logits (B, n, V) of tokens (B, n), n at most block_size, by `model.forward`.

    The loss, at its end, leaves probabilities; so the head is applied once more.
    """
    B, n = tokens.shape
    T, vocab = config.block_size, len(p.embedding.token)
    work = Workspace(config, vocab, B, layout_of(config, vocab), p.norm.gain.dtype)
    work.inputs.tokens.reshape(B, T)[:, :n] = tokens
    work.inputs.positions.reshape(B, T)[:] = np.arange(T)
    work.inputs.targets[:] = -1
    model.forward(p, work.acts, work.scratch, work.losses, work.inputs, dropout.OFF)
    logits: Array = work.acts.norm.y @ p.embedding.token.T
    return logits.reshape(B, T, vocab)[:, :n]
