"""Pure decisions: what to save when, under which name, and what to delete.

Order: CheckpointStrategy, names, when to save, newest and best, what to keep.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tinyllm.checkpoint.metadata import CheckpointMetadata, Entry, Origin, whole

FINAL_NAME = "model_final.bin"
LAST_NAME = "checkpoint_last.bin"
_PATTERNS = {
    "last": re.compile(r"checkpoint_last\.(bin|json)"),
    "final": re.compile(r"model_final\.(bin|json)"),
    "periodic": re.compile(r"checkpoint_epoch_\d+\.(bin|json)"),
    "best": re.compile(r"checkpoint_best_epoch_\d+_loss_-?\d[\d.e+-]*\.(bin|json)"),
}
LABELS = tuple(_PATTERNS)  # messages name a save that has several by its first


@dataclass(frozen=True)
class CheckpointStrategy:
    """Which epochs are saved: one of the constants, `periodic(n)` or `best_and_periodic(n)`."""

    best: bool
    last: bool
    every: int = 0  # epochs; 0: no periodic ones

    BEST: ClassVar[CheckpointStrategy]
    LAST: ClassVar[CheckpointStrategy]
    BEST_AND_LAST: ClassVar[CheckpointStrategy]

    def __post_init__(self) -> None:
        object.__setattr__(self, "every", whole("checkpoint strategy: every", self.every))
        if not (self.best or self.last or self.every):
            raise ValueError("a strategy saves the best, the last, or every n-th epoch with n of at least 1")

    @classmethod
    def periodic(cls, n: int) -> CheckpointStrategy:
        """Save every n-th epoch; n < 1 raises ValueError."""
        return cls(best=False, last=False, every=_at_least_one(n))

    @classmethod
    def best_and_periodic(cls, n: int) -> CheckpointStrategy:
        """Save the best epochs and every n-th; n < 1 raises ValueError."""
        return cls(best=True, last=False, every=_at_least_one(n))

    @classmethod
    def parse(cls, text: str) -> CheckpointStrategy:
        """Return the strategy named `text`: best, last, best-and-last, periodic:N or best-and-periodic:N.

        Raises ValueError for any other text.
        """
        plain = {"best": cls.BEST, "last": cls.LAST, "best-and-last": cls.BEST_AND_LAST}
        if text in plain:
            return plain[text]
        name, _, number = text.partition(":")
        counted = {"periodic": cls.periodic, "best-and-periodic": cls.best_and_periodic}
        if name in counted and re.fullmatch(r"[0-9]{1,9}", number):
            return counted[name](int(number))
        raise ValueError(
            f"checkpoint strategy {text!r}: "
            f"expected best, last, best-and-last, periodic:N or best-and-periodic:N"
        )

    def __str__(self) -> str:
        kinds = ["best"] * self.best + ["last"] * self.last + ["periodic"] * (self.every > 0)
        return "-and-".join(kinds) + (f":{self.every}" if self.every else "")


CheckpointStrategy.BEST = CheckpointStrategy(best=True, last=False)
CheckpointStrategy.LAST = CheckpointStrategy(best=False, last=True)
CheckpointStrategy.BEST_AND_LAST = CheckpointStrategy(best=True, last=True)


def _at_least_one(n: int) -> int:
    return whole("checkpoint strategy: every how many epochs", n, 1)


# ---- names


def file_name(label: str, metadata: CheckpointMetadata) -> str:
    """Return the .bin's name for one of the labels."""
    if label == "best":
        digits = ".4f" if abs(metadata.loss) < 1e15 else ".4e"  # a name has at most 255 characters
        return f"checkpoint_best_epoch_{metadata.epoch}_loss_{metadata.loss:{digits}}.bin"
    if label == "periodic":
        return f"checkpoint_epoch_{metadata.epoch}.bin"
    return {"last": LAST_NAME, "final": FINAL_NAME}[label]


