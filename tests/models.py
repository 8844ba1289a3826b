"""Small models: with drawn weights, or such that everyone knows what they say; and their files."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinyllm import model
from tinyllm.arena import Array
from tinyllm.checkpoint import CheckpointManager, CheckpointMetadata
from tinyllm.config import Config, ModelConfig
from tinyllm.inference.weights import Weights
from tinyllm.network import Pass
from tinyllm.run.schedule import Schedule
from tinyllm.run.state import Identity, TrainState, Workspace, layout_of
from tinyllm.text.tokenizer import CharTokenizer, Tokenizer

V = 11
KNOWN = "用户助手嗨天气UserAsitan: \n"  # the characters that a chat with a `chain_of` needs


def random_weights(
    config: ModelConfig, seed: int, dtype: npt.DTypeLike = np.float32, vocab: int = V
) -> Weights:
    """Return parameters far from their initial values, biases and gains included."""
    layout = layout_of(config, vocab)
    row = np.zeros(layout.size, dtype)
    rng = np.random.default_rng(seed)
    for view in layout.named(row).values():
        view[...] = 0.7 * rng.standard_normal(view.shape)
    return Weights.of(config, layout, row)


def full_logits(config: ModelConfig, p: model.Params, tokens: Array) -> Array:
    """Return the logits (B, n, V) of tokens (B, n), n at most block_size, by `model.forward`."""
    B, n = tokens.shape
    T, vocab = config.block_size, len(p.embedding.token)
    memory = Workspace(config, vocab, B, p.norm.gain.dtype).memory
    memory.inputs.tokens.reshape(B, T)[:, :n] = tokens
    memory.inputs.positions.reshape(B, T)[:] = np.arange(T)
    memory.inputs.targets[:] = -1
    y = model.forward(p, memory, Pass())
    logits: Array = y @ p.embedding.token.T
    return logits.reshape(B, T, vocab)[:, :n]


def chain_state(tokenizer: Tokenizer, follows: dict[int, int], block_size: int = 64) -> TrainState:
    """Return a state whose model, after a token, is certain of the next: `follows`, else end_of_text.

    Embeddings are one-hot; the MLP's neuron of each token writes the next one into the stream.
    """
    vocab = tokenizer.vocab_size
    config = ModelConfig(n_layer=1, n_head=1, n_embd=vocab, block_size=block_size)
    state = TrainState.fresh(Config(model=config), tokenizer, Schedule(1e-3, 1e-4, 0, 0, 1), ("pretraining",))
    state.identity = Identity("one run")
    state.rows[0] = 0
    p: model.Params = state.layout.views(state.rows[0])
    identity = np.arange(vocab)
    p.embedding.token[identity, identity] = 1
    p.blocks[0].norm2.gain[:] = 20
    p.blocks[0].mlp.up_weight[identity, identity] = 1
    p.blocks[0].mlp.up_bias[:] = -10  # GELU leaves at least 10 at the token, 0 elsewhere
    for token in range(vocab):
        p.blocks[0].mlp.down_weight[follows.get(token, tokenizer.end_of_text), token] = 10
    p.norm.gain[:] = 50
    return state


def chain_of(texts: str, more: str = "") -> TrainState:
    """Return a character model that goes through each word of `texts`, from any of its characters to the end.

    No character may occur twice; `more` are characters it knows besides, after which it ends.
    """
    characters = sorted({ord(c) for c in texts.replace(" ", "") + more})
    tokenizer = CharTokenizer(tuple(characters))
    encoded = [tokenizer.encode(word).tolist() for word in texts.split()]
    follows = {a: b for word in encoded for a, b in itertools.pairwise(word)}
    assert len(follows) == sum(len(word) - 1 for word in encoded)
    return chain_state(tokenizer, follows)


def random_state(config: ModelConfig, tokenizer: Tokenizer, seed: int = 0) -> TrainState:
    """Return a state with `random_weights`' parameters."""
    state = TrainState.fresh(Config(model=config), tokenizer, Schedule(1e-3, 1e-4, 0, 0, 1), ("pretraining",))
    state.identity = Identity("one run")
    rng = np.random.default_rng(seed)
    for view in state.layout.named(state.rows[0]).values():
        view[...] = 0.7 * rng.standard_normal(view.shape)
    return state


def saved(state: TrainState, directory: Path) -> Path:
    """Return the path of a model_final.bin of the state."""
    metadata = CheckpointMetadata(1, 1.0, 1e-3, "2026-01-01 00:00:00", state.progress.phase)
    with CheckpointManager(directory) as manager:
        return manager.save_final(state, metadata)
