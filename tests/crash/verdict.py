"""What must hold in every state after a crash: (a), (b), (c) of the promise, and that a run can resume.

    (a)  a load returns the newest save that was reported durable, or a newer one, bit for bit
    (b)  nothing that is loaded, and no sidecar, mixes two saves or is of none
    (c)  the newest, the best N of each phase, the pinned, the periodic and the final ones are still there
    (d)  recovery raises nothing and leaves no temp file, and the next save works

Order: observing a state, judging what was seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.disk import ModelDisk
from tests.crash.session import DIRECTORY, Asked, standin
from tests.crash.states import State, image_of, state_of
from tests.standin import Standin, metadata
from tinyllm.checkpoint import CheckpointError, CheckpointManager, CheckpointMetadata, CheckpointStrategy
from tinyllm.checkpoint.commit import TEMP_PREFIX
from tinyllm.checkpoint.metadata import sidecar
from tinyllm.checkpoint.policy import FINAL_NAME, label_of

NEXT = 99  # the number of the save that is made after the recovery
NONE, WRONG = 0, -1  # no save; bits of no save


@dataclass
class Seen:
    """What a recovery and the run after it found."""

    newest: int = NONE
    best: dict[str, int] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    mixed: bool = False  # something was of two saves or of none
    stuck: str = ""


class Observer:
    """Recovers a directory in a given state as a new process would; remembers what came of it.

    What is seen after the recovery is a function of the state that the recovery leaves, so most of the
    states that lead to the same one cost only the recovery.
    """

    def __init__(self, strategy: CheckpointStrategy, keep: int) -> None:
        self.strategy, self.keep = strategy, keep
        self.saves: dict[int, Asked] = {}
        self._bits = {standin(NEXT).bits(): NEXT}
        self._seen: dict[State, Seen] = {}
        self._loaded: dict[bytes, tuple[int, CheckpointMetadata | None]] = {}  # what is loaded is the bytes'

    def learn(self, saves: Sequence[Asked]) -> None:
        """Hear what a run asked to be saved; runs that share an observer save the same under a number."""
        for asked in saves:
            assert self.saves.get(asked.number, asked).labels == asked.labels
            self.saves[asked.number] = asked
            self._bits[standin(asked.number).bits()] = asked.number

    def broken(self, state: State, acked: frozenset[int]) -> str:
        """Return the letters of the invariants that are broken there, once `acked` were reported durable."""
        return broken(self.look(state), self.saves, acked, self.keep)

    def look(self, state: State) -> Seen:
        disk, stuck = self.recover(state)
        if stuck:
            return Seen(stuck=stuck)
        left = state_of(disk.image())
        if left not in self._seen:
            self._seen[left] = self._observe(disk)
        return self._seen[left]

    def _open(self, disk: ModelDisk) -> CheckpointManager:
        return CheckpointManager(DIRECTORY, self.strategy, self.keep, asynchronous=False, disk=disk)

    def recover(self, state: State) -> tuple[ModelDisk, str]:
        """Open and close a manager there; return the disk and what went wrong."""
        disk = ModelDisk(image_of(state))
        try:
            self._open(disk).close()
        except (CheckpointError, OSError) as error:
            return disk, f"{type(error).__name__}: {error}"
        return disk, ""

    def _observe(self, disk: ModelDisk) -> Seen:
        seen = Seen()
        try:
            with self._open(disk) as manager:
                seen.newest = self._number(manager.get_last_checkpoint(), disk, seen)
                for phase in {asked.about.phase for asked in self.saves.values()}:
                    seen.best[phase] = self._number(manager.get_best_checkpoint(phase), disk, seen)
                self._look(manager, disk, seen)
                path = manager.save_checkpoint(standin(NEXT), metadata(NEXT, -1.0), last=True).result()
                if self._number(path, disk, seen) != NEXT:
                    seen.stuck = "the next save is not there"
        except (CheckpointError, OSError) as error:
            seen.stuck = f"{type(error).__name__}: {error}"
        return seen

    def _look(self, manager: CheckpointManager, disk: ModelDisk, seen: Seen) -> None:
        """Compare every name in the directory with the save whose it says it is."""
        entries = {entry.path.name: entry for entry in manager.list_checkpoints() if not entry.problem}
        for name in disk.names(DIRECTORY):
            if name.startswith(TEMP_PREFIX):
                seen.stuck = "a temp file is left"
            elif name in entries:
                seen.names[name] = self._number(DIRECTORY / name, disk, seen)
            elif name.endswith(".json"):
                beside = entries.get(f"{name[:-5]}.bin")
                if beside is None or disk.content(DIRECTORY / name) != sidecar(beside):
                    seen.mixed = True
        alone = {
            name
            for name in entries
            if name != FINAL_NAME and f"{name[:-4]}.json" not in disk.names(DIRECTORY)
        }
        seen.mixed = seen.mixed or bool(alone)

    def _number(self, path: Path | None, disk: ModelDisk, seen: Seen) -> int:
        """Return the number of the save whose bits, metadata and name these are."""
        if path is None:
            return NONE
        content = disk.content(path)
        if content not in self._loaded:
            try:
                state, about = CheckpointManager.load_checkpoint(path, Standin, disk)
                self._loaded[content] = self._bits.get(state.bits(), WRONG), about
            except CheckpointError:
                self._loaded[content] = NONE, None
        number, about = self._loaded[content]
        if number == WRONG or (number not in (NONE, NEXT) and about != self.saves[number].about):
            seen.mixed = True
        return number


def broken(seen: Seen, saves: Mapping[int, Asked], acked: frozenset[int], keep: int) -> str:
    """Return the letters of the invariants that what was seen breaks, once `acked` were reported durable."""
    durable = [asked for number, asked in saves.items() if number in acked and asked.labels]
    found = ""
    if seen.newest < max((asked.number for asked in durable), default=NONE):
        found += "a"
    if seen.mixed or any(number == WRONG for number in seen.names.values()):
        found += "b"
    if _missing(seen, saves, durable, keep):
        found += "c"
    return found + ("d" if seen.stuck else "")


def _missing(seen: Seen, saves: Mapping[int, Asked], durable: Sequence[Asked], keep: int) -> bool:
    """Whether a name that was durable holds an older save or none, or a best one is gone too early."""
    for asked in durable:
        for name, label in asked.names.items():
            if (label != "best" or asked.pinned) and seen.names.get(name, NONE) < asked.number:
                return True
    for phase in seen.best:
        best = {number for name, number in seen.names.items() if label_of(name) == "best" and number > 0}
        there = {number for number in best if saves[number].about.phase == phase}
        were = {asked.number for asked in durable if "best" in asked.labels and asked.about.phase == phase}
        ranked = sorted(there | were, key=lambda number: (saves[number].about.loss, -number))
        if not there.issuperset(ranked[:keep]) or (ranked and seen.best[phase] != ranked[0]):
            return True
    return False