def label_of(name: str) -> str | None:
    """Return the label of a .bin's or .json's name, None if it is not a checkpoint's."""
    return next((label for label, pattern in _PATTERNS.items() if pattern.fullmatch(name)), None)


# ---- when to save


def labels(
    strategy: CheckpointStrategy,
    epoch: int,
    loss: float,
    best_loss: float | None,
    *,
    epoch_end: bool = True,
    judged: bool | None = None,
    last: bool = False,
) -> tuple[str, ...]:
    """Return the labels under which to save a state now; empty if it is not to be saved.

    `best_loss` is the lowest so far in this phase. A save in the middle of an epoch (`epoch_end` False)
    is never periodic, and only best where its loss was `judged`; `last` adds checkpoint_last whatever the
    strategy.
    """
    judged = epoch_end if judged is None else judged
    found = []
    if last or strategy.last:
        found.append("last")
    if epoch_end and strategy.every and epoch % strategy.every == 0:
        found.append("periodic")
    if judged and strategy.best and improves(loss, best_loss):
        found.append("best")
    return tuple(found)


def improves(loss: float, best_loss: float | None) -> bool:
    """Whether `loss` is strictly lower than all before; NaN and infinity never are."""
    return math.isfinite(loss) and (best_loss is None or loss < best_loss)


# ---- newest and best


def newest_first(entries: Iterable[Entry]) -> list[Entry]:
    """Return the valid entries, the newest save first; among one save's names checkpoint_last first."""
    valid = [entry for entry in entries if entry.valid]
    return sorted(valid, key=lambda entry: (-entry.sequence, LABELS.index(entry.label), entry.path.name))


def best_first(entries: Iterable[Entry], phase: str, origin: Origin | None = None) -> list[Entry]:
    """Return a phase's judged checkpoints, the lowest loss first; of equal losses the later save.

    Only losses of one origin can be compared: without `origin`, that of the phase's newest checkpoint.
    Those labelled best come before all others, whole epochs, which matter only where there is no best.
    """
    found = [entry for entry in newest_first(entries) if entry.metadata and entry.metadata.phase == phase]
    if origin is None and found:
        origin = found[0].origin
    return sorted(
        (entry for entry in found if entry.origin == origin and _is_judged(entry)),
        key=lambda entry: (entry.label != "best", _loss(entry), -entry.sequence, entry.path.name),
    )


def _is_judged(entry: Entry) -> bool:
    judged = entry.label == "best" or (entry.epoch_end and entry.label != "final")
    return judged and math.isfinite(_loss(entry))


def _loss(entry: Entry) -> float:
    return entry.metadata.loss if entry.metadata else math.inf


def best_loss(entries: Iterable[Entry], phase: str, origin: Origin | None = None) -> float | None:
    """Return the lowest loss among a phase's checkpoints of one origin that are labelled best."""
    found = best_first((entry for entry in entries if entry.label == "best"), phase, origin)
    return _loss(found[0]) if found else None


# ---- what to keep


def max_kept(strategy: CheckpointStrategy, keep_best_n: int) -> int:
    """Return how many saves of one phase a strategy keeps; periodic ones, all of which stay, count once."""
    return keep_best_n * strategy.best + strategy.last + (strategy.every > 0)


def to_delete(entries: Sequence[Entry], keep_best_n: int) -> list[Entry]:
    """Return the checkpoints to delete: of each phase and origin, the best beyond the lowest `keep_best_n`.

    Last, periodic and final ones are always kept, and so are pinned ones and every name of the newest save.
    """
    ordered = newest_first(entries)
    bests = [entry for entry in ordered if entry.label == "best"]
    compared = {(entry.metadata.phase, entry.origin) for entry in bests if entry.metadata}
    beyond = []
    for phase, origin in sorted(compared):
        beyond += best_first(bests, phase, origin)[keep_best_n:]
    return [entry for entry in beyond if not entry.pinned and entry.sequence != ordered[0].sequence]
