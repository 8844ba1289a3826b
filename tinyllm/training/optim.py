"""Clip the gradient by its global norm, then one step of Adam, each worker on its slice of the rows.

Kingma & Ba 2014, arXiv:1412.6980, algorithm 1, with decoupled weight decay (Loshchilov & Hutter 2017,
arXiv:1711.05101) on matrices only; clipping after Pascanu et al. 2012, arXiv:1211.5063.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

from tinyllm.arena import ALIGNMENT, Array, Layout
from tinyllm.config import TrainConfig
from tinyllm.kernels import adam_


def slices(size: int, parts: int) -> list[slice]:
    """Cut `size` elements into `parts` slices whose borders are cache lines."""
    lines = -(-size // ALIGNMENT)
    borders = [min(lines * i // parts * ALIGNMENT, size) for i in range(parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(borders)]


def clip_factor(norm: float, limit: float) -> float:
    """Return what to multiply the gradient by so that its norm is at most `limit`; 0 means no limit."""
    return limit / norm if limit and norm > limit else 1.0


class Update(NamedTuple):
    """One step of Adam."""

    lr: float
    timestep: int  # from 1
    factor: float  # of the gradient, from clipping


def update_(
    rows: Array, gradient: Array, part: slice, layout: Layout, config: TrainConfig, update: Update
) -> None:
    """Apply one update to `part` of rows (3, size) = params, m, v; gradient (size,)."""
    correction1 = 1 - config.beta1**update.timestep
    correction2 = 1 - config.beta2**update.timestep
    # Matrices come first in the rows: the part before the border decays, the part behind it does not.
    border = min(max(layout.matrices, part.start), part.stop)
    for piece, decay in ((slice(part.start, border), config.weight_decay), (slice(border, part.stop), 0.0)):
        if piece.start < piece.stop:
            params, m, v = rows[:, piece]
            adam_(
                params, gradient[piece], m, v, update.lr, config.beta1, config.beta2, config.epsilon,
                correction1, correction2, decay, update.factor,
            )  # fmt: skip
