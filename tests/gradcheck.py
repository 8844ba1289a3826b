"""One checker for every backward: central differences in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinyllm.arena import Array, Layout


def relative_error(found: Array, expected: Array) -> float:
    """Return |found - expected| / (|found| + |expected|) in the Euclidean norm, 0 where both are tiny.

    NaN, which is what a Workspace holds that was read before it was written, is NaN: no error is below it.
    """
    size = float(np.linalg.norm(found) + np.linalg.norm(expected))
    return 0.0 if size <= 1e-9 else float(np.linalg.norm(found - expected)) / size


def numeric_gradient(
    loss: Callable[[], float], tensor: Array, rng: np.random.Generator, most: int = 24
) -> tuple[Array, Array]:
    """Return (flat indices, central differences) of `loss` for up to `most` drawn elements of `tensor`.

    Fourth order: its error at step 1e-4 is far below the 1e-6 that is asked.
    """
    flat = tensor.reshape(-1)
    assert np.shares_memory(flat, tensor)
    chosen = rng.permutation(flat.size)[:most]
    slopes = np.empty(len(chosen))
    h = 1e-4
    for i, index in enumerate(chosen):
        saved = flat[index]
        values = []
        for offset in (-2, -1, 1, 2):
            flat[index] = saved + offset * h
            values.append(loss())
        flat[index] = saved
        slopes[i] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    return chosen, slopes


def check(
    loss: Callable[[], float], tensor: Array, gradient: Array, rng: np.random.Generator, name: str
) -> None:
    """Assert that `gradient` is dloss/dtensor to a relative error of 1e-6."""
    chosen, slopes = numeric_gradient(loss, tensor, rng)
    error = relative_error(gradient.reshape(-1)[chosen], slopes)
    assert error <= 1e-6, f"{name}: relative error {error:.2e}"


def check_row(
    loss: Callable[[], float], layout: Layout, row: Array, gradient: Array, rng: np.random.Generator
) -> None:
    """Assert `check` for every tensor of a row."""
    named = layout.named(gradient)
    for name, tensor in layout.named(row).items():
        check(loss, tensor, named[name], rng, name)
