"""Early stopping as a value: the true best, the counter, and the verdict."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from tinyllm.option import ConfigError, added


@dataclass(frozen=True)
class EarlyStopping:
    """What is known after some judgements in a phase, one per epoch or per evaluation; losses in nats.

    `best` is the true minimum. `reference` is what a loss must beat by min_delta to count as a gain
    (Prechelt 1998, "Early stopping - but when?"); it only moves on a gain.
    """

    best: float = math.inf
    best_epoch: int = 0
    reference: float = math.inf
    counter: int = 0
    best_step: int = added(0)  # 0: not known, or none

    def __post_init__(self) -> None:
        if math.isnan(self.best) or math.isnan(self.reference):
            raise ConfigError("stopping: found a best loss of NaN")

    def update(self, epoch: int, step: int, loss: float, min_delta: float) -> EarlyStopping:
        """Return the value after a judgement that found `loss`; NaN is never best and never a gain."""
        is_best = loss < self.best
        is_gain = loss < self.reference - min_delta
        return EarlyStopping(
            best=loss if is_best else self.best,
            best_epoch=epoch if is_best else self.best_epoch,
            reference=loss if is_gain else self.reference,
            counter=0 if is_gain else self.counter + 1,
            best_step=step if is_best else self.best_step,
        )

    def is_over(self, patience: int) -> bool:
        """Return whether `patience` judgements in a row brought no gain; patience 0 never ends a phase."""
        return 0 < patience <= self.counter

    def renewed(self) -> EarlyStopping:
        """Return the same records with the counter at 0, for a run that is extended."""
        return dataclasses.replace(self, counter=0)
