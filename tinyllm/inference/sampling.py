"""From logits to the next token: pure functions; chance enters as one number between 0 and 1.

Order: the distribution that Sampling asks for, drawing from it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tinyllm.arena import Array
from tinyllm.inference.settings import Sampling


class SamplingError(ValueError):
    """Logits from which nothing can be drawn: they hold NaN or +inf, or forbid every token."""


def distribution(logits: Array, sampling: Sampling, seen: Iterable[int] = ()) -> Array:
    """Return the probabilities (V,) float64 from which the next token is drawn.

    In this order: the logits (V,) of tokens in `seen` are penalised, all are divided by the temperature, the
    `top_k` largest are kept, and of these the fewest largest whose share is at least `top_p`. Of equal
    logits the lower id counts as larger. A logit of -inf forbids a token. Raises SamplingError.
    """
    scores = _penalised(logits, sampling.repetition_penalty, seen)
    highest = scores.max()
    if not np.isfinite(highest):  # the maximum of anything with NaN is NaN
        raise SamplingError(
            f"logits: the largest is {highest}, expected a finite number; the model's weights are broken, "
            f"or every token is forbidden"
        )
    probabilities = np.zeros(scores.size)
    if sampling.temperature == 0:
        probabilities[scores.argmax()] = 1
        return probabilities
    with np.errstate(over="ignore"):  # a tiny temperature makes -inf of all but the largest, as it should
        weights = np.exp((scores - highest) / sampling.temperature)
    keep = _likeliest(weights, sampling.top_k, sampling.top_p)
    probabilities[keep] = weights[keep] / weights[keep].sum()
    return probabilities


def draw(probabilities: Array, u: float) -> int:
    """Return the token at which the cumulative probability passes u, 0 <= u < 1."""
    tokens = np.flatnonzero(probabilities)
    cumulative = probabilities[tokens].cumsum()
    passed = np.searchsorted(cumulative, u * cumulative[-1], side="right")
    return int(tokens[min(passed, len(tokens) - 1)])  # rounding may carry u * total up to the total


def _penalised(logits: Array, penalty: float, seen: Iterable[int]) -> Array:
    """Return the logits as float64, those of seen tokens divided by the penalty.

    Keskar et al. 2019, "CTRL", section 4.1; a negative logit is multiplied instead, because dividing it
    would be a reward.
    """
    scores = logits.astype(np.float64)
    if penalty != 1:
        tokens = np.array(sorted(set(seen)), np.int64)
        old = scores[tokens]
        scores[tokens] = np.where(old > 0, old / penalty, old * penalty)
    return scores


def _likeliest(weights: Array, k: int, p: float) -> Array:
    """Return the ids of the k largest weights (all, if k is 0), of these the fewest with the share p.

    Fan et al. 2018 (top-k); Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration" (top-p).
    """
    if k == 0 and p == 1:
        return np.arange(weights.size)
    order = np.argsort(-weights, kind="stable")[: k or None]
    if p < 1:
        share = weights[order].cumsum()
        order = order[: int(np.searchsorted(share, p * share[-1])) + 1]
    return order
