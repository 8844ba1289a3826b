"""Which charts a page has: their lines, phases, epochs, events and checkpoints, over one range of steps.

Order: what is on a chart, the charts of some runs, their parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tinyllm.checkpoint.metadata import printable
from tinyllm.page.curves import decimate, logarithms, trend
from tinyllm.page.history import Event, Phase, Run, Series

POINTS = 20_000  # of all paths of a page together, about 13 bytes each
COLOURS = 6
MOST_MARKS = 100
MOST_EPOCHS = 100
LEVELS = 4  # lines of text for events
LETTER = 1 / 130  # width of a letter as a share of the plot's, on a wide screen
WORDS = {
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
    """A hairline at a step, or a ring where there is a value; `label` is written on line `level`."""

    run: int
    kind: str
    step: int
    label: str = ""
    level: int = 0
    value: float | None = None


@dataclass
class Chart:
    """What is drawn; `first` and `last` are the steps that all charts of a page share."""

    name: str
    title: str
    unit: str
    lines: list[Line]
    first: int
    last: int
    log: bool = False
    floor: float | None = None  # a linear axis begins here at the latest
    clip: float = 0.0  # share of the greatest raw values that may lie above the plot
    phases: list[Phase] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)

    def range(self) -> tuple[float, float]:
        """Return the (low, high) of the y axis, in log10 where the chart is logarithmic."""
        values: list[float] = []
        for line in self.lines:
            points = logarithms(line.points) if self.log else line.points
            known = sorted(y for _, y in points if y is not None)
            values += known[: len(known) - int(len(known) * self.clip) if line.kind == "raw" else None]
        if not values:
            return 0.0, 1.0
        low, high = min(values), max(values)
        if self.floor is not None and not self.log:
            low = min(low, self.floor)
        pad = 0.05 * (high - low) or abs(high) * 0.1 or 1.0
        return (low if low == self.floor and not self.log else low - pad), high + pad


def told(event: Event) -> str:
    """Say an event in words."""
    words = WORDS.get(event.kind, event.kind)
    return (
        f"{words} to epoch {event.epoch}" if event.kind == "rollback" and event.epoch is not None else words
    )


# ---- the charts of some runs


def charts(runs: Sequence[Run]) -> list[Chart]:
    """Return the charts of a page that have anything to show."""
    first = min((s[0][0] for run in runs for s in run.series.values() if s), default=0)
    last = max((run.steps for run in runs), default=0)
    found = [
        Chart("loss", "Loss", "nats per token", _lines(runs, "train/loss", "train"), first, last),
        Chart("rate", "Learning rate", "", _lines(runs, "train/lr", "rate"), first, last, floor=0.0),
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
        ends = [epoch.last for epoch in runs[0].epochs]
        for chart in found:
            chart.phases = runs[0].phases[-MOST_MARKS:]
            chart.epochs = ends[:: epoch_stride(runs[0])]
    for chart in found:
        for number, run in enumerate(runs):
            chart.marks += _hairlines(run, number, chart, len(runs))
    found[0].marks += [ring for number, run in enumerate(runs) for ring in _rings(run, number)]
    return [chart for chart in found if any(line.points for line in chart.lines)]


def epoch_stride(run: Run) -> int:
    """Return of how many epochs one has a tick."""
    least = -(-len(run.epochs) // MOST_EPOCHS)
    strides = (digit * power for power in (1, 10, 100, 1000, 10_000) for digit in (1, 2, 5))
    return next((stride for stride in strides if stride >= least), 100_000)


def column_width(run: Run) -> int:
    """Return of how many steps only the least and the greatest value is drawn, on a page of one run."""
    columns = _columns(_share(1))
    return -(-run.steps // columns) if len(run.series["train/loss"]) > 2 * columns else 1


def _share(runs: int) -> int:
    """Return how many points one run may have in one chart."""
    return max(POINTS // (4 * runs), 100)


def _columns(share: int) -> int:
    return share * 4 // 10


def _lines(runs: Sequence[Run], tag: str, label: str) -> list[Line]:
    """Return every step faintly and a running median strongly; a short or smooth series as it is."""
    found = []
    share = _share(len(runs))
    for number, run in enumerate(runs):
        series, colour = run.series[tag], number % COLOURS
        name = printable(run.name)[:60] if len(runs) > 1 else ""
        window = len(series) // 80 if tag != "train/lr" else 0
        raw = decimate(series, _columns(share))
        if window < 3:
            found.append(Line(colour, "trend", name or label, raw))
        else:
            middle = trend(series, run.phases, window, share // 10)
            found.append(Line(colour, "raw", "" if name else label, raw))
            found.append(Line(colour, "trend", name or f"median of {window:,}", middle))
        if tag == "train/loss" and run.series["eval/loss"]:
            points = decimate(run.series["eval/loss"], share // 20)
            found.append(Line(colour, "eval", f"{name} eval".lstrip(), points))
    return found


def _hairlines(run: Run, number: int, chart: Chart, runs: int) -> list[Mark]:
    """Return a mark for each step with events; of a single run's loss with words where there is room."""
    steps: dict[int, list[str]] = {}
    for event in run.events:
        steps.setdefault(event.step, []).append(told(event))
    found = []
    ends = [0.0] * LEVELS  # of the text so far, as shares of the plot's width
    for step, words in list(steps.items())[-(MOST_MARKS // runs) :]:
        label, level = ", ".join(words)[:60], 0
        start = (step - chart.first) / max(chart.last - chart.first, 1)
        width = (len(label) + 2) * LETTER
        start = start - width if start > 0.8 else start
        free = [i for i in range(LEVELS) if ends[i] <= start]
        if chart.name == "loss" and runs == 1 and free:
            level = free[0]
            ends[level] = start + width
        else:
            label = ""
        found.append(Mark(number % COLOURS, "event", step, label, level))
    return found


def _rings(run: Run, number: int) -> list[Mark]:
    """Return the newest checkpoint and each phase's best, where their losses lie."""
    newest = run.newest()
    entries = [("newest", newest)] if newest else []
    entries += [("best", entry) for entry in run.best()]
    return [
        Mark(number % COLOURS, kind, entry.step, value=entry.metadata.loss)
        for kind, entry in entries
        if entry.metadata and entry.step is not None and math.isfinite(entry.metadata.loss)
    ]
