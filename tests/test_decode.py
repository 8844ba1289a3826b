"""The cache changes how long the next token takes, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import V, full_logits, random_model
from tinyllm.config import ModelConfig
from tinyllm.inference.decode import Cache, extend, kept

FAST = settings(max_examples=40)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def models(draw, longest=9):
    config = ModelConfig(
        n_layer=draw(st.integers(1, 3)),
        n_head=(H := draw(st.integers(1, 3))),
        n_embd=H * draw(st.integers(1, 5)),
        block_size=draw(st.integers(1, longest)),
    )
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return config, random_model(config, draw(seeds), dtype)


@st.composite
def splits(draw, T):
    """Draw a prompt of at most T tokens as the lengths of the blocks it arrives in."""
    lengths, room = [], T
    while room and (not lengths or draw(st.booleans())):
        lengths.append(draw(st.integers(1, room)))
        room -= lengths[-1]
    return lengths


def close(found, expected):
    tolerance = 1e-5 if found.dtype == np.float32 else 1e-12
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


@FAST
@given(data=st.data(), model=models(), B=st.integers(1, 3), seed=seeds)
def test_cached_logits_equal_the_full_forward_however_the_tokens_arrive(data, model, B, seed):
    config, p = model
    lengths = data.draw(splits(config.block_size))
    tokens = np.random.default_rng(seed).integers(0, V, (B, sum(lengths))).astype(np.int32)
    expected = full_logits(config, p, tokens)
    cache, stop = Cache(config, B, p.norm.gain.dtype), 0
    for length in lengths:
        start, stop = stop, stop + length
        close(extend(p, cache, tokens[:, start:stop]), expected[:, stop - 1])
        assert cache.length == stop


@FAST
@given(data=st.data(), model=models(), n=st.integers(1, 30), seed=seeds)
def test_a_window_that_is_full_begins_anew_with_the_newest_tokens(data, model, n, seed):
    config, p = model
    T = config.block_size
    tokens = np.random.default_rng(seed).integers(0, V, (1, n)).astype(np.int32)
    cache, window, position = Cache(config, 1, p.norm.gain.dtype), np.empty((1, 0), np.int32), 0
    while position < n:
        part = tokens[:, position : position + data.draw(st.integers(1, n - position))]
        position += part.size
        window = np.concatenate([window, part], axis=1)
        if window.size > T:
            window = window[:, -kept(T) :]
        close(extend(p, cache, part), full_logits(config, p, window)[:, -1])
        np.testing.assert_array_equal(cache.tokens[:, : cache.length], window)


@FAST
@given(T=st.integers(1, 4096))
def test_what_is_kept_of_a_full_window_is_never_nothing(T):
    assert 1 <= kept(T) <= T


@FAST
@given(model=models(), seed=seeds)
def test_a_rewound_cache_goes_on_as_if_it_had_never_been_longer(model, seed):
    config, p = model
    rng = np.random.default_rng(seed)
    T = config.block_size
    tokens, other = rng.integers(0, V, (2, 1, T)).astype(np.int32)
    cache = Cache(config, 1, p.norm.gain.dtype)
    extend(p, cache, tokens)
    shared = int(rng.integers(0, T))
    cache.rewind(shared)
    found = extend(p, cache, other[:, shared:])
    together = np.concatenate([tokens[:, :shared], other[:, shared:]], axis=1)
    close(found, full_logits(config, p, together)[:, -1])


@FAST
@given(model=models(), B=st.integers(1, 4), seed=seeds)
def test_reordered_sequences_go_on_from_their_parents(model, B, seed):
    config, p = model
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, V, (B, config.block_size)).astype(np.int32)
    parents = rng.integers(0, B, B)
    cache = Cache(config, B, p.norm.gain.dtype)
    if config.block_size > 1:
        extend(p, cache, tokens[:, :-1])
    cache.reorder_(parents)
    together = np.concatenate([tokens[parents, :-1], tokens[:, -1:]], axis=1)
    close(extend(p, cache, tokens[:, -1:]), full_logits(config, p, together)[:, -1])
    np.testing.assert_array_equal(cache.tokens, together)


@FAST
@given(model=models(), B=st.integers(1, 4), seed=seeds)
def test_copies_of_a_sequence_go_on_apart(model, B, seed):
    config, p = model
    tokens = np.random.default_rng(seed).integers(0, V, (B, config.block_size)).astype(np.int32)
    tokens[:, :-1] = tokens[:1, :-1]
    one = Cache(config, 1, p.norm.gain.dtype)
    if config.block_size > 1:
        extend(p, one, tokens[:1, :-1])
    copies = one.copies(B)
    close(extend(p, copies, tokens[:, -1:]), full_logits(config, p, tokens)[:, -1])
    np.testing.assert_array_equal(copies.tokens, tokens)
    assert one.length == config.block_size - 1


def test_tokens_that_cannot_be_are_refused_and_change_nothing():
    config = ModelConfig(n_layer=1, n_head=1, n_embd=4, block_size=4)
    p, cache = random_model(config, 0, np.float32), Cache(config)
    with pytest.raises(ValueError, match="at least 1"):
        extend(p, cache, np.empty((1, 0), np.int32))
    with pytest.raises(ValueError, match=r"expected \(1, at least 1\), found \(2, 1\)"):
        extend(p, cache, np.zeros((2, 1), np.int32))
    with pytest.raises(IndexError):
        extend(p, cache, np.full((1, 1), V, np.int32))
    with pytest.raises(ValueError, match="rewind"):
        cache.rewind(1)
    assert cache.length == 0
