"""What a checkpoint costs: the stall, the epochs around it, the disk, the way back; beside other savers.

    python -m benchmarks.bench_checkpoint --part write --config M --peers dd,torch.save,np.savez

Savers take turns, A B A B, in one run; the figure is the median of the rounds. Parts: `blocked`, the time
until training may continue, beside one memcpy of the state; `overhead`, epochs of real steps with and without
a save at their beginning; `write`, until all is durable; `load`, with the page cache warm; `size`. The state
is params, m and v of a config of shapes.py. Order: the state, the parts, the command line.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

import numpy as np

from benchmarks.peers.savers import PEERS, Asynchronous, Peer
from benchmarks.shapes import CONFIGS, Shape
from benchmarks.timing import by_turns, processor
from tinyllm.config import Config, ModelConfig, TrainConfig
from tinyllm.kernels import compile_all
from tinyllm.parallel.team import Team
from tinyllm.parallel.threads import cores
from tinyllm.run.schedule import Schedule
from tinyllm.run.state import TrainState
from tinyllm.text.batches import Batch
from tinyllm.text.tokenizer import CharTokenizer
from tinyllm.training.step import Engine

Savers = dict[str, Peer]


def state_of(shape: Shape) -> TrainState:
    """Return a state of this shape whose moments are numbers as any."""
    model = ModelConfig(n_layer=shape.L, n_head=shape.H, n_embd=shape.C, block_size=shape.T)
    tokenizer = CharTokenizer(tuple(range(shape.V - 1)))
    config = Config(model, TrainConfig(batch_size=shape.B))
    state = TrainState.fresh(config, tokenizer, Schedule(1e-5, 1e-5, 0, 0, 1), ("pretraining",))
    np.multiply(state.rows[0], 1e-3, out=state.rows[1])
    np.square(state.rows[0], out=state.rows[2])
    return state


def seconds(action: Callable[[], object]) -> float:
    """Return how long an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def beside(saver: Asynchronous, work: Callable[[], object]) -> float:
    """Return how long it takes to begin a save and to do some work beside it; wait for the save's end."""
    waits = []
    taken = seconds(lambda: (waits.append(saver.begin()), work()))
    waits[0]()
    return taken


# ---- the parts


def blocked(savers: Savers, state: TrainState, shape: Shape, rounds: int) -> None:
    """Print how long the training thread is held, and for how many copies of the state that would do."""
    copy = np.zeros_like(state.rows)

    def once(name: str) -> float:
        if name == "memcpy":
            return seconds(lambda: np.copyto(copy, state.rows))
        saver = savers[name]
        return beside(saver, lambda: None) if isinstance(saver, Asynchronous) else seconds(saver.save)

    times = by_turns(["memcpy", *savers], rounds, once)
    for name, found in times.items():
        ratio = median(a / b for a, b in zip(found, times["memcpy"], strict=True))
        tail = quantiles(found, n=100)[98] if rounds > 1 else found[0]
        print(
            f"{name:12} median {1e3 * median(found):8.1f} ms   p99 {1e3 * tail:8.1f} ms   {ratio:5.2f} memcpy"
        )


def overhead(savers: Savers, state: TrainState, shape: Shape, rounds: int, steps: int) -> None:
    """Print what an epoch of `steps` real steps loses to a save at its beginning; by pairs of epochs."""
    draws = np.random.default_rng(0).integers(0, shape.V, (2, shape.B, shape.T)).astype(np.int32)
    batch = Batch.of(draws[0], draws[1], np.zeros((shape.B, shape.T), np.int32))
    workers = min(cores(), shape.B)
    with Team(workers) as team:
        engine = Engine(state, team, workers)

        def epoch() -> None:
            for _ in range(steps):
                engine.train(state, [batch])

        def once(name: str) -> float:
            saver = savers.get(name)
            return beside(saver, epoch) if isinstance(saver, Asynchronous) else seconds(epoch)

        epoch()
        chosen = [name for name, saver in savers.items() if isinstance(saver, Asynchronous)]
        times = by_turns(["no save", *chosen], rounds, once)
    for name, found in times.items():
        lost = [a - b for a, b in zip(found, times["no save"], strict=True)]
        share = 100 * median(lost) / median(times["no save"])
        print(f"{name:12} epoch {median(found):7.3f} s   lost {1e3 * median(lost):8.1f} ms   {share:6.2f} %")


def write(savers: Savers, state: TrainState, shape: Shape, rounds: int) -> None:
    """Print the rate of a save to new blocks, from the call until it is durable."""

    def once(name: str) -> float:
        savers[name].forget()
        return seconds(savers[name].save)

    _rates(by_turns(savers, rounds, once), state)


def load(savers: Savers, state: TrainState, shape: Shape, rounds: int) -> None:
    """Print the rate of reading every tensor from a warm page cache; the first reading is not counted."""
    readers = {name: saver for name, saver in savers.items() if name != "dd"}
    for saver in readers.values():
        saver.save()
        saver.load()
    _rates(by_turns(readers, rounds, lambda name: seconds(readers[name].load)), state)


def _rates(times: dict[str, list[float]], state: TrainState) -> None:
    size = sum(array.nbytes for array in state.tensors().values())
    for name, found in times.items():
        each = " ".join(f"{one:.3f}" for one in found)
        print(f"{name:12} median {median(found):7.3f} s   {size / median(found) / 1e9:5.2f} GB/s   ({each})")


def size(savers: Savers, state: TrainState, shape: Shape, rounds: int) -> None:
    """Print what a save takes on the disk beyond the tensors."""
    raw = sum(array.nbytes for array in state.tensors().values())
    for name, saver in savers.items():
        saver.save()
        print(f"{name:12} {saver.size():,} bytes, the tensors and {saver.size() - raw:,}")


PARTS = {"blocked": blocked, "write": write, "load": load, "size": size}


def main(argv: list[str] | None = None) -> int:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)  # type: ignore[union-attr]
    parser.add_argument("--part", choices=[*PARTS, "overhead"], required=True)
    parser.add_argument("--config", choices=CONFIGS, default="M", help="M: 10.7 M parameters; L: 124 M")
    parser.add_argument("--peers", default="dd", help=f"some of {', '.join(PEERS)}, or none (default: dd)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="of an epoch, for --part overhead")
    parser.add_argument("--directory", type=Path, help="on the disk to be measured (default: here)")
    args = parser.parse_args(argv)
    shape = CONFIGS[args.config]
    names = ["tinyllm", *(name for name in args.peers.split(",") if name not in ("none", "tinyllm"))]
    compile_all()
    state = state_of(shape)
    print(f"{args.part}, {state.layout.count:,} parameters, {processor()}")
    with tempfile.TemporaryDirectory(dir=args.directory or Path.cwd()) as place:
        savers: Savers = {}
        try:
            for name in names:
                savers[name] = PEERS[name](state, Path(place))
            if args.part == "overhead":
                overhead(savers, state, shape, args.rounds, args.steps)
            else:
                PARTS[args.part](savers, state, shape, args.rounds)
        finally:
            for saver in savers.values():
                saver.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
