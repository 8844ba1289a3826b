"""How fast a training step is: tokens/s here and in each installed framework, beside the machine's own sgemm.

    pip install -e '.[bench]'
    python -m benchmarks.bench_step --config S --config M --peers all

Every competitor is a process of its own, inherits no setting that decides speed, and has as many threads as
suit it best. They take turns, A B A B, all resident at once, and an sgemm probe takes its turn with them. A
round's figure is the median of its steps; a competitor's is the median of its rounds. Ratios and shares are
taken within each round, then their median. Order: measuring, showing, the command line.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
from contextlib import ExitStack
from statistics import median
from typing import Any, NamedTuple

from benchmarks.competitor import CompetitorError, Process, Turn
from benchmarks.peers import COMPETITORS, OURS, PROBE, Competitor, chosen, sgemm, tuning
from benchmarks.shapes import CONFIGS, Shape
from benchmarks.timing import by_turns, clean, processor, thread_counts
from tinyllm.parallel.threads import cores


class Result(NamedTuple):
    """A competitor's figures."""

    competitor: str
    config: str
    tokens_per_second: float
    tinyllm_ratio: float  # tinyllm's tokens/s over this competitor's
    share_of_peak: float  # of the probe's operations a second
    peak_rss_mb: float  # 10^6 bytes
    first_step_s: float  # from the start of its process to the end of its first step
    threads: int
    sgemm_gflops: float
    sgemm: str
    others: float  # part of the machine that other processes took, in the worst round
    about: str
    rounds: list[float]  # tokens/s


def measure(config: str, peers: list[str], args: argparse.Namespace) -> list[Result]:
    """Return the figures of one config, ours first."""
    shape = CONFIGS[config]
    with ExitStack() as stack:
        options = {name: getattr(args, name) for name in ("workers", "blas_threads", "recompute", "products")}
        own = Process(OURS, shape, cores(), **options)
        processes = {OURS: stack.enter_context(own)}
        processes[PROBE] = stack.enter_context(Process(PROBE, shape, cores()))
        for name in peers:
            best = at_its_best(name, shape, args.seconds / 2, args.peer_threads)
            processes[name] = stack.enter_context(best)
        for name in (OURS, *peers):
            check(processes[name], shape)
        turns = by_turns(processes, args.rounds, lambda name: processes[name].run(args.seconds))
        return [result(config, processes[name], processes[PROBE].about, turns) for name in (OURS, *peers)]


def at_its_best(
    name: str, shape: Shape, seconds: float, threads: int | None, competitor: Competitor | None = None,
    **options: Any,
) -> Process:  # fmt: skip
    """Return a peer's process with the number of threads that is given, or that is fastest."""
    if threads:
        return Process(name, shape, threads, competitor, **options)
    best, fastest = None, math.inf
    for count in thread_counts():
        process = loser = Process(name, shape, count, competitor, **options)
        took = median(process.run(seconds).times)
        if took < fastest:
            best, loser, fastest = process, best, took
        if loser:
            loser.close()
    assert best
    return best


def check(process: Process, shape: Shape) -> None:
    """Raise CompetitorError unless the first loss is that of a model that knows nothing yet: about ln V."""
    if not abs(process.loss - math.log(shape.V)) < 0.5:
        found, expected = f"{process.loss:.3f}", f"{math.log(shape.V):.3f}"
        raise CompetitorError(f"{process.name}: found a first loss of {found}, expected about {expected}")


def result(config: str, process: Process, probe: str, turns: dict[str, list[Turn]]) -> Result:
    """Return the figures of one competitor from all turns."""
    shape, name = CONFIGS[config], process.name

    def speeds(name: str, amount: float) -> list[float]:
        return [amount / median(turn.times) for turn in turns[name]]

    tokens, ours = speeds(name, shape.tokens), speeds(OURS, shape.tokens)
    flops, peak = speeds(name, shape.flops), speeds(PROBE, sgemm.FLOPS)
    return Result(
        name, config, median(tokens),
        median(a / b for a, b in zip(ours, tokens, strict=True)),
        median(a / b for a, b in zip(flops, peak, strict=True)),
        process.peak_rss, process.first_step, process.threads, median(peak) / 1e9, probe,
        max(turn.others for turn in turns[name]), process.about, tokens,
    )  # fmt: skip


