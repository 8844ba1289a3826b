"""A training run, read back from its files: series over steps, epochs, phases, events, checkpoints.

A log may be larger than memory, so what is kept of it is bounded.
Order: the parts of a Run, the Run and its summary numbers, reading one from its directory.
"""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import numpy as np

from tinyllm.arena import Array
from tinyllm.checkpoint import CheckpointError, CheckpointManager, policy, reader
from tinyllm.checkpoint.disk import Disk
from tinyllm.checkpoint.metadata import Entry, is_count
from tinyllm.page.thinning import Series, Thinned
from tinyllm.page.written import Written, gather_, is_sample
from tinyllm.training import metrics

TAGS = ("train/loss", "eval/loss", "train/lr", "train/grad_norm", "train/tokens_per_second")
LARGEST = 1e100  # a larger value counts as infinite: no axis could show it
_NO_TAG = object()
MOST_EVENTS = 2000  # kept of a run, the last; so are the phases
MOST_EPOCHS = 100_000
BASELINES = ("uniform", "unigram", "bigram")  # of simple models, in falling order


class Sample(NamedTuple):
    """Every `stride`-th point of a series."""

    points: Series
    stride: int


class Phase(NamedTuple):
    """Steps `first` to `last` of one phase, and how many epochs the run had made before."""

    name: str
    first: int
    last: int
    epochs: int = 0


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
    series: dict[str, Series] = field(default_factory=dict)  # by tag; of a long run the extremes
    samples: dict[str, Sample] = field(default_factory=dict)
    phases: list[Phase] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    written: dict[int, Written] = field(default_factory=dict)  # what the model wrote, by step
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)  # nats, by phase and BASELINES
    tokens: int = 0
    seconds: float = 0.0  # spent in training steps
    broken: int = 0  # updates whose train loss was not finite
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
        found = [y for _, y in self.samples["train/tokens_per_second"].points if y is not None]
        return statistics.median(found) if found else None

    @property
    def begun(self) -> dict[str, int]:
        """How many epochs the run had made when each phase began first."""
        return {phase.name: phase.epochs for phase in reversed(self.phases)}

    def best(self) -> list[Entry]:
        """Return the best checkpoint of each phase."""
        names = dict.fromkeys(phase.name for phase in self.phases)
        found = (policy.best_first(self.checkpoints, name) for name in names)
        return [entries[0] for entries in found if entries]

    def newest(self) -> Entry | None:
        """Return the checkpoint from which training would resume."""
        found = policy.newest_first(self.checkpoints)
        return found[0] if found else None


