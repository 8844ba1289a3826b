"""What stands between two sub-layers: x = skip + dropout(h + bias), and the norm that reads x next.

He et al. 2015, arXiv:1512.03385; Ba, Kiros & Hinton 2016, arXiv:1607.06450. One pass over the rows in
each direction. The bias is the sub-layer's own: the last thing its output goes through.
"""

from __future__ import annotations

from typing import NamedTuple

from tinyllm.arena import Array, tensor
from tinyllm.kernels import residual_norm_backward, residual_norm_forward
from tinyllm.layers import dropout, layernorm


class Acts(NamedTuple):
    """What backward must remember."""

    x: Array  # (N, C) the residual stream
    norm: layernorm.Acts


class Scratch(NamedTuple):
    """What passes between the sub-layers, shared by all blocks."""

    h: Array  # (N, C) a sub-layer's output; in backward its gradient, where dropout changes it
    dx: Array  # (N, C) gradient of the residual stream
    dy: Array  # (N, C) gradient of a norm's output, which is a sub-layer's input


def acts(N: int, C: int) -> Acts:
    """Return the Specs of N rows of the stream and of their norm."""
    return Acts(tensor(N, C), layernorm.acts(N, C))


def forward(p: layernorm.Params, a: Acts, skip: Array, h: Array, bias: Array, mask: dropout.Mask) -> Array:
    """Add a sub-layer's output h (N, C) and its bias (C,) to the stream `skip`; return the sum's norm."""
    residual_norm_forward(a.x, a.norm.y, a.norm.mean, a.norm.rstd, skip, h, bias, p.gain, p.bias, *mask)
    return a.norm.y


def backward(
    p: layernorm.Params, g: layernorm.Params, dbias: Array, a: Acts, s: Scratch, mask: dropout.Mask
) -> Array:
    """Undo `forward`: g, dbias (C,) +=; s.dx += the norm's gradient, made of s.dy; return that of h (N, C).

    Without dropout it is s.dx itself; with it, it is written into s.h.
    """
    residual_norm_backward(
        s.dx, s.h, dbias, g.gain, g.bias, s.dy, a.x, p.gain, a.norm.mean, a.norm.rstd, *mask
    )  # fmt: skip
    return s.h if mask.rate else s.dx
