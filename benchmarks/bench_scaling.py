"""What a step costs as the model or the batch grows: time and memory against T, C, L, V, B and the workers.

    python -m benchmarks.bench_scaling --sweep T --sweep context --plot scaling.png

One thing is varied around the config S, every point in a process of its own, by turns; "context" varies T
while the tokens of a step stay. Each exponent is fitted by least squares in logarithms; beside it stands the
one that the same fit finds in the count of operations, and of bytes that must be kept. Memory is peak RSS
less that of a process with next to no model. Order: sweeps, counting, measuring, showing, the command line.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import log
from pathlib import Path
from statistics import linear_regression, median
from typing import NamedTuple

from benchmarks.competitor import CompetitorError, Process
from benchmarks.peers import OURS
from benchmarks.shapes import CONFIGS, Shape
from benchmarks.timing import by_turns, processor, thread_counts
from tinyllm.parallel.threads import choose, cores

S = CONFIGS["S"]
NOTHING = Shape(V=8, T=8, B=1, L=1, H=1, C=8)
CONTEXT_TOKENS = 8192


class Sweep(NamedTuple):
    """Values of one variable, and the shape that each makes."""

    values: Sequence[int]
    shape: Callable[[int], Shape]
    what: str


def sweeps() -> dict[str, Sweep]:
    """Return all sweeps by name; that of the workers depends on the machine."""
    return {
        "T": Sweep((64, 128, 256, 512, 1024), lambda T: S._replace(T=T, B=4), "positions, 4 sequences"),
        "context": Sweep(
            (256, 512, 1024, 2048, 4096),
            lambda T: S._replace(T=T, B=CONTEXT_TOKENS // T),
            f"positions, {CONTEXT_TOKENS} tokens a step",
        ),
        "C": Sweep((64, 128, 256, 512), lambda C: S._replace(C=C, H=C // 32), "channels, heads of 32"),
        "L": Sweep((1, 2, 4, 8), lambda L: S._replace(L=L), "blocks"),
        "V": Sweep((512, 2048, 8192, 32768), lambda V: S._replace(V=V), "tokens in the vocabulary"),
        "B": Sweep((4, 8, 16, 32, 64), lambda B: S._replace(B=B), "sequences a step"),
        "workers": Sweep(thread_counts(), lambda _: S, "worker threads"),
    }


class Point(NamedTuple):
    """One measured shape, beside what was counted of it."""

    sweep: str
    value: int
    shape: Shape
    ms_per_step: float
    gflop: float  # counted, of the busiest worker
    rss_mb: float  # beyond the process itself, 10^6 bytes
    kept_mb: float  # counted


class Fit(NamedTuple):
    """Exponents of a sweep, cost ~ value ** exponent; the second of each pair is fitted to the counts."""

    sweep: str
    time: float
    flops: float
    memory: float
    kept: float


def kept_bytes(shape: Shape, workers: int) -> int:
    """Return the bytes of what a step must keep in float32: no (T, T) matrix, and no logits.

    Parameters and both moments; a gradient for each worker; and of each token, in each block, the outputs of
    two norms, queries, keys and values, their mix, two streams, and GELU's input.
    """
    rows = (3 + workers) * (shape.parameters + shape.T * shape.C)
    return 4 * (rows + shape.tokens * 12 * shape.C * shape.L)


def exponent(values: Sequence[float], costs: Sequence[float]) -> float:
    """Return the slope of log(cost) against log(value), by least squares."""
    return linear_regression([log(value) for value in values], [log(cost) for cost in costs]).slope


def measure(name: str, sweep: Sweep, seconds: float, rounds: int) -> list[Point]:
    """Return the points of a sweep."""
    with ExitStack() as stack, Process(OURS, NOTHING, cores()) as nothing:
        nothing.run(0)
        processes = {}
        for value in sweep.values:
            team = {"workers": value, "blas_threads": 1} if name == "workers" else {}
            process = Process(OURS, sweep.shape(value), cores(), **team)
            processes[value] = stack.enter_context(process)
        turns = by_turns(processes, rounds, lambda value: processes[value].run(seconds))
        points = []
        for value, process in processes.items():
            shape = sweep.shape(value)
            workers = value if name == "workers" else choose(shape.B, cores())[0]
            time = median(median(turn.times) for turn in turns[value])
            flops = shape.flops / (value if name == "workers" else 1)
            memory = max(process.peak_rss - nothing.peak_rss, 0.1)
            points.append(
                Point(name, value, shape, 1e3 * time, flops / 1e9, memory, kept_bytes(shape, workers) / 1e6)
            )
    return points


def fit(points: list[Point]) -> Fit:
    """Return the exponents of a sweep's points, two at least."""
    values = [point.value for point in points]
    columns = zip(*((p.ms_per_step, p.gflop, p.rss_mb, p.kept_mb) for p in points), strict=True)
    return Fit(points[0].sweep, *(exponent(values, column) for column in columns))


