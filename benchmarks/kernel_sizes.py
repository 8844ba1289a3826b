"""Arguments of the sizes that a step of a config has, for one worker's share; and what a case is.

Order: the case, the sizes, what cases share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.shapes import Shape
from tinyllm.arena import Array
from tinyllm.layers import attention, blockwise, head

Operator = Callable[..., Callable[[], Any]]


class Case(NamedTuple):
    """A kernel's arguments; what it must read and what it must write, each array once; PyTorch's operator."""

    arguments: tuple[Any, ...]
    read: tuple[Array, ...]
    written: tuple[Array, ...]
    torch: Operator | None
    numpy: Callable[[], Any] | None = None  # in place of a reference that is only made to be exact

    @property
    def moved(self) -> int:
        """Bytes, read and written."""
        return sum(array.nbytes for array in (*self.read, *self.written))


class Sizes:
    """Arguments for a worker's share of a step: N rows of C channels, F = 4C, B sequences of T, V tokens."""

    def __init__(self, shape: Shape, workers: int) -> None:
        self.V, self.T, _, self.L, self.H, self.C = shape
        self.B = max(shape.B // workers, 1)
        self.N, self.F, self.size = self.B * self.T, 4 * self.C, shape.parameters // workers
        self.rng = np.random.default_rng(0)
        self.tokens = self.rng.integers(0, self.V, self.N).astype(np.int32)
        self.positions = np.tile(np.arange(self.T, dtype=np.int32), self.B)
        self.group = blockwise.group_size(self.B, self.H, self.T)  # sequences that are attended in at a time
        self.rows = head.block_rows(self.N, self.V)  # that have their logits at a time

    def normal(self, *shape: int) -> Array:
        """Return drawn numbers, float32."""
        return self.rng.standard_normal(shape, dtype=np.float32)

    def heads(self) -> Array:
        """Return keys or values (group, H, T, D) in their place among queries, keys and values."""
        x = self.normal(self.group * self.T, 3 * self.C)
        return attention.heads(x, 3, self.group, self.H)[1]

    def attention_block(self) -> tuple[Array, Array, tuple[Any, ...]]:
        """Return scores of the last block of queries and all keys, room for their sums, and all else."""
        queries = min(blockwise.BLOCK, self.T)
        scores = self.normal(self.group, self.H, queries, self.T)
        starts = np.zeros((self.group, self.T), np.int32)
        scale = (self.C // self.H) ** -0.5
        block = (starts, self.T - queries, 0, scale, np.uint64(0), 0, 0.0)
        return scores, self.normal(self.group, self.H, self.T), block

    def met(self, table: Array, places: Array) -> tuple[Array, Array]:
        """Return as many rows of the two tables as the tokens and positions name."""
        return table[: len(set(self.tokens.tolist()))], places


def gradient(torch: Any, out: Any, inputs: tuple[Any, ...], dy: Any) -> Callable[[], Any]:
    """Return PyTorch's backward of `out` alone, its forward done."""
    return lambda: torch.autograd.grad(out, inputs, dy, retain_graph=True)


def leaves(*tensors: Any) -> tuple[Any, ...]:
    """Return the tensors as inputs whose gradients are wanted."""
    return tuple(tensor.detach().requires_grad_() for tensor in tensors)
