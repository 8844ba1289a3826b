"""Token plus position embedding: a row of one table for what a token is, of another for where it is.

GPT-2 (Radford et al. 2019). Positions count from the start of the token's own document.
"""

from __future__ import annotations

from typing import NamedTuple

from tinyllm.arena import Array, tensor
from tinyllm.kernels import embedding_backward, embedding_forward
from tinyllm.layers import dropout


class Params(NamedTuple):
    """What is learned."""

    token: Array  # (V, C), also the output head's weight
    position: Array  # (T, C)


class Acts(NamedTuple):
    """What backward must remember."""

    x: Array  # (N, C) the residual stream as it enters the first block


def params(V: int, T: int, C: int) -> Params:
    """Return the Specs of both tables, drawn with GPT-2's standard deviation."""
    return Params(tensor(V, C, std=0.02), tensor(T, C, std=0.02))


def acts(N: int, C: int) -> Acts:
    """Return the Specs of the N embedded rows."""
    return Acts(tensor(N, C))


def forward(p: Params, a: Acts, tokens: Array, positions: Array, mask: dropout.Mask) -> Array:
    """Write token + position rows, both indexed by int32 (N,), into a.x and return it."""
    embedding_forward(a.x, tokens, positions, p.token, p.position)
    if mask.rate:
        dropout.forward(a.x, a.x, mask)
    return a.x


def backward(g: Params, dx: Array, tokens: Array, positions: Array, mask: dropout.Mask) -> None:
    """Undo `forward`: g += the rows of dx (N, C), which is overwritten where dropout is on."""
    if mask.rate:
        dropout.backward(dx, dx, mask)
    embedding_backward(g.token, g.position, dx, tokens, positions)
