"""Threads are ranks: a team of workers that all run the same task on their own share.

Kernels and BLAS calls are serial and release the GIL, so W Python threads keep W cores busy, and meet
only a few times in a step. What a rank computes depends on its number alone, never on which thread
it is or when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

R = TypeVar("R")


class Team:
    """`size` ranks; rank 0 is the calling thread."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._pool = ThreadPoolExecutor(size - 1, thread_name_prefix="rank") if size > 1 else None

    def run(self, task: Callable[[int], R], ranks: int | None = None) -> list[R]:
        """Run `task(rank)` on every rank, or on the first `ranks`, and return the results in rank order.

        Returns when all have ended; the first error is raised.
        """
        if self._pool is None:
            return [task(0)]
        others = [self._pool.submit(task, rank) for rank in range(1, ranks or self.size)]
        try:
            first = task(0)
        finally:  # nobody may still be writing when an error leaves this call
            failures = [future.exception() for future in others]
        for failure in failures:
            if failure is not None:
                raise failure
        return [first, *(future.result() for future in others)]

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
