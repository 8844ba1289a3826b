"""Every position of every document gets its place in a window of T positions.

A position is a token that has a successor, its target; a span is [start, stop) of positions of one document.
Documents are cut into spans of at most T, which are packed whole, once and for all. A stream longer than T
fills windows of its own, cut anew in every epoch. Order: cutting, packing, streams.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tinyllm.arena import Array


def cut(spans: Array, T: int) -> Array:
    """Return (P, 2) spans of at most T positions that follow each other through the given (S, 2) ones."""
    lengths = spans[:, 1] - spans[:, 0]
    counts = -(-lengths // T)
    source = np.repeat(np.arange(len(spans)), counts)
    nth = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = spans[source, 0] + T * nth
    return np.stack([starts, np.minimum(starts + T, spans[source, 1])], axis=1)


@dataclass(frozen=True)
class Windows:
    """Packed windows: number w is spans[first[w]:first[w + 1]], at most T positions together."""

    spans: Array  # (P, 2) int64
    first: Array  # (W + 1,) int64

    def __len__(self) -> int:
        return len(self.first) - 1

    def __getitem__(self, w: int) -> Array:
        return self.spans[self.first[w] : self.first[w + 1]]

    @cached_property
    def most(self) -> int:
        """The most spans that a window has."""
        return int(np.diff(self.first).max(initial=0))

    def place(self, out: Array, w: int) -> int:
        """Write the spans of window w to the first rows of `out` (n, 2); return how many they are."""
        spans = self[w]
        out[: len(spans)] = spans
        return len(spans)


def pack(spans: Array, T: int) -> Windows:
    """Pack (P, 2) spans of at most T positions into windows of T: best fit, the longest first.

    Johnson 1973, "Near-optimal bin packing algorithms": at most 11/9 of the fewest possible windows, plus 4.
    """
    lengths = spans[:, 1] - spans[:, 0]
    window_of = np.empty(len(spans), np.int64)
    with_room: list[list[int]] = [[] for _ in range(T)]  # with_room[r]: the windows with r positions left
    rooms, count = 0, 0  # bit r of rooms is set where with_room[r] has a window
    order = np.argsort(-lengths, kind="stable")
    for i, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        if fitting := rooms >> length:
            room = length + (fitting & -fitting).bit_length() - 1  # the tightest that fits
            window = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, window, count = T, count, count + 1
        window_of[i] = window
        if room > length:
            with_room[room - length].append(window)
            rooms |= 1 << (room - length)
    by_window = np.argsort(window_of, kind="stable")
    return Windows(spans[by_window], np.searchsorted(window_of[by_window], np.arange(count + 1)))


def stream_windows(lengths: Array, T: int) -> Array:
    """Return how many windows streams of `lengths` (S,) positions fill in an epoch, whatever the offset."""
    counts: Array = -(-lengths // T)
    return counts


def place_stream(out: Array, start: int, stop: int, offset: int, w: int, T: int) -> int:
    """Write the spans of window w of the stream [start, stop) into `out` (n, 2), n > 1; return 1 or 2.

    The stream is longer than T. Windows of T positions begin at `offset` < T. What is left before and after
    them is the last window, or the last two where it is more than T: so the number of windows does not
    depend on the offset.
    """
    first = start + offset
    full = (stop - first) // T
    after = first + full * T
    if w < full:
        parts: tuple[tuple[int, int], ...] = ((first + w * T, first + (w + 1) * T),)
    else:
        parts = (start, first), (after, stop)
        if stop - start > (full + 1) * T:
            parts = parts[w - full : w - full + 1]
    count = 0
    for begin, end in parts:
        if begin < end:
            out[count, 0], out[count, 1] = begin, end
            count += 1
    return count
