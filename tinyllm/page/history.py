"""What a training run left behind, read back: series over steps, epochs, phases, events, checkpoints.

Order: the parts of a Run, the Run and the numbers that sum it up, reading one from its directory.
"""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tinyllm.checkpoint import CheckpointError, CheckpointManager, policy, reader
from tinyllm.checkpoint.disk import Disk
from tinyllm.checkpoint.metadata import Entry, is_count
from tinyllm.training import metrics

TAGS = ("train/loss", "eval/loss", "train/lr", "train/grad_norm", "train/tokens_per_second")
LARGEST = 1e100  # beyond it a value is as good as infinite, and no axis has room for it
Series = list[tuple[int, float | None]]  # (step, value); None where it was not finite


class Phase(NamedTuple):
    """Steps `first` to `last` of one phase."""

    name: str
    first: int
    last: int


class Epoch(NamedTuple):
    """Epoch `number` (from 1, counted over all phases) and the mean train loss of its tokens."""

    number: int
    phase: str
    first: int
    last: int
    loss: float


class Event(NamedTuple):
    """What happened after update `step`: resume, early_stop, rollback, finished."""

    step: int
    kind: str
    phase: str
    epoch: int | None


@dataclass
class Run:
    """One run, whole or still in progress."""

    name: str
    series: dict[str, Series]
    phases: list[Phase] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0  # spent in training steps
    checkpoints: list[Entry] = field(default_factory=list)
    document: dict[str, Any] = field(default_factory=dict)  # of the newest valid checkpoint
    parameters: int | None = None
    problem: str | None = None  # why the checkpoints could not be listed

    @property
    def steps(self) -> int:
        """The last step that was logged."""
        return max((series[-1][0] for series in self.series.values() if series), default=0)

    @property
    def planned(self) -> int | None:
        """The step at which the schedule of the newest checkpoint's phase ends, if that is still to come."""
        end = _inside(self.document, "schedule", "end")
        return end if isinstance(end, int) and end > self.steps and not self.finished else None

    @property
    def finished(self) -> bool:
        """Whether the run's last word is that it is finished."""
        last = self.events[-1] if self.events else None
        return last is not None and last.kind == "finished" and last.step >= self.steps

    @property
    def status(self) -> str:
        """One of: finished, stopped early, unfinished, empty."""
        if not self.steps:
            return "empty"
        if not self.finished:
            return "unfinished"
        early = any(e.kind == "early_stop" and e.step == self.events[-1].step for e in self.events)
        return "stopped early" if early else "finished"

    @property
    def last_epoch(self) -> Epoch | None:
        """The last epoch that is whole, or the one under way if there is no other in its phase."""
        if not self.epochs:
            return None
        last, before = self.epochs[-1], self.epochs[-2] if len(self.epochs) > 1 else None
        if self.finished or before is None or before.phase != last.phase:
            return last
        return before if last.last - last.first < before.last - before.first else last

    @property
    def eval_loss(self) -> float | None:
        """The last evaluation."""
        return self.series["eval/loss"][-1][1] if self.series["eval/loss"] else None

    @property
    def speed(self) -> float | None:
        """Median tokens per second."""
        found = [y for _, y in self.series["train/tokens_per_second"] if y is not None]
        return statistics.median(found) if found else None

    def best(self) -> list[Entry]:
        """Return the best checkpoint of each phase."""
        names = dict.fromkeys(phase.name for phase in self.phases)
        found = (policy.best_first(self.checkpoints, name) for name in names)
        return [entries[0] for entries in found if entries]

    def newest(self) -> Entry | None:
        """Return the checkpoint from which training would go on."""
        found = policy.newest(self.checkpoints)
        return found[0] if found else None

    def lost(self) -> int:
        """Return at how many steps the train loss was not finite."""
        return sum(y is None for _, y in self.series["train/loss"])


def read_run(directory: Path, name: str) -> Run:
    """Read the metrics and, without touching them, the checkpoints of a run.

    Raises OSError where metrics.jsonl cannot be read. What is wrong with a checkpoint is told in its entry.
    """
    lines = metrics.read(directory / metrics.FILE_NAME)
    run = Run(name, {tag: [] for tag in TAGS})
    train = []
    for line in lines:
        step = line["step"]
        if isinstance(step, bool) or not 0 <= step < 1 << 53:
            continue
        if "event" in line:
            epoch = line.get("epoch")
            run.events.append(
                Event(
                    step, _text(line["event"]), _text(line.get("phase")), epoch if is_count(epoch) else None
                )
            )
            continue
        for tag in TAGS:
            if tag in line:
                run.series[tag].append((step, _number(line[tag])))
        if "train/loss" in line:
            train.append(line)
    _follow(run, train)
    _read_checkpoints(run, directory)
    return run


def _follow(run: Run, train: list[dict[str, Any]]) -> None:
    """Fill in phases, epochs, tokens and seconds from the lines of the updates."""
    shares = []  # (phase, epoch, step, tokens of this update, loss)
    for line in train:
        tokens = line.get("tokens")
        share = tokens - run.tokens if is_count(tokens) and tokens >= run.tokens else 0
        run.tokens += share
        speed = _number(line.get("train/tokens_per_second"))
        run.seconds += share / speed if speed else 0.0
        epoch = line.get("epoch")
        shares.append(
            (
                _text(line.get("phase")),
                epoch if is_count(epoch) else 0,
                line["step"],
                share,
                _number(line["train/loss"]),
            )
        )
    for phase, group in itertools.groupby(shares, key=lambda share: share[0]):
        steps = [share[2] for share in group]
        run.phases.append(Phase(phase, steps[0], steps[-1]))
    for (phase, epoch), group in itertools.groupby(shares, key=lambda share: share[:2]):
        found = list(group)
        known = [(loss, weight or 1) for *_, weight, loss in found if loss is not None]
        weights = sum(weight for _, weight in known)
        mean = sum(loss * weight for loss, weight in known) / weights if weights else math.nan
        run.epochs.append(Epoch(epoch + 1, phase, found[0][2], found[-1][2], mean))


def _read_checkpoints(run: Run, directory: Path) -> None:
    try:
        with CheckpointManager(directory, read_only=True, asynchronous=False) as manager:
            run.checkpoints = manager.list_checkpoints()
    except (CheckpointError, OSError) as error:
        run.problem = str(error)
    for entry in policy.newest(run.checkpoints):
        try:
            head = reader.read_head(entry.path, Disk())
        except (CheckpointError, OSError):
            continue  # gone or replaced since it was listed
        run.document = head.document
        shapes = [tensor.shape for tensor in head.tensors if tensor.role == "params"]
        run.parameters = sum(math.prod(shape) for shape in shapes)
        return


def _inside(document: Any, *names: str) -> Any:
    for name in names:
        document = document.get(name) if isinstance(document, dict) else None
    return document


def section(run: Run, name: str) -> dict[str, Any]:
    """Return a part of the newest checkpoint's document as {"a.b": value}, empty if there is none."""

    def flat(prefix: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            return {prefix: value}
        found: dict[str, Any] = {}
        for key, inner in value.items():
            found |= flat(f"{prefix}.{key}" if prefix else str(key), inner)
        return found

    value = run.document.get(name)
    return flat("", value) if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if abs(number) <= LARGEST else None  # False for NaN


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
