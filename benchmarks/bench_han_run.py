"""Which --han-run is best: bits per byte of held-out text after equally many steps, for each text and run.

    python -m benchmarks.bench_han_run poems.txt manual.txt --steps 600

A text is documents between blank lines, of which every tenth is held out. A step has the same windows and
model whatever the run, so equally many steps take equal time on an idle machine, as long as the vocabularies
are equally large; both are shown. Of the evaluations the best counts: a small text is soon memorised. Order:
a text, a model, the command line.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tinyllm.cli.display import Lines
from tinyllm.config import Config, DataConfig, ModelConfig, TrainConfig
from tinyllm.parallel.team import Team
from tinyllm.text.batches import Dataset
from tinyllm.training import setup
from tinyllm.training.step import Engine

PHASE = "pretraining"


class Result(NamedTuple):
    """What became of one text and one --han-run."""

    text: str
    han_run: int
    vocabulary: int
    bytes_per_token: float  # of the held-out part
    bits_per_byte: float  # the lowest of all evaluations
    at_step: int
    last: float  # bits per byte after the last step
    seconds: float


def parts(text: str) -> tuple[str, str]:
    """Return the documents to train on and those held out, every tenth."""
    documents = [part for part in re.split(r"\n\s*\n", text) if part.strip()]
    held_out = documents[::10]
    del documents[::10]
    return "\n\n".join(documents), "\n\n".join(held_out)


def measure(path: Path, han_run: int, args: argparse.Namespace) -> Result:
    """Train a model on the text with these runs; return how well it predicts the part held out."""
    config = Config(
        ModelConfig(args.n_layer, args.n_head, args.n_embd, args.block_size),
        TrainConfig(batch_size=args.batch_size, max_steps=args.steps, seed=args.seed),
        DataConfig(vocab_size=args.vocab_size, documents=True, val_fraction=0.0, han_run=han_run),
    )
    with TemporaryDirectory() as place, Team(args.workers) as team:
        training, held_out = Path(place, "training.txt"), Path(place, "held_out.txt")
        for file, text in zip((training, held_out), parts(path.read_text(encoding="utf-8")), strict=True):
            file.write_text(text, encoding="utf-8")
        state, datasets = setup.fresh(config, {PHASE: [str(training)]}, Path(place), Lines())
        beside = Path(place, "held_out")
        beside.mkdir()
        held, _ = setup.open_dataset(config, PHASE, [str(held_out)], state.tokenizer, beside, Lines())
        size = sum(len(part.encode()) for part in re.split(r"\n\s*\n", held_out.read_text(encoding="utf-8")))
        engine = Engine(state, team)
        found, begin = [], time.perf_counter()
        for step in range(1, args.steps + 1):
            epoch, index = divmod(step - 1, -(-datasets[PHASE].windows // args.batch_size))
            engine.train(state, [datasets[PHASE].batch(args.seed, epoch, index, args.batch_size)])
            if step % args.every == 0 or step == args.steps:
                bits = loss_of(engine, state, held) * held.targets / (math.log(2) * size)
                found.append((bits, step))
        best, at_step = min(found)
        seconds = time.perf_counter() - begin
    V = state.tokenizer.vocab_size
    return Result(path.stem, han_run, V, size / held.targets, best, at_step, found[-1][0], seconds)


def loss_of(engine: Engine, state: setup.TrainState, held_out: Dataset) -> float:
    """Return the mean loss, in nats per target token."""
    B = state.config.train.batch_size
    batches = (held_out.batch(0, 0, index, B) for index in range(-(-held_out.windows // B)))
    loss = engine.evaluate(state, batches)
    assert loss is not None
    return loss


def main() -> None:
    """Measure each text with each run, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--han-run", nargs="+", type=int, default=[1, 2, 4, 16])
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    sizes = {
        "steps": 600, "every": 50, "vocab-size": 2048, "n-layer": 2, "n-head": 8, "n-embd": 256,
        "block-size": 128, "batch-size": 8, "workers": 2, "seed": 1337,
    }  # fmt: skip
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    for path in args.texts:
        for han_run in args.han_run:
            result = measure(path, han_run, args)
            print(json.dumps(result._asdict()) if args.json else result, flush=True)


if __name__ == "__main__":
    main()
