"""Layer normalisation: give every row mean 0 and variance 1, then a learned gain and bias.

Ba, Kiros & Hinton 2016, arXiv:1607.06450. It reads the residual stream, so backward adds into `dx`.
"""

from __future__ import annotations

from typing import NamedTuple

from tinyllm.arena import Array, tensor
from tinyllm.kernels import layernorm_backward, layernorm_forward


class Params(NamedTuple):
    """What is learned."""

    gain: Array  # (C,)
    bias: Array  # (C,)


class Acts(NamedTuple):
    """What backward must remember."""

    y: Array  # (N, C)
    mean: Array  # (N,)
    rstd: Array  # (N,) 1 / sqrt(variance + 1e-5)


def params(C: int) -> Params:
    """Return the Specs of a norm over C channels; it starts as gain 1, bias 0."""
    return Params(tensor(C, fill=1.0), tensor(C))


def acts(N: int, C: int) -> Acts:
    """Return the Specs of what backward must remember for N rows of C channels."""
    return Acts(tensor(N, C), tensor(N), tensor(N))


def forward(p: Params, a: Acts, x: Array) -> Array:
    """Normalise x (N, C) into a.y and return it."""
    layernorm_forward(a.y, a.mean, a.rstd, x, p.gain, p.bias)
    return a.y


def backward(p: Params, g: Params, a: Acts, x: Array, dy: Array, dx: Array) -> None:
    """Undo `forward`: g += , and dx (N, C) += because x is the residual stream."""
    layernorm_backward(dx, g.gain, g.bias, dy, x, p.gain, a.mean, a.rstd)
