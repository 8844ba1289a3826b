"""Documents are cut and packed, and streams cut in windows, as the examples in their docstrings say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllm.text.packing import Windows, cut, pack, stream_spans, stream_windows


def spans_of(lengths: list[int]) -> np.ndarray:
    stops = np.cumsum(lengths)
    return np.stack([stops - lengths, stops], axis=1).astype(np.int64)


def test_long_documents_are_cut_into_pieces_of_at_most_t():
    found = cut(np.array([[0, 10], [20, 23], [30, 38]]), 4)
    assert found.tolist() == [[0, 4], [4, 8], [8, 10], [20, 23], [30, 34], [34, 38]]


def test_the_longest_is_placed_first_where_it_fits_best():
    windows = pack(spans_of([5, 4, 3, 2]), 8)
    assert [np.diff(windows[w]).ravel().tolist() for w in range(len(windows))] == [[5, 3], [4, 2]]
    # 4 fits the two windows that 6 and 5 leave 4 and 5 free in: the tighter; the last 4 takes the other.
    windows = pack(spans_of([4, 5, 6, 4]), 10)
    assert [windows[w].tolist() for w in range(len(windows))] == [[[0, 4], [9, 15]], [[4, 9], [15, 19]]]
    full = pack(spans_of([8, 8, 1]), 8)
    assert (len(full), full.most_spans, full.first.tolist()) == (3, 1, [0, 1, 2, 3])


@given(st.lists(st.integers(1, 9), max_size=30))
def test_packing_leaves_the_room_that_plain_best_fit_leaves_and_every_span_is_in_one_window(lengths):
    T, used = 9, []
    for length in sorted(lengths, reverse=True):
        fits = [w for w in range(len(used)) if used[w] + length <= T]
        if not fits:
            fits, used = [len(used)], [*used, 0]
        used[max(fits, key=lambda w: used[w])] += length
    windows = pack(spans_of(lengths), T)
    assert sorted(np.diff(windows[w]).sum() for w in range(len(windows))) == sorted(used)
    assert sorted(windows.spans.tolist()) == spans_of(lengths).tolist()


def test_a_windows_spans_are_copied_to_the_first_rows():
    windows = Windows(np.array([[0, 2], [5, 6], [7, 9]]), np.array([0, 2, 3]))
    out = np.full((3, 2), -1)
    assert (windows.copy_spans(out, 0), out.tolist()) == (2, [[0, 2], [5, 6], [-1, -1]])
    assert (windows.copy_spans(out, 1), windows.most_spans) == (1, 2)
    assert Windows(np.zeros((0, 2), np.int64), np.zeros(1, np.int64)).most_spans == 0


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        (0, [[(0, 4)], [(4, 8)], [(8, 10)]]),
        (1, [[(1, 5)], [(5, 9)], [(0, 1), (9, 10)]]),
        (2, [[(2, 6)], [(6, 10)], [(0, 2)]]),
        (3, [[(3, 7)], [(0, 3)], [(7, 10)]]),
    ],
)
def test_a_stream_fills_the_same_number_of_windows_whatever_the_offset(offset, expected):
    assert stream_windows(np.array([9, 10, 12, 13]), 4).tolist() == [3, 3, 3, 4]
    for start in (0, 100):
        out, found = np.zeros((2, 2), np.int64), []
        for w in range(3):
            count = stream_spans(out, start, start + 10, offset, w, 4)
            found.append([tuple(span - start) for span in out[:count]])
        assert found == expected
    # Where the remainders are exactly T together, they share one window.
    assert stream_spans(out, 0, 8, 3, 1, 4) == 2 and out.tolist() == [[0, 3], [7, 8]]


def test_mixed_windows_hold_short_documents_of_any_length_and_waste_no_more():
    lengths = np.random.default_rng(0).integers(3, 17, 2000)
    lengths[::50] = 60
    spans = spans_of(lengths.tolist())
    by_length, mixed = pack(spans, 64), pack(spans, 64, mixed=True)

    def spread(windows: Windows) -> float:
        return float(
            np.mean([np.ptp(np.diff(windows[w])) for w in range(len(windows)) if len(windows[w]) > 2])
        )

    assert sorted(map(tuple, mixed.spans.tolist())) == sorted(map(tuple, spans.tolist()))
    assert max(int(np.diff(mixed[w]).sum()) for w in range(len(mixed))) <= 64
    assert spread(by_length) < 4 < 8 < spread(mixed)
    assert len(mixed) < 1.03 * len(by_length)
    again = pack(spans, 64, mixed=True)
    assert np.array_equal(mixed.spans, again.spans) and np.array_equal(mixed.first, again.first)
