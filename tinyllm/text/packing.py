"""Every position of every document is assigned to a window of T positions.

A position is a token that has a successor, its target; a span is [start, stop) of positions of one document.
Documents are cut into spans of at most T, which are packed whole, once and for all. A stream longer than T
fills windows of its own, which are cut differently in every epoch. Order: cutting, packing, streams.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tinyllm.arena import Array
from tinyllm.rng import generator


def cut(spans: Array, T: int) -> Array:
    """Return (P, 2) spans of at most T positions that follow each other through the given (S, 2) ones.

    Example: [[0, 10], [20, 23]], T = 4 -> [[0, 4], [4, 8], [8, 10], [20, 23]]
    """
    lengths = spans[:, 1] - spans[:, 0]
    counts = -(-lengths // T)  # rounded up; in the example 3, 1
    source = np.repeat(np.arange(len(spans)), counts)  # of each piece: 0, 0, 0, 1
    nth = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)  # in its span: 0, 1, 2, 0
    starts = spans[source, 0] + T * nth
    return np.stack([starts, np.minimum(starts + T, spans[source, 1])], axis=1)


@dataclass(frozen=True)
class Windows:
    """Packed windows: number w is spans[first[w]:first[w + 1]], at most T positions together."""

    spans: Array  # (P, 2) int64: begin and stop; (P, 3): and 1 for a span that joins the one before
    first: Array  # (W + 1,) int64

    def __len__(self) -> int:
        return len(self.first) - 1

    def __getitem__(self, w: int) -> Array:
        return self.spans[self.first[w] : self.first[w + 1]]

    @cached_property
    def most_spans(self) -> int:
        """The largest number of spans in a window."""
        return int(np.diff(self.first).max(initial=0))

    def copy_spans(self, out: Array, w: int) -> int:
        """Write the spans of window w to the first rows of `out` (n, 2) or (n, 3); return how many."""
        spans = self[w]
        out[: len(spans), : spans.shape[1]] = spans
        return len(spans)


def pack(spans: Array, T: int, mixed: bool = False) -> Windows:
    """Pack (P, 2) spans of at most T positions into windows of T: best fit, the longest first.

    If `mixed`, those of at most a quarter of a window come last and in an order of chance: by length, windows
    would hold documents that resemble each other, and the gradients of a batch would repeat each other.

    Johnson 1973, "Near-optimal bin packing algorithms": at most 11/9 of the fewest possible windows, plus 4.

    Example: lengths 5, 4, 3, 2, T = 8 -> windows of 5 + 3 and 4 + 2
    """
    lengths = spans[:, 1] - spans[:, 0]
    window_of = np.empty(len(spans), np.int64)
    # Windows by the positions that are free in them. Bit r of `rooms` is set where with_room[r] is not empty,
    # so one shift drops all windows that are too full, and the lowest bit that remains is the tightest fit.
    with_room: list[list[int]] = [[] for _ in range(T)]
    rooms, count = 0, 0
    order = np.argsort(-lengths, kind="stable")
    if mixed:
        long = int(np.count_nonzero(4 * lengths > T))
        order[long:] = generator(0, "pack").permutation(order[long:])
    for i, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        if fitting := rooms >> length:
            room = length + (fitting & -fitting).bit_length() - 1  # x & -x is the lowest bit of x
            window = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, window, count = T, count, count + 1  # a new window
        window_of[i] = window
        if room > length:  # a full window is never looked at again
            with_room[room - length].append(window)
            rooms |= 1 << (room - length)
    # The spans sorted by window, in each window in their order; then where each window begins among them.
    by_window = np.argsort(window_of, kind="stable")
    return Windows(spans[by_window], np.searchsorted(window_of[by_window], np.arange(count + 1)))


def stream_windows(lengths: Array, T: int) -> Array:
    """Return how many windows streams of `lengths` (S,) positions fill in an epoch, whatever the offset."""
    counts: Array = -(-lengths // T)
    return counts


def stream_spans(out: Array, start: int, stop: int, offset: int, w: int, T: int) -> int:
    """Write the spans of window w of the stream [start, stop) into `out` (n, 2), n > 1; return 1 or 2.

    The stream is longer than T. Windows of T positions begin at `offset` < T. The remainders before and after
    them share the last window, or fill the last two where they are more than T together: so the number of
    windows does not depend on the offset.

    Example: a stream [0, 10), T = 4

        offset 0    0123 4567 89            window 2 is [8, 10)
        offset 1    0 1234 5678 9           window 2 is [0, 1) and [9, 10)
        offset 3    012 3456 789            windows 1 and 2 are [0, 3) and [7, 10)
    """
    first = start + offset
    full = (stop - first) // T  # windows of T positions
    after = first + full * T
    if w < full:
        parts: tuple[tuple[int, int], ...] = ((first + w * T, first + (w + 1) * T),)
    else:
        parts = (start, first), (after, stop)
        if stop - start > (full + 1) * T:  # more than T positions remain: one part for each of two windows
            parts = parts[w - full : w - full + 1]
    count = 0
    for begin, end in parts:
        if begin < end:
            out[count, 0], out[count, 1] = begin, end
            count += 1
    return count
