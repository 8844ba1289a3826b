"""Beam search: instead of sampling, keep the few most probable texts and extend each of them.

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
from tinyllm.text.utf8 import BOUNDARY, NOWHERE


class Hypothesis(NamedTuple):
    """A continuation; `log_probability`, in nats, includes that of end_of_text if it ended."""

    tokens: tuple[int, ...]  # without end_of_text
    log_probability: float
    ended: bool


def beam_search(
    decoder: Decoder, prompt: Array, end_of_text: int, max_tokens: int, length_penalty: float = 1.0,
    states: Array | None = None,
) -> list[Hypothesis]:  # fmt: skip
    """Return the best continuations found of the prompt (n,), the best first; at most one per beam.

    There are as many beams as the decoder, which must be new, has sequences. A hypothesis scores
    log P / length**length_penalty, its end counted in its length: 0 compares plain probabilities, which
    favours short texts; 1 compares the mean per token. It is complete when it has ended or has max_tokens.
    Deterministic: of equals, the one from the better beam and the lower id wins. With the `states` of a
    tokenizer, only texts in UTF-8 are looked at. Raises SamplingError where there is none.
    """
    beams = len(decoder.cache.lengths)

    def score(log_probability: float, length: int) -> float:
        # The negated logarithm of -log P / length**length_penalty, which may overflow; the order is the same.
        distance = math.log(-log_probability) if log_probability < 0 else -math.inf
        return length_penalty * math.log(length) - distance

    logits = np.repeat(decoder.extend(0, prompt)[None], beams, axis=0)
    decoder.cache.reorder_(np.zeros(beams, np.int64))  # every beam starts from the prompt in sequence 0
    if states is None:
        states = np.full((1, logits.shape[1]), BOUNDARY, np.int8)
    alive = [_Beam(0, 0, 0.0, ()), *[_DEAD] * (beams - 1)]
    complete: list[tuple[float, Hypothesis]] = []
    for length in range(1, max_tokens + 1):
        totals = np.array([[beam.log_probability] for beam in alive]) + log_softmax(logits)
        following = states[[beam.state for beam in alive]]
        totals[following == NOWHERE] = -np.inf
        texts, alive = [beam.text for beam in alive], []
        for parent, token, total in _largest(totals, 2 * beams):  # at most one per beam is end_of_text
            ends = token == end_of_text
            text = texts[parent] if ends else (*texts[parent], token)
            if ends or length == max_tokens:
                complete.append((score(total, length), Hypothesis(text, total, ends)))
            elif len(alive) < beams:
                alive.append(_Beam(parent, token, total, text, int(following[parent, token])))
        complete.sort(key=lambda entry: -entry[0])  # stable: of equals the earlier stays first
        del complete[beams:]
        # Log probabilities are negative and only fall: no extension of a live beam can score above `bound`.
        bound = score(alive[0].log_probability, max_tokens) if alive else -math.inf
        if not alive or (len(complete) == beams and bound <= complete[-1][0]):
            break
        alive += [_DEAD] * (beams - len(alive))
        decoder.cache.reorder_(np.array([beam.parent for beam in alive]))
        logits = decoder.step(range(beams), [beam.token for beam in alive])
    if not complete:
        raise SamplingError("found no text in UTF-8: the tokens of this vocabulary are bytes that are none")
    return [hypothesis for _, hypothesis in complete]


class _Beam(NamedTuple):
    """An incomplete text: the beam it extends, its newest token, its sum of log probabilities."""

    parent: int
    token: int
    log_probability: float
    text: tuple[int, ...]
    state: int = BOUNDARY  # of text/utf8.py


_DEAD = _Beam(0, 0, -math.inf, ())  # fills the batch while there are too few texts


def log_softmax(logits: Array) -> Array:
    """Return log probabilities (..., V) as float64; SamplingError where the logits are not finite."""
    highest = logits.max(axis=-1, keepdims=True)
    if not np.isfinite(highest).all():
        raise SamplingError("logits: found NaN or infinity; the model's weights are broken")
    shifted = (logits - highest).astype(np.float64)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _largest(totals: Array, n: int) -> list[tuple[int, int, float]]:
    """Return (beam, token, value) of the n largest finite entries of totals (beams, V), the largest first."""
    flat = totals.ravel()
    order = np.argsort(-flat, kind="stable")[:n]
    V = totals.shape[1]
    return [(int(i) // V, int(i) % V, float(flat[i])) for i in order if np.isfinite(flat[i])]