def read_run(directory: Path, name: str) -> Run:
    """Read the metrics of a run and, without changing anything, its checkpoints.

    Raises OSError where metrics.jsonl cannot be read. The problem of an invalid checkpoint is in its entry.
    """
    run = Run(name)
    thinned = {tag: Thinned() for tag in TAGS}
    events: dict[tuple[int, str], Event] = {}
    epochs = _Epochs(run)
    for lines in metrics.blocks(directory / metrics.FILE_NAME):
        lines = [line for line in lines if 0 <= line["step"] < 1 << 53]
        gather_(run.written, lines)
        for line in lines:
            if line.get("event") == metrics.BASELINES and len(run.baselines) < MOST_EVENTS:
                run.baselines[_text(line.get("phase"))] = _baselines(line)
            elif "event" in line and not is_sample(line):
                events[line["step"], _text(line["event"])] = _event(line)
        if len(events) > MOST_EVENTS:
            events = dict(list(events.items())[-MOST_EVENTS // 2 :])
        lines = [line for line in lines if "event" not in line]
        steps = np.array([line["step"] for line in lines], np.float64)
        for tag, series in thinned.items():
            values, present = _numbers(lines, tag)
            series.extend(steps[present], values[present])
        epochs.add([line for line in lines if "train/loss" in line])
    run.events = sorted(events.values(), key=lambda event: event.step)
    for tag, series in thinned.items():
        run.series[tag], run.samples[tag] = series.extremes(), Sample(series.sample(), series.stride)
    _read_checkpoints(run, directory)
    return run


def _event(line: dict[str, Any]) -> Event:
    epoch = line.get("epoch")
    return Event(
        line["step"], _text(line["event"]), _text(line.get("phase")), epoch if is_count(epoch) else None
    )


def _baselines(line: dict[str, Any]) -> dict[str, float]:
    found = {name: line.get(f"baseline/{name}") for name in BASELINES}
    return {name: v for name, v in found.items() if isinstance(v, float) and 0 <= v <= LARGEST}


class _Epochs:
    """Fills in a run's phases, epochs, tokens and seconds from the lines of its updates, as they come."""

    def __init__(self, run: Run) -> None:
        self.run, self.loss, self.tokens = run, 0.0, 0.0  # of the last epoch: sum of losses, and their tokens
        self.kept = 1  # every so many-th epoch

    def add(self, lines: list[dict[str, Any]]) -> None:
        """Add lines of updates."""
        totals = [line.get("tokens") for line in lines]  # counted over the whole run
        known = [total if is_count(total) else 0 for total in totals]
        grown = np.maximum.accumulate([self.run.tokens, *known])
        tokens, losses = np.diff(grown), _numbers(lines, "train/loss")[0]
        speeds = _numbers(lines, "train/tokens_per_second")[0]
        self.run.tokens = int(grown[-1])
        self.run.seconds += float((tokens[speeds > 0] / speeds[speeds > 0]).sum())
        self.run.broken += int(np.isnan(losses).sum())
        weights = np.where(np.isnan(losses), 0, np.maximum(tokens, 1))
        sums = np.nan_to_num(losses) * weights
        start = 0
        for (phase, epoch), group in itertools.groupby(
            [(line.get("phase"), line.get("epoch")) for line in lines]
        ):
            stop = start + len(list(group))
            self._open(_text(phase), epoch + 1 if is_count(epoch) else 1, lines[start]["step"])
            self._add(
                lines[stop - 1]["step"], float(sums[start:stop].sum()), float(weights[start:stop].sum())
            )
            start = stop

    def _open(self, phase: str, number: int, step: int) -> None:
        """Begin an epoch at `step`, and a phase, unless they are those of the updates before."""
        run = self.run
        if not run.phases or run.phases[-1].name != phase:
            run.phases = [*run.phases[-MOST_EVENTS:], Phase(phase, step, step, number - 1)]
        if not run.epochs or (run.epochs[-1].phase, run.epochs[-1].number) != (phase, number):
            run.epochs.append(Epoch(number, phase, step, step, math.nan))
            self.loss, self.tokens = 0.0, 0.0
        while len(run.epochs) > MOST_EPOCHS:
            *earlier, before, latest = run.epochs
            first = run.epochs[0].number
            run.epochs = [e for e in earlier if (e.number - first) % self.kept == 0] + [before, latest]
            if len(run.epochs) > MOST_EPOCHS // 2:
                self.kept *= 10  # as the ticks of the page, which are a multiple of ten epochs apart by then

    def _add(self, last: int, loss: float, tokens: float) -> None:
        """Add updates up to step `last` to the latest epoch and phase."""
        self.loss, self.tokens = self.loss + loss, self.tokens + tokens
        mean = self.loss / self.tokens if self.tokens else math.nan
        self.run.phases[-1] = self.run.phases[-1]._replace(last=last)
        self.run.epochs[-1] = self.run.epochs[-1]._replace(last=last, loss=mean)


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


def _numbers(lines: list[dict[str, Any]], tag: str) -> tuple[Array, slice | Array]:
    """Return a tag's values (n,) float64, NaN where there is none to draw, and which lines have the tag."""
    values: list[Any] = [line.get(tag, _NO_TAG) for line in lines]
    present: slice | Array = slice(None)
    if not set(map(type, values)) <= {float, NoneType}:
        present = np.array([value is not _NO_TAG for value in values], np.bool_)
        values = [float(v) if type(v) in (int, float) and abs(v) <= LARGEST else None for v in values]
    found = np.array(values, np.float64)  # None becomes NaN
    found[~(np.abs(found) <= LARGEST)] = math.nan
    return found, present


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