def show(results: list[Result]) -> None:
    """Print one config's table."""
    config = results[0].config
    shape = CONFIGS[config]
    print(f"\n{config}: " + ", ".join(f"{name} {value}" for name, value in shape._asdict().items()))
    print(
        f"{shape.parameters / 1e6:.2f} M parameters; "
        f"{shape.flops / 1e9:.1f} GFLOP a step of {shape.tokens} tokens"
    )
    print(f"sgemm of {sgemm.SIDE} x {sgemm.SIDE}: {results[0].sgemm_gflops:.0f} GFLOP/s; {results[0].sgemm}")
    heads = ("tokens/s", "tinyllm is", "of sgemm", "peak RSS", "1st step", "threads", "others")
    print(f"{'':20}" + "".join(f"{head:>11}" for head in heads))
    for r in results:
        cells = (
            f"{r.tokens_per_second:,.0f}", "" if r.competitor == OURS else f"{r.tinyllm_ratio:.2f} x",
            f"{r.share_of_peak:.1%}", f"{r.peak_rss_mb:,.0f} MB", f"{r.first_step_s:.1f} s", f"{r.threads}",
            f"{r.others:.0%}",
        )  # fmt: skip
        print(f"{r.competitor:20}" + "".join(f"{cell:>11}" for cell in cells))
    for r in results:
        print(f"  {r.competitor}: {r.about}")


def describe(peers: list[str]) -> list[str]:
    """Return what was the same for every competitor, and what "tuned" means here."""
    lines = [f"{processor()}; {cores()} cores; Python {platform.python_version()}"]
    _, removed = clean(os.environ)
    if removed:
        settings = " ".join(f"{name}={value}" for name, value in sorted(removed.items()))
        lines.append(f"unset for every competitor: {settings}")
    if any(COMPETITORS[name].package == "torch" for name in peers):
        lines.append(tuning.mkl_here())
    if any(COMPETITORS[name].tuned for name in peers):
        lines.append("tuned: " + "; ".join(tuning.environment()[1]))
    return lines


def parser() -> argparse.ArgumentParser:
    """Return the command line's options."""
    top = argparse.ArgumentParser("bench_step", description=(__doc__ or "").partition("\n")[0])
    top.add_argument("--config", action="append", choices=CONFIGS, help="may be given again (default: S)")
    top.add_argument(
        "--peers", default="all", metavar="none|all|NAME,…", help="default: all that are installed"
    )
    top.add_argument("--seconds", type=float, default=3.0, metavar="N", help="of every turn (default: 3)")
    top.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each (default: 3)")
    top.add_argument("--json", action="store_true", help="print one JSON line a competitor")
    own = "tinyllm's (default: its own choice)"
    top.add_argument("--workers", type=int, metavar="N", help=own)
    top.add_argument("--blas-threads", type=int, metavar="N", help=own)
    top.add_argument("--recompute", action="store_true", help="tinyllm makes activations again in backward")
    top.add_argument("--products", choices=("own", "blas"), default="blas", help="tinyllm's (default: blas)")
    top.add_argument(
        "--peer-threads",
        type=int,
        metavar="N",
        help="every peer's (default: the best of 1, 2, 4 … all cores)",
    )
    return top


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 1 where a competitor failed."""
    top = parser()
    args = top.parse_args(argv)
    if args.rounds < 1:
        top.error(f"--rounds: found {args.rounds}, expected at least 1")
    try:
        peers = chosen(args.peers)
    except ValueError as error:
        top.error(str(error))
    print(*describe(peers), sep="\n", file=sys.stderr if args.json else sys.stdout, flush=True)
    try:
        for config in args.config or ["S"]:
            results = measure(config, peers, args)
            if args.json:
                print(*(json.dumps(result._asdict()) for result in results), sep="\n", flush=True)
            else:
                show(results)
    except CompetitorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
