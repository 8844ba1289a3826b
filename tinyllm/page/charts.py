"""Which charts a report has: their lines, phases, epochs, events and checkpoints, over one range of steps.

Order: what is on a chart, the charts of some runs, their parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tinyllm.escape import printable
from tinyllm.page.curves import decimate, logarithms, trend
from tinyllm.page.history import BASELINES, Event, Phase, Run
from tinyllm.page.thinning import Series

POINTS = 20_000  # of all paths of a page together, about 13 bytes each
COLOURS = 6
MAX_MARKS = 100
MAX_EPOCHS = 100  # with a tick each
LEVELS = 4  # lines of text for events
LETTER = 1 / 130  # width of a letter as a fraction of the plot's, on a wide screen
LEVEL_LABELS = dict(zip(BASELINES, ("ln V", "unigram", "bigram"), strict=True))
EVENT_TEXTS = {
    "resume": "resumed",
    "early_stop": "stopped early",
    "rollback": "rolled back",
    "finished": "finished",
}


class Line(NamedTuple):
    """One path; without a label it is not in the legend."""

    run: int
    kind: str
    label: str
    points: Series


class Mark(NamedTuple):
    """A hairline at a step, or a ring at a step and `value`; `label` is written on line `level`."""

    run: int
    kind: str
    step: int
    label: str = ""
    level: int = 0
    value: float | None = None


@dataclass
class Chart:
    """One chart; `first` and `last` are the range of steps that all charts of a page share."""

    name: str
    title: str
    unit: str
    lines: list[Line]
    first: int
    last: int
    log: bool = False
    floor: float | None = None  # a linear axis starts here or lower
    clip: float = 0.0  # fraction of the raw values, the largest, that may lie above the plot
    phases: list[Phase] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)

    def range(self) -> tuple[float, float]:
        """Return the (low, high) of the y axis, in log10 where the chart is logarithmic.

        It fits the curves, and the levels that are near them.
        """
        values: list[float] = []
        for line in self.lines:
            if line.kind in BASELINES:
                continue
            points = logarithms(line.points) if self.log else line.points
            known = sorted(y for _, y in points if y is not None)
            values += known[: len(known) - int(len(known) * self.clip) if line.kind == "raw" else None]
        if not values:
            return 0.0, 1.0
        low, high = min(values), max(values)
        levels = [y for line in self.lines if line.kind in BASELINES for _, y in line.points if y is not None]
        half = (high - low) / 2
        near = [y for y in levels if low - half <= y <= high + half]
        low, high = min([low, *near]), max([high, *near])
        if self.floor is not None and not self.log:
            low = min(low, self.floor)
        pad = 0.05 * (high - low) or abs(high) * 0.1 or 1.0
        room = 2 * pad if near and max(near) > high - pad else pad  # for the names of phases, above the line
        return (low if low == self.floor and not self.log else low - pad), high + room


def event_text(event: Event) -> str:
    """Return an event as the page names it."""
    text = EVENT_TEXTS.get(event.kind, event.kind)
    if event.kind == "rollback" and event.epoch is not None:
        return f"{text} to epoch {event.epoch}"
    return text


# ---- the charts of some runs


def charts(runs: Sequence[Run]) -> list[Chart]:
    """Return the charts of the runs that have any points."""
    first = min((s[0][0] for run in runs for s in run.series.values() if s), default=0)
    last = max((run.steps for run in runs), default=0)
    found = [
        Chart("loss", "Loss", "nats per token", _lines(runs, "train/loss", "train"), first, last),
        Chart("lr", "Learning rate", "", _lines(runs, "train/lr", "lr"), first, last, floor=0.0),
        Chart(
            "gradient", "Gradient norm", "before clipping", _lines(runs, "train/grad_norm", "step"),
            first, last, log=True,
        ),
        Chart(
            "speed", "Speed", "tokens per second", _lines(runs, "train/tokens_per_second", "step"),
            first, last, floor=0.0, clip=0.005,
        ),
    ]  # fmt: skip
    if len(runs) == 1:
        stride, epochs = epoch_stride(runs[0]), runs[0].epochs
        ends = [epoch.last for epoch in epochs if (epoch.number - epochs[0].number) % stride == 0]
        for chart in found:
            chart.phases = runs[0].phases[-MAX_MARKS:]
            chart.epochs = ends[:MAX_EPOCHS]
        found[0].lines += _levels(runs[0])
        found[0].marks += _level_labels(found[0])
    for chart in found:
        for number, run in enumerate(runs):
            chart.marks += _hairlines(run, number, chart, len(runs))
    found[0].marks += [ring for number, run in enumerate(runs) for ring in _rings(run, number)]
    return [chart for chart in found if any(line.points for line in chart.lines)]


def epoch_stride(run: Run) -> int:
    """Return how many epochs there are per tick: 1, 2, 5, 10, ..."""
    count = run.epochs[-1].number - run.epochs[0].number + 1 if run.epochs else 0
    least = -(-count // MAX_EPOCHS)
    strides = (digit * power for power in (1, 10, 100, 1000, 10_000) for digit in (1, 2, 5))
    return next((stride for stride in strides if stride >= least), 100_000)


def column_width(run: Run) -> int:
    """Return the number of steps of which only the minimum and maximum are drawn, on a page of one run."""
    columns = _columns(_share(1))
    return -(-run.steps // columns) if len(run.series["train/loss"]) > 2 * columns else 1


def _share(runs: int) -> int:
    """Return how many points one run may have in one chart."""
    return max(POINTS // (4 * runs), 100)


def _columns(share: int) -> int:
    """Return how many columns of two points each the raw values get: 0.8 of the share, the trend 0.1."""
    return share * 4 // 10


def _lines(runs: Sequence[Run], tag: str, label: str) -> list[Line]:
    """Return per run a faint line of all steps and a strong one of running medians, plus the evaluations.

    A short series, and the learning rate, which is smooth, is one strong line of all steps.
    """
    found = []
    share = _share(len(runs))
    for number, run in enumerate(runs):
        series, colour = run.series[tag], number % COLOURS
        name = printable(run.name)[:60] if len(runs) > 1 else ""
        sample, stride = run.samples[tag]
        window = len(sample) // 80 if tag != "train/lr" else 0
        raw = decimate(series, _columns(share))
        if window < 3:
            found.append(Line(colour, "trend", name or label, raw))
        else:
            middle = trend(sample, run.phases, window, share // 10)
            found.append(Line(colour, "raw", "" if name else label, raw))
            found.append(Line(colour, "trend", name or f"median of {window * stride:,}", middle))
        if tag == "train/loss" and run.series["eval/loss"]:
            points = decimate(run.series["eval/loss"], share // 20)
            found.append(Line(colour, "eval", f"{name} eval".lstrip(), points))
    return found


def _levels(run: Run) -> list[Line]:
    """Return a level line for each of the BASELINES that was logged, in each phase at its own height."""
    found = []
    for name, label in LEVEL_LABELS.items():
        points: Series = []
        for phase in run.phases[-MAX_MARKS:]:
            if (y := run.baselines.get(phase.name, {}).get(name)) is not None:
                points += [(phase.first, y), (phase.last, y), (phase.last, None)]
        if points:
            found.append(Line(0, name, label, points))
    return found


def _level_labels(chart: Chart) -> list[Mark]:
    """Return marks that name the levels in each phase, where there is room."""
    low, high = chart.range()
    found: list[Mark] = []
    for line in chart.lines:
        if line.kind not in BASELINES:
            continue
        for (first, y), (last, _) in zip(line.points[::3], line.points[1::3], strict=True):
            assert y is not None
            wide = last - first > 0.12 * (chart.last - chart.first)
            others = [mark.value for mark in found if first <= mark.step <= last and mark.value is not None]
            if wide and low <= y <= high and all(abs(y - other) > 0.06 * (high - low) for other in others):
                found.append(Mark(0, "level", first + (last - first) * 3 // 4, line.label, value=y))
    return found


def _hairlines(run: Run, number: int, chart: Chart, runs: int) -> list[Mark]:
    """Return a mark for each step with events; in the loss chart of a single run, labelled if it fits."""
    steps: dict[int, list[str]] = {}
    for event in run.events:
        steps.setdefault(event.step, []).append(event_text(event))
    found = []
    ends = [0.0] * LEVELS  # of the labels so far, level by level, as fractions of the plot's width
    for step, texts in list(steps.items())[-(MAX_MARKS // runs) :]:
        label, level = ", ".join(texts)[:60], 0
        start = (step - chart.first) / max(chart.last - chart.first, 1)
        width = (len(label) + 2) * LETTER
        start = start - width if start > 0.8 else start  # near the right edge it is left of its line
        free = [i for i in range(LEVELS) if ends[i] <= start]
        if chart.name == "loss" and runs == 1 and free:
            level = free[0]
            ends[level] = start + width
        else:
            label = ""
        found.append(Mark(number % COLOURS, "event", step, label, level))
    return found


def _rings(run: Run, number: int) -> list[Mark]:
    """Return marks at the losses of the newest checkpoint and of each phase's best."""
    newest = run.newest()
    entries = [("newest", newest)] if newest else []
    entries += [("best", entry) for entry in run.best()]
    return [
        Mark(number % COLOURS, kind, entry.step, value=entry.metadata.loss)
        for kind, entry in entries
        if entry.metadata and entry.step is not None and math.isfinite(entry.metadata.loss)
    ]
