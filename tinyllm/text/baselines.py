"""How predictable a text is without a network: counts of tokens, counts of pairs, and xz.

A model that is worth its parameters is better than all three. Order: counts and what they say of their own
text, how well they predict another, xz.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from tinyllm.arena import Array
from tinyllm.text.passages import Passages

LIMIT = 1 << 22  # tokens that are counted of a larger corpus: a second, and a hundred megabytes


class Counts(NamedTuple):
    """How often each token, and each pair of neighbours, occurs among n targets of a vocabulary of V."""

    total: int  # n
    tokens: Array  # (V,) as a target
    contexts: Array  # (V,) as the token before a target
    pairs: Array  # (P,) int64, ascending: context * V + target
    times: Array  # (P,) of each pair

    @classmethod
    def of(cls, passages: Passages, V: int, limit: int = LIMIT) -> Counts:
        """Count the targets with loss; of more than `limit`, evenly spread ones."""
        blocks = [*passages.transitions(limit)]
        contexts, targets = (np.concatenate(each) for each in zip(*blocks, strict=True))
        pairs, times = np.unique(contexts * V + targets, return_counts=True)
        return cls(
            len(targets), np.bincount(targets, minlength=V), np.bincount(contexts, minlength=V), pairs, times
        )

    def entropies(self) -> tuple[float, float]:
        """Return the entropy of a token, and that of a token given the one before it, in nats.

        These are the losses on the counted text itself of a unigram and a bigram model that know its exact
        frequencies; no model of their kind does better there.
        """
        if not self.total:
            return math.nan, math.nan
        tokens = self.tokens[self.tokens > 0]
        before = self.contexts[self.pairs // len(self.tokens)]
        unigram = math.log(self.total) - float((tokens * np.log(tokens)).sum()) / self.total
        return unigram, float((self.times * np.log(before / self.times)).sum()) / self.total

    def losses(self, contexts: Array, targets: Array) -> tuple[Array, Array]:
        """Return the losses (n,) of a unigram and of a bigram model on targets (n,) after contexts (n,).

        They predict what the counts have not seen as well: unigram P(w) = (n(w) + 1) / (n + V), and bigram
        P(w | c) = (n(c w) + d(c) P(w)) / (n(c) + d(c)), where d(c) tokens are known to follow c.
        Witten & Bell 1991, "The zero-frequency problem".
        """
        V = len(self.tokens)
        unigram = (self.tokens[targets] + 1) / (self.total + V)
        wanted = contexts * V + targets
        found = np.minimum(np.searchsorted(self.pairs, wanted), max(len(self.pairs) - 1, 0))
        seen = np.where(self.pairs[found] == wanted, self.times[found], 0) if len(self.pairs) else 0
        kinds = np.bincount(self.pairs // V, minlength=V)[contexts]
        before = self.contexts[contexts]
        known = before > 0
        bigram = np.where(known, (seen + kinds * unigram) / np.maximum(before + kinds, 1), unigram)
        return -np.log(unigram), -np.log(bigram)


def ngram_losses(counts: Counts, passages: Passages) -> tuple[float, float]:
    """Return the sums, in nats, of what a unigram and a bigram model lose on all targets of the passages."""
    sums = [
        [float(losses.sum()) for losses in counts.losses(contexts, targets)]
        for contexts, targets in passages.transitions()
    ]
    unigram, bigram = (math.fsum(each) for each in zip(*sums, strict=True))
    return unigram, bigram


def xz_size(parts: Iterable[bytes]) -> int:
    """Return how many bytes `xz` makes of the parts joined, at its default level, its header included."""
    compressor = lzma.LZMACompressor()
    return sum(len(compressor.compress(part)) for part in parts) + len(compressor.flush())
