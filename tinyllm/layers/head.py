"""The output head and its loss: logits from the token table (tied weights), then cross entropy.

Logits are the largest array of all, so they exist for one block of rows at a time, and become their own
gradient on the spot: training has no use for them afterwards. That is why `backward` makes them again
from y instead of being handed what `forward` left. Press & Wolf 2016, arXiv:1608.05859, for the tie.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tinyllm.arena import Array, tensor
from tinyllm.kernels import cross_entropy_backward, cross_entropy_forward
from tinyllm.layers import linear

MOST = 1 << 24  # logits at a time: 64 MiB in float32
FEWEST_ROWS = 256  # fewer would make the matrix products slow


class Rows(NamedTuple):
    """What the head reads, and what it makes of it."""

    y: Array  # (N, C) the final norm's output
    targets: Array  # int32 (N,); -1 where there is no loss
    losses: Array  # float64 (N,) nats
    dy: Array  # (N, C) gradient of y, written by backward alone


class Scratch(NamedTuple):
    """Working memory of both passes."""

    logits: Array  # (rows, V) one block


def block_rows(N: int, V: int) -> int:
    """Return how many of N rows have their logits at a time."""
    return min(N, max(MOST // V, FEWEST_ROWS))


def scratch(N: int, V: int) -> Scratch:
    """Return the Specs of one block of logits."""
    return Scratch(tensor(block_rows(N, V), V))


def _blocks(N: int, rows: int) -> Iterator[slice]:
    return (slice(first, min(first + rows, N)) for first in range(0, N, rows))


def forward(weight: Array, s: Scratch, rows: Rows, products: linear.Products = linear.BLAS) -> None:
    """Write the loss of each row into rows.losses; weight (V, C)."""
    for block in _blocks(len(rows.y), len(s.logits)):
        logits = linear.forward(s.logits[: block.stop - block.start], rows.y[block], weight, products)
        cross_entropy_forward(rows.losses[block], logits, rows.targets[block])


def backward(
    weight: Array, dweight: Array, s: Scratch, rows: Rows, scale: float, deferred: linear.DeferredGradients
) -> None:
    """Write the losses as `forward` does, and the gradient of scale * sum(losses): rows.dy =.

    dweight (V, C) += if `deferred.add`, else it is overwritten.
    """
    add, products = deferred.add, deferred.mine
    for block in _blocks(len(rows.y), len(s.logits)):
        y = rows.y[block]
        logits = linear.forward(s.logits[: block.stop - block.start], y, weight, products)
        cross_entropy_backward(rows.losses[block], logits, rows.targets[block], scale)
        # At once: every block adds to the same gradient, and the next one needs the room of these logits.
        linear.backward_weight(dweight, logits, y, products, add)
        linear.backward_input(rows.dy[block], logits, weight, products)
        add = True
