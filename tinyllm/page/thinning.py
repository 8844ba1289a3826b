"""A series of any length in bounded memory: exact while it is short, then its extremes and every k-th point.

Order: what is kept, keeping it.
"""

from __future__ import annotations

import math

import numpy as np

from tinyllm.arena import Array

MOST = 1 << 15  # points of a series that are kept
Series = list[tuple[int, float | None]]  # (step, value); None where it was not finite


class Thinned:
    """A series that grows by steps and their values, NaN for what was not finite.

    Of a step that comes twice the later value counts.
    """

    def __init__(self) -> None:
        self.stride = 1  # every so many-th point is in `sample`
        self._extremes, self._sample = _Pieces(), _Pieces()
        self._count = 0  # points so far

    def extend(self, steps: Array, values: Array) -> None:
        """Add a few thousand points: float64 `steps` (n,), whole and below 2**53, and `values` (n,)."""
        new = np.stack([steps, values])
        self._extremes.add(new)
        self._sample.add(new[:, -self._count % self.stride :: self.stride].copy())  # a view would hold all
        self._count += len(steps)
        if self._extremes.count > MOST:
            self._extremes = _Pieces(_extremes(_sorted(self._extremes.joined()), MOST // 4))
        while self._sample.count > MOST:
            self._sample, self.stride = _Pieces(self._sample.joined()[:, ::2].copy()), 2 * self.stride

    def extremes(self) -> Series:
        """Return the points in the order of their steps; of a long series, the extremes of short spans."""
        return _series(self._extremes.joined())

    def sample(self) -> Series:
        """Return the points in the order of their steps; of a long series, every `stride`-th one."""
        return _series(self._sample.joined())


class _Pieces:
    """Points in several arrays (2, n) of steps and values, joined when they are needed."""

    def __init__(self, *arrays: Array) -> None:
        self.arrays, self.count = list(arrays), sum(array.shape[1] for array in arrays)

    def add(self, array: Array) -> None:
        """Add some points."""
        self.arrays.append(array)
        self.count += array.shape[1]

    def joined(self) -> Array:
        """Return all points (2, n)."""
        return np.concatenate([np.empty((2, 0)), *self.arrays], axis=1)


def _series(points: Array) -> Series:
    steps, values = _sorted(points)
    return [
        (int(step), None if math.isnan(value) else value)
        for step, value in zip(steps.tolist(), values.tolist(), strict=True)
    ]


def _sorted(points: Array) -> Array:
    """Return points (2, n) by ascending steps, of equal steps the last."""
    if (points[0, 1:] > points[0, :-1]).all():
        return points
    points = points[:, np.argsort(points[0], kind="stable")]
    return points[:, np.append(points[0, 1:] != points[0, :-1], True)]


def _extremes(points: Array, columns: int) -> Array:
    """Return of points (2, n) in each of `columns` equal spans the lowest, the highest, and the last NaN."""
    steps, values = points
    column = ((steps - steps[0]) * (columns / (steps[-1] - steps[0] + 1))).astype(np.int64)
    starts = np.flatnonzero(np.append(True, column[1:] != column[:-1]))
    broken = np.isnan(values)
    kept = np.zeros(len(steps), np.bool_)
    for reduced, worst in ((np.minimum, math.inf), (np.maximum, -math.inf)):
        filled = np.where(broken, worst, values)
        best = np.repeat(reduced.reduceat(filled, starts), np.diff(np.append(starts, len(steps))))
        found = np.flatnonzero((filled == best) & ~broken)
        kept[_first_of_each(found, column)] = True
    found = np.flatnonzero(broken)[::-1]
    kept[_first_of_each(found, column)] = True
    return points[:, kept]


def _first_of_each(indices: Array, column: Array) -> Array:
    """Return of neighbouring indices in the same column the first."""
    columns = column[indices]
    first: Array = indices[np.append(True, columns[1:] != columns[:-1])[: len(indices)]]
    return first
