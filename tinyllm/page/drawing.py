"""A chart as HTML that needs no script: the SVG path holds the data itself, in steps and values.

A matrix maps them onto the plot. Strokes do not scale and all text is HTML positioned by percentages: one
markup fits every width, and the page's script zooms by changing the matrix. Order: the frame, the figure,
its parts.
"""

from __future__ import annotations

import html
from typing import NamedTuple

from tinyllm.page.charts import Chart, Mark
from tinyllm.page.curves import figures, labels, log_ticks, logarithms, loss, path, ticks
from tinyllm.page.history import BASELINES
from tinyllm.page.shell import escaped
from tinyllm.page.thinning import Series

SIDE = 1000  # of the plot in the units of its viewBox
KINDS = (*BASELINES, "raw", "trend", "eval")  # in the order of painting


class Frame(NamedTuple):
    """The ranges of a plot, and from them the position of a step and a value."""

    first: int
    last: int
    low: float
    high: float
    log: bool

    def left(self, step: float) -> str:
        """Return a CSS declaration."""
        return f"left:{100 * (step - self.first) / max(self.last - self.first, 1):.3f}%"

    def bottom(self, level: float) -> str:
        """Return a CSS declaration; `level` is log10 of the value where the chart is logarithmic."""
        return f"bottom:{100 * (level - self.low) / (self.high - self.low):.2f}%"

    def transform(self, *, values: bool) -> str:
        """Return the SVG attribute that maps (step, level), or only the step, onto the viewBox.

        SVG's y axis points down, so `low` maps to SIDE and `high` to 0.
        """
        across = SIDE / max(self.last - self.first, 1)
        up = SIDE / (self.high - self.low)
        vertical = (f"{-up:.9g}", f"{self.high * up:.9g}") if values else ("1", "0")
        shift = f"{-self.first * across:.9g}"
        return f'transform="matrix({across:.9g} 0 0 {vertical[0]} {shift} {vertical[1]})"'


def chart_html(chart: Chart) -> str:
    """Return the chart as an HTML figure."""
    frame = Frame(chart.first, chart.last, *chart.range(), chart.log)
    floor = "" if chart.floor is None else f"{chart.floor:g}"
    epochs = "".join(f"M{step} 0v1" for step in chart.epochs)
    described = f"{chart.title}, steps {chart.first:,} to {chart.last:,}"  # for screen readers
    view = f'preserveAspectRatio="none" aria-hidden="true" viewBox="0 0 {SIDE}'
    return (
        f'<figure class="chart" id="{chart.name}" tabindex="0" role="group" aria-label="{described}"'
        f' data-low="{frame.low:.9g}" data-high="{frame.high:.9g}" data-log="{int(chart.log)}"'
        f' data-floor="{floor}">\n<figcaption><h2>{chart.title}</h2><small>{chart.unit}</small>'
        f'<button type="button" class="log" aria-pressed="{str(chart.log).lower()}" hidden>log</button>'
        f"{_legend(chart)}</figcaption>\n"
        f'<div class="plot">{_bands(chart, frame)}{_axes(frame)}'
        f'<svg class="data" {view} {SIDE}"><g {frame.transform(values=True)}>{_paths(chart)}</g></svg>'
        f'<svg class="epochs" {view} 1"><g {frame.transform(values=False)}><path d="{epochs}"/></g></svg>'
        f'<div class="marks" aria-hidden="true">{"".join(_mark(mark, frame) for mark in chart.marks)}</div>'
        f'<div class="cursor" hidden><b></b></div><div class="drag" hidden></div></div></figure>\n'
    )


def _axes(frame: Frame) -> str:
    if frame.log:
        levels = log_ticks(frame.low, frame.high, 5)
        names = [labels([10**level])[0] for level in levels]
    else:
        levels = ticks(frame.low, frame.high, 5)
        names = labels(levels)
    y = "".join(
        f'<i style="{frame.bottom(level)}"><b>{name}</b></i>'
        for level, name in zip(levels, names, strict=True)
    )
    steps = [step for step in ticks(frame.first, frame.last, 6) if step == int(step)]
    x = "".join(
        f'<i style="{frame.left(step)}"><b>{name}</b></i>'
        for step, name in zip(steps, labels(steps), strict=True)
    )
    return f'<div class="y">{y}</div><div class="x">{x}</div><b class="step">step</b>'


def _bands(chart: Chart, frame: Frame) -> str:
    """Return the phases as bands, and their names in one row above: a name may be wider than its band."""
    bands, names, start = [], [], chart.phases[0].first if chart.phases else 0
    for phase in chart.phases:
        width = 100 * (phase.last - start) / max(chart.last - chart.first, 1)
        place = f'data-x="{start}" data-end="{phase.last}" style="{frame.left(start)};width:{width:.3f}%"'
        bands.append(f"<i {place}></i>")
        if chart.name == "loss":
            names.append(f"<b {place}>{escaped(phase.name, 60)}</b>")
        start = phase.last
    return f'<div class="bands">{"".join(bands)}<div class="names">{"".join(names)}</div></div>'


def _paths(chart: Chart) -> str:
    found = []
    for number, line in sorted(enumerate(chart.lines), key=lambda each: KINDS.index(each[1].kind)):
        points = logarithms(line.points) if chart.log else line.points
        level = "level " if line.kind in BASELINES else ""
        found.append(
            f'<path class="{level}{line.kind} run{line.run}" data-line="{number}" d="{path(points)}"/>'
        )
        if line.kind == "eval" and len(points) <= 80:
            dots = "".join(f"M{x} {y:.5g}h0" for x, y in points if y is not None)
            found.append(f'<path class="dots run{line.run}" d="{dots}"/>')
    return "".join(found)


def _legend(chart: Chart) -> str:
    found = [
        f'<span class="{line.kind} run{line.run}" data-line="{number}">{html.escape(line.label)} '
        f"<b>{figures(_last(line.points))}</b></span>"
        for number, line in enumerate(chart.lines)
        if line.label
    ]
    rings = {mark.kind: mark for mark in chart.marks if mark.value is not None and mark.kind != "level"}
    found += [
        f'<span class="{kind}">{kind} <b>{loss(rings[kind].value)}</b></span>' for kind in sorted(rings)
    ]
    return f'<span class="legend">{"".join(found)}</span>'


def _last(points: Series) -> float | None:
    return next((y for _, y in reversed(points) if y is not None), None)


def _mark(mark: Mark, frame: Frame) -> str:
    position, data = frame.left(mark.step), ""
    if mark.value is not None:
        position += ";" + frame.bottom(mark.value)
        data = f' data-y="{mark.value:.6g}"'
    label = f'<b style="--level:{mark.level}">{escaped(mark.label)}</b>' if mark.label else ""
    flip = (
        " flip"
        if label and (mark.kind == "level" or mark.step - frame.first > 0.8 * (frame.last - frame.first))
        else ""
    )
    return (
        f'<i class="{mark.kind}{flip} run{mark.run}" data-x="{mark.step}"{data} style="{position}">'
        f"{label}</i>"
    )
