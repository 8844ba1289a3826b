"""A series of a hundred thousand steps becomes a path of a few thousand points; an axis gets round numbers.

Order: thinning a series, its path, ticks, formatting of numbers.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from tinyllm.page.history import Phase
from tinyllm.page.thinning import Series


def decimate(series: Series, columns: int) -> Series:
    """Return the minimum and the maximum of each of `columns` equal spans of steps, in their order.

    No extreme is lost, and a span with a value that was not finite ends in one. A series of at most two
    points per column is returned unchanged.
    """
    if len(series) <= 2 * columns:
        return series
    first, width = series[0][0], (series[-1][0] - series[0][0]) / columns
    found: Series = []
    start = 0
    for column in range(1, columns + 1):
        end = len(series)  # of this span
        if column < columns:
            end = bisect_right(series, first + column * width, start, key=_step)
        known = [(y, x) for x, y in series[start:end] if y is not None]
        if known:  # a set, since both may be the same point
            found += sorted((x, y) for y, x in {min(known), max(known)})
        if len(known) < end - start:
            found.append((series[end - 1][0], None))
        start = end
    return found


def trend(series: Series, phases: Sequence[Phase], window: int, most: int) -> Series:
    """Return centred medians over `window` points at about `most` steps; no window spans two phases."""
    found: Series = []
    stride = max(1, len(series) // most)
    for phase in phases:
        start, end = bisect_left(series, phase.first, key=_step), bisect_right(series, phase.last, key=_step)
        if found:
            found.append((phase.first, None))  # breaks the path between two phases
        found += _medians(series[start:end], window // 2, stride)
    return found


def _medians(series: Series, half: int, stride: int) -> Series:
    """Return medians of `half` points to each side; near the start, where the loss falls fast, of fewer.

    There a window reaches no farther ahead than back, so that later, lower losses do not pull it down.
    """
    found: Series = []
    for i in sorted({*range(0, len(series), stride), len(series) - 1} - {-1}):
        near = series[max(i - half, 0) : i + min(half, i) + 1]
        known = [y for _, y in near if y is not None]
        found.append((series[i][0], statistics.median(known) if known else None))
    return found


def logarithms(series: Series) -> Series:
    """Return the series with log10 of its values, None for those that are not positive."""
    return [(x, math.log10(y) if y is not None and y > 0 else None) for x, y in series]


def path(series: Series) -> str:
    """Return the `d` of a path through (step, value), broken where a value is None; a lone point is a dot."""
    pieces: list[list[str]] = [[]]
    for x, y in series:
        if y is not None:
            pieces[-1].append(f"{x} {y:.5g}")
        elif pieces[-1]:
            pieces.append([])
    return "".join("M" + " ".join(piece * 2 if len(piece) == 1 else piece) for piece in pieces if piece)


def _step(point: tuple[int, float | None]) -> int:
    return point[0]


# ---- ticks


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round numbers from `low` to `high`."""
    raw = (high - low) / count  # the exact distance, which is rounded to 1, 2 or 5 times a power of ten
    if not raw > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10, 20) if power * m >= raw * 0.999)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float, count: int) -> list[float]:
    """Return log10 of about `count` round numbers from 10**low to 10**high."""
    if high - low < 1:  # less than a decade: equally spaced values are rounder than powers
        return [math.log10(value) for value in ticks(10**low, 10**high, count) if value > 0]
    digits = (1, 2, 5) if high - low < 2 else (1,)
    stride = max(1, round((high - low) / count))
    powers = range(math.floor(low), math.ceil(high) + 1, stride)
    found = [power + math.log10(digit) for power in powers for digit in digits]
    return [value for value in found if low - 1e-9 <= value <= high + 1e-9]


def labels(values: Sequence[float]) -> list[str]:
    """Format the ticks of one axis alike: 0.00, 0.25; 0, 5k, 10k; 5e-4, 1e-3."""
    most = max(map(abs, values), default=0.0)
    if most >= 1e4:
        unit, letter = next(u for u in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")) if most >= u[0])
        return [f"{value / unit:.6g}{letter}" if value else "0" for value in values]
    if most >= 1e-2 or not most:
        decimals = max((len(f"{value:.6g}".partition(".")[2]) for value in values), default=0)
        return [f"{value + 0.0:,.{decimals}f}" for value in values]
    return [_power(value, 5) if value else "0" for value in values]


# ---- numbers


def figures(value: float | None) -> str:
    """Format a value with four significant digits."""
    if value is None or not math.isfinite(value):
        return "–"
    if 1000 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    if not value:
        return "0"
    if 1e-3 <= abs(value) < 1000:
        return f"{value:.{3 - math.floor(math.log10(abs(value)))}f}"
    return _power(value, 2)


def _power(value: float, digits: int) -> str:
    mantissa, _, power = f"{value:.{digits}e}".partition("e")
    return f"{float(mantissa):g}e{int(power)}"


def amount(value: float) -> str:
    """Format a large count: 12,345 or 3.21M."""
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Format seconds: `42s`, `3m05s`, `2h07m`."""
    if not math.isfinite(seconds):
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600:,}h{whole % 3600 // 60:02d}m"


def size(count: float) -> str:
    """Format a number of bytes: 1.2 MiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.1f} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1024
    return f"{count:.1f} GiB"


def loss(value: float | None) -> str:
    """Format a loss with four decimals, as in checkpoint names."""
    if value is None or not math.isfinite(value) or abs(value) >= 1e6:
        return figures(value)
    return f"{value:.4f}"
