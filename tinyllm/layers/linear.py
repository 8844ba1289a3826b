"""A linear map: y = x Wᵀ + b, the three matrix products that are most of a training step.

The bias is left to the caller, who adds it in the same pass as what follows (GELU, residual).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tinyllm.arena import Array
from tinyllm.parallel.team import WorkQueue


def forward(y: Array, x: Array, weight: Array) -> Array:
    """Write y (N, out) = x (N, in) · weightᵀ, weight (out, in), and return it."""
    return np.matmul(x, weight.T, out=y)


def backward(dx: Array, dweight: Array, dy: Array, x: Array, weight: Array,
             deferred: DeferredGradients) -> None:  # fmt: skip
    """Undo `forward`: dx (N, in) = dy · weight;  dweight (out, in) (+)= dyᵀ · x, perhaps deferred."""
    deferred.leave(dweight, dy, x)
    backward_input(dx, dy, weight)


def backward_input(dx: Array, dy: Array, weight: Array) -> None:
    """Write dx (N, in) = dy (N, out) · weight (out, in)."""
    np.matmul(dy, weight, out=dx)


def backward_weight(dweight: Array, dy: Array, x: Array, product: Array | None) -> None:
    """Add dyᵀ · x to dweight (out, in).

    `product` (at least out*in elements) holds it before it is added. Without it, this is the first
    micro-batch of a step: what dweight held is overwritten, which saves three passes over the weights.
    """
    if product is None:
        np.matmul(dy.T, x, out=dweight)
    else:
        product = product[: dweight.size].reshape(dweight.shape)
        np.matmul(dy.T, x, out=product)
        dweight += product


class DeferredGradients(NamedTuple):
    """How a worker makes the gradients of weights, which its own backward never reads.

    With a `queue` they are left there: the worker continues with what the chain rule needs next, and another
    one that has finished its own share makes them, or nobody does and `finish` makes them. Without, at once.
    """

    products: Sequence[Array]  # of each rank: memory for a gradient that is added
    add: bool = False  # False in the first micro-batch of a step: what gradients held is overwritten
    queue: WorkQueue | None = None
    rank: int = 0

    def leave(self, dweight: Array, dy: Array, x: Array) -> None:
        """Make dweight (out, in) (+)= dyᵀ · x before `finish` returns.

        Until then dy and x must not change, and nothing else may be left for the same dweight.
        """

        def make(runner: int) -> None:  # whose own product is free: it has ended its share, or finishes
            backward_weight(dweight, dy, x, self.products[runner] if self.add else None)

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
