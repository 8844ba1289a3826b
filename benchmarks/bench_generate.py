"""How fast texts are written: tokens/s here, in PyTorch with a cache of keys and values, in transformers.

    pip install -e '.[bench]' transformers
    python -m benchmarks.bench_generate --config S --config GPT2 --peers all

All competitors have the same weights and prompts and must write the same tokens. Each is a process of its
own, inherits no setting that decides speed, and has as many threads as suit it best for that work. They take
turns, A B A B. A round's figure is the median of its repetitions, a competitor's the median of its rounds;
ratios are taken within each round, then their median. Writing includes reading a prompt of 16 tokens.
Order: measuring, showing, the command line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from contextlib import ExitStack
from statistics import median
from typing import NamedTuple

from benchmarks.bench_step import at_its_best
from benchmarks.competitor import CompetitorError, Process
from benchmarks.generation import COMPETITORS, CONFIGS, PEERS, works
from benchmarks.peers import OURS, chosen
from benchmarks.timing import by_turns, clean, processor
from tinyllm.parallel.threads import cores


class Result(NamedTuple):
    """A competitor's figures for one work."""

    competitor: str
    config: str
    work: str  # prompt, 1 text, 8 texts
    tokens_per_second: float
    tinyllm_ratio: float  # tinyllm's tokens/s over this competitor's
    peak_rss_mb: float  # 10^6 bytes
    threads: int
    others: float  # part of the machine that other processes took, in the worst round
    about: str
    rounds: list[float]  # tokens/s


def measure(config: str, name: str, peers: list[str], args: argparse.Namespace) -> list[Result]:
    """Return the figures of one config and work, ours first; CompetitorError where the texts differ."""
    shape = CONFIGS[config]
    work = works(shape, args.tokens)[name]
    with ExitStack() as stack:
        processes: dict[str, Process] = {}
        for who in (OURS, *peers):
            threads = cores() if who == OURS else args.peer_threads
            process = at_its_best(who, shape, args.seconds / 2, threads, COMPETITORS[who], work=work)
            processes[who] = stack.enter_context(process)
            if process.loss != processes[OURS].loss:
                raise CompetitorError(f"{who}: writes other tokens than {OURS}, from the same weights")
        turns = by_turns(processes, args.rounds, lambda who: processes[who].run(args.seconds))
    speeds = {who: [work.counted / median(turn.times) for turn in found] for who, found in turns.items()}
    return [
        Result(
            who, config, name, median(speeds[who]),
            median(a / b for a, b in zip(speeds[OURS], speeds[who], strict=True)),
            process.peak_rss, process.threads, max(turn.others for turn in turns[who]), process.about,
            speeds[who],
        )
        for who, process in processes.items()
    ]  # fmt: skip


def show(results: list[Result]) -> None:
    """Print the table of one config and work."""
    print(f"\n{results[0].config}, {results[0].work}")
    heads = ("tokens/s", "tinyllm is", "peak RSS", "threads", "others")
    print(f"{'':20}" + "".join(f"{head:>12}" for head in heads))
    for r in results:
        cells = (
            f"{r.tokens_per_second:,.0f}", "" if r.competitor == OURS else f"{r.tinyllm_ratio:.2f} x",
            f"{r.peak_rss_mb:,.0f} MB", f"{r.threads}", f"{r.others:.0%}",
        )  # fmt: skip
        print(f"{r.competitor:20}" + "".join(f"{cell:>12}" for cell in cells))


def parser() -> argparse.ArgumentParser:
    """Return the command line's options."""
    top = argparse.ArgumentParser("bench_generate", description=(__doc__ or "").partition("\n")[0])
    top.add_argument("--config", action="append", choices=CONFIGS, help="may be given again (default: S)")
    top.add_argument(
        "--work", action="append", choices=works(CONFIGS["S"], 1), help="may be given again (default: all)"
    )
    top.add_argument(
        "--peers", default="all", metavar="none|all|NAME,…", help="default: all that are installed"
    )
    top.add_argument("--tokens", type=int, default=64, metavar="N", help="of each text (default: 64)")
    top.add_argument("--seconds", type=float, default=3.0, metavar="N", help="of every turn (default: 3)")
    top.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each (default: 3)")
    top.add_argument(
        "--peer-threads",
        type=int,
        metavar="N",
        help="every peer's (default: the best of 1, 2, 4 … all cores)",
    )
    top.add_argument("--json", action="store_true", help="print one JSON line a competitor, config and work")
    return top


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 1 where a competitor failed."""
    top = parser()
    args = top.parse_args(argv)
    for name in ("rounds", "tokens"):
        if getattr(args, name) < 1:
            top.error(f"--{name}: found {getattr(args, name)}, expected at least 1")
    try:
        peers = chosen(args.peers, PEERS)
    except ValueError as error:
        top.error(str(error))
    print(f"{processor()}; {cores()} cores; Python {platform.python_version()}", file=sys.stderr)
    if removed := clean(os.environ)[1]:
        settings = " ".join(f"{name}={value}" for name, value in sorted(removed.items()))
        print(f"unset for every competitor: {settings}", file=sys.stderr)
    about: dict[str, str] = {}
    for config in args.config or ["S"]:
        for work in args.work or works(CONFIGS[config], args.tokens):
            try:
                results = measure(config, work, peers, args)
            except CompetitorError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
            about |= {result.competitor: result.about for result in results}
            if args.json:
                for result in results:
                    print(json.dumps(result._asdict()), flush=True)
            else:
                show(results)
    for who, line in about.items():
        print(f"  {who}: {line}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
