"""The residual connection: x_out = x + dropout(h + bias), where h is a sub-layer's output.

He et al. 2015, arXiv:1512.03385. The stream's own gradient passes through unchanged.
"""

from __future__ import annotations

import numpy as np

from tinyllm.arena import Array
from tinyllm.kernels import add_bias_, bias_backward
from tinyllm.layers import dropout


def forward(y: Array, x: Array, h: Array, bias: Array, drop: dropout.Address, site: str, layer: int) -> Array:
    """Write x + dropout(h + bias) into y; all (N, C), bias (C,). Uses up h."""
    add_bias_(h, bias)
    if drop.rate:
        dropout.forward(h, h, drop, site, layer)
    return np.add(x, h, out=y)


def backward(
    dh: Array, dbias: Array, dy: Array, drop: dropout.Address, site: str, layer: int
) -> Array:  # fmt: skip
    """Return the gradient of h (N, C) and add to dbias (C,).

    Without dropout that gradient is dy itself; with it, it is written into dh.
    """
    if drop.rate:
        dropout.backward(dh, dy, drop, site, layer)
        dy = dh
    bias_backward(dbias, dy)
    return dy
