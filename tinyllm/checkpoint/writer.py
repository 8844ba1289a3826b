"""One thread that writes saves while training continues: one in flight, at most one waiting.

Order: Save (the caller's side of a save), Job (the thread's), Writer.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tinyllm.checkpoint.image import Image
from tinyllm.checkpoint.metadata import CheckpointError, Entry


class Save:
    """A save that may still be pending.

    A save that a newer one replaced while it waited ends as the newer one does: durable means that this
    state or a newer one is. `on_raise` is called before `result` raises the save's error.
    """

    def __init__(self, on_raise: Callable[[CheckpointError], None] | None = None) -> None:
        self._finished = threading.Event()
        self._path: Path | None = None
        self._error: CheckpointError | None = None
        self._on_raise = on_raise

    @property
    def done(self) -> bool:
        """Whether it is durable or has failed."""
        return self._finished.is_set()

    def result(self, timeout: float | None = None) -> Path | None:
        """Wait; return the file's path, None if the strategy saved nothing, or raise its CheckpointError.

        `timeout` is in seconds; TimeoutError when they have passed.
        """
        if not self._finished.wait(timeout):
            raise TimeoutError(f"the checkpoint is not durable after {timeout} s")
        if self._error is not None:
            if self._on_raise is not None:
                self._on_raise(self._error)
            raise self._error
        return self._path

    def finish(self, path: Path | None, error: CheckpointError | None = None) -> None:
        """Record the outcome; for the writer."""
        self._path, self._error = path, error
        self._finished.set()


@dataclass
class Job:
    """What to write: this image under the entries' names. `entries` lack only sequence and size."""

    image: Image
    entries: Sequence[Entry]
    saves: list[Save] = field(default_factory=list)

    @property
    def replaceable(self) -> bool:
        """Whether a newer save may replace it; a best or periodic one must not be lost."""
        return all(entry.label == "last" for entry in self.entries)


class Writer:
    """Runs `write(job)` in its thread, or at once if not `asynchronous`.

    There are at most two images, so a slow disk costs the memory of two snapshots and never more.
    """

    def __init__(self, write: Callable[[Job], None], *, asynchronous: bool) -> None:
        self._write, self.asynchronous = write, asynchronous
        self._changed = threading.Condition()
        self._waiting: Job | None = None
        self._running: Job | None = None
        self._free: list[Image] = []
        self._images = 0
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._not_raised: list[CheckpointError] = []
        self.failures = 0

    def outstanding(self) -> list[Entry]:
        """Return the entries of the saves in flight and waiting."""
        with self._changed:
            return [entry for job in (self._running, self._waiting) if job for entry in job.entries]

    def begin(self, entries: Sequence[Entry]) -> Job:
        """Return a job with an image to fill.

        A save that waits is replaced if it is only a last one and this is last too; otherwise this call
        blocks until that save is in flight.
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
        """Allocate memory for a save of `size` bytes."""
        with self._changed:
            image = self._image()
        image.reserve(size)
        with self._changed:
            self._free.append(image)

    def abandon(self, job: Job, error: CheckpointError) -> None:
        """End a job that cannot be submitted; the saves it replaced have failed with it."""
        self._end(job, error)

    def submit(self, job: Job) -> Save:
        """Write the job in the thread, or now and then raise its CheckpointError; return its Save."""
        if not self.asynchronous:
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
                atexit.register(self._finish)
            self._waiting = job
            self._changed.notify_all()
        return job.saves[-1]

    def drain(self) -> None:
        """Wait until no save is in flight or waiting."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is None and self._running is None)

    def stop(self) -> None:
        """Write what is pending and end the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            atexit.unregister(self._finish)

    def _finish(self) -> None:
        """Write what is pending when a program ends that closed nothing; Python prints a failure.

        The thread is a daemon, or Python would wait for it for ever. It still runs at this time, except in a
        forked child, where no thread does and the saves are the parent's.
        """
        if self._thread is not None and self._thread.is_alive():
            self.stop()
            self.poll()

    def poll(self) -> None:
        """Raise the latest failure that was not raised yet, once."""
        with self._changed:
            errors, self._not_raised = self._not_raised, []
        if errors:
            raise errors[-1]

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
                    self._not_raised.append(error)
            self._end(job, error)

    def _run(self, job: Job) -> CheckpointError | None:
        try:
            self._write(job)
        except CheckpointError as error:
            return error
        except Exception as error:  # the thread must survive any failure of one save
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
        return Save(self._mark_raised)

    def _mark_raised(self, error: CheckpointError) -> None:
        with self._changed:
            self._not_raised = [each for each in self._not_raised if each is not error]
