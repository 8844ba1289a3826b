"""A training run, read back from its files: series over steps, epochs, phases, events, checkpoints.

Order: the parts of a Run, the Run and its summary numbers, reading one from its directory.
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
LARGEST = 1e100  # a larger value counts as infinite: no axis could show it
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
    """One run, finished or still in progress."""

    name: str
    series: dict[str, Series]
    phases: list[Phase] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0  # spent in training steps
    checkpoints: list[Entry] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)  # to_dict() of the newest valid checkpoint's state
    parameters: int | None = None
    problem: str | None = None  # why the checkpoints could not be listed

    @property
    def steps(self) -> int:
        """The last step that was logged."""
        return max((series[-1][0] for series in self.series.values() if series), default=0)

    @property
    def planned(self) -> int | None:
        """The last step of the newest checkpoint's schedule, unless it is reached or the run finished."""
        schedule = self.fields.get("schedule")
        end = schedule.get("end") if isinstance(schedule, dict) else None
        return end if isinstance(end, int) and end > self.steps and not self.finished else None

    @property
    def finished(self) -> bool:
        """Whether the last thing that was logged is that the run finished."""
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
        """The last complete epoch, or the current one if it is the first of its phase."""
        if not self.epochs:
            return None
        last, before = self.epochs[-1], self.epochs[-2] if len(self.epochs) > 1 else None
        if self.finished or before is None or before.phase != last.phase:
            return last
        return before if last.last - last.first < before.last - before.first else last

    @property
    def eval_loss(self) -> float | None:
        """The loss of the last evaluation."""
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
        """Return the checkpoint from which training would resume."""
        found = policy.newest_first(self.checkpoints)
        return found[0] if found else None

    def nonfinite_losses(self) -> int:
        """Return the number of steps whose train loss was not finite."""
        return sum(y is None for _, y in self.series["train/loss"])


class _Update(NamedTuple):
    """One logged update; `tokens` are its own."""

    phase: str
    epoch: int
    step: int
    tokens: int
    loss: float | None


def read_run(directory: Path, name: str) -> Run:
    """Read the metrics of a run and, without changing anything, its checkpoints.

    Raises OSError where metrics.jsonl cannot be read. The problem of an invalid checkpoint is in its entry.
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
    _summarise(run, train)
    _read_checkpoints(run, directory)
    return run


def _summarise(run: Run, train: list[dict[str, Any]]) -> None:
    """Fill in phases, epochs, tokens and seconds from the lines of the updates."""
    updates = []
    for line in train:
        total, epoch = line.get("tokens"), line.get("epoch")  # tokens are counted over the whole run
        tokens = total - run.tokens if is_count(total) and total >= run.tokens else 0
        run.tokens += tokens
        speed = _number(line.get("train/tokens_per_second"))
        run.seconds += tokens / speed if speed else 0.0
        epoch = epoch if is_count(epoch) else 0
        loss = _number(line["train/loss"])
        updates.append(_Update(_text(line.get("phase")), epoch, line["step"], tokens, loss))
    for phase, group in itertools.groupby(updates, key=lambda update: update.phase):
        steps = [update.step for update in group]
        run.phases.append(Phase(phase, steps[0], steps[-1]))
    for (phase, epoch), group in itertools.groupby(updates, key=lambda update: (update.phase, update.epoch)):
        found = list(group)
        known = [(update.loss, update.tokens or 1) for update in found if update.loss is not None]
        tokens = sum(weight for _, weight in known)
        mean = sum(loss * weight for loss, weight in known) / tokens if tokens else math.nan
        run.epochs.append(Epoch(epoch + 1, phase, found[0].step, found[-1].step, mean))


def _read_checkpoints(run: Run, directory: Path) -> None:
    try:
        with CheckpointManager(directory, read_only=True, asynchronous=False) as manager:
            run.checkpoints = manager.list_checkpoints()
    except (CheckpointError, OSError) as error:
        run.problem = str(error)
    for entry in policy.newest_first(run.checkpoints):
        try:
            head = reader.read_head(entry.path, Disk())
        except (CheckpointError, OSError):
            continue  # gone or replaced since it was listed
        run.fields = head.fields
        shapes = [tensor.shape for tensor in head.tensors if tensor.role == "params"]
        run.parameters = sum(math.prod(shape) for shape in shapes)
        return


def section(run: Run, name: str) -> dict[str, Any]:
    """Return one of the newest checkpoint's fields as {"a.b": value}, empty if it is not there."""

    def flat(prefix: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            return {prefix: value}
        found: dict[str, Any] = {}
        for key, inner in value.items():
            found |= flat(f"{prefix}.{key}" if prefix else str(key), inner)
        return found

    value = run.fields.get(name)
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
