"""CheckpointManager: saves by a strategy while training continues, and finds what to resume from.

Order: opening and closing, saving, loading, inside; the writer thread runs `Kept.write`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyllm.checkpoint import policy, reader
from tinyllm.checkpoint.disk import Disk
from tinyllm.checkpoint.image import State, estimated_bytes, pack_map
from tinyllm.checkpoint.kept import Kept
from tinyllm.checkpoint.metadata import (
    CheckpointError,
    CheckpointMetadata,
    Entry,
    Origin,
    Standing,
    read_standing,
    whole,
)
from tinyllm.checkpoint.newest import read_newest
from tinyllm.checkpoint.policy import CheckpointStrategy
from tinyllm.checkpoint.store import Store
from tinyllm.checkpoint.writer import Save, Writer
from tinyllm.escape import printable


class CheckpointManager:
    """The checkpoints of one training run, in one directory that it locks until `close`.

    Args:
        directory: created if it does not exist.
        strategy: which epochs are saved, under which names.
        keep_best_n: how many best checkpoints of each phase are kept, at least 1.
        asynchronous: a save costs the caller one memory copy and is durable later; otherwise at return.
        read_only: takes no lock, changes nothing, cannot save.
        disk: replaces the operating system's file operations, for tests.
        on_notice: called with each notice; all are also in `notices`. May be called by the writer thread.

    Raises CheckpointError if the directory is in use, cannot be written, or holds a newer format's files.
    A save that failed is raised by the next `save_checkpoint`, `poll` or `close`, unless `Save.result`
    has raised it already; the checkpoints before it stay, and the next save works.
    """

    def __init__(
        self,
        directory: str | Path,
        strategy: CheckpointStrategy = CheckpointStrategy.BEST_AND_LAST,
        keep_best_n: int = 3,
        *,
        asynchronous: bool = True,
        read_only: bool = False,
        disk: Disk | None = None,
        on_notice: Callable[[str], None] | None = None,
    ) -> None:
        self.directory, self.strategy = Path(directory), strategy
        self.read_only, self.notices = read_only, list[str]()
        self._on_notice = on_notice
        self._closed = False
        self._disk = disk or Disk()
        self._store = Store(self.directory, self._disk, self._notice)
        self._kept = Kept(self._store, whole("keep_best_n", keep_best_n, 1))
        self._writer = Writer(self._kept.write, asynchronous=asynchronous)
        if not read_only:
            self._store.open()
        try:
            self._kept.begin(self._store.entries() if read_only else self._store.recover())
        except BaseException:
            self._store.close()
            raise

    def close(self) -> None:
        """Finish the pending saves, release the lock, and raise a failure that was not raised yet.

        In a forked child nothing happens: saves and lock are the parent's.
        """
        if self._store.lock.is_inherited:
            return
        if not self._closed:
            self._closed = True
            self._writer.stop()
            self._store.close()
        self._writer.poll()

    def __enter__(self) -> CheckpointManager:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except CheckpointError as error:
            if kind is None:
                raise
            self._notice(str(error))  # another exception is propagating already

    @property
    def keep_best_n(self) -> int:
        """How many best checkpoints of each phase are kept."""
        return self._kept.keep_best_n

    @keep_best_n.setter
    def keep_best_n(self, number: int) -> None:
        """Keep so many from the next save on, at least 1."""
        self._kept.keep_best_n = whole("keep_best_n", number, 1)

    @property
    def failures(self) -> int:
        """How many saves have failed."""
        return self._writer.failures

    def poll(self) -> None:
        """Raise the failure of an earlier save that was not raised yet, if there is one."""
        if self._store.lock.is_inherited:
            self.check_directory()
        self._writer.poll()

    def check_directory(self) -> None:
        """Raise CheckpointError if the directory was deleted, moved or replaced, or in a forked child."""
        self._kept.check_directory()

    # ---- saving

    def should_save(self, epoch: int, loss: float, phase: str = "pretraining") -> bool:
        """Whether the strategy saves anything at the end of this epoch."""
        return bool(policy.labels(self.strategy, epoch, loss, self._best_loss(phase)))

    def save_checkpoint(
        self, state: State, metadata: CheckpointMetadata, *,
        epoch_end: bool = True, judged: bool | None = None, last: bool = False,
    ) -> Save:  # fmt: skip
        """Save this state as one file under all the names that the strategy gives it, if any.

        `epoch_end` False marks a save in the middle of an epoch: never periodic, and best only if `judged`
        says that its loss may be compared. `last` writes checkpoint_last whatever the strategy. Raises
        CheckpointError, with nothing saved, if an earlier save failed or this state cannot be stored (not
        asynchronous: also if this save fails).
        """
        self._check_open(self.directory)
        self.poll()
        fields = state.to_dict()
        best_loss = self._best_loss(metadata.phase, _standing(fields).origin)
        found = policy.labels(
            self.strategy, metadata.epoch, metadata.loss, best_loss,
            epoch_end=epoch_end, judged=judged, last=last,
        )  # fmt: skip
        if not found:
            nothing = Save()
            nothing.finish(None)
            return nothing
        paths = [(self.directory / policy.file_name(label, metadata), label) for label in found]
        return self._save(state, fields, metadata, paths, epoch_end)

    def save_final(self, state: State, metadata: CheckpointMetadata, path: str | Path | None = None) -> Path:
        """Save the whole state as `model_final.bin` (or `path`), and return when it is durable."""
        target = self.directory / policy.FINAL_NAME if path is None else Path(path)
        self._check_open(target.parent)
        self.poll()
        saved = self._save(state, state.to_dict(), metadata, [(target, "final")]).result()
        assert saved is not None
        return saved

    def reserve(self, state: State) -> None:
        """Allocate the memory of one snapshot now, so that the first save is no slower than the others.

        Raises CheckpointError, before training starts, if such a state cannot be stored or one file of it
        does not fit on the disk; a disk too small for all that the strategy keeps is a notice.
        """
        size = estimated_bytes(state)
        self._kept.make_room(size, self.directory)
        at_once = policy.max_kept(self.strategy, self.keep_best_n) + 1
        held = len({entry.sequence for entry in self._kept.entries if entry.valid})
        if self._store.missing_bytes(size * max(1, at_once - held), self.directory):
            self._notice(
                f"{self._store}: room for a checkpoint of {size:,} bytes, but not for {at_once}, which "
                f"{self.strategy} needs at times: free some space or keep fewer best ones"
            )
        self._writer.reserve(size)

    def configure(self, strategy: CheckpointStrategy, keep_best_n: int, *, asynchronous: bool) -> None:
        """Save by other settings from now on: those that a checkpoint of this directory remembers."""
        self._writer.drain()
        self.strategy, self.keep_best_n = strategy, keep_best_n
        self._writer.asynchronous = asynchronous

    def pin(self, path: str | Path) -> None:
        """Never delete the checkpoint of this name, whatever its loss."""
        self._kept.pinned.add(Path(path).name)

    # ---- loading

    @staticmethod
    def load_checkpoint(
        path: str | Path, state_type: Any = None, disk: Disk | None = None
    ) -> tuple[Any, CheckpointMetadata]:
        """Return (state, metadata) of a .bin, or of the newest valid one in a directory.

        Needs no manager. `state_type.from_dict` makes the state (default TrainState). Raises
        CheckpointError, which names the file and the field, if anything at all is wrong with it.
        """
        if state_type is None:
            from tinyllm.run.state import TrainState  # the package is usable without the model

            state_type = TrainState
        disk = disk or Disk()
        _, found = read_newest(Path(path), disk, lambda file: reader.read_state(file, disk, state_type))
        return found

    def get_last_checkpoint(self) -> Path | None:
        """Return the newest checkpoint, of any name, whose every byte is valid; None if there is none."""
        return reader.retry_if_gone(lambda: self._first_intact(policy.newest_first(self._current_entries())))

    def get_best_checkpoint(self, phase: str | None = None) -> Path | None:
        """Return the valid checkpoint of a phase's lowest loss; None if there is none.

        Without `phase`, of the phase that the newest checkpoint is in. Where no file is labelled best
        (other strategies), the lowest loss among the whole epochs that were kept.
        """

        def look() -> Path | None:
            entries = self._current_entries()
            newest = [entry.metadata for entry in policy.newest_first(entries)[:1]]
            wanted = newest[0].phase if phase is None and newest and newest[0] else phase
            return self._first_intact(policy.best_first(entries, wanted)) if wanted else None

        return reader.retry_if_gone(look)

    def list_checkpoints(self) -> list[Entry]:
        """Return all checkpoints in the order of their saving; a bad file is an entry with a problem."""
        self._current_entries()
        return self._kept.known()

    # ---- inside

    def _save(
        self, state: State, fields: dict[str, Any], metadata: CheckpointMetadata,
        paths: list[tuple[Path, str]], epoch_end: bool = True,
    ) -> Save:  # fmt: skip
        packed = pack_map(fields, metadata, epoch_end=epoch_end)
        standing = _standing(fields)
        entries = [
            Entry(path, label, metadata, epoch_end=epoch_end, **standing._asdict()) for path, label in paths
        ]
        job = self._writer.begin(entries)
        try:
            job.image.fill(packed, state.tensors())
        except BaseException as error:
            self._writer.abandon(job, CheckpointError(f"{printable(paths[0][0])}: not saved: {error}"))
            raise
        return self._writer.submit(job)

    def _best_loss(self, phase: str, origin: Origin | None = None) -> float | None:
        """The lowest loss of a phase and origin (the newest, if None), pending saves included."""
        # Read before `_entries`: a save that is just finished moves from the one to the other.
        outstanding = self._writer.outstanding()
        return policy.best_loss([*outstanding, *self._kept.entries], phase, origin)

    def _current_entries(self) -> list[Entry]:
        self.check_directory()
        self._writer.drain()
        self._kept.entries = self._store.entries()
        if not self.read_only and any(entry.problem for entry in self._kept.entries):
            self._store.set_aside_damaged(self._kept.entries)
            self._kept.entries = self._store.entries()
        for entry in self._kept.entries:
            if entry.problem:
                self._notice(entry.problem)
        return self._kept.entries

    def _first_intact(self, candidates: list[Entry]) -> Path | None:
        found = self._store.first_intact(candidates)
        if candidates and found is not candidates[0]:
            instead = f"{printable(found.path)} is used instead" if found else "no valid one is left"
            self._notice(f"{printable(candidates[0].path)} cannot be used: {instead}")
            self._kept.entries = self._store.entries()
        return found.path if found else None

    def _check_open(self, target: Path) -> None:
        if self.read_only or self._closed:
            raise CheckpointError(f"{self._store}: {'opened read-only' if self.read_only else 'closed'}")
        if target == self.directory or self._store.lock.is_inherited:
            self.check_directory()

    def _notice(self, text: str) -> None:
        if text not in self.notices:
            self.notices.append(text)
            if self._on_notice is not None:
                self._on_notice(text)


def _standing(fields: dict[str, Any]) -> Standing:
    try:
        return read_standing(fields)
    except ValueError as error:
        raise CheckpointError(f"this state cannot be stored: {error}") from error
