"""The committed checkpoints of a run's directory: added durably, then deleted as retention says.

Order: what is known of them, adding one, deleting others.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tinyllm.checkpoint import policy
from tinyllm.checkpoint.metadata import CheckpointError, Entry
from tinyllm.checkpoint.store import Store
from tinyllm.checkpoint.writer import Job
from tinyllm.escape import printable
from tinyllm.words import counted


class Kept:
    """What a store holds; `write` is called by one thread, and the others only read `entries`."""

    def __init__(self, store: Store, keep_best_n: int) -> None:
        self.keep_best_n, self.pinned = keep_best_n, set[str]()
        self.entries: list[Entry] = []  # both threads read it, so it is replaced, never changed in place
        self._store, self._sequence = store, 0

    def begin(self, entries: list[Entry]) -> None:
        """Take `entries` for what the directory holds."""
        self.entries = entries
        self._sequence = max((entry.sequence for entry in entries), default=0)

    def known(self) -> list[Entry]:
        """Return the entries, the pinned ones marked."""
        return [replace(entry, pinned=entry.path.name in self.pinned) for entry in self.entries]

    def check_directory(self) -> None:
        """Raise CheckpointError, which says where the run stands, if the directory is not the locked one."""
        try:
            self._store.lock.check()
        except CheckpointError as error:
            raise CheckpointError(f"{error}; {self._latest()}") from error

    def _latest(self) -> str:
        saved = policy.newest_first(self.entries)
        if not saved or saved[0].metadata is None:
            return "nothing more is written to it, and it held no checkpoint"
        name, epoch = printable(saved[0].path.name), saved[0].metadata.epoch
        return (
            f"nothing more is written to it, and what was trained after the latest checkpoint ({name}, epoch "
            f"{epoch}, step {saved[0].step}) is lost; --resume continues from that file where it still exists"
        )

    # ---- adding one

    def write(self, job: Job) -> None:
        """Make one save durable, then write its sidecars, then delete what the strategy no longer keeps."""
        self._sequence += 1
        data = job.image.seal(self._sequence)
        targets = [entry.path for entry in job.entries]
        is_here = targets[0].parent == self._store.directory
        if is_here:
            self.check_directory()
        try:
            self.make_room(len(data), targets[0].parent)
            self._store.put(data, targets)
        except BaseException:
            if is_here:  # it may have gone meanwhile
                self.check_directory()
            with suppress(CheckpointError):
                self.entries = self._store.entries()  # some names may already be the new file's
            raise
        saved = [replace(entry, sequence=self._sequence, size=len(data)) for entry in job.entries]
        if is_here:
            self.entries = [entry for entry in self.entries if entry.path not in targets] + saved
            for entry in saved:
                self._store.write_sidecar(entry)
            self.apply_retention()

    # ---- deleting others

    def apply_retention(self) -> None:
        """Delete what is no longer kept."""
        deleted = policy.to_delete(self.known(), self.keep_best_n)
        for entry in deleted:
            self._store.delete(entry)
        gone = {entry.path for entry in deleted}
        self.entries = [entry for entry in self.entries if entry.path not in gone]

    def make_room(self, size: int, directory: Path) -> None:
        """If the disk is too full, apply retention; CheckpointError if it still is."""
        if not self._store.missing_bytes(size, directory):
            return
        self.check_directory()
        self._store.make_durable()
        self.apply_retention()
        if lacking := self._store.missing_bytes(size, directory):
            raise CheckpointError(
                f"{printable(directory)}: not saved: the disk lacks {counted(lacking, 'byte')} of {size:,}; "
                f"free some or keep fewer checkpoints; earlier checkpoints are still there"
            )
