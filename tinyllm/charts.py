"""Charts as static SVG and HTML that need no script: a path holds the data themselves, in data units.

A matrix maps steps and values onto the plot, strokes do not scale, and all text is HTML placed by
per cent: so one markup fits every width, and the page's script zooms by changing the matrix. Order: thinning
of series, ticks and numbers, then the chart.
"""

from __future__ import annotations

import html
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tinyllm.history import Phase, Series

SIDE = 1000  # of the plot in the units of its viewBox


def decimate(series: Series, columns: int) -> Series:
    """Return the least and the greatest value of each of `columns` spans of steps, in their order.

    No extreme is lost. A series that has no more than two points a column is returned as it is.
    """
    if len(series) <= 2 * columns:
        return series
    first, width = series[0][0], (series[-1][0] - series[0][0]) / columns
    found: Series = []
    start = 0
    for column in range(columns):
        end = bisect_right(series, first + (column + 1) * width, start, key=lambda point: point[0])
        end = len(series) if column == columns - 1 else end
        known = [(y, x) for x, y in series[start:end] if y is not None]
        if known:
            pair = {min(known), max(known)}
            found += sorted((x, y) for y, x in pair)
        if len(known) < end - start:
            found.append((series[end - 1][0], None))
        start = end
    return found


def trend(series: Series, phases: Sequence[Phase], window: int, most: int) -> Series:
    """Return centred means over `window` points, about `most` of them; a phase knows nothing of another."""
    found: Series = []
    stride = max(1, len(series) // most)
    for phase in phases:
        start = bisect_left(series, phase.first, key=lambda point: point[0])
        if found:
            start = bisect_right(series, phase.first, key=lambda point: point[0])
            found.append((phase.first, None))
        end = bisect_right(series, phase.last, key=lambda point: point[0])
        found += _means(series[start:end], window // 2, stride)
    return found


def _means(series: Series, half: int, stride: int) -> Series:
    """Means that look `half` points to each side, at the start only as far ahead as back."""
    sums, counts = [0.0], [0]
    for _, y in series:
        sums.append(sums[-1] + (y or 0.0))
        counts.append(counts[-1] + (y is not None))
    found: Series = []
    for i in sorted({*range(0, len(series), stride), len(series) - 1} - {-1}):
        low, high = max(i - half, 0), min(i + min(half, i), len(series) - 1) + 1
        count = counts[high] - counts[low]
        found.append((series[i][0], (sums[high] - sums[low]) / count if count else None))
    return found


def logarithms(series: Series) -> Series:
    """Return the series with log10 of its values; what has none is None."""
    return [(x, math.log10(y) if y is not None and y > 0 else None) for x, y in series]


def path(series: Series) -> str:
    """Return the `d` of a path through (step, value), broken where a value is None."""
    parts, pen = [], False
    for x, y in series:
        if y is not None:
            parts.append(f"{'' if pen else 'M'}{x} {y:.5g}")
        pen = y is not None
    return " ".join(parts).replace(" M", "M")


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round numbers from `low` to `high`."""
    raw = (high - low) / max(count, 1)
    if not raw > 0 or not math.isfinite(raw):
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float, count: int) -> list[float]:
    """Return log10 of about `count` round numbers from 10**low to 10**high."""
    if high - low < 1:
        return [math.log10(v) for v in ticks(10**low, 10**high, count) if v > 0]
    digits = (1, 2, 5) if high - low < 2 else (1,)
    stride = max(1, round((high - low) / count)) if digits == (1,) else 1
    powers = range(math.floor(low), math.ceil(high) + 1, stride)
    found = [power + math.log10(digit) for power in powers for digit in digits]
    return [value for value in found if low - 1e-9 <= value <= high + 1e-9]


def short(value: float) -> str:
    """Write a tick: 0, 0.25, 1,500, 20k, 3M, 2e-4."""
    size = abs(value)
    if size >= 1e4:
        unit, letter = (1e9, "G") if size >= 1e9 else (1e6, "M") if size >= 1e6 else (1e3, "k")
        return f"{value / unit:.6g}{letter}"
    if size >= 1e-3 or not size:
        return f"{value:,.6g}"
    digits, _, power = f"{value:.3e}".partition("e")
    return f"{float(digits):g}e{int(power)}"


def figures(value: float | None) -> str:
    """Write a value that is read off: four significant digits."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 1e-3 or not size:
        return f"{value:.{max(0, 3 - math.floor(math.log10(size)))}f}" if size else "0"
    digits, _, power = f"{value:.2e}".partition("e")
    return f"{digits}e{int(power)}"


class Line(NamedTuple):
    """One path of a chart; `kind` is raw, trend or eval; without a label it is not in the legend."""

    run: int
    kind: str
    label: str
    points: Series


class Mark(NamedTuple):
    """Something at a step: a glyph on the rail, or a ring at a value where there is one."""

    run: int
    kind: str
    step: int
    text: str
    value: float | None = None


@dataclass
class Chart:
    """What is drawn; `first` and `last` are the steps all charts of a page share."""

    name: str
    title: str
    unit: str
    lines: list[Line]
    first: int
    last: int
    log: bool = False
    floor: float | None = None  # the axis begins here at the latest
    clip: float = 0.0  # share of the greatest raw values that may lie above the plot
    phases: list[Phase] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)


def value_range(chart: Chart) -> tuple[float, float]:
    """Return the (low, high) of the y axis, in log10 where the chart is logarithmic."""
    values: list[float] = []
    for line in chart.lines:
        points = logarithms(line.points) if chart.log else line.points
        known = sorted(y for _, y in points if y is not None)
        values += known[: len(known) - int(len(known) * (chart.clip if line.kind == "raw" else 0))]
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if chart.floor is not None and not chart.log:
        low = min(low, chart.floor)
    pad = 0.05 * (high - low) or abs(high) * 0.1 or 1.0
    return (low if low == chart.floor else low - pad), high + pad


def draw(chart: Chart) -> str:
    """Return the figure as HTML."""
    low, high = value_range(chart)
    width, height = max(chart.last - chart.first, 1), high - low

    def left(step: float) -> str:
        return f"{100 * (step - chart.first) / width:.3f}%"

    def bottom(value: float) -> str:
        return f"{100 * (value - low) / height:.2f}%"

    values = log_ticks(low, high, 5) if chart.log else ticks(low, high, 5)
    y_axis = "".join(
        f'<i style="bottom:{bottom(v)}"><b>{short(10**v if chart.log else v)}</b></i>' for v in values
    )
    x_axis = "".join(
        f'<i style="left:{left(v)}"><b>{short(v)}</b></i>'
        for v in ticks(chart.first, chart.last, 6)
        if v == int(v)
    )
    bands = "".join(
        f'<i data-x="{p.first}" data-end="{p.last}" style="left:{left(p.first)};'
        f'width:{100 * (p.last - p.first) / width:.3f}%"><b>{html.escape(p.name)}</b></i>'
        for p in chart.phases
    )
    marks = "".join(_mark(mark, chart.log, left, bottom) for mark in chart.marks)
    scale = SIDE / width
    sideways = f"{scale:.9g} 0 0 1 {-chart.first * scale:.9g} 0"
    across = f"{scale:.9g} 0 0 {-SIDE / height:.9g} {-chart.first * scale:.9g} {SIDE * high / height:.9g}"
    epochs = "".join(f"M{step} 0v1" for step in chart.epochs)
    described = f"{chart.title} over steps {chart.first} to {chart.last}"
    return (
        f'<figure class="chart" id="{chart.name}" tabindex="0" role="group" aria-label="{html.escape(described)}"'
        f' data-low="{low:.9g}" data-high="{high:.9g}" data-log="{int(chart.log)}"'
        f' data-floor="{"" if chart.floor is None else chart.floor}">'
        f"<figcaption><h2>{html.escape(chart.title)}</h2><small>{html.escape(chart.unit)}</small>"
        f'{_legend(chart.lines)}<button type="button" class="log" aria-pressed="{str(chart.log).lower()}" hidden>'
        f"log</button></figcaption>"
        f'<div class="plot"><div class="bands">{bands}</div><div class="y">{y_axis}</div><div class="x">{x_axis}</div>'
        f'<svg class="data" viewBox="0 0 {SIDE} {SIDE}" preserveAspectRatio="none" aria-hidden="true">'
        f'<g transform="matrix({across})">{_paths(chart)}</g></svg>'
        f'<svg class="epochs" viewBox="0 0 {SIDE} 1" preserveAspectRatio="none" aria-hidden="true">'
        f'<g transform="matrix({sideways})"><path d="{epochs}"/></g></svg>'
        f'<div class="marks">{marks}</div><div class="cursor" hidden><b></b></div><div class="drag" hidden></div>'
        f"</div></figure>"
    )


def _paths(chart: Chart) -> str:
    order = sorted(chart.lines, key=lambda line: ("raw", "trend", "eval").index(line.kind))
    found = []
    for line in order:
        points = logarithms(line.points) if chart.log else line.points
        number = chart.lines.index(line)
        found.append(f'<path class="{line.kind} run{line.run}" data-line="{number}" d="{path(points)}"/>')
        if line.kind == "eval" and len(points) <= 80:
            dots = "".join(f"M{x} {y:.5g}h0" for x, y in points if y is not None)
            found.append(f'<path class="dots run{line.run}" d="{dots}"/>')
    return "".join(found)


def _legend(lines: Iterable[Line]) -> str:
    entries = []
    for number, line in enumerate(lines):
        if line.label:
            last = next((y for _, y in reversed(line.points) if y is not None), None)
            entries.append(
                f'<span class="{line.kind} run{line.run}" data-line="{number}">{html.escape(line.label)} '
                f"<b>{figures(last)}</b></span>"
            )
    return f'<span class="legend">{"".join(entries)}</span>'


def _mark(mark: Mark, log: bool, left: object, bottom: object) -> str:
    assert callable(left) and callable(bottom)
    title = html.escape(mark.text)
    place = f"left:{left(mark.step)}"
    held = ""
    if mark.value is not None:
        y = math.log10(mark.value) if log and mark.value > 0 else mark.value
        place += f";bottom:{bottom(y)}"
        held = f' data-y="{mark.value:.6g}"'
    return (
        f'<i class="{mark.kind} run{mark.run}" data-x="{mark.step}"{held} style="{place}" title="{title}">'
        f"<span>{title}</span></i>"
    )
