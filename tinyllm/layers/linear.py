"""A linear map: y = x Wᵀ + b, the three matrix products that are most of a training step.

The bias is left to the caller, who adds it in the same pass as what follows (GELU, residual).
"""

from __future__ import annotations

import numpy as np

from tinyllm.arena import Array


def forward(y: Array, x: Array, weight: Array) -> Array:
    """Write y (N, out) = x (N, in) · weightᵀ, weight (out, in), and return it."""
    return np.matmul(x, weight.T, out=y)


def backward(dx: Array, dweight: Array, dy: Array, x: Array, weight: Array, scratch: Array) -> None:
    """Undo `forward`: dx (N, in) = dy · weight;  dweight (out, in) += dyᵀ · x.

    `scratch` (at least out*in elements) holds the product before it is added.
    """
    product = scratch[: weight.size].reshape(weight.shape)
    np.matmul(dy.T, x, out=product)
    dweight += product
    np.matmul(dy, weight, out=dx)
