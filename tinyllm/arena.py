"""Declare a tree of shapes; lay it out in one flat row; see it through named views.

Parameters, gradients, Adam's moments and activations are all this one thing, so clipping, Adam,
averaging and checkpointing are each one pass over one array. Order: Spec, Slot, Layout, memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tinyllm.rng import generator

Array = npt.NDArray[Any]
Tree = Any  # nested NamedTuples and tuples; the leaves are Specs before layout, arrays after

ALIGNMENT = 16  # elements: 64 bytes of float32, a cache line and an AVX-512 register


class Spec(NamedTuple):
    """A tensor before it exists: normal with `std` around `fill`."""

    shape: tuple[int, ...]
    std: float
    fill: float


def tensor(*shape: int, std: float = 0.0, fill: float = 0.0) -> Any:
    """Return a Spec, typed as what will stand in its place: the same tree holds arrays later."""
    return Spec(shape, std, fill)


class Slot(NamedTuple):
    """Where a tensor lies in the row: elements `start` to `stop`."""

    name: str
    spec: Spec
    start: int
    stop: int


class Layout:
    """The places of a tree's tensors in one row; owns no memory.

    Tensors of two or more dimensions come first, so that weight decay is the slice `[:matrices]`
    and not a mask. Slots are padded to 64 bytes; the padding is zero and stays zero.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        leaves = list(_leaves(tree, ""))
        leaves.sort(key=lambda leaf: len(leaf[1].shape) < 2)  # stable: matrices first
        slots, start, self.matrices = [], 0, 0
        for name, spec in leaves:
            stop = start + int(np.prod(spec.shape, dtype=np.int64))
            slots.append(Slot(name, spec, start, stop))
            start = -(-stop // ALIGNMENT) * ALIGNMENT
            if len(spec.shape) >= 2:
                self.matrices = start
        self.slots = tuple(slots)
        self.size = start
        self._slot_of = {slot.name: slot for slot in slots}

    @property
    def count(self) -> int:
        """Number of elements that belong to tensors (the row's size without its padding)."""
        return sum(slot.stop - slot.start for slot in self.slots)

    def views(self, row: Array) -> Tree:
        """Return the tree with arrays where the Specs were, all views into `row`.

        Raises ValueError where `row` is not (size,).
        """
        if row.shape != (self.size,):
            raise ValueError(f"row: expected shape ({self.size},), found {row.shape}")
        return _rebuild(self.tree, "", lambda name: self._view(self._slot_of[name], row))

    def named(self, row: Array) -> dict[str, Array]:
        """Return {path: view into `row` (size,)} in its order; the paths are the file format's names."""
        return {slot.name: self._view(slot, row) for slot in self.slots}

    def gaps(self) -> list[slice]:
        """Return the padding between slots, which belongs to no tensor and is always zero."""
        stops = [slot.stop for slot in self.slots]
        starts = [slot.start for slot in self.slots[1:]] + [self.size]
        return [slice(stop, start) for stop, start in zip(stops, starts, strict=True) if stop < start]

    def initialise(self, row: Array, seed: int) -> None:
        """Fill `row` (size,) from the Specs; each tensor is drawn at the address of its name."""
        row[:] = 0
        for slot in self.slots:
            view = row[slot.start : slot.stop]
            if slot.spec.std:
                draw = generator(seed, "initialise", slot.name).standard_normal(view.size)
                view[:] = slot.spec.fill + slot.spec.std * draw
            else:
                view[:] = slot.spec.fill

    @staticmethod
    def _view(slot: Slot, row: Array) -> Array:
        return row[slot.start : slot.stop].reshape(slot.spec.shape)


def _leaves(tree: Tree, path: str) -> Iterator[tuple[str, Spec]]:
    if isinstance(tree, Spec):
        yield path, tree
        return
    for name, child in _children(tree):
        yield from _leaves(child, f"{path}.{name}" if path else name)


def _children(tree: Tree) -> list[tuple[str, Tree]]:
    names = getattr(tree, "_fields", None) or [str(i) for i in range(len(tree))]
    return list(zip(names, tree, strict=True))


def _rebuild(tree: Tree, path: str, leaf: Any) -> Tree:
    if isinstance(tree, Spec):
        return leaf(path)
    parts = [_rebuild(child, f"{path}.{name}" if path else name, leaf) for name, child in _children(tree)]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


def aligned_empty(size: int, dtype: npt.DTypeLike) -> Array:
    """Return an uninitialised 1-D array whose data start at a 2 MiB boundary when it is large.

    Large rows then get huge pages where the kernel gives them, which makes the first touch about
    eight times faster.
    """
    item = np.dtype(dtype).itemsize
    boundary = 1 << 21 if size * item >= 1 << 21 else 64
    raw = np.empty(size * item + boundary, np.uint8)
    offset = -raw.ctypes.data % boundary
    return raw[offset : offset + size * item].view(dtype)
