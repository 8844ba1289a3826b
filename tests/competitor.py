"""A competitor for tests of the benchmarks: it does next to nothing, or fails, and tells its environment."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from benchmarks.shapes import Shape


def build(shape: Shape, threads: int, loss: float = 0.0, **_: object) -> tuple[Callable[[], float], str]:
    """Return a step that talks; a `loss` below 0 fails."""
    if loss < 0:
        raise ValueError("a loss below 0")
    steps = 0

    def step() -> float:
        nonlocal steps
        steps += 1
        print("step", steps)
        return loss

    return step, json.dumps({"shape": shape, "threads": threads, "environment": dict(os.environ)})
