"""How well a model predicts a text: loss, perplexity, bits per byte, accuracy, answers word for word.

The forward pass is that of training, over batches of a fixed size, whichever worker takes them: so the
numbers are the same bits for any number of workers, as long as BLAS has one thread in each. Sums are float64.
Order: what is measured, measuring, one batch, exact answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tinyllm.arena import Array
from tinyllm.inference.conversation import until_marker
from tinyllm.inference.language_model import LanguageModel
from tinyllm.inference.settings import GREEDY
from tinyllm.inference.weights import Weights
from tinyllm.kernels import cross_entropy_forward
from tinyllm.layers import head
from tinyllm.network import SCORING, Pass
from tinyllm.parallel.team import Team
from tinyllm.run.state import Workspace
from tinyllm.text.batches import Batch
from tinyllm.text.packing import Windows
from tinyllm.text.passages import Passages
from tinyllm.words import perplexity

ROWS = 2048  # positions of a batch, about
TOGETHER = 64  # answers that are written in one go
SPARE = 8  # tokens that an answer may be longer than expected: the same words may be cut into more tokens
OnProgress = Callable[[int, int], None]  # receives how much is done, and of how much


@dataclass(frozen=True)
class Measures:
    """A model on D passages; what carries no loss, such as the prompts of dialogues, counts nowhere.

    The loss is the mean over all targets, each token with loss and the end_of_text behind a text or an
    answer. Bits per byte are its sum, in bits, divided by the UTF-8 bytes of the same targets (an end_of_text
    has none): unlike the loss per token they can be compared between tokenizers.
    """

    losses: Array  # (D,) float64: the sum over each passage's targets, in nats
    counts: Array  # (D,) int64: its targets
    hits: int  # targets that the model found the most probable of all tokens
    text_bytes: int

    @property
    def tokens(self) -> int:
        """How many targets there are."""
        return int(self.counts.sum())

    @property
    def nats(self) -> float:
        """The loss summed over all targets."""
        return math.fsum(self.losses)

    @property
    def loss(self) -> float:
        """Nats per target; NaN if there is none."""
        return self.nats / self.tokens if self.tokens else math.nan

    @property
    def perplexity(self) -> float:
        """e to the loss."""
        return perplexity(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of text; NaN if there is no text."""
        return bits_per_byte(self.nats, self.text_bytes)

    @property
    def accuracy(self) -> float:
        """The fraction of targets that the model found the most probable of all tokens."""
        return self.hits / self.tokens if self.tokens else math.nan

    def worst(self, count: int) -> list[int]:
        """Return the numbers of the passages with the highest loss per target, the highest first."""
        known = np.flatnonzero(self.counts)
        found: list[int] = known[
            np.argsort(-self.losses[known] / self.counts[known], kind="stable")[:count]
        ].tolist()
        return found


def bits_per_byte(nats: float, count: int) -> float:
    """Return a sum of losses in bits, divided by a number of bytes; NaN where that is 0."""
    return nats / math.log(2) / count if count else math.nan


def evaluate(
    model: LanguageModel, passages: Passages, workers: int = 1, on_progress: OnProgress = lambda *_: None
) -> Measures:
    """Return the measures of a model on passages, made by so many workers."""
    windows = passages.windows(model.config.block_size)
    reader = _Reader(model.weights, passages, windows)
    # A piece is at most a window of a passage, in the order of `windows`, not of the corpus.
    passage = np.searchsorted(passages.spans[:, 0], windows.spans[:, 0], side="right") - 1
    total = len(windows)
    starts = range(0, total, reader.B)
    scores = []
    with Team(max(1, min(workers, len(starts)))) as team:
        memory = [reader.memory() for _ in range(team.size)]
        for first in range(0, len(starts), team.size):
            taken = starts[first : first + team.size]
            scores += team.run(lambda rank, t=taken: reader.read(memory[rank], t[rank]), len(taken))  # type: ignore[misc]
            on_progress(min(taken[-1] + reader.B, total), total)
    losses, counts, hits = (np.concatenate(each) for each in zip(*scores, strict=True))
    of_passage = np.zeros((2, len(passages.spans)))
    np.add.at(of_passage[0], passage, losses)
    np.add.at(of_passage[1], passage, counts)
    lengths = np.array([len(piece) for piece in model.tokenizer.pieces])
    text_bytes = sum(int(lengths[targets].sum()) for _, targets in passages.transitions())
    return Measures(of_passage[0], of_passage[1].astype(np.int64), int(hits.sum()), text_bytes)


class _Memory(NamedTuple):
    """What one worker needs."""

    work: Workspace
    batch: Batch
    logits: Array  # (rows, V) of a part of the batch


