"""Beam search: instead of drawing, keep the few likeliest texts and go on from each of them.

The length penalty is that of Wu et al. 2016, arXiv:1609.08144, equation 14, without its constants.
Order: the search, then its parts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tinyllm.arena import Array
from tinyllm.inference.decode import Decoder
from tinyllm.inference.sampling import SamplingError
from tinyllm.inference.weights import Weights


class Hypothesis(NamedTuple):
    """A continuation; `log_probability`, in nats, includes that of its end where it has one."""

    tokens: tuple[int, ...]  # without end_of_text
    log_probability: float
    ended: bool


def beam_search(
    weights: Weights, prompt: Array, end_of_text: int, beams: int, max_tokens: int,
    length_penalty: float = 1.0, threads: int = 1,
) -> list[Hypothesis]:  # fmt: skip
    """Return the best continuations found of the prompt (n,), the best first; at most `beams`.

    A hypothesis counts log P / length**length_penalty, its end being part of its length: 0 compares plain
    probabilities, which favours short texts; 1 compares the mean per token. It is complete when it has
    ended or has max_tokens. Deterministic: of equals, the one from the better beam and the lower id wins.
    """

    def score(log_probability: float, length: int) -> float:
        return log_probability / math.pow(length, length_penalty)

    decoder = Decoder(weights, beams, threads)
    logits = np.repeat(decoder.extend(0, prompt)[None], beams, axis=0)
    decoder.cache.reorder_(np.zeros(beams, np.int64))
    alive = [_Beam(0, 0, 0.0, ()), *[_DEAD] * (beams - 1)]
    complete: list[tuple[float, Hypothesis]] = []
    for length in range(1, max_tokens + 1):
        totals = np.array([[beam.log_probability] for beam in alive]) + log_softmax(logits)
        texts, alive = [beam.text for beam in alive], []
        for parent, token, total in _best(totals, 2 * beams):  # at most half of these end
            ends = token == end_of_text
            text = texts[parent] if ends else (*texts[parent], token)
            if ends or length == max_tokens:
                complete.append((score(total, length), Hypothesis(text, total, ends)))
            elif len(alive) < beams:
                alive.append(_Beam(parent, token, total, text))
        complete.sort(key=lambda entry: -entry[0])  # stable: of equals the earlier stays first
        del complete[beams:]
        # A log probability only falls, so no beam alive can come to more than `reach`.
        reach = score(alive[0].log_probability, max_tokens) if alive else -math.inf
        if not alive or (len(complete) == beams and reach <= complete[-1][0]):
            break
        alive += [_DEAD] * (beams - len(alive))
        decoder.cache.reorder_(np.array([beam.parent for beam in alive]))
        logits = decoder.step(range(beams), [beam.token for beam in alive])
    return [hypothesis for _, hypothesis in complete]


class _Beam(NamedTuple):
    """An incomplete text: the beam it goes on from, its newest token, its sum of log probabilities."""

    parent: int
    token: int
    log_probability: float
    text: tuple[int, ...]


_DEAD = _Beam(0, 0, -math.inf, ())  # takes a place in the batch while there are too few texts


def log_softmax(logits: Array) -> Array:
    """Return log probabilities (..., V) as float64; SamplingError where the logits are not numbers."""
    highest = logits.max(axis=-1, keepdims=True)
    if not np.isfinite(highest).all():
        raise SamplingError("logits: found NaN or infinity; the model's weights are broken")
    shifted = (logits - highest).astype(np.float64)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _best(totals: Array, n: int) -> list[tuple[int, int, float]]:
    """Return (beam, token, value) of the n largest finite entries of totals (beams, V), the largest first."""
    flat = totals.ravel()
    order = np.argsort(-flat, kind="stable")[:n]
    V = totals.shape[1]
    return [(int(i) // V, int(i) % V, float(flat[i])) for i in order if np.isfinite(flat[i])]
