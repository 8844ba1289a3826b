"""How fast a training step is: tokens/s here and in each installed framework, beside the machine's sgemm.

    python -m benchmarks.bench_step --config S --config M --peers all

Every competitor is a process of its own, with no setting inherited that decides speed, on as many threads as
suit it best. They take turns, A B A B, and an sgemm probe takes its turn with them. A round's figure is the
median of its steps, the first not counted; a competitor's figure is the median of its rounds; ratios and shares
are taken within each round, then their median. Order: one config, the table, the command line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from contextlib import ExitStack
from statistics import median
from typing import Any, NamedTuple

from benchmarks.competitor import CompetitorError, Process
from benchmarks.peers import COMPETITORS, OURS, PROBE, chosen, sgemm, tuning
from benchmarks.shapes import CONFIGS, Shape
from benchmarks.timing import by_turns, clean, cores, processor


class Result(NamedTuple):
    """A competitor's figures; times in s, memory in MB of 10^6 bytes."""

    competitor: str
    config: str
    tokens_per_second: float
    ms_per_step: float
    ours_over_this: float  # tinyllm's tokens/s as a multiple of this competitor's
    share_of_peak: float
    sgemm_gflops: float
    peak_rss_mb: float
    first_step_s: float
    threads: int
    steps: int
    about: str


def probe_threads(stack: ExitStack, name: str, shape: Shape, seconds: float, wanted: int | None) -> Process:
    """Return the competitor as a running process on the number of threads that is best for it."""
    counts = (
        [wanted]
        if wanted
        else sorted({2**i for i in range(cores().bit_length()) if 2**i < cores()} | {cores()})
    )
    best, best_time = None, float("inf")
    for count in counts:
        process = Process(name, shape, count)
        time = median(process.run(seconds)) if len(counts) > 1 else 0.0
        if time < best_time:
            if best:
                best.close()
            best, best_time = process, time
        else:
            process.close()
    assert best
    stack.callback(best.close)
    return best


def compare(config: str, peers: list[str], args: argparse.Namespace) -> list[Result]:
    """Measure one config; ours first."""
    shape = CONFIGS[config]
    with ExitStack() as stack:
        own = Process(OURS, shape, cores(), workers=args.workers, blas_threads=args.blas_threads)
        stack.callback(own.close)
        probe = stack.enter_context(Process(PROBE, shape, cores()))
        processes = {PROBE: probe, OURS: own}
        for name in peers:
            processes[name] = probe_threads(stack, name, shape, args.seconds / 2, args.peer_threads)
        rounds = by_turns(processes, args.rounds, lambda name: processes[name].run(args.seconds))
        results = []
        peaks = [sgemm.FLOPS / median(times) for times in rounds[PROBE]]
        ours = [shape.tokens / median(times) for times in rounds[OURS]]
        for name in (OURS, *peers):
            speeds = [shape.tokens / median(times) for times in rounds[name]]
            results.append(Result(
                name, config, median(speeds), 1e3 * shape.tokens / median(speeds),
                median(a / b for a, b in zip(ours, speeds, strict=True)),
                median(shape.flops / shape.tokens * v / p for v, p in zip(speeds, peaks, strict=True)),
                median(peaks) / 1e9, processes[name].peak_rss, processes[name].first_step,
                processes[name].threads, sum(map(len, rounds[name])), processes[name].about,
            ))  # fmt: skip
        return results


def show(results: list[Result]) -> None:
    """Print one config's table."""
    shape, first = CONFIGS[results[0].config], results[0]
    print(
        f"\n{first.config}: "
        + ", ".join(f"{n} {v}" for n, v in shape._asdict().items())
        + f"; {shape.parameters / 1e6:.2f} M parameters, {shape.flops / 1e9:.1f} GFLOP a step; "
        f"sgemm of {sgemm.SIDE}^3 {first.sgemm_gflops:.0f} GFLOP/s"
    )
    print(
        f"{'':20}{'threads':>8}{'tokens/s':>10}{'ms/step':>9}{'tinyllm is':>12}{'of sgemm':>10}{'peak MB':>9}{'1st step s':>12}{'steps':>7}"
    )
    for r in results:
        ratio = "" if r.competitor == OURS else f"{r.ours_over_this:.2f} x"
        print(
            f"{r.competitor:20}{r.threads:8}{r.tokens_per_second:10,.0f}{r.ms_per_step:9.1f}{ratio:>12}"
            f"{r.share_of_peak:10.1%}{r.peak_rss_mb:9,.0f}{r.first_step_s:12.1f}{r.steps:7}"
        )
    for r in results:
        print(f"  {r.competitor}: {r.about}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    top = argparse.ArgumentParser("bench_step", description=(__doc__ or "").partition("\n")[0])
    top.add_argument(
        "--config", action="append", choices=CONFIGS, help="may be given several times (default: S)"
    )
    top.add_argument("--peers", default="all", metavar="none|all|NAME,…")
    top.add_argument("--seconds", type=float, default=3.0, help="of each competitor's turn (default: 3)")
    top.add_argument("--rounds", type=int, default=3)
    top.add_argument("--workers", type=int, help="of tinyllm (default: its own choice)")
    top.add_argument("--blas-threads", type=int, help="of each worker (default: tinyllm's own choice)")
    top.add_argument(
        "--peer-threads", type=int, help="of each peer (default: the best of 1, 2, 4 ... all cores)"
    )
    top.add_argument("--json", action="store_true", help="one JSON line a competitor")
    args = top.parse_args(argv)
    try:
        peers = chosen(args.peers)
    except ValueError as error:
        top.error(str(error))
    out = sys.stderr if args.json else sys.stdout
    print(f"{processor()}, {cores()} cores, Python {platform.python_version()}", file=out)
    _, removed = clean(os.environ)
    if removed:
        print("unset for every competitor: " + " ".join(f"{n}={v}" for n, v in removed.items()), file=out)
    if any(COMPETITORS[name].tuned for name in peers):
        print("tuned: " + "; ".join(tuning.environment()[1]), file=out)
    try:
        for config in args.config or ["S"]:
            results = compare(config, peers, args)
            if args.json:
                for result in results:
                    print(json.dumps(result._asdict()), flush=True)
            else:
                show(results)
    except CompetitorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
