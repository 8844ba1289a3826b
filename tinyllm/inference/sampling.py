"""From logits to the next token: pure functions; randomness enters as one number from 0 to 1.

Top-k: Fan et al. 2018, arXiv:1805.04833; top-p: Holtzman et al. 2019, arXiv:1904.09751; repetition penalty:
Keskar et al. 2019, arXiv:1909.05858. The vocabulary is never sorted as a whole. Order: the tokens that
Sampling keeps, sampling one of them, forbidding some, the parts.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from tinyllm.arena import Array
from tinyllm.inference.settings import Sampling
from tinyllm.text.utf8 import NOWHERE

FARTHEST = 1e300  # of a penalised logit
BUCKETS, REACH = 1024, 32.0  # equal buckets of the distances below REACH nats; the last has all beyond


class SamplingError(ValueError):
    """Logits from which no token can be sampled: they hold NaN or +inf, or forbid every token."""


def candidates(logits: Array, sampling: Sampling, seen: Collection[int] = ()) -> tuple[Array, Array]:
    """Return the tokens (n,) that may come next, ascending, and their probabilities (n,) float64.

    In this order: the logits (V,) of tokens in `seen` are penalised, all are divided by the temperature, the
    `top_k` largest are kept, and of these the smallest set with total probability `top_p`. Of equal
    logits the lower id counts as larger. A logit of -inf forbids a token. Raises SamplingError.
    """
    scores = _penalised(logits, sampling.repetition_penalty, seen)
    best = int(scores.argmax())  # of anything with NaN, the first NaN
    if not np.isfinite(scores[best]):
        raise SamplingError(
            f"logits: the largest is {scores[best]}, expected a finite number; the model's weights are "
            f"broken, or every token is forbidden"
        )
    if sampling.temperature == 0:
        return np.array([best]), np.ones(1)
    with np.errstate(over="ignore"):  # at a tiny temperature all but the largest become infinitely distant
        distances = (np.float64(scores[best]) - scores) / sampling.temperature
    tokens, weights = np.arange(scores.size), np.exp(-distances)
    if 0 < sampling.top_k < tokens.size:
        kept = _nearest(distances, np.ones(tokens.size), sampling.top_k)
        tokens, weights, distances = tokens[kept], weights[kept], distances[kept]
    if sampling.top_p < 1:
        kept = _nearest(distances, weights, sampling.top_p * weights.sum())
        tokens, weights = tokens[kept], weights[kept]
    weights /= weights.sum()
    return tokens, weights


def sample(tokens: Array, probabilities: Array, u: float) -> int:
    """Return the token of (n,) at which the cumulative probability exceeds u, 0 <= u < 1.

    A token of probability 0 is never returned.
    """
    cumulative = probabilities.cumsum()
    passed = np.searchsorted(cumulative, u * cumulative[-1], side="right")
    # Rounding may lift u * total to the total itself: then it is the last token that adds anything to it.
    return int(tokens[min(passed, np.searchsorted(cumulative, cumulative[-1]))])


def forbid_(logits: Array, following: Array) -> None:
    """Set the logits (V,) of tokens that cannot continue a text to -inf; `following` (V,) is NOWHERE there.

    Raises SamplingError if no token is left.
    """
    logits[following == NOWHERE] = -np.inf
    if np.isneginf(logits).all():
        raise SamplingError(
            "found no token that can come next: those of this vocabulary are no text in UTF-8; train a "
            "tokenizer on other texts"
        )


def _penalised(logits: Array, penalty: float, seen: Collection[int]) -> Array:
    """Return the logits, those of seen tokens divided by the penalty.

    Keskar et al. 2019, "CTRL", section 4.1; a negative logit is multiplied instead, because dividing
    would raise it.
    """
    if penalty == 1 or not seen:
        return logits
    scores = logits.astype(np.float64)
    tokens = np.array(sorted(set(seen)), np.int64)
    old = scores[tokens]
    with np.errstate(over="ignore"):
        penalised = np.where(old > 0, old / penalty, old * penalty)
    # Of an extreme penalty the order remains: infinity would mean broken, minus infinity forbidden.
    scores[tokens] = np.where(np.isfinite(old), np.clip(penalised, -FARTHEST, FARTHEST), old)
    return scores


def _nearest(distances: Array, amounts: Array, wanted: float) -> Array:
    """Return a mask (n,) of the nearest items, as few as their amounts, added up, need to reach `wanted`.

    Of equal distances the earlier item counts as nearer. Amounts are first added up by buckets of distance,
    so that only the items of the bucket in which the sum reaches `wanted` must be sorted.
    """
    bucket = (np.minimum(distances, REACH) * (BUCKETS / REACH)).astype(np.int64)
    bucket = np.minimum(bucket, BUCKETS - 1)
    sums = np.bincount(bucket, amounts).cumsum()
    border = int(np.searchsorted(sums, wanted))  # beyond all, which are kept, where rounding lowers the sum
    inside = np.flatnonzero(bucket == border)
    inside = inside[np.argsort(distances[inside], kind="stable")]
    reached = amounts[inside].cumsum() + (sums[border - 1] if border else 0.0)
    kept: Array = bucket < border
    kept[inside[: int(np.searchsorted(reached, wanted)) + 1]] = True
    return kept
