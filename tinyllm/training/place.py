"""Which run a directory belongs to: a run writes only where no other does, and never over its own future.

Order: another run's directory, a fork into a new one, a rewind in its own, files set aside.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from tinyllm.checkpoint import CheckpointManager, policy
from tinyllm.run import toml
from tinyllm.run.state import Identity, TrainState
from tinyllm.training import metrics
from tinyllm.words import counted

Notice = Callable[[str], None]


def check_alone(state: TrainState, source: Path, manager: CheckpointManager) -> None:
    """Raise FileExistsError if the manager's directory holds any run but that of `state`, from `source`."""
    inside = is_inside(source, manager.directory)
    others = [
        entry for entry in manager.list_checkpoints()
        if entry.valid and not (inside and entry.run == state.identity.id)
    ]  # fmt: skip
    if others:
        elsewhere = "" if inside else f"--checkpoint-dir {source.parent} continues this one where it is, "
        raise FileExistsError(
            f"{manager.directory} holds {counted(len(others), 'checkpoint')} of another run than {source}: "
            f"{elsewhere}another --checkpoint-dir continues it there"
        )


def is_inside(source: Path, directory: Path) -> bool:
    """Return whether a checkpoint lies in a run's directory itself."""
    return directory.exists() and source.parent.samefile(directory)


def fork(state: TrainState, source: Path, manager: CheckpointManager, notice: Notice) -> None:
    """Make `state`, loaded from `source`, a run of its own in the manager's directory, its best included.

    An early stop rolls back to that best: a checkpoint of the parent, saved again as one of this run.
    """
    parent, state.identity = state.identity.id, Identity.drawn(state.identity.id)
    stopping, phase = state.stopping, state.progress.phase
    if not manager.strategy.best or not math.isfinite(stopping.best):
        return
    with CheckpointManager(source.parent, read_only=True) as other:
        bests = [entry for entry in other.list_checkpoints() if entry.run == parent]
        found = [
            e for e in policy.best_first(bests, phase) if e.metadata and e.metadata.loss == stopping.best
        ]
        if not found:
            notice(
                f"note: the best so far, epoch {stopping.best_epoch}, loss {stopping.best:.4f}, is not in "
                f"{source.parent}: an early stop cannot return to it"
            )
            return
        best, metadata = other.load_checkpoint(found[0].path)
    best.identity = state.identity
    manager.save_checkpoint(best, metadata, epoch_end=found[0].epoch_end, judged=True).result()


def rewind(state: TrainState, manager: CheckpointManager, notice: Notice) -> None:
    """Set aside the checkpoints of this directory that are later than `state`: another future begins."""
    later = [
        entry.path for entry in manager.list_checkpoints()
        if entry.step is not None and entry.step > state.progress.step
    ]  # fmt: skip
    if later:
        sidecars = [path.with_suffix(".json") for path in later]
        place = set_aside(manager.directory, [*later, *(path for path in sidecars if path.exists())])
        notice(
            f"note: moved {counted(len(later), 'checkpoint')} later than step {state.progress.step:,} "
            f"to {place}"
        )
        manager.list_checkpoints()  # so that it forgets them


def files_of_a_run(directory: Path) -> list[Path]:
    """Return what a run writes, as it lies in its directory, which may hold a person's own files too."""
    return [
        path for path in sorted(directory.iterdir())
        if is_of_a_run(path) and (path.is_symlink() or path.is_file())
    ]  # fmt: skip


def is_of_a_run(path: Path) -> bool:
    """Return whether a file is one that a run writes: by its name, or, of settings, by what it says."""
    if path.name in (metrics.FILE_NAME, "report.html") or toml.is_own(path):
        return True
    return bool(policy.label_of(path.name.partition(".corrupt")[0]))


def set_aside(directory: Path, paths: Iterable[Path]) -> Path:
    """Move these files into the first free `previous-N` of the directory, and return that."""
    number = next(n for n in itertools.count(1) if not os.path.lexists(directory / f"previous-{n}"))
    place = directory / f"previous-{number}"
    place.mkdir()  # a new one, so that no link leads elsewhere
    for path in paths:
        path.rename(place / path.name)
    return place
