"""How fast text becomes batches: byte pair encoding beside other tokenizers, a batch beside a step, a start.

    pip install -e '.[bench]'
    python -m benchmarks.bench_data --peers all

All encoders have the same merges and cut the same chunks, and it is said whether they make the same tokens.
They take turns, A B A B, and a figure is the median of the turns. "fresh" is text that an encoder has not
met, "again" the same text once more: some remember chunks. Order: the parts, the command line.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.peers import OURS, Competitor, chosen
from benchmarks.shapes import CONFIGS, Shape
from benchmarks.timing import by_turns, processor
from tinyllm.parallel.threads import cores, set_blas_threads

PEERS = {name: Competitor("benchmarks.peers.bpe", name) for name in ("tokenizers", "tiktoken")}
VOCABULARY = 4096
BAR = 0.01  # a batch's part of a step


class Line(NamedTuple):
    """What one competitor does with one text, or one part of a run with one config."""

    competitor: str
    part: str
    text: str
    threads: int
    seconds: float
    mb_per_second: float  # 10^6 bytes of UTF-8
    about: str = ""


def seconds(task: Callable[[], object]) -> float:
    """Return how long a task takes."""
    began = time.perf_counter()
    task()
    return time.perf_counter() - began


def size(text: str) -> float:
    """Return the MB of a text."""
    return len(text.encode("utf-8", "surrogatepass")) / 1e6


def lines(
    part: str, kind: str, text: str, threads: int, turns: Mapping[str, list[float]],
    about: Mapping[str, str] | None = None,
) -> Iterator[Line]:  # fmt: skip
    """Yield a line a competitor."""
    for name, times in turns.items():
        took = median(times)
        yield Line(name, part, kind, threads, took, size(text) / took, (about or {}).get(name, ""))


def learning(kind: str, text: str, names: list[str], rounds: int) -> Iterator[Line]:
    """Learn merges, with one thread and with all where an encoder has them."""
    from benchmarks.peers.bpe import ENCODERS
    from benchmarks.texts import pieces

    parts = pieces(text)
    for threads in sorted({1, cores()}):
        learners = {name: ENCODERS[name].learner(threads) for name in names}
        able = {name: learn for name, learn in learners.items() if learn is not None}

        def turn(name: str, able: dict[str, Any] = able) -> float:
            return seconds(lambda: able[name](parts, VOCABULARY))

        yield from lines("learn", kind, text, threads, by_turns(able, rounds, turn))


def encoding(kind: str, known: str, text: str, names: list[str], rounds: int) -> Iterator[Line]:
    """Encode a text twice and decode it, with the merges of another."""
    from benchmarks.peers.bpe import ENCODERS
    from benchmarks.texts import pieces
    from tinyllm.text.tokenizer import train_bpe

    tokenizer, parts = train_bpe([known], VOCABULARY), pieces(text)
    expected = tokenizer.encode(text).tolist()
    encoders = {name: ENCODERS[name](tokenizer) for name in names}
    found = {name: encoder.ids(text) for name, encoder in encoders.items()}
    about = {name: "same tokens" if ids == expected else "other tokens" for name, ids in found.items()}
    for threads in sorted({1, cores()}):

        def turn(name: str, threads: int = threads) -> tuple[float, float]:
            encoder = ENCODERS[name](tokenizer)
            fresh = seconds(lambda: encoder.encode(parts, threads))
            return fresh, seconds(lambda: encoder.encode(parts, threads))

        turns = by_turns(names, rounds, turn)
        for i, part in enumerate(("encode fresh", "encode again")):
            took = {name: [times[i] for times in both] for name, both in turns.items()}
            yield from lines(part, kind, text, threads, took, about)
    took = by_turns(names, rounds, lambda name: seconds(lambda: encoders[name].decode(expected)))
    yield from lines("decode", kind, text, 1, took)


def tokenizers(names: list[str], args: argparse.Namespace) -> Iterator[Line]:
    """Learn from the first half of each text; encode the second."""
    from benchmarks.texts import bundled_chinese, english, mixed, zipf_chinese

    n = args.characters
    texts = {"English": english(n), "Chinese": bundled_chinese(), "Zipf Chinese": zipf_chinese(n // 3)}
    for kind, text in {**texts, "mixed": mixed(n // 2)}.items():
        known, unknown = text[: len(text) // 2], text[len(text) // 2 :]
        yield from learning(kind, known, names, args.rounds)
        yield from encoding(kind, known, unknown, names, args.rounds)


def loader(_: list[str], args: argparse.Namespace) -> Iterator[Line]:
    """Time a batch and a step in turn, at the configs of bench_step: of a stream, and of short dialogues."""
    from benchmarks.peers import own
    from benchmarks.texts import bundled_chinese
    from tinyllm.text.dialogue import Segment
    from tinyllm.text.texts import Text

    text = bundled_chinese() * 8
    dialogues = [Text((Segment(line[:9], False), Segment(line[9:]))) for line in text.split("\n")]
    kinds = {"stream": [Text((Segment(text),), stream=True)], "dialogues": dialogues}
    for config in args.config or ["XS", "S", "M"]:
        shape = CONFIGS[config]
        step, about = own.build(shape, cores())
        for kind, texts in kinds.items():
            tasks = {"batch": batches(texts, shape), "step": step}
            turns = by_turns(tasks, 20 * args.rounds, lambda name, tasks=tasks: seconds(tasks[name]))  # type: ignore[misc]
            batch, whole = median(turns["batch"]), median(turns["step"])
            held = "held" if batch < BAR * whole else "missed"
            said = f"{batch / whole:.2%} of a step of {1e3 * whole:.1f} ms; bar {BAR:.0%}: {held}; {about}"
            yield Line(OURS, f"batch {config}", kind, 1, batch, 4 * shape.tokens / 1e6 / batch, said)


def batches(texts: list[Any], shape: Shape) -> Callable[[], object]:
    """Return a function that makes the next batch of the texts, in the arrays of the one before."""
    from tinyllm.config import Config, ModelConfig
    from tinyllm.text.batches import Batch, prepare
    from tinyllm.text.tokenizer import train_bpe

    tokenizer = train_bpe((segment.text for text in texts for segment in text.segments), 400)
    with tempfile.TemporaryDirectory() as directory:
        config = Config(ModelConfig(block_size=shape.T))
        data = prepare(texts, tokenizer, config, Path(directory), "pretraining")
    out, numbers = Batch.empty(shape.B, shape.T), itertools.cycle(range(data.windows // shape.B))
    return lambda: data.batch(0, 0, next(numbers), shape.B, out)


def start(_: list[str], args: argparse.Namespace) -> Iterator[Line]:
    """Time what a run does with its texts before the first step."""
    from benchmarks.texts import mixed
    from tinyllm.config import Config
    from tinyllm.text.batches import prepare
    from tinyllm.text.texts import Texts, digest, training_sample
    from tinyllm.text.tokenizer import train_bpe

    once = mixed(1 << 20)
    tokenizer = train_bpe([once], VOCABULARY)
    entries = [json.dumps(entry, ensure_ascii=False) for entry in once.split("。")]
    contents = {".txt": once, ".jsonl": "\n".join([*entries, ""])}
    for suffix, content in contents.items():
        with tempfile.TemporaryDirectory() as place:
            path = Path(place, f"text{suffix}")
            with path.open("w", encoding="utf-8") as file:
                file.writelines([content] * max(round(args.megabytes / size(content)), 1))
            texts, mb = Texts([path], dialogues=False), path.stat().st_size / 1e6
            prepared = functools.partial(prepare, texts, tokenizer, Config(), Path(place), "pretraining")
            tasks = {
                "sample for learning": functools.partial(training_sample, texts),
                "tokens made": prepared,
                "tokens found again": prepared,
                "their digest alone": functools.partial(digest, texts),
            }
            for part, task in tasks.items():
                took = seconds(task)
                yield Line(OURS, part, suffix, cores(), took, mb / took, f"{mb:.0f} MB")


PARTS: dict[str, Callable[[list[str], argparse.Namespace], Iterator[Line]]] = {
    "tokenizers": tokenizers, "loader": loader, "start": start,
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """Return the command line's options."""
    top = argparse.ArgumentParser("bench_data", description=(__doc__ or "").partition("\n")[0])
    top.add_argument("--part", action="append", choices=PARTS, help="may be given again (default: all)")
    top.add_argument(
        "--peers", default="all", metavar="none|all|NAME,…", help="default: all that are installed"
    )
    top.add_argument("--config", action="append", choices=CONFIGS, help="of the loader (default: XS, S, M)")
    top.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each (default: 3)")
    top.add_argument(
        "--characters", type=int, default=2_000_000, metavar="N", help="of English; of others fewer"
    )
    top.add_argument(
        "--megabytes", type=int, default=50, metavar="N", help="of a start's texts (default: 50)"
    )
    top.add_argument("--json", action="store_true", help="print one JSON line a figure")
    return top


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    top = parser()
    args = top.parse_args(argv)
    if args.rounds < 1 or args.characters < 1000:
        top.error("expected --rounds of at least 1 and --characters of at least 1000")
    try:
        names = [OURS, *chosen(args.peers, PEERS)]
    except ValueError as error:
        top.error(str(error))
    set_blas_threads(1)
    about = f"{processor()}; {cores()} cores; Python {platform.python_version()}"
    print(about, file=sys.stderr if args.json else sys.stdout, flush=True)
    for part in args.part or PARTS:
        for line in PARTS[part](names, args):
            if args.json:
                print(json.dumps(line._asdict()), flush=True)
            else:
                print(
                    f"{line.part:20}{line.text:14}{line.competitor:12}{line.threads:2} threads"
                    f"{1e3 * line.seconds:12,.2f} ms{line.mb_per_second:9,.1f} MB/s  {line.about}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
