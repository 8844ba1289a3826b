"""Dropout whose mask is a function of its address: nothing is stored, any step can be replayed.

Srivastava et al. 2014. Backward draws the mask again from the same address, so there are no Acts. Most
dropout happens inside a neighbour's kernel, which is given the address of the mask.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tinyllm.arena import Array
from tinyllm.kernels import dropout_backward, dropout_forward
from tinyllm.rng import key


class Mask(NamedTuple):
    """What a kernel needs to draw a mask: its key, the number of its first row, and the rate."""

    key: np.uint64
    first: int
    rate: float


class Address(NamedTuple):
    """Where in the run a forward pass stands: its first sequence is number `first` of the whole step.

    A mask depends on a row's place in the whole step, hence not on how many workers share it.
    """

    rate: float
    seed: int
    step: int
    first: int

    def mask(self, site: str, layer: int, rows: int) -> Mask:
        """Return the mask of one site of one layer, where a sequence has this many rows."""
        if not self.rate:
            return NO_MASK
        where = np.uint64(key(self.seed, "dropout", self.step, site, layer))
        return Mask(where, self.first * rows, self.rate)


NO_MASK = Mask(np.uint64(0), 0, 0.0)
OFF = Address(0.0, 0, 0, 0)


def forward(y: Array, x: Array, mask: Mask) -> None:
    """Write dropped-out x into y, both (N, C); y may be x."""
    dropout_forward(y, x, *mask)


def backward(dx: Array, dy: Array, mask: Mask) -> None:
    """Undo `forward`: dx = mask * dy / (1 - rate), both (N, C); dx may be dy."""
    dropout_backward(dx, dy, *mask)
