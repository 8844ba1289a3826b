"""The cache changes how long the next token takes, and nothing else; and company changes nothing at all."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import V, full_logits, random_weights
from tinyllm.config import ModelConfig
from tinyllm.inference import prompt
from tinyllm.inference.decode import FEW, Decoder, kept

FAST = settings(max_examples=40)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def models(draw, longest=40, dtypes=(np.float32, np.float64)):
    config = ModelConfig(
        n_layer=draw(st.integers(1, 3)),
        n_head=(H := draw(st.integers(1, 3))),
        n_embd=H * draw(st.integers(1, 9)),
        block_size=draw(st.integers(1, longest)),
    )
    return random_weights(config, draw(seeds), draw(st.sampled_from(dtypes)))


def drawn(seed, *shape):
    return np.random.default_rng(seed).integers(0, V, shape).astype(np.int32)


def close(found, expected):
    """Assert equality to rounding: float64 is the proof; in norms of few channels float32 loses digits."""
    tolerance = 1e-3 if found.dtype == np.float32 else 1e-12
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


def expected_logits(weights, tokens):
    return full_logits(weights.config, weights.params, tokens[None])[0]


@FAST
@given(data=st.data(), weights=models(), seed=seeds)
def test_cached_logits_equal_the_full_forward_however_the_tokens_arrive(data, weights, seed):
    T = weights.config.block_size
    tokens = drawn(seed, data.draw(st.integers(1, T)))
    expected, decoder, stop = expected_logits(weights, tokens), Decoder(weights), 0
    while stop < tokens.size:
        start, stop = stop, stop + data.draw(st.integers(1, tokens.size - stop))
        close(decoder.extend(0, tokens[start:stop]), expected[stop - 1])
        assert decoder.cache.lengths == [stop]


@pytest.mark.parametrize("block", [1, 2, 7, 16, 33, 64, 100, 512])
@pytest.mark.parametrize("queries", [5, 64])
@pytest.mark.parametrize("held", [0, 1, 50])
def test_a_prompt_in_blocks_equals_the_full_forward_whatever_their_size(monkeypatch, block, queries, held):
    monkeypatch.setattr(prompt, "BLOCK", block)
    monkeypatch.setattr(prompt, "QUERIES", queries)
    weights = random_weights(ModelConfig(n_layer=2, n_head=2, n_embd=12, block_size=150), 3, np.float64)
    tokens, decoder = drawn(4, 150), Decoder(weights, 2)
    if held:
        decoder.extend(1, tokens[:held])
    close(decoder.extend(1, tokens[held:]), expected_logits(weights, tokens)[-1])


def test_the_memory_of_a_prompt_is_bounded_by_a_block():
    config = ModelConfig(n_layer=1, n_head=1, n_embd=8, block_size=4096)
    weights, sizes = random_weights(config, 0), []
    for n in (1024, 4096):
        decoder = Decoder(weights)
        tracemalloc.start()
        decoder.extend(0, drawn(0, n))
        sizes.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    scores = prompt.QUERIES * config.block_size * 4
    assert sizes[1] < 4 * scores  # a full triangle would be 64 times as much
    assert sizes[1] < 1.2 * sizes[0]


@FAST
@given(data=st.data(), weights=models(longest=9), n=st.integers(1, 30), seed=seeds)
def test_a_window_that_is_full_begins_anew_with_the_newest_tokens(data, weights, n, seed):
    T = weights.config.block_size
    tokens = drawn(seed, n)
    decoder, window, position = Decoder(weights), np.empty(0, np.int32), 0
    while position < n:
        part = tokens[position : position + data.draw(st.integers(1, n - position))]
        position += part.size
        window = np.concatenate([window, part])
        if window.size > T:
            window = window[-kept(T) :]
        stepped = part.size == 1 and data.draw(st.booleans())
        found = decoder.step([0], [int(part[0])])[0] if stepped else decoder.extend(0, part)
        close(found, expected_logits(weights, window)[-1])
        np.testing.assert_array_equal(decoder.cache.tokens[0, : window.size], window)
        assert decoder.cache.lengths == [window.size]


@given(T=st.integers(1, 4096))
def test_what_is_kept_of_a_full_window_is_never_nothing(T):
    assert 1 <= kept(T) <= T


def history(weights, threads, prompts, later):
    """Return the logits of sequences that grow together, step by step, from prompts of their own."""
    decoder = Decoder(weights, len(prompts), threads)
    logits = [[decoder.extend(b, tokens).copy()] for b, tokens in enumerate(prompts)]
    for column in later.T:
        for b, row in enumerate(decoder.step(range(len(prompts)), column.tolist())):
            logits[b].append(row.copy())
    return logits


@settings(max_examples=25)
@given(
    weights=models(dtypes=(np.float32,)), lengths=st.lists(st.integers(1, 50), min_size=2, max_size=6),
    steps=st.integers(1, 12), threads=st.integers(1, 3), seed=seeds,
)  # fmt: skip
def test_a_sequence_gives_the_same_bits_alone_or_among_others_on_any_number_of_threads(
    weights, lengths, steps, threads, seed
):
    prompts = [drawn([seed, b], n) for b, n in enumerate(lengths)]
    later = drawn(seed, len(lengths), steps)
    together = history(weights, threads, prompts, later)
    for b, tokens in enumerate(prompts):
        alone = history(weights, 1, [tokens], later[b : b + 1])[0]
        np.testing.assert_array_equal(together[b], alone)


@pytest.mark.parametrize(("C", "H"), [(48, 3), (72, 2), (256, 8)])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_rows_of_common_widths_do_not_change_each_other_by_a_bit(C, H, threads):
    weights = random_weights(ModelConfig(n_layer=2, n_head=H, n_embd=C, block_size=64), 1)
    prompts, later = [drawn(b, 10 + 7 * b) for b in range(5)], drawn(9, 5, 6)
    together = history(weights, threads, prompts, later)
    for b, tokens in enumerate(prompts):
        np.testing.assert_array_equal(together[b], history(weights, 1, [tokens], later[b : b + 1])[0])


@FAST
@given(weights=models(), seed=seeds)
def test_a_rewound_cache_goes_on_as_if_it_had_never_been_longer(weights, seed):
    rng, T = np.random.default_rng(seed), weights.config.block_size
    tokens, other = drawn(seed, 2, T)
    decoder = Decoder(weights)
    decoder.extend(0, tokens)
    shared = int(rng.integers(0, T))
    decoder.cache.rewind(0, shared)
    found = decoder.extend(0, other[shared:])
    close(found, expected_logits(weights, np.concatenate([tokens[:shared], other[shared:]]))[-1])


@FAST
@given(weights=models(), B=st.integers(1, 4), seed=seeds)
def test_reordered_and_copied_sequences_continue_their_parents(weights, B, seed):
    rng, T = np.random.default_rng(seed), weights.config.block_size
    lengths = rng.integers(1, T + 1, B)
    texts = [drawn([seed, b], length) for b, length in enumerate(lengths)]
    decoder = Decoder(weights, B)
    for b, text in enumerate(texts):
        decoder.extend(b, text)
    parents, last = rng.integers(0, B, B), drawn(seed, B)
    decoder.cache.reorder_(parents)
    texts = [texts[parent] for parent in parents]
    source, target = rng.integers(0, B, 2)
    decoder.cache.copy(source, target)
    texts[target] = texts[source]
    assert decoder.cache.lengths == [text.size for text in texts]
    for b, logits in enumerate(decoder.step(range(B), last.tolist())):
        window = np.append(texts[b], last[b])
        close(logits, expected_logits(weights, window[-kept(T) :] if window.size > T else window)[-1])


def test_a_token_more_allocates_no_array():
    config = ModelConfig(n_layer=2, n_head=2, n_embd=32, block_size=100)
    decoder = Decoder(random_weights(config, 0), 3, threads=2)
    for b in range(3):
        decoder.extend(b, drawn(b, 20 + b))
    arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    for _ in range(5):
        decoder.step(range(3), [1, 2, 3])
    tracemalloc.start()
    try:
        for _ in range(50):
            decoder.step(range(3), [1, 2, 3])
        _, peak = tracemalloc.get_traced_memory()
        held = tracemalloc.take_snapshot().filter_traces([arrays])
    finally:
        tracemalloc.stop()
    assert peak < 20_000  # Python objects; the logits of one step alone would be seen if V were large
    assert sum(trace.size for trace in held.traces) == 0


def test_tokens_that_cannot_be_are_refused_and_change_nothing():
    config = ModelConfig(n_layer=1, n_head=1, n_embd=4, block_size=4)
    decoder = Decoder(random_weights(config, 0), 2)
    with pytest.raises(ValueError, match="at least 1"):
        decoder.extend(0, np.empty(0, np.int32))
    with pytest.raises(ValueError, match=r"expected \(at least 1,\), found \(2, 1\)"):
        decoder.extend(0, np.zeros((2, 1), np.int32))
    for token in (-1, V):
        with pytest.raises(IndexError, match=f"expected 0 to {V - 1}"):
            decoder.extend(0, np.full(5, token, np.int32))
        with pytest.raises(IndexError, match=f"expected 0 to {V - 1}"):
            decoder.step([0, 1], [0, token])
    with pytest.raises(ValueError, match="rewind"):
        decoder.cache.rewind(0, 1)
    assert decoder.cache.lengths == [0, 0]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_never_begins_holds_nobody_up(monkeypatch, rank):
    weights = random_weights(ModelConfig(n_layer=2, n_head=2, n_embd=32, block_size=64), 0)
    decoder, alone = Decoder(weights, threads=2), Decoder(weights)
    tokens = drawn(0, FEW)
    real = decoder.team.run

    def without(task):
        def some(number):
            if number == rank:
                raise KeyboardInterrupt
            task(number)

        real(some)

    monkeypatch.setattr(decoder.team, "run", without)
    with pytest.raises(KeyboardInterrupt):
        decoder.extend(0, tokens)
    assert decoder.cache.lengths == [0]
    monkeypatch.undo()
    np.testing.assert_array_equal(decoder.extend(0, tokens), alone.extend(0, tokens))
