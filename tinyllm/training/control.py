"""What the loop is given: where its results go, the time, when to stop and when to save.

Order: the watcher, all outputs, the clock, the rhythm of saves, the control.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from tinyllm.checkpoint import CheckpointManager
from tinyllm.run.state import TrainState
from tinyllm.training.metrics import Metrics
from tinyllm.training.step import Step


class Watcher(Protocol):
    """What shows the run to a person; the loop itself prints nothing."""

    def phase(self, state: TrainState, steps: int) -> None:
        """A phase starts or continues; it has `steps` updates in all."""

    def step(self, state: TrainState, step: Step, tokens_per_second: float) -> None:
        """An update was made."""

    def epoch_ended(
        self, state: TrainState, loss: float, step: Step | None, tokens_per_second: float
    ) -> None:
        """An epoch, or a phase within one, ended with this monitored loss after `step`, if made here."""

    def evaluated(self, state: TrainState, loss: float) -> None:
        """The held-out part was evaluated."""

    def sampled(self, state: TrainState, prompt: str, text: str) -> None:
        """The model wrote `text` after a prompt, "" if it began the text itself."""

    def notice(self, text: str) -> None:
        """Something happened that a person should know."""


@dataclass(frozen=True)
class Outputs:
    """Where the results of a run are written: checkpoints, the log, the screen.

    `sampler` lets the model of a state write: it returns the prompt and the text, and changes nothing.
    """

    manager: CheckpointManager
    metrics: Metrics
    watcher: Watcher
    sampler: Callable[[TrainState], tuple[str, str]] | None = None


class Clock(Protocol):
    """The time, which decides when to save and flush, and no number of the state."""

    def seconds(self) -> float:
        """Return seconds since some fixed moment; they never run backwards."""

    def date(self) -> datetime:
        """Return the local date and time."""


@dataclass(frozen=True)
class SaveRhythm:
    """When `checkpoint_last` is saved besides the strategy's own moments; 0 means never."""

    steps: int = 0
    minutes: float = 0.0


@dataclass(frozen=True)
class Control:
    """What the loop asks from outside between two actions: the time, whether to stop, when to save."""

    clock: Clock
    stop: Callable[[], bool] = lambda: False
    rhythm: SaveRhythm = SaveRhythm()
