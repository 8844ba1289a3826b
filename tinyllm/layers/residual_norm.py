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


def acts(N: int, C: int) -> Acts:
    """Return the Specs of N rows of the stream and of their norm."""
    return Acts(tensor(N, C), layernorm.acts(N, C))


def forward(p: layernorm.Params, a: Acts, skip: Array, h: Array, bias: Array, mask: dropout.Mask) -> Array:
    """Add a sub-layer's output h (N, C) and its bias (C,) to the stream `skip`; return the sum's norm."""
    residual_norm_forward(a.x, a.norm.y, a.norm.mean, a.norm.rstd, skip, h, bias, p.gain, p.bias, *mask)
    return a.norm.y


def backward(
    p: layernorm.Params, g: layernorm.Params, dbias: Array, a: Acts, dy: Array, dx: Array, dh: Array,
    mask: dropout.Mask,
) -> Array:  # fmt: skip
    """Undo `forward`: g, dbias +=; dx (N, C), the stream's gradient, += the norm's; return that of h.

    Without dropout it is dx itself; with it, it is written into dh (N, C).
    """
    residual_norm_backward(
        dx, dh, dbias, g.gain, g.bias, dy, a.x, p.gain, a.norm.mean, a.norm.rstd, *mask
    )  # fmt: skip
    return dh if mask.rate else dx
