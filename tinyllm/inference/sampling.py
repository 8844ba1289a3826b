"""From logits to the next token: pure functions; chance enters as one number between 0 and 1.

Top-k: Fan et al. 2018, arXiv:1805.04833; top-p: Holtzman et al. 2019, arXiv:1904.09751; repetition penalty:
Keskar et al. 2019, arXiv:1909.05858. No step sorts a whole vocabulary. Order: the tokens that Sampling keeps,
drawing one of them, the parts.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from tinyllm.arena import Array
from tinyllm.inference.settings import Sampling

BUCKETS, REACH = 1024, 32.0  # equal parts of the distances below REACH nats; beyond, all are in the last


class SamplingError(ValueError):
    """Logits from which nothing can be drawn: they hold NaN or +inf, or forbid every token."""


def likely(logits: Array, sampling: Sampling, seen: Collection[int] = ()) -> tuple[Array, Array]:
    """Return the tokens (n,) from which the next is drawn, rising, and their probabilities (n,) float64.

    In this order: the logits (V,) of tokens in `seen` are penalised, all are divided by the temperature, the
    `top_k` largest are kept, and of these the fewest largest whose share is at least `top_p`. Of equal
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
    with np.errstate(over="ignore"):  # a tiny temperature takes all but the largest infinitely far away
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


def draw(tokens: Array, probabilities: Array, u: float) -> int:
    """Return the token of (n,) at which the sum of probabilities (n,) passes u, 0 <= u < 1; not 0 itself."""
    cumulative = probabilities.cumsum()
    passed = np.searchsorted(cumulative, u * cumulative[-1], side="right")
    # Rounding may carry u * total up to the total; the last token that adds anything is the last drawn.
    return int(tokens[min(passed, np.searchsorted(cumulative, cumulative[-1]))])


def _penalised(logits: Array, penalty: float, seen: Collection[int]) -> Array:
    """Return the logits, those of seen tokens divided by the penalty.

    Keskar et al. 2019, "CTRL", section 4.1; a negative logit is multiplied instead, because dividing it
    would be a reward.
    """
    if penalty == 1 or not seen:
        return logits
    scores = logits.astype(np.float64)
    tokens = np.array(sorted(set(seen)), np.int64)
    old = scores[tokens]
    scores[tokens] = np.where(old > 0, old / penalty, old * penalty)
    return scores


def _nearest(distances: Array, amounts: Array, wanted: float) -> Array:
    """Return, as a mask (n,), the fewest items with the smallest distances whose amounts reach `wanted`.

    Of equal distances the earlier item counts as nearer. Only the items of one bucket, in which the sum
    passes `wanted`, are sorted. top-k: Fan et al. 2018; top-p: Holtzman et al. 2020, "The Curious Case of
    Neural Text Degeneration".
    """
    bucket = np.minimum(distances * (BUCKETS / REACH), BUCKETS - 1).astype(np.int64)
    sums = np.bincount(bucket, amounts).cumsum()
    border = min(int(np.searchsorted(sums, wanted)), len(sums) - 1)
    inside = np.flatnonzero(bucket == border)
    inside = inside[np.argsort(distances[inside], kind="stable")]
    reached = amounts[inside].cumsum() + (sums[border - 1] if border else 0.0)
    kept: Array = bucket < border
    kept[inside[: int(np.searchsorted(reached, wanted)) + 1]] = True
    return kept
