"""One run of a CheckpointManager on a ModelDisk; it remembers its saves and which were reported durable.

An epoch's number is its save's number. Order: what a save is of, one save, the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.disk import Durable, ModelDisk
from tests.standin import Standin, metadata
from tinyllm.checkpoint import CheckpointManager, CheckpointMetadata, CheckpointStrategy, Save, policy

DIRECTORY = Path("/disk/runs/one")
TUNING = "instruction_tuning"


def standin(number: int) -> Standin:
    """Return the state that the save of this number is of: one tensor, in a file of two sectors."""
    state = Standin(number, number, shapes={"w": (50,)})
    state.arrays = {"params/w": state.arrays["params/w"]}
    return state


@dataclass
class Asked:
    """A save that was asked for: under which names, and how it went."""

    number: int
    about: CheckpointMetadata
    labels: tuple[str, ...]
    future: Save | None = None
    pinned: bool = False

    @property
    def names(self) -> dict[str, str]:
        """Return {file name: label}."""
        return {policy.file_name(label, self.about): label for label in self.labels}


@dataclass
class Session:
    """One run: its disk, its strategy, and all that it asked to be saved."""

    disk: ModelDisk
    strategy: CheckpointStrategy
    keep: int
    asynchronous: bool = False
    saves: list[Asked] = field(default_factory=list)
    durable: set[int] = field(default_factory=set)  # numbers of the saves that were reported durable
    epoch: int = 0
    manager: CheckpointManager | None = None

    def __post_init__(self) -> None:
        self.attach(self.disk)

    def attach(self, disk: ModelDisk) -> None:
        """Continue with this disk, and note in its log what has become durable before each action."""
        self.disk, first = disk, disk.before

        def before(action: str, path: Path | None) -> None:
            self.note_durable()
            first(action, path)

        disk.before = before

    def note_durable(self) -> None:
        for asked in self.saves:
            if asked.future and asked.future.done and asked.number not in self.durable:
                self.durable.add(asked.number)
                if asked.future._error is None:
                    self.disk.log.append(Durable(asked.number))

    def open(self) -> CheckpointManager:
        self.manager = CheckpointManager(
            DIRECTORY, self.strategy, self.keep, asynchronous=self.asynchronous, disk=self.disk
        )
        return self.manager

    def save(
        self, loss: float, phase: str = "pretraining", *, epoch_end: bool = True, last: bool = False
    ) -> Asked:
        """Save as the trainer does: at an epoch's end, `last` too if it stops early; or in its middle."""
        self.epoch += 1
        about = metadata(self.epoch, loss, phase)
        labels = policy.labels(
            self.strategy, about.epoch, loss, self.manager._best_loss(phase), epoch_end=epoch_end, last=last
        )
        asked = self._asked(about, labels)
        asked.future = self.manager.save_checkpoint(
            standin(asked.number), about, epoch_end=epoch_end, last=last
        )
        return asked

    def final(self, loss: float) -> None:
        self.epoch += 1
        asked = self._asked(metadata(self.epoch, loss), ("final",))
        self.manager.save_final(standin(asked.number), asked.about)
        asked.future = Save()
        asked.future.finish(None)

    def _asked(self, about: CheckpointMetadata, labels: tuple[str, ...]) -> Asked:
        asked = Asked(about.epoch, about, labels)
        self.saves.append(asked)
        return asked

    def run(self, losses: Sequence[float], phase: str = "pretraining") -> None:
        """Open, save the ends of some epochs, close."""
        with self.open():
            for loss in losses:
                self.save(loss, phase)
