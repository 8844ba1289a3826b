"""The output head and its loss: logits from the token table (tied weights), then cross entropy.

Logits are the largest array of all, so they exist for one block of rows at a time, and become their own
gradient on the spot: training has no use for them afterwards. That is why `backward` makes them again
from y instead of being handed what `forward` left. Rows without loss, such as a dialogue's prompts and
padding, have none: the others are gathered first. Press & Wolf 2016, arXiv:1608.05859, for the tie.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

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
    y: Array  # (N, C) the rows that carry loss; (0, C): the head reads all rows, as in earlier runs


def block_rows(N: int, V: int) -> int:
    """Return how many of N rows have their logits at a time."""
    return min(N, max(MOST // V, FEWEST_ROWS))


def scratch(N: int, V: int, C: int, all_rows: bool = False) -> Scratch:
    """Return the Specs of one block of logits, and of the rows that carry loss unless the head reads all."""
    return Scratch(tensor(block_rows(N, V), V), tensor(0 if all_rows else N, C))


def _blocks(N: int, rows: int) -> Iterator[slice]:
    return (slice(first, min(first + rows, N)) for first in range(0, N, rows))


def _gathered(s: Scratch, rows: Rows) -> tuple[Rows, Array | None]:
    """Return the n rows that carry loss and their numbers (n,); all as they are, and None, if that is all."""
    numbers = np.flatnonzero(rows.targets >= 0)
    if not len(s.y) or len(numbers) == len(rows.y):
        return rows, None
    y = np.take(rows.y, numbers, axis=0, out=s.y[: len(numbers)], mode="clip")
    # Their gradients take their place: `backward` reads a block of rows for the last time before it writes.
    return Rows(y, rows.targets[numbers], np.empty(len(numbers)), y), numbers


def forward(weight: Array, s: Scratch, rows: Rows, products: linear.Products = linear.BLAS) -> None:
    """Write the loss of each row into rows.losses; weight (V, C)."""
    found, numbers = _gathered(s, rows)
    for block in _blocks(len(found.y), len(s.logits)):
        logits = linear.forward(s.logits[: block.stop - block.start], found.y[block], weight, products)
        cross_entropy_forward(found.losses[block], logits, found.targets[block])
    if numbers is not None:
        rows.losses[...] = 0
        rows.losses[numbers] = found.losses


def backward(
    weight: Array, dweight: Array, s: Scratch, rows: Rows, scale: float, deferred: linear.DeferredGradients
) -> None:
    """Write the losses as `forward` does, and the gradient of scale * sum(losses): rows.dy =.

    dweight (V, C) += if `deferred.add`, else it is overwritten.
    """
    add, products, (found, numbers) = deferred.add, deferred.mine, _gathered(s, rows)
    if not add and not len(found.y):
        dweight[...] = 0
    for block in _blocks(len(found.y), len(s.logits)):
        y = found.y[block]
        logits = linear.forward(s.logits[: block.stop - block.start], y, weight, products)
        cross_entropy_backward(found.losses[block], logits, found.targets[block], scale)
        # At once: every block adds to the same gradient, and the next one needs the room of these logits.
        linear.backward_weight(dweight, logits, y, products, add)
        linear.backward_input(found.dy[block], logits, weight, products)
        add = True
    if numbers is not None:
        rows.losses[...] = rows.dy[...] = 0
        rows.losses[numbers], rows.dy[numbers] = found.losses, found.dy
