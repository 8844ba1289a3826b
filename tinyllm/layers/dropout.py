"""Dropout whose mask is a function of its address: nothing is stored, any step can be replayed.

Srivastava et al. 2014. Backward recomputes the mask from the same address, so there are no Acts.
"""

from __future__ import annotations

from typing import NamedTuple

from tinyllm.arena import Array
from tinyllm.kernels import dropout_backward, dropout_forward
from tinyllm.rng import key


class Address(NamedTuple):
    """Where in the run a forward pass stands.

    It holds `sequences` of them, of which the first is number `first` among all sequences of the step.
    An element's mask depends on its place in the whole step, hence not on how many workers share it.
    """

    rate: float
    seed: int
    step: int
    first: int
    sequences: int


OFF = Address(0.0, 0, 0, 0, 1)


def forward(y: Array, x: Array, address: Address, site: str, layer: int) -> None:
    """Write dropped-out x into y; both (B * something, ...) with the sequences first; y may be x."""
    dropout_forward(y, x, *_mask(x, address, site, layer))


def backward(dx: Array, dy: Array, address: Address, site: str, layer: int) -> None:
    """Undo `forward`: dx = mask * dy / (1 - rate); dx may be dy."""
    dropout_backward(dx, dy, *_mask(dy, address, site, layer))


def _mask(x: Array, address: Address, site: str, layer: int) -> tuple[int, int, float]:
    where = key(address.seed, "dropout", address.step, site, layer)
    return where, address.first * (x.size // address.sequences), address.rate
