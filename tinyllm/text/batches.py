"""A batch is a pure function of (seed, epoch, index): nothing about the data needs to be saved.

Every target that carries loss and is not held out occurs exactly once per epoch. A window may hold several
documents; `starts` keeps them apart. How texts become windows:

- a document (JSON entry, or paragraph with --documents) is end_of_text, its tokens, end_of_text. It is cut
  into pieces of at most block_size targets, and pieces are packed whole into windows, once; pieces without
  loss are dropped. The held-out part are whole documents, at least one, chosen by a hash of their tokens:
  documents that are added to a corpus change the side of no other, and one that both phases read is on the
  same side in both.
- a stream (.txt) is one document per file, but its windows begin at an offset drawn in each epoch, and its
  held-out part is its end. A stream shorter than a window is packed like a document.

Windows are shuffled in each epoch; how dialogues are drawn, drawing.py says. Order: Batch, prepare, Epoch,
Dataset, the held-out part.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyllm.arena import Array
from tinyllm.config import Config, TrainConfig
from tinyllm.kernels import fill_batch
from tinyllm.rng import generator
from tinyllm.text.dialogue import Tokenizer
from tinyllm.text.drawing import Drawing, Members
from tinyllm.text.files import DataError
from tinyllm.text.held_out import chosen, drawn, split
from tinyllm.text.packing import Windows, cut, pack, stream_spans, stream_windows
from tinyllm.text.texts import Text, digest
from tinyllm.text.tokens import ALTERNATIVE, FORMAT, STREAM, Tokens, load_tokens, save_tokens
from tinyllm.words import counted

PROMPTS, LONGEST_PROMPT = 64, 128  # of Dataset.prompts; the length in tokens


class Batch(NamedTuple):
    """B windows of T positions; a padding position has token 0, target -1, and is a document of its own."""

    tokens: Array  # (B, T) int32
    targets: Array  # (B, T) int32: the token that follows; -1 where it carries no loss (padding, prompts)
    starts: Array  # (B, T) int32: where in the row the position's document begins
    loss_tokens: int  # targets that carry loss

    @classmethod
    def of(cls, tokens: Array, targets: Array, starts: Array) -> Batch:
        """Return the batch of three arrays (B, T), its targets counted."""
        return cls(tokens, targets, starts, int(np.count_nonzero(targets >= 0)))

    @classmethod
    def empty(cls, B: int, T: int) -> Batch:
        """Return arrays of zeros for `Dataset.batch` to fill, in every step the same ones."""
        tokens, targets, starts = np.zeros((3, B, T), np.int32)
        return cls(tokens, targets, starts, 0)


def prepare(
    texts: Iterable[Text], tokenizer: Tokenizer, config: Config, directory: Path, name: str
) -> Dataset:  # fmt: skip
    """Return the data of phase `name`, from `<directory>/<name>.tokens` if that was made of the same texts.

    `texts` is iterated once for its digest, if there are tokens to compare it with, and once if they differ.
    Raises DataError for texts that cannot be read or are too few.
    """
    path = directory / f"{name}.tokens"
    tokens = load_tokens(path, tokenizer.vocab_size)
    if (
        tokens is None
        or tokens.made_of["tokenizer"] != tokenizer.fingerprint()
        or tokens.made_of["texts"] != digest(texts)
    ):
        save_tokens(path, texts, tokenizer)
        tokens = load_tokens(path, tokenizer.vocab_size)
        if tokens is None:
            raise DataError(f"{path}: cannot be read back as it was written; check the disk")
    return Dataset(tokens, config, name)


class Epoch(NamedTuple):
    """What is drawn for an epoch."""

    order: Array  # (W,) of the windows
    offsets: list[int]  # of the windows of each stream
    packed: Windows


class Dataset:
    """The windows of a corpus, and the batches made of them.

    `tokens` and `documents` count the whole corpus, of groups the first member; `windows`, and `targets` that
    carry loss, one epoch; `held_out_windows` the validation data.
    `fingerprint` is equal for equal batches: it depends on the texts and on all settings that matter, but not
    on any path. An epoch's windows are numbered: first the packed ones, then those of each stream in turn.
    `prompts` are the tokens (n,) of a few first prompts of dialogues that are trained on.
    """

    def __init__(self, corpus: Tokens, config: Config, name: str) -> None:
        self.name, self.block_size = name, config.model.block_size
        opens = corpus.kinds & ALTERNATIVE == 0
        self.documents, self.tokens = int(opens.sum()), int(np.diff(corpus.starts)[opens].sum())
        self.fingerprint = _fingerprint(config, name, corpus.made_of)
        self._tokens = corpus.tokens
        self._masked = corpus.masked[:0] if config.data.train_on_prompts else corpus.masked
        train, streams, held_out = self._parts(corpus, config)
        self.corpus, self.training, self.held_out = corpus, train, held_out  # spans (S, 2) of positions
        self.prompts = _prompts(corpus, train[~streams])
        length = train[:, 1] - train[:, 0]
        long_streams = streams & (length > self.block_size)  # these fill windows of their own
        self._streams: list[list[int]] = train[long_streams].tolist()
        members, packed = Members(corpus, self.block_size), train[~long_streams]
        group = members.group[np.searchsorted(corpus.starts, packed[:, 0], "right") - 1]
        pieces = self._pieces(members.longest(packed, group))
        self._packed = pack(pieces, self.block_size, config.data.mixed_windows)
        self._drawing = Drawing(self._packed, corpus, members) if corpus.kinds.max() > STREAM else None
        self._held_out = pack(self._pieces(held_out), self.block_size)
        self.held_out_windows = len(self._held_out)
        # Buffers of `_fill`, for as many spans as any B windows can have; a stream's window has up to two.
        self._most_spans = max(self._packed.most_spans, self._held_out.most_spans, 2)
        self._spans = np.empty((0, 3), np.int64)
        self._first = np.empty(0, np.int64)  # the spans of row b are spans[first[b]:first[b + 1]]
        counts = stream_windows(length[long_streams], self.block_size)
        first = len(self._packed) + np.cumsum(counts) - counts
        self._stream_first: list[int] = first.tolist()  # the number of each stream's first window
        self.windows = len(self._packed) + int(counts.sum())
        self.targets = int(self._loss_in(train).sum())
        self._epoch: tuple[tuple[int, int], Epoch] | None = None

    def batch(
        self, seed: int, epoch: int, index: int, batch_size: int, out: Batch | None = None
    ) -> Batch:  # fmt: skip
        """Return batch `index` of the epoch, whatever was asked for before; past the epoch's end, padding.

        Where `out` is given, its arrays are filled: then only an epoch's first batch allocates any.
        """
        drawn = self._drawn(seed, epoch)
        windows = drawn.order[index * batch_size : (index + 1) * batch_size]
        out = Batch.empty(batch_size, self.block_size) if out is None else out
        return self._fill(out, windows.tolist(), lambda spans, w: self._copy_spans(spans, w, drawn))

    def micro_batches(
        self, config: TrainConfig, epoch: int, index: int, buffers: list[Batch]
    ) -> list[Batch]:  # fmt: skip
        """Return the batches of update `index` of the epoch, in `buffers`, which gets those it lacks.

        The epoch's last update may have fewer than the others.
        """
        first = index * config.accumulate
        after = min(first + config.accumulate, -(-self.windows // config.batch_size))
        while len(buffers) < after - first:
            buffers.append(Batch.empty(config.batch_size, self.block_size))
        return [
            self.batch(config.seed, epoch, number, config.batch_size, buffer)
            for number, buffer in zip(range(first, after), buffers, strict=False)
        ]

    def validation(self, batch_size: int) -> Iterator[Batch]:
        """Yield the whole held-out part, always the same batches; each overwrites the one before."""
        out = Batch.empty(batch_size, self.block_size)
        for first in range(0, len(self._held_out), batch_size):
            windows = range(first, min(first + batch_size, len(self._held_out)))
            yield self._fill(out, windows, self._held_out.copy_spans)

    @property
    def held_out_documents(self) -> frozenset[int]:
        """The numbers, from 0, of the documents that are held out whole; a group counts as one."""
        starts = self.corpus.starts[:-1][self.corpus.kinds & ALTERNATIVE == 0]
        return frozenset(np.flatnonzero(np.isin(starts, self.held_out[:, 0])).tolist())

    def _drawn(self, seed: int, epoch: int) -> Epoch:
        """Return what is drawn for the epoch; the latest is cached."""
        latest = self._epoch
        if latest is None or latest[0] != (seed, epoch):
            order = generator(seed, "shuffle", self.name, epoch).permutation(self.windows)
            offsets = generator(seed, "offset", self.name, epoch)
            drawn: list[int] = offsets.integers(0, self.block_size, len(self._streams)).tolist()
            packed = self._drawing.windows(seed, self.name, epoch) if self._drawing else self._packed
            latest = self._epoch = (seed, epoch), Epoch(order, drawn, packed)
        return latest[1]

    def _copy_spans(self, spans: Array, w: int, drawn: Epoch) -> int:
        """Write the spans of training window w into the first rows of `spans`; return how many they are."""
        if w < len(self._packed):
            return drawn.packed.copy_spans(spans, w)
        s = bisect_right(self._stream_first, w) - 1  # the last stream that begins at window w or before
        start, stop = self._streams[s]
        return stream_spans(spans, start, stop, drawn.offsets[s], w - self._stream_first[s], self.block_size)

    def _fill(self, out: Batch, windows: Sequence[int], copy_spans: Callable[[Array, int], int]) -> Batch:
        """Fill the rows of `out` with these windows, and any further rows with padding; return the batch."""
        B = len(out.tokens)
        if len(self._first) != B + 1:
            self._spans = np.empty((B * self._most_spans, 3), np.int64)
            self._first = np.empty(B + 1, np.int64)
        spans, first, count = self._spans, self._first, 0
        spans[:, 2] = 0  # only windows that were drawn say which spans join the one before
        for row, w in enumerate(windows):
            first[row] = count
            count += copy_spans(spans[count:], w)
        first[len(windows) :] = count  # the end of the last window; rows beyond it have no spans
        tokens, targets, starts, _ = out
        loss_tokens = fill_batch(tokens, targets, starts, self._tokens, self._masked, spans, first)
        return Batch(tokens, targets, starts, loss_tokens)

    def _parts(self, corpus: Tokens, config: Config) -> tuple[Array, Array, Array]:
        """Return the spans to train on, which of them are streams, and the spans held out."""
        fraction, seed = config.data.val_fraction, config.train.seed
        # The last token of a document is no position: it has no successor in it, and so no target.
        # A group is trained on or held out as a whole: its first member stands for it.
        opens = corpus.kinds & ALTERNATIVE == 0
        spans = np.stack([corpus.starts[:-1], corpus.starts[1:] - 1], axis=1)[opens]
        with_loss = self._loss_in(spans) > 0
        spans, streams = spans[with_loss], corpus.kinds[opens][with_loss] & STREAM > 0
        if not len(spans):
            raise DataError(
                f"{self.name}: found {counted(self.documents, 'document')}, none has a token with loss"
            )
        held_out = spans[:0]
        if fraction:
            documents = spans[~streams]
            if config.data.held_out_by == "place":
                held = drawn(len(documents), fraction, generator(seed, "split", self.name))
            else:
                phase = (self.name,) if config.data.held_out_by == "content" else ()
                held = chosen(corpus.tokens, documents, fraction, (seed, "split", *phase))
            spans, streams, held_out = split(spans, streams, fraction, held)
            if not len(held_out):
                raise DataError(
                    f"{self.name}: found {counted(self.documents, 'document')} and "
                    f"{counted(self.tokens, 'token')}, too few to hold out a fraction of "
                    f"{fraction}; give more text, or --val-fraction 0"
                )
        # A book must fill a window; a few short documents need not, since each is complete in itself.
        found = int((spans[:, 1] - spans[:, 0]).sum()) + 1
        if streams.all() and found <= self.block_size:
            raise DataError(
                f"{self.name}: found {counted(found, 'token')} to train on, expected "
                f"{self.block_size + 1:,} or more for one window; give more text, or a smaller --block-size"
            )
        return spans, streams, held_out

    def _pieces(self, spans: Array) -> Array:
        """Return the spans cut to pieces of a window at most, those without any loss left out."""
        pieces = cut(spans, self.block_size)
        return pieces[self._loss_in(pieces) > 0]

    def _loss_in(self, spans: Array) -> Array:
        """Return the number of targets with loss of each span.

        Example: runs of masked tokens [3, 5) and [8, 9); a span [2, 8) has the targets 3 to 8, and 3 of these
        carry loss. Below 9 there are 3 masked tokens, below 3 none: 6 - (3 - 0) = 3.
        """
        begins, ends = self._masked[::2], self._masked[1::2]
        before = np.concatenate([[0], np.cumsum(ends - begins)])  # masked tokens in the first r runs

        def masked_below(i: Array) -> Any:
            runs = np.searchsorted(begins, i)  # that begin below i
            beyond = np.maximum(ends[runs - 1] - i, 0) if len(ends) else 0  # of the last, which i may cut
            return before[runs] - np.where(runs > 0, beyond, 0)

        targets = spans + 1
        masked: Array = masked_below(targets[:, 1]) - masked_below(targets[:, 0])
        return spans[:, 1] - spans[:, 0] - masked


def _prompts(corpus: Tokens, documents: Array) -> list[Array]:
    """Return the first run of masked tokens, if it is short, of a few documents, evenly spread over all."""
    begins, ends = corpus.masked[::2], corpus.masked[1::2]
    found = []
    for i in np.linspace(0, len(documents) - 1, min(PROMPTS, len(documents))).astype(np.int64):
        start, stop = documents[i]
        run = int(np.searchsorted(begins, start))
        if run < len(begins) and begins[run] <= stop and ends[run] - begins[run] <= LONGEST_PROMPT:
            found.append(corpus.tokens[begins[run] : ends[run]])
    return found


def _fingerprint(config: Config, name: str, made_of: dict[str, str]) -> str:
    """Hash all that decides the batches; the seed matters here only where it chooses what is held out."""
    data, block_size = config.data, config.model.block_size
    split: list[Any] | None = [data.val_fraction, config.train.seed] if data.val_fraction else None
    if split and data.held_out_by != "place":
        split.append(data.held_out_by)
    settings = [FORMAT, name, made_of, block_size, data.train_on_prompts, split]
    content = json.dumps([*settings, "mixed"] if data.mixed_windows else settings)
    return hashlib.sha256(content.encode()).hexdigest()
