"""The kernels around a step: text into tokens and batches, tokens out of a model, and what files need.

As in kernel_cases.py: one function a kernel, of the kernel's name. PyTorch has no operator for some.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.kernel_sizes import Case, Sizes
from tinyllm.text.tokenizer import train_bpe


def bpe_encode(s: Sizes) -> Case:
    words = ["".join(map(chr, s.rng.integers(97, 123, n))) for n in s.rng.integers(1, 9, 500)]
    text = " ".join(s.rng.choice(words, s.N).tolist())
    tokenizer = train_bpe([text], 2048)
    codes = np.frombuffer(text.encode("utf-32-le"), np.int32)
    ids, ends = np.empty(codes.size, np.int32), np.empty(1, np.int64)
    arguments = (ids, ends, codes, np.array([codes.size]), *tokenizer.tables)
    return Case(arguments, (codes,), (ids,), None)


def bpe_merge(s: Sizes) -> Case:
    n = 64 * s.N
    ids = s.rng.integers(0, 64, n).astype(np.int32)
    ids[[0, -1]] = -1
    left, right, times = np.arange(n) - 1, np.arange(n) + 1, np.ones(n, np.int64)
    positions = np.flatnonzero((ids[:-1] == 1) & (ids[1:] == 2))
    created, at = np.empty(2 * n, np.int64), slice(0, positions.size)
    expected = positions.size  # it occurs as often as expected: it is merged
    arguments = (positions, created, ids, left, right, times, 1, 2, 64, expected)
    read, written = (positions, ids[at], right[at], times[at]), (created[at], ids[at], right[at])
    return Case(arguments, read, written, None)


def fill_batch(s: Sizes) -> Case:
    tokens, targets, starts = np.zeros((3, s.B, s.T), np.int32)
    corpus = s.rng.integers(0, min(s.V, 1 << 16), 1 << 24).astype(np.uint16)
    begin = s.rng.integers(0, corpus.size - s.T, s.B)
    spans, first = np.stack([begin, begin + s.T, 0 * begin], axis=1), np.arange(s.B + 1)
    corpus.flags.writeable = False

    def operator(torch, *_):
        texts, places = torch.from_numpy(corpus.astype(np.int32)), torch.from_numpy(begin)[:, None]
        places = places + torch.arange(s.T)
        return lambda: (texts[places], texts[places + 1])

    arguments = (tokens, targets, starts, corpus, np.zeros(0, np.int64), spans, first)
    return Case(arguments, (corpus[: s.N],), (tokens, targets, starts), operator)


def decode_(s: Sizes) -> Case:
    """One token of one sequence, half of its context before it."""
    widths = [1, 1, 3 * s.C, 3, s.C, 1, 1, 1, 4 * s.C, 4, 4 * s.C, 1]  # of each tensor, in rows of C
    sizes = np.array([*widths * s.L, 1, 1, s.V], np.int64) * s.C
    offsets = np.zeros((s.L + 1, 12), np.int64)
    offsets.flat[: sizes.size] = sizes.cumsum() - sizes
    params, seen = s.normal(int(sizes.sum())) / np.float32(s.C**0.5), s.T // 2
    cache, logits = s.normal(s.L, 2, 1, s.H, s.T, s.C // s.H), s.normal(1, s.V)
    scratch = (s.normal(1, 1, s.C), s.normal(1, s.F), s.normal(1, s.C), s.normal(1, s.T))
    counters = np.zeros((5 * s.L + 1, 2), np.int64)
    row = (np.zeros(1, np.int32), np.array([seen], np.int32))
    arguments = (cache, logits, s.normal(1, s.C), *scratch, counters, params, offsets, *row, 0)
    return Case(arguments, (params, cache[..., :seen, :]), (logits,), None)


def crc32(s: Sizes) -> Case:
    data = s.rng.integers(0, 256, s.N * s.C * 4).astype(np.uint8)
    return Case((data, 0), (data,), (), None)  # PyTorch's own, in its files, is not to be called alone


def all_finite(s: Sizes) -> Case:
    x = s.normal(s.N * s.C)
    return Case((x,), (x,), (), lambda torch, x: lambda: bool(torch.isfinite(x).all()))


AROUND: dict[str, Callable[[Sizes], Case]] = {
    f.__name__: f for f in (bpe_encode, bpe_merge, fill_batch, decode_, crc32, all_finite)
}