def show(sweep: Sweep, points: list[Point]) -> None:
    """Print a sweep's table."""
    name = points[0].sweep
    print(f"\n{name}: {sweep.what}")
    heads = ("", "ms/step", "GFLOP", "GFLOP/s", "MB", "MB counted")
    print("".join(f"{head:>12}" for head in heads))
    for p in points:
        cells = (
            f"{p.value}", f"{p.ms_per_step:,.1f}", f"{p.gflop:,.1f}", f"{1e3 * p.gflop / p.ms_per_step:,.0f}",
            f"{p.rss_mb:,.0f}", f"{p.kept_mb:,.0f}",
        )  # fmt: skip
        print("".join(f"{cell:>12}" for cell in cells))
    if len(points) > 1:
        f = fit(points)
        print(f"  time ~ {name}^{f.time:.2f} (operations: {f.flops:.2f}), ", end="")
        print(f"memory ~ {name}^{f.memory:.2f} (kept: {f.kept:.2f})", flush=True)


def plot(measured: dict[str, list[Point]], path: Path) -> None:
    """Draw time and memory of each sweep, measured as dots and counted as lines through the middle dot."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(measured), figsize=(3.2 * len(measured), 6), squeeze=False)
    for column, (name, points) in zip(axes.T, measured.items(), strict=True):
        values = [point.value for point in points]
        for axis, unit, found, counted in (
            (column[0], "ms a step", "ms_per_step", "gflop"), (column[1], "MB", "rss_mb", "kept_mb")
        ):  # fmt: skip
            costs, model = ([getattr(point, field) for point in points] for field in (found, counted))
            middle = len(points) // 2
            axis.loglog(values, [costs[middle] * m / model[middle] for m in model], "-", color="0.6")
            axis.loglog(values, costs, "o", color="C0")
            axis.set_title(
                f"{name}: ^{exponent(values, costs):.2f}, counted ^{exponent(values, model):.2f}", size=9
            )
            axis.set_ylabel(unit)
            axis.set_xticks(values, [str(value) for value in values], minor=False)
            axis.set_xticks([], minor=True)
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("{x:g}" if max(costs) < 8 * min(costs) else "")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 1 where a process failed."""
    known = sweeps()
    top = argparse.ArgumentParser("bench_scaling", description=(__doc__ or "").partition("\n")[0])
    top.add_argument("--sweep", action="append", choices=known, help="may be given again (default: all)")
    top.add_argument("--seconds", type=float, default=1.0, metavar="N", help="of every turn (default: 1)")
    top.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each point (default: 3)")
    top.add_argument("--plot", type=Path, metavar="FILE", help="draw the sweeps; needs matplotlib")
    top.add_argument("--json", action="store_true", help="print one JSON line a point and one a fit")
    args = top.parse_args(argv)
    if args.plot and not importlib.util.find_spec("matplotlib"):
        top.error("--plot: matplotlib is not installed; pip install '.[bench]'")
    print(f"{processor()}; {cores()} cores", file=sys.stderr if args.json else sys.stdout, flush=True)
    measured = {}
    try:
        for name in args.sweep or known:
            points = measured[name] = measure(name, known[name], args.seconds, args.rounds)
            if not args.json:
                show(known[name], points)
                continue
            lines = [point._asdict() for point in points]
            lines += [fit(points)._asdict()] if len(points) > 1 else []
            print(*map(json.dumps, lines), sep="\n", flush=True)
    except CompetitorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.plot:
        plot(measured, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
