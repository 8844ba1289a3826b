"""Threads are ranks: a team of workers that all run the same task on their own share.

Kernels and BLAS calls are serial and release the GIL, so W Python threads keep W cores busy, and meet
only a few times in a step. What is computed for a rank, and where it is written, depends on its number
alone. Who computes it may depend on time: cores are never equally fast, so a rank that has finished takes
over tasks that others have deferred.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

import numpy as np

from tinyllm.words import counted

R = TypeVar("R")
Task = Callable[[int], None]  # called with the number of the rank that runs it


class Team:
    """`size` ranks; rank 0 is the calling thread."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._pool = None
        if size > 1:
            # Each thread has its own error state, which the programs' (see cli/command.py) does not reach.
            self._pool = ThreadPoolExecutor(size - 1, "rank", lambda: np.seterr(all="ignore"))
            _start_all(self._pool, size - 1)

    def run(self, task: Callable[[int], R], ranks: int | None = None) -> list[R]:
        """Run `task(rank)` on every rank, or on the first `ranks`, and return the results in rank order.

        Returns when all have ended, and then raises the first error; a KeyboardInterrupt may leave earlier.
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


def _start_all(pool: ThreadPoolExecutor, count: int) -> None:
    """Start `count` threads of the pool, or none; RuntimeError where the system has no more.

    Ranks wait for each other within a task, so none may be missing when one begins.
    """
    gate = threading.Barrier(count + 1)  # holds each thread until all run, or it would be given all the tasks
    try:
        for _ in range(count):
            pool.submit(gate.wait)
        gate.wait()
    except BaseException as error:
        gate.abort()
        pool.shutdown()
        if isinstance(error, RuntimeError | MemoryError):
            raise RuntimeError(
                f"{counted(count, 'thread')} cannot be started ({error}); "
                f"choose fewer --workers or --blas-threads"
            ) from error
        raise


class WorkQueue:
    """Deferred tasks: each rank puts its own, and runs them itself unless an idle rank takes them first.

    Blumofe and Leiserson 1999, "Scheduling Multithreaded Computations by Work Stealing". A task must write
    the same numbers to the same place whichever rank runs it: then results do not depend on who did. Tasks
    that are put between two calls of `finish` run in any order, and at once, so no two may write to the same
    place, and none may put others. All ranks must be running: each stays in `working` until the last has
    finished its own work.
    """

    def __init__(self, ranks: int) -> None:
        self._waiting: list[deque[Task]] = [deque() for _ in range(ranks)]
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self.reset()

    def reset(self) -> None:
        """Empty the queue; called before the ranks run, by one thread."""
        for tasks in self._waiting:
            tasks.clear()
        # Of each rank's tasks, those that others have begun and not finished; then the ranks at work.
        self._taken = [0] * len(self._waiting)
        self._busy = len(self._waiting)

    def put(self, rank: int, task: Task) -> None:
        """Add a task of `rank`, which `finish` waits for."""
        with self._lock:
            self._waiting[rank].append(task)
            self._changed.notify_all()

    def finish(self, rank: int) -> None:
        """Return when every task that `rank` has put is done; run those that no other rank has begun."""
        while True:
            with self._lock:
                if self._waiting[rank]:
                    task = self._waiting[rank].pop()  # the newest: what it reads is still in the cache
                elif self._taken[rank]:
                    self._changed.wait()
                    continue
                else:
                    return
            task(rank)

    @contextmanager
    def working(self, rank: int) -> Iterator[None]:
        """A rank's own work, all of it; then others' tasks, until no rank is at work any more."""
        try:
            yield
        finally:  # whatever has happened, others must not wait for this rank
            with self._lock:
                self._busy -= 1
                self._changed.notify_all()
        self._help(rank)

    def _help(self, rank: int) -> None:
        while True:
            with self._lock:
                owner = max(range(len(self._waiting)), key=lambda other: len(self._waiting[other]))
                if not self._waiting[owner]:
                    if not self._busy:
                        return
                    self._changed.wait()
                    continue
                task = self._waiting[owner].popleft()
                self._taken[owner] += 1
            try:
                task(rank)
            finally:
                with self._lock:
                    self._taken[owner] -= 1
                    self._changed.notify_all()
