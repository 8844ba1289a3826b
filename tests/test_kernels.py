"""A compiled kernel does what its plain reference does, for drawn shapes, in float32 and float64."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyllm import kernels
from tinyllm.arena import Array
from tinyllm.kernels import reference

NOT_KERNELS = {name for name in kernels.__all__ if name.isupper()} | {
    "compile_all", "compile_decoding", "is_decoding_warm", "is_warm", "merge_table",
}  # fmt: skip
SCRATCH = {"decode_": {"y", "wide", "mix", "scores", "counters"}, "multiply": {"room"}}  # not compared
BIG_KEY = 2**63 + 0x123456789ABCDEF


class Draw:
    """Random arguments of drawn sizes, at odd offsets into larger arrays, as views into a row are."""

    def __init__(self, seed: int, dtype: Any, N: int, C: int, B: int, H: int, T: int, V: int) -> None:
        self.rng, self.dtype = np.random.default_rng(seed), dtype
        self.N, self.C, self.B, self.H, self.T, self.V = N, C, B, H, T, V
        self.tokens = self.rng.integers(0, V, N).astype(np.int32)
        self.positions = self.rng.integers(0, T, N).astype(np.int32)
        self.rate = float(self.rng.choice([0.0, 0.3]))
        ignored = self.rng.random(N) < self.rng.choice([0.0, 0.3, 1.0])
        self.targets = np.where(ignored, -1, self.tokens).astype(np.int32)
        first = self.rng.random((B, T)) < 0.3
        self.starts = np.maximum.accumulate(np.where(first, np.arange(T), 0), axis=1).astype(np.int32)
        # A block of attention: some queries, and for the forward pass all keys that they see.
        self.query = int(self.rng.integers(T))
        self.Q = int(self.rng.integers(1, T - self.query + 1))
        self.seen = int(self.starts[:, self.query].min())
        self.key = int(self.rng.integers(T))
        self.K = int(self.rng.integers(1, T - self.key + 1))

    def normal(self, *shape: int) -> Array:
        view = self.poison(*shape)
        view[...] = self.rng.standard_normal(shape)
        return view

    def poison(self, *shape: int) -> Array:
        return np.full(int(np.prod(shape)) + 1, np.nan, self.dtype)[1:].reshape(shape)

    def scores(self, key: int, K: int) -> Array:
        """Scores or gradients of a block; what masked entries hold must not matter."""
        p = self.normal(self.B, self.H, self.Q, K)
        p[self.masked(key, K)] = np.nan
        return p

    def masked(self, key: int, K: int) -> Array:
        visible = reference._visible(self.starts, self.query, self.Q, key, K)
        return np.broadcast_to(~visible, (self.B, self.H, self.Q, K))

    def attention_forward(self, rate: float) -> tuple[Any, ...]:
        T, K = self.T, self.query + self.Q - self.seen
        lse = self.normal(self.B, self.H, T)
        block = (self.starts, self.query, self.seen, 0.3, np.uint64(BIG_KEY), 5, rate)
        return self.scores(self.seen, K), lse, *block

    def attention_backward(self, rate: float) -> tuple[Any, ...]:
        lse, delta = 3 + self.normal(self.B, self.H, self.T), self.normal(self.B, self.H, self.T)
        block = (self.starts, self.query, self.key, 0.3, np.uint64(7), 2**32 - 3, rate)
        return self.scores(self.key, self.K), self.scores(self.key, self.K), lse, delta, *block

    def residual_norm(self, rate: float) -> tuple[Any, ...]:
        x, gain, mean, rstd = self.layernorm()
        sums = (self.normal(self.C), self.normal(self.C), self.normal(self.C))
        dx, dh, dy = self.normal(self.N, self.C), self.poison(self.N, self.C), self.normal(self.N, self.C)
        if not rate:
            dh[...] = 0  # left alone: dx is the gradient of h too
        return dx, dh, *sums, dy, x, gain, mean, rstd, np.uint64(BIG_KEY), 2**32 - 3, rate

    def windows(self) -> tuple[Array, ...]:
        """A corpus, its masked tokens, and windows of spans in it; read-only, as in a file."""
        T, n = self.T, 3 * self.T + 2
        corpus = self.rng.integers(0, 1 << 16, n).astype(np.uint16)
        masked = np.sort(self.rng.choice(n, 2 * self.rng.integers(0, self.T + 1), replace=False))
        spans, first = [], [0]
        for _ in range(self.B):
            free = T
            while free and self.rng.random() < 0.8:
                length = int(self.rng.integers(1, free + 1))
                start = int(self.rng.integers(0, n - length))
                spans.append((start, start + length, int(self.rng.integers(0, 2))))
                free -= length
            first.append(len(spans))
        corpus.flags.writeable = masked.flags.writeable = False
        return corpus, masked, np.array(spans, np.int64).reshape(-1, 3), np.array(first, np.int64)

    def heads(self) -> Array:
        """One of two sets of heads, not copied: (B, H, T, C) with gaps."""
        return self.normal(self.B, self.T, 2, self.H, self.C).transpose(2, 0, 3, 1, 4)[1]

    def texts(self) -> tuple[Array, ...]:
        """Texts, kinds and ids of characters, merges of what is in the texts, and room for their tokens."""
        codes = np.array([ord(c) for c in " \t'’.ab12é你好\n\r🎉"])
        size = 30 * self.B
        text = self.rng.choice(np.repeat(codes, self.rng.integers(0, 4, codes.size))[:size], size)
        kinds, characters = np.zeros((2, 0x20000), np.int32)
        kinds[self.rng.choice(codes, 9)] = self.rng.integers(0, 8, 9)
        kinds[[32, 39, 0x2019]] = 5, 3, 3
        characters[128:] = -1
        characters[:128] = np.arange(128)
        alphabet = list("".join(map(chr, codes)).encode())
        merges: dict[tuple[int, int], int] = {}
        for code in codes[codes >= 128]:
            if self.rng.random() < 0.5:
                characters[code] = alphabet[int(self.rng.integers(len(alphabet)))]
        for i in range(self.N):
            pair = tuple(int(one) for one in self.rng.choice(alphabet, 2))
            if merges.setdefault(pair, 256 + i) != 256 + i:
                break
            alphabet.append(256 + i)
        pairs = np.array(list(merges), np.int64).reshape(-1, 2)
        table = kernels.merge_table(pairs[:, 0], pairs[:, 1])
        text = text.astype(np.int32)
        text.flags.writeable = False
        stops = np.sort(self.rng.integers(0, size + 1, self.B))
        stops[-1] = size
        room, ends = np.full(4 * size, -7, np.int32), np.full(self.B, -7)
        han_run = int(self.rng.integers(1, 17))
        return room, ends, text, stops, kinds.astype(np.uint8), characters, table, han_run

    def words(self) -> tuple[Any, ...]:
        """A row of tokens between walls, a pair of them, and how often it occurs, or once more."""
        n = self.N + 2
        ids = self.rng.integers(0, 3, n).astype(np.int32)
        ids[self.rng.random(n) < 0.1] = -1
        ids[[0, -1]] = -1
        left, right, times = np.arange(n) - 1, np.arange(n) + 1, self.rng.integers(1, 4, n)
        first, second = self.rng.integers(0, 3, 2).tolist()
        found = (ids[:-1] == first) & (ids[1:] == second)
        positions = np.flatnonzero(found | (self.rng.random(n - 1) < 0.2))
        expected = int(times[:-1][found].sum()) + int(self.rng.random() < 0.2)
        return positions, np.full(2 * n, -7), ids, left, right, times, first, second, 300, expected

    def decode(self) -> tuple[Any, ...]:
        """A model of some blocks, sequences that hold something, and rows that come next to it."""
        L, B, H, D, T, V = 2, self.B, min(self.H, 3), self.C, self.T, self.V
        C, R = H * D, int(self.rng.integers(1, min(B * T, 9) + 1))
        offsets = np.zeros((L + 1, 12), np.int64)
        widths = [1, 1, 3 * C, 3, C, 1, 1, 1, 4 * C, 4, 4 * C, 1]  # of each tensor, in rows of C
        sizes = np.array([*widths * L, 1, 1, V], np.int64) * C
        offsets.flat[: sizes.size] = sizes.cumsum() - sizes
        # Rows of one sequence follow one another; where each sequence stands is drawn.
        starts, sequences = self.rng.integers(0, T, B), np.sort(self.rng.integers(0, B, R))
        positions = starts[sequences] + [r - int(np.searchsorted(sequences, sequences[r])) for r in range(R)]
        fit = positions < T
        sequences, positions = sequences[fit].astype(np.int32), positions[fit].astype(np.int32)
        R = len(sequences)
        logits = self.poison(int(self.rng.integers(1, R + 1)), V)
        scratch = (self.normal(1, R, C), self.normal(R, 4 * C), self.normal(R, C), self.normal(1, T))
        params = self.normal(int(sizes.sum())) / np.sqrt(C, dtype=self.dtype)
        counters = np.zeros((5 * L + 1, 2), np.int64)
        cache = self.normal(L, 2, B, H, T, D)
        return cache, logits, self.normal(R, C), *scratch, counters, params, offsets, sequences, positions, 0

    def layernorm(self) -> tuple[Array, Array, Array, Array]:
        """x, gain, mean, rstd as the forward pass leaves them."""
        x, mean, rstd = self.normal(self.N, self.C), self.poison(self.N), self.poison(self.N)
        gain = self.normal(self.C)
        reference.layernorm_forward(self.poison(self.N, self.C), mean, rstd, x, gain, gain)
        return x, gain, mean, rstd


# Outputs that are overwritten come poisoned with NaN; those that are added to come filled.
ARGUMENTS: dict[str, Callable[[Draw], tuple[Any, ...]]] = {
    "adam_": lambda d: (
        d.normal(d.N), d.normal(d.N), d.normal(d.N), d.normal(d.N) ** 2,
        0.01, 0.9, 0.999, 1e-8, 0.19, 0.002, 0.1, 0.5,
    ),
    "add_and_sum_squares": lambda d: (d.normal(d.N), d.normal(d.N)),
    "add_bias_": lambda d: (d.normal(d.N, d.C), d.normal(d.C)),
    "add_heads_": lambda d: (d.heads(), d.heads()),
    "attention_backward": lambda d: d.attention_backward(d.rate),
    "attention_delta": lambda d: (
        d.poison(d.B, d.H, d.T), d.normal(d.B * d.T, d.H * d.C), d.normal(d.B * d.T, d.H * d.C)
    ),
    "attention_forward": lambda d: d.attention_forward(d.rate),
    "all_finite": lambda d: (d.normal(d.N),),
    "bias_backward": lambda d: (d.normal(d.C), d.normal(d.N, d.C)),
    "bias_gelu_backward": lambda d: (
        d.normal(d.N, d.C), d.poison(d.N, d.C), d.normal(d.C), 3 * d.normal(d.N, d.C), d.normal(d.C)
    ),
    "bias_gelu_forward": lambda d: (d.poison(d.N, d.C), 3 * d.normal(d.N, d.C), d.normal(d.C)),
    "copy_heads": lambda d: (d.poison(d.B, d.H, d.T, d.C), d.heads()),
    "crc32": lambda d: (d.rng.integers(0, 256, d.N * d.C, np.uint8), d.N),
    "cross_entropy_backward": lambda d: (np.full(d.N, np.nan), 4 * d.normal(d.N, d.V), d.targets, 0.1),
    "bpe_encode": lambda d: d.texts(),
    "bpe_merge": lambda d: d.words(),
    "cross_entropy_forward": lambda d: (np.full(d.N, np.nan), 4 * d.normal(d.N, d.V), d.targets),
    "decode_": lambda d: d.decode(),
    "dropout_backward": lambda d: (d.poison(d.N, d.C), d.normal(d.N, d.C), 7, 2**32 - d.N, 0.3),
    "dropout_forward": lambda d: (d.poison(d.N, d.C), d.normal(d.N, d.C), BIG_KEY, 5, 0.3),
    "embedding_backward": lambda d: (
        d.normal(d.V, d.C), d.normal(d.T, d.C), d.normal(d.N, d.C), d.tokens, d.positions
    ),
    "embedding_forward": lambda d: (
        d.poison(d.N, d.C), d.tokens, d.positions, d.normal(d.V, d.C), d.normal(d.T, d.C)
    ),
    "fill_batch": lambda d: (*np.full((3, d.B, d.T), -7, np.int32), *d.windows()),
    "layernorm_backward": lambda d: (
        d.normal(d.N, d.C), d.normal(d.C), d.normal(d.C), d.normal(d.N, d.C), *d.layernorm()
    ),
    "layernorm_forward": lambda d: (
        d.poison(d.N, d.C), d.poison(d.N), d.poison(d.N), d.normal(d.N, d.C), d.normal(d.C), d.normal(d.C)
    ),
    "multiply": lambda d: (
        d.normal(d.N, d.V), d.normal(d.N, d.C), d.normal(d.V, d.C).T, np.zeros(kernels.ROOM, d.dtype),
        d.rate > 0,
    ),
    "residual_norm_backward": lambda d: d.residual_norm(d.rate),
    "residual_norm_forward": lambda d: (
        d.poison(d.N, d.C), d.poison(d.N, d.C), d.poison(d.N), d.poison(d.N), d.normal(d.N, d.C),
        d.normal(d.N, d.C), d.normal(d.C), d.normal(d.C), d.normal(d.C),
        np.uint64(BIG_KEY), 2**32 - 3, d.rate,
    ),
    "sum_squares": lambda d: (d.normal(d.N),),
    "transpose_heads": lambda d: (d.normal(d.B, d.H, d.C, d.T + 3), d.heads()),
}  # fmt: skip
small = st.integers(1, 9)
dtypes = st.sampled_from([np.float32, np.float64])
draws = st.builds(
    Draw, st.integers(0, 2**32 - 1), dtypes, N=st.integers(1, 150), C=st.integers(1, 40),
    B=small, H=small, T=st.integers(1, 20), V=st.integers(1, 70),
)  # fmt: skip


def source(function: Any) -> Any:
    return getattr(function, "py_func", function)


def test_every_kernel_has_a_reference_and_a_row_in_the_table():
    exported = set(kernels.__all__) - NOT_KERNELS
    plain = {name for name, f in vars(reference).items() if inspect.isfunction(f) and name[0] != "_"}
    assert exported == plain == set(ARGUMENTS)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_reference_takes_the_same_arguments(name):
    kernel = inspect.signature(source(getattr(kernels, name)))
    assert kernel == inspect.signature(getattr(reference, name))


@pytest.mark.parametrize("name", ARGUMENTS)
@settings(max_examples=30)
@given(draw=draws)
def test_the_kernel_does_what_its_reference_does(name, draw):
    arguments = ARGUMENTS[name](draw)
    expected = [np.array(a, np.float64) if _is_real(a) else copy.copy(a) for a in arguments]
    # Rounding errors grow with the largest number at hand: 316 for rstd where a row has no variance.
    scale = max((np.nanmax(np.abs([1.0, *a.flat])) for a in expected if _is_real(a)), default=1.0)
    found_result = getattr(kernels, name)(*arguments)
    expected_result = getattr(reference, name)(*expected)
    tolerance = 1e-12 if draw.dtype == np.float64 else 1e-5
    names = [*inspect.signature(getattr(reference, name)).parameters, "result"]
    for each, found, wanted in zip(
        names, [*arguments, found_result], [*expected, expected_result], strict=True
    ):
        if wanted is not None and each not in SCRATCH.get(name, ()):
            np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * scale)


def _is_real(argument: Any) -> bool:
    return isinstance(argument, np.ndarray) and argument.dtype.kind == "f"
