"""What a model is measured on: spans of a corpus's documents, each read once.

Documents are cut as training cuts them (packing.py), so a loss over them is the one that training prints.
Order: Passages, making them, cutting them to windows, the transitions that simple models count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tinyllm.arena import Array
from tinyllm.kernels import fill_batch
from tinyllm.text.batches import Batch
from tinyllm.text.dialogue import Segment, Tokenizer, encode_all
from tinyllm.text.packing import Windows, cut, pack
from tinyllm.text.tokens import ALTERNATIVE, Tokens, dtype_of

BLOCK = 1 << 20  # transitions at a time


@dataclass(frozen=True)
class Passages:
    """Spans [start, stop) of positions, ascending, each within one document; a position's target follows it.

    Every token of a document but its first, end_of_text, is a target: all its bytes, and the end_of_text
    behind them.
    """

    tokens: Array  # (n,) of the whole corpus
    prompts: Array  # (2 S,) int64: begin and end of each run of tokens that are the prompt of a dialogue
    spans: Array  # (D, 2) int64
    train_on_prompts: bool = False  # prompts carry loss too

    @classmethod
    def of(cls, corpus: Tokens, spans: Array | None = None, train_on_prompts: bool = False) -> Passages:
        """Return spans (D, 2) of a corpus, or all its documents, of those in several forms the first."""
        if spans is None:
            opens = corpus.kinds & ALTERNATIVE == 0
            spans = np.stack([corpus.starts[:-1], corpus.starts[1:] - 1], axis=1)[opens]
        return cls(corpus.tokens, corpus.masked, spans[np.argsort(spans[:, 0])], train_on_prompts)

    @classmethod
    def of_text(cls, tokenizer: Tokenizer, text: str) -> Passages:
        """Return one document of running text; TokenizerError as for `encode`."""
        tokens, masked, _ = encode_all(tokenizer, [[Segment(text)]])
        tokens = tokens.astype(dtype_of(tokenizer.vocab_size))
        return cls(tokens, np.array(masked, np.int64), np.array([[0, len(tokens) - 1]]))

    @property
    def masked(self) -> Array:
        """Begin and end (2 S,) of each run of tokens without loss."""
        return self.prompts[:0] if self.train_on_prompts else self.prompts

    def windows(self, T: int) -> Windows:
        """Return the spans, cut to pieces of at most T positions, packed into windows of T.

        Their spans are (P, 3), as `fill_batch` wants them: no piece joins the one before it.
        """
        packed = pack(cut(self.spans, T), T)
        return Windows(np.pad(packed.spans, ((0, 0), (0, 1))), packed.first)

    def fill(self, out: Batch, windows: Windows, first: int) -> Batch:
        """Fill a batch of B windows with number `first` and those that follow it, the rest with padding."""
        B = len(out.tokens)
        begins = windows.first[np.minimum(np.arange(first, first + B + 1), len(windows))]
        tokens, targets, starts, _ = out
        count = fill_batch(tokens, targets, starts, self.tokens, self.masked, windows.spans, begins)
        return Batch(tokens, targets, starts, count)

    def transitions(self, limit: int | None = None) -> Iterator[tuple[Array, Array]]:
        """Yield (contexts, targets), int64 (n,) each: the targets with loss, and the token before each.

        With a `limit`, of about so many, in pieces that are spread evenly.
        """
        pieces = cut(self.spans, 1 << 12)
        if limit is not None:
            total = int((pieces[:, 1] - pieces[:, 0]).sum())
            pieces = pieces[:: max(1, -(-total // limit))]
        ends = np.cumsum(pieces[:, 1] - pieces[:, 0])
        for block in np.split(pieces, np.searchsorted(ends, np.arange(BLOCK, ends[-1:].sum(), BLOCK))):
            lengths = block[:, 1] - block[:, 0]
            # Positions one after the other: each piece's first, and how far behind it.
            within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            positions = np.repeat(block[:, 0], lengths) + within
            positions = positions[~self.is_in(self.masked, positions + 1)]
            yield self.tokens[positions].astype(np.int64), self.tokens[positions + 1].astype(np.int64)

    @staticmethod
    def is_in(runs: Array, i: Array) -> Array:
        """Return whether each i (n,) lies in one of the ascending runs (2 S,)."""
        inside: Array = np.searchsorted(runs, i, side="right") % 2 == 1
        return inside
