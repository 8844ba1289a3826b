"""The position-wise network of a block: widen fourfold, GELU, narrow again.

Vaswani et al. 2017, section 3.3, with GELU (Hendrycks & Gimpel 2016) in its tanh form, as in GPT-2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from tinyllm.arena import Array, tensor
from tinyllm.kernels import bias_gelu_backward, bias_gelu_forward
from tinyllm.layers import linear


class Params(NamedTuple):
    """What is learned."""

    up_weight: Array  # (F, C)
    up_bias: Array  # (F,)
    down_weight: Array  # (C, F)
    down_bias: Array  # (C,) added together with the residual


class Acts(NamedTuple):
    """What backward must remember."""

    up: Array  # (N, F) before the bias


class Scratch(NamedTuple):
    """Working memory, shared by all blocks."""

    gelu: Array  # (N, F) made again in backward, in the pass that needs its slope anyway
    dgelu: Array  # (N, F), overwritten by its own gradient through GELU


def params(C: int, F: int, L: int) -> Params:
    """Return the Specs; the output projection is scaled by 1/sqrt(2L) as in GPT-2."""
    return Params(tensor(F, C, std=0.02), tensor(F), tensor(C, F, std=0.02 / math.sqrt(2 * L)), tensor(C))


def acts(N: int, F: int) -> Acts:
    """Return the Specs of what backward must remember."""
    return Acts(tensor(N, F))


def scratch(N: int, F: int) -> Scratch:
    """Return the Specs of working memory, shared by all blocks."""
    return Scratch(tensor(N, F), tensor(N, F))


def forward(
    p: Params, a: Acts, s: Scratch, x: Array, y: Array, products: linear.Products = linear.BLAS
) -> Array:
    """Map x (N, C) to y (N, C), without its last bias, and return it."""
    remember(p, a, x, products)
    bias_gelu_forward(s.gelu, a.up, p.up_bias)
    return linear.forward(y, s.gelu, p.down_weight, products)


def remember(p: Params, a: Acts, x: Array, products: linear.Products = linear.BLAS) -> None:
    """Write what backward needs of x (N, C), and nothing more."""
    linear.forward(a.up, x, p.up_weight, products)


def backward(p: Params, g: Params, a: Acts, s: Scratch, flow: linear.Flow) -> None:
    """Undo `forward`: g +=, flow.dx (N, C) =; flow.dy (N, C) is the gradient of y plus its bias."""
    x, dy, dx, deferred = flow
    linear.backward_input(s.dgelu, dy, p.down_weight, deferred.mine)
    bias_gelu_backward(s.dgelu, s.gelu, g.up_bias, a.up, p.up_bias)
    deferred.leave(g.down_weight, dy, s.gelu)
    linear.backward(dx, g.up_weight, s.dgelu, x, p.up_weight, deferred)
    deferred.finish()