class _Reader:
    """Reads the windows of passages, B at a time."""

    def __init__(self, weights: Weights, passages: Passages, windows: Windows) -> None:
        self.weights, self.passages, self.windows = weights, passages, windows
        self.T = weights.config.block_size
        self.B = max(1, ROWS // self.T)  # of nothing else: other batches would be summed in another order

    def memory(self) -> _Memory:
        """Return the memory of one worker."""
        weights, N = self.weights, self.B * self.T
        work = Workspace(weights.config, weights.vocabulary, self.B, weights.row.dtype, SCORING)
        logits = np.empty((head.block_rows(N, weights.vocabulary), weights.vocabulary), weights.row.dtype)
        return _Memory(work, Batch.empty(self.B, self.T), logits)

    def read(self, memory: _Memory, first: int) -> tuple[Array, Array, Array]:
        """Return the losses, the number of targets and of hits of each piece in windows `first` to first + B.

        Float64 (P,) and int64 (P,), in the order of the pieces.
        """
        work, weights, N = memory.work, self.weights, self.B * self.T
        batch = self.passages.fill(memory.batch, self.windows, first)
        work.load(batch, slice(None))
        y = weights.network.forward(weights.params, work.memory, Pass())
        targets, losses, hits = work.memory.inputs.targets, work.memory.losses, np.zeros(N, np.bool_)
        for begin in range(0, N, len(memory.logits)):
            rows = slice(begin, min(begin + len(memory.logits), N))
            z = weights.network.logits(weights.params, y[rows], memory.logits[: rows.stop - begin])
            np.equal(z.argmax(axis=1), targets[rows], out=hits[rows])
            cross_entropy_forward(losses[rows], z, targets[rows])
        hits &= losses < np.inf  # of logits that are NaN none is the largest
        borders = self._borders(first)
        return _sums(losses, borders), _sums(targets >= 0, borders), _sums(hits, borders)

    def _borders(self, first: int) -> Array:
        """Return where each piece begins and ends (2 P,) among the rows of a batch."""
        window = self.windows.first[first : first + self.B + 1]
        spans = self.windows.spans[window[0] : window[-1]]
        lengths = spans[:, 1] - spans[:, 0]
        ends = np.cumsum(lengths)
        row = np.repeat(np.arange(len(window) - 1), np.diff(window))  # of each piece
        before = (ends - lengths)[window[:-1] - window[0]]  # positions in the rows above each row
        begins = ends - lengths - before[row] + self.T * row
        borders: Array = np.stack([begins, begins + lengths], axis=1).reshape(-1)
        return borders


def _sums(values: Array, borders: Array) -> Array:
    """Return the sum of values[begin:end] for each begin and end in borders (2 P,)."""
    dtype = np.float64 if values.dtype == np.float64 else np.int64
    padded = np.append(values.astype(dtype), dtype(0))  # a border may be the end of all
    sums: Array = np.add.reduceat(padded, borders)[::2]
    return sums


class Exchange(NamedTuple):
    """A prompt with the answer that its text has, and the model's own."""

    expected: str
    said: str


def answers(
    model: LanguageModel, passages: Passages, most: int, on_progress: OnProgress = lambda *_: None
) -> list[Exchange]:
    """Return the model's greedy answers in the passages' dialogues: to all, or to `most` evenly spread ones.

    Each follows the true text before it, as much as the model's context window holds. Text without prompts
    has no answers.
    """
    asked = [*_asked(passages)]
    if len(asked) > most:
        asked = [asked[len(asked) * i // most] for i in range(most)]
    found: list[Exchange] = []
    T, tokenizer = model.config.block_size, model.tokenizer
    for first in range(0, len(asked), TOGETHER):
        group = asked[first : first + TOGETHER]
        prompts = [passages.tokens[start:begin].astype(np.int32)[-T:] for start, begin, _ in group]
        longest = max(end - begin for _, begin, end in group) + SPARE
        written = model.generate_all(prompts, GREEDY, longest, seed=0, min_tokens=1)
        for (_, begin, end), tokens in zip(group, written, strict=True):
            expected = tokenizer.decode(passages.tokens[begin:end]).strip()
            found.append(Exchange(expected, "".join(until_marker(tokenizer.stream(tokens)))))
            on_progress(len(found), len(asked))
    return found


def _asked(passages: Passages) -> Iterator[tuple[int, int, int]]:
    """Yield where a dialogue starts in the corpus, and where one of its answers begins and ends."""
    # An answer stands between the end of one prompt and the begin of the next, or the end of the dialogue.
    ends = passages.prompts[1::2]
    begins = np.append(passages.prompts[::2], len(passages.tokens))
    for start, stop in passages.spans.tolist():
        for run in range(*np.searchsorted(ends, [start + 1, stop + 1]).tolist()):
            end = min(int(begins[run + 1]), stop + 1)
            if ends[run] < end:
                yield start, int(ends[run]), end
