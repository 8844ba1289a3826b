"""A linear map: y = x Wᵀ + b, the three matrix products that are most of a training step.

The bias is left to the caller, who adds it in the same pass as what follows (GELU, residual).
"""

from __future__ import annotations

import numpy as np

from tinyllm.arena import Array


def forward(y: Array, x: Array, weight: Array) -> Array:
    """Write y (N, out) = x (N, in) · weightᵀ, weight (out, in), and return it."""
    return np.matmul(x, weight.T, out=y)


def backward(dx: Array, dweight: Array, dy: Array, x: Array, weight: Array, product: Array | None) -> None:
    """Undo `forward`: dx (N, in) = dy · weight;  dweight (out, in) += dyᵀ · x."""
    backward_weight(dweight, dy, x, product)
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
