"""Where tensors lie in their row: matrices first, padded to cache lines, and views that share it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from tinyllm.arena import Layout, Slot, Spec, aligned_empty, tensor
from tinyllm.rng import generator


class Pair(NamedTuple):
    gain: Any
    weight: Any


TREE = (Pair(tensor(5, fill=2.0), tensor(3, 7, std=0.5, fill=1.0)), tensor(2, 8, std=1.0), tensor(17))


def test_matrices_come_first_and_every_slot_begins_a_cache_line():
    layout = Layout(TREE)
    assert layout.slots == (
        Slot("0.weight", Spec((3, 7), 0.5, 1.0), 0, 21), Slot("1", Spec((2, 8), 1.0, 0.0), 32, 48),
        Slot("0.gain", Spec((5,), 0.0, 2.0), 48, 53), Slot("2", Spec((17,), 0.0, 0.0), 64, 81),
    )  # fmt: skip
    assert (layout.matrices, layout.size, layout.count) == (48, 96, 21 + 16 + 5 + 17)
    assert layout.gaps() == [slice(21, 32), slice(53, 64), slice(81, 96)]
    assert (Layout((tensor(4),)).matrices, Layout((tensor(4, 4),)).matrices) == (0, 16)


def test_views_are_the_tree_and_share_the_row():
    layout = Layout(TREE)
    row = np.arange(layout.size, dtype=np.float32)
    pair, middle, last = layout.views(row)
    assert type(pair) is Pair and (pair.gain.shape, pair.weight.shape) == ((5,), (3, 7))
    assert (pair.weight[0, 0], middle[1, 7], pair.gain[4], last[16]) == (0, 47, 52, 80)
    named = layout.named(row)
    assert list(named) == ["0.weight", "1", "0.gain", "2"]
    named["2"][0] = -1
    assert last[0] == row[64] == -1
    for shape in ((layout.size + 1,), (1, layout.size)):
        with pytest.raises(ValueError, match=r"row: expected shape \(96,\), found"):
            layout.views(np.zeros(shape))


def test_a_tensor_is_drawn_at_the_address_of_its_name_around_its_fill_and_padding_is_zero():
    layout = Layout(TREE)
    row = np.full(layout.size, np.nan, np.float64)
    layout.initialise(row, 5)
    named = layout.named(row)
    drawn = generator(5, "initialise", "0.weight").standard_normal(21).reshape(3, 7)
    np.testing.assert_array_equal(named["0.weight"], 1.0 + 0.5 * drawn)
    assert (named["0.gain"] == 2).all() and (named["2"] == 0).all()
    assert all((row[gap] == 0).all() for gap in layout.gaps())


@pytest.mark.parametrize(("size", "boundary"), [(1, 64), ((1 << 19) - 1, 64), (1 << 19, 1 << 21)])
def test_large_arrays_begin_at_a_huge_page_and_all_at_a_cache_line(size, boundary):
    for _ in range(3):
        array = aligned_empty(size, np.float32)
        assert array.shape == (size,) and array.dtype == np.float32
        assert array.ctypes.data % boundary == 0
        assert array.base.nbytes == array.nbytes + boundary  # what alignment costs
