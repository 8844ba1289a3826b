"""The time, read here for all that is below: the clock that the loop is given, and how fast a machine is."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime


class SystemClock:
    """The machine's clock, as the training loop reads it."""

    def seconds(self) -> float:
        """Return seconds since some fixed moment; they never run backwards."""
        return time.perf_counter()

    def date(self) -> datetime:
        """Return the local date and time."""
        return datetime.now()


def probe(workers: int, seconds: float = 0.2, n: int = 1024) -> float:
    """Return the operations per second, in 10**9, of n x n float32 products on `workers` threads at once.

    Each worker makes at least one product, however late it gets a core.
    """
    import numpy as np

    square = np.full((n, n), 0.5, np.float32)
    products = [np.empty_like(square) for _ in range(workers)]

    def multiply(worker: int) -> int:
        count = 0
        while not count or time.perf_counter() < end:
            np.matmul(square, square, out=products[worker])
            count += 1
        return count

    np.matmul(square, square, out=products[0])  # the first product also wakes BLAS's own threads
    with ThreadPoolExecutor(workers) as pool:
        began = time.perf_counter()
        end = began + seconds
        count = sum(pool.map(multiply, range(workers)))
        return count * 2 * n**3 / (time.perf_counter() - began) / 1e9
