"""A linear map: y = x Wᵀ + b, the three matrix products that are most of a training step.

The bias is left to the caller, who adds it in the same pass as what follows (GELU, residual).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tinyllm.arena import Array
from tinyllm.kernels import multiply
from tinyllm.parallel.team import WorkQueue


class Products(NamedTuple):
    """Who makes a rank's matrix products: the kernels' own, whose bits are the same everywhere, or BLAS."""

    memory: Array  # own: strips (ROOM,); BLAS: a product before it is added, of at least its size
    own: bool = False

    def make(self, y: Array, a: Array, b: Array, add: bool = False) -> Array:
        """Write y (M, N) = a (M, K) · b (K, N), or add that to y, and return y."""
        if self.own:
            multiply(y, a, b, self.memory, add)
        elif add:
            product = self.memory[: y.size].reshape(y.shape)
            np.matmul(a, b, out=product)
            y += product
        else:
            np.matmul(a, b, out=y)
        return y


BLAS = Products(np.empty(0, np.float32))  # without memory for sums


def forward(y: Array, x: Array, weight: Array, products: Products = BLAS) -> Array:
    """Write y (N, out) = x (N, in) · weightᵀ, weight (out, in), and return it."""
    return products.make(y, x, weight.T)


def backward(dx: Array, dweight: Array, dy: Array, x: Array, weight: Array,
             deferred: DeferredGradients) -> None:  # fmt: skip
    """Undo `forward`: dx (N, in) = dy · weight;  dweight (out, in) (+)= dyᵀ · x, perhaps deferred."""
    deferred.leave(dweight, dy, x)
    backward_input(dx, dy, weight, deferred.mine)


def backward_input(dx: Array, dy: Array, weight: Array, products: Products) -> None:
    """Write dx (N, in) = dy (N, out) · weight (out, in)."""
    products.make(dx, dy, weight)


def backward_weight(dweight: Array, dy: Array, x: Array, products: Products, add: bool) -> None:
    """Add dyᵀ · x to dweight (out, in), or overwrite it, as in the first micro-batch of a step."""
    products.make(dweight, dy.T, x, add)


class DeferredGradients(NamedTuple):
    """How a worker makes the gradients of weights, which its own backward never reads.

    With a `queue` they are left there: the worker continues with what the chain rule needs next, and another
    one that has finished its own share makes them, or nobody does and `finish` makes them. Without, at once.
    """

    products: Sequence[Products] = (BLAS,)  # of each rank
    add: bool = False  # False in the first micro-batch of a step: what gradients held is overwritten
    queue: WorkQueue | None = None
    rank: int = 0

    @property
    def mine(self) -> Products:
        """What makes the products of the rank itself."""
        return self.products[self.rank]

    def leave(self, dweight: Array, dy: Array, x: Array) -> None:
        """Make dweight (out, in) (+)= dyᵀ · x before `finish` returns.

        Until then dy and x must not change, and nothing else may be left for the same dweight.
        """

        def make(runner: int) -> None:  # whose memory is free: it has ended its share, or finishes
            backward_weight(dweight, dy, x, self.products[runner], self.add)

        if self.queue is None:
            make(self.rank)
        else:
            self.queue.put(self.rank, make)

    def finish(self) -> None:
        """Return when all gradients that were left are made."""
        if self.queue is not None:
            self.queue.finish(self.rank)


class Flow(NamedTuple):
    """What passes through a sub-layer in backward."""

    x: Array  # (N, C) what forward read
    dy: Array  # (N, C) the gradient of what forward wrote
    dx: Array  # (N, C) where the gradient of x is written
    deferred: DeferredGradients
