"""One thread that writes saves while the training goes on: one in flight, at most one waiting.

Order: Save (what the caller holds), Job (what the thread is given), Writer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tinyllm.checkpoint.image import Image
from tinyllm.checkpoint.metadata import CheckpointError, Entry


class Save:
    """A save that may still be under way.

    A save that a newer one replaced while it waited ends as the newer one does: durable means that this
    state or a newer one is.
    """

    def __init__(self, told: Callable[[CheckpointError], None] | None = None) -> None:
        self._finished = threading.Event()
        self._path: Path | None = None
        self._error: CheckpointError | None = None
        self._told = told

    @property
    def done(self) -> bool:
        """Whether it is durable or has failed."""
        return self._finished.is_set()

    def result(self, timeout: float | None = None) -> Path | None:
        """Wait; return the file's name, None if the strategy saved nothing, or raise its CheckpointError.

        `timeout` is in seconds; TimeoutError when they have passed.
        """
        if not self._finished.wait(timeout):
            raise TimeoutError(f"the checkpoint is not durable after {timeout} s")
        if self._error is not None:
            if self._told is not None:
                self._told(self._error)
            raise self._error
        return self._path

    def finish(self, path: Path | None, error: CheckpointError | None = None) -> None:
        """Say how it ended; for the writer."""
        self._path, self._error = path, error
        self._finished.set()


@dataclass
class Job:
    """A sealed decision: these bytes under these names. `entries` lack only sequence and size."""

    image: Image
    entries: Sequence[Entry]
    saves: list[Save] = field(default_factory=list)

    @property
    def replaceable(self) -> bool:
        """Whether a newer save may take its place; a best or periodic one must not be lost."""
        return all(entry.label == "last" for entry in self.entries)


class Writer:
    """Runs `write(job)` in its thread, or at once if not `asynchronous`.

    Two images at most exist, so a slow disk costs memory for two snapshots and never more.
    """

    def __init__(self, write: Callable[[Job], None], *, asynchronous: bool) -> None:
        self._write, self._asynchronous = write, asynchronous
        self._changed = threading.Condition()
        self._waiting: Job | None = None
        self._running: Job | None = None
        self._free: list[Image] = []
        self._images = 0
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._untold: list[CheckpointError] = []
        self.failures = 0

    def outstanding(self) -> list[Entry]:
        """Return what is being written or waits to be."""
        with self._changed:
            return [entry for job in (self._running, self._waiting) if job for entry in job.entries]

    def begin(self, entries: Sequence[Entry]) -> Job:
        """Return a job whose image may be filled, once there is one.

        If one save waits already, its place is taken where nothing is lost by that; otherwise this call
        lasts until the one before it is written.
        """
        labels = {entry.label for entry in entries}
        with self._changed:
            while self._waiting is not None:
                if self._waiting.replaceable and "last" in labels:
                    old, self._waiting = self._waiting, None
                    return Job(old.image, entries, [*old.saves, self._new_save()])
                self._changed.wait()
            return Job(self._image(), entries, [self._new_save()])

    def reserve(self, size: int) -> None:
        """Have memory ready for a save of `size` bytes."""
        with self._changed:
            image = self._image()
        image.reserve(size)
        with self._changed:
            self._free.append(image)

    def abandon(self, job: Job, error: CheckpointError) -> None:
        """End a job that cannot be submitted; the saves whose place it took have failed with it."""
        self._end(job, error)

    def submit(self, job: Job) -> Save:
        """Write the job, in the thread or now, then raising its CheckpointError; return its Save."""
        if not self._asynchronous:
            error = self._run(job)
            self._end(job, error)
            if error is not None:
                raise error
            return job.saves[-1]
        with self._changed:
            if self._stopped:
                raise CheckpointError("the checkpoint manager is closed")
            if self._thread is None:
                thread = threading.Thread(target=self._loop, name="checkpoint-writer", daemon=True)
                thread.start()
                self._thread = thread
            self._waiting = job
            self._changed.notify_all()
        return job.saves[-1]

    def drain(self) -> None:
        """Wait until nothing is under way."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is None and self._running is None)

    def stop(self) -> None:
        """Write what is still to be written and end the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def poll(self) -> None:
        """Raise the failure of an earlier save, once, if nobody has heard of it yet."""
        with self._changed:
            untold, self._untold = self._untold, []
        if untold:
            raise untold[-1]

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._stopped)
                if self._waiting is None:
                    return
                job, self._running, self._waiting = self._waiting, self._waiting, None
                self._changed.notify_all()
            error = self._run(job)
            if error is not None:
                with self._changed:
                    self._untold.append(error)
            self._end(job, error)

    def _run(self, job: Job) -> CheckpointError | None:
        try:
            self._write(job)
        except CheckpointError as error:
            return error
        except Exception as error:  # the thread must outlive whatever one save meets
            failure = CheckpointError(f"{job.entries[0].path}: not saved: {type(error).__name__}: {error}")
            failure.__cause__ = error
            return failure
        return None

    def _end(self, job: Job, error: CheckpointError | None) -> None:
        with self._changed:
            self.failures += error is not None
            self._free.append(job.image)
            if self._running is job:
                self._running = None
            self._changed.notify_all()
        for save in job.saves:
            save.finish(job.entries[0].path if error is None else None, error)

    def _image(self) -> Image:
        """Return a free image; there is one, since `begin` waits while both are taken."""
        if self._free:
            return self._free.pop()
        self._images += 1
        return Image()

    def _new_save(self) -> Save:
        return Save(self._forget)

    def _forget(self, error: CheckpointError) -> None:
        with self._changed:
            self._untold = [each for each in self._untold if each is not error]
