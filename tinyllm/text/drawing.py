"""In each epoch dialogues are asked in other forms, and joined into other conversations.

The windows stay: a slot is the place of a packed span in its window, as long as the longest member of the
span's group. So an epoch has the same number of windows whatever is drawn. Into the slots come, once each,

- one member of each group: a document or one of its alternatives. Where it is shorter than its slot, its
  window ends in padding.
- the dialogues that join others: those of equally long slots change places, and those of a window are
  shuffled. Then it is drawn which begin a conversation; a conversation has one to three dialogues.

Example: a window of three dialogues a, b, c; a has an alternative A. | begins a conversation.

    epoch 0    | A b | c            epoch 1    | c | b a

Order: Members, Drawing.
"""

from __future__ import annotations

import numpy as np

from tinyllm.arena import Array
from tinyllm.rng import generator
from tinyllm.text.packing import Windows
from tinyllm.text.tokens import ALTERNATIVE, JOINS, Tokens

LARGEST = 3  # dialogues in a conversation


class Members:
    """The groups of a corpus: each document, and those of its alternatives that may take its place.

    These are at most T positions long, and a document that is longer has none.
    """

    def __init__(self, corpus: Tokens, T: int) -> None:
        spans = np.stack([corpus.starts[:-1], corpus.starts[1:] - 1], axis=1)  # the last token is no position
        lengths = spans[:, 1] - spans[:, 0]
        opens = corpus.kinds & ALTERNATIVE == 0
        self.group = np.cumsum(opens) - 1  # (D,) of each document
        fits = (lengths <= T) & (lengths[opens] <= T)[self.group]
        documents = np.flatnonzero(opens | fits)
        documents = documents[np.lexsort((-lengths[documents], self.group[documents]))]
        self.spans = spans[documents]  # (M, 2) of the members, group by group, the longest first
        self.counts = np.bincount(self.group[documents])  # (G,) members of each group
        self.first = np.cumsum(self.counts) - self.counts  # (G,) where they begin among the spans

    def longest(self, spans: Array, group: Array) -> Array:
        """Return the spans (S, 2) of documents of groups (S,), of a group of several its longest member's."""
        return np.where((self.counts[group] > 1)[:, None], self.spans[self.first[group]], spans)


class Drawing:
    """The packed windows of every epoch, made of those into which the longest members were packed."""

    def __init__(self, windows: Windows, corpus: Tokens, members: Members) -> None:
        spans, self._members = windows.spans, members
        document = np.searchsorted(corpus.starts, spans[:, 0], "right") - 1
        whole = spans[:, 1] == corpus.starts[document + 1] - 1
        whole &= spans[:, 0] == corpus.starts[document]
        joins = whole & (corpus.kinds[document] & JOINS > 0)
        window = np.repeat(np.arange(len(windows)), np.diff(windows.first))
        # In each window, first what joins nothing, then the dialogues.
        order = np.lexsort((joins, window))
        spans, group, joins = spans[order], members.group[document[order]], joins[order]
        self._windows = Windows(np.pad(spans, ((0, 0), (0, 1))), windows.first)
        self._varied = np.flatnonzero(members.counts[group] > 1)  # slots
        self._groups = group[self._varied]
        self._joining = np.flatnonzero(joins)  # slots, window by window
        lengths = (spans[:, 1] - spans[:, 0])[self._joining]
        self._by_length = self._joining[np.argsort(lengths, kind="stable")]
        self._lengths = np.sort(lengths)  # of the slots of `_by_length`
        self._window = window[self._joining]  # ascending
        # The dialogues of each window: where they begin among the joining slots, and how many they are.
        self._runs, self._run_lengths = np.unique(self._window, return_index=True, return_counts=True)[1:]

    def windows(self, seed: int, name: str, epoch: int) -> Windows:
        """Return the windows of phase `name` in an epoch, spans (P, 3): begin, stop, 1 for a joined one."""
        spans, members = self._windows.spans, self._members
        if len(self._varied):
            drawn = generator(seed, "forms", name, epoch).random(len(self._varied))
            nth = (drawn * members.counts[self._groups]).astype(np.int64)
            spans = spans.copy()
            spans[self._varied, :2] = members.spans[members.first[self._groups] + nth]
        if len(self._joining):
            rng, spans = generator(seed, "dialogues", name, epoch), spans.copy()
            # Numbers below 1 that are added to ascending whole ones shuffle those that are equal.
            moved = np.argsort(self._lengths + rng.random(len(self._joining)), kind="stable")
            spans[self._by_length] = spans[self._by_length[moved]]
            moved = np.argsort(self._window + rng.random(len(self._joining)), kind="stable")
            spans[self._joining] = spans[self._joining[moved]]
            spans[self._joining, 2] = self._joined(rng.integers(1, LARGEST + 1, len(self._joining)))
        return Windows(spans, self._windows.first)

    def _joined(self, sizes: Array) -> Array:
        """Return which joining slots (J,) continue a conversation; each window takes of its `sizes` in turn.

        Example: a window of 5 dialogues, sizes 2, 1, 3, 1, 1 -> conversations of 2, 1 and 2; 0 1 0 0 1
        """
        stops = np.cumsum(sizes)
        before = stops[self._runs] - sizes[self._runs]  # the sizes of earlier windows, added up
        stops -= np.repeat(before, self._run_lengths)  # 2, 3, 6, 7, 8
        inside = stops < np.repeat(self._run_lengths, self._run_lengths)
        joined = np.ones(len(sizes), np.int64)
        joined[self._runs] = 0
        joined[(np.repeat(self._runs, self._run_lengths) + stops)[inside]] = 0
        return joined
