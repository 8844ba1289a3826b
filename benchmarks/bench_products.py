"""How fast the kernels' own matrix products are beside BLAS: alone, in a step's shapes, and in whole steps.

    python -m benchmarks.bench_products --config S            # each product of a worker's step, on one core
    python -m benchmarks.bench_products --config S --steps    # whole steps, --products own and blas by turns

`of peak` is the share of what a core's multiply-add units do in a loop that touches no memory. The two take
turns, product by product or step by step; ratios are taken within each turn, then their median: above 1, the
own ones are faster. Order: the peak, the shapes, products, steps, the command line.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, NamedTuple

from benchmarks.shapes import CONFIGS, Shape
from benchmarks.timing import by_turns, clean, processor
from tinyllm.parallel.threads import cores, set_blas_threads

SPINS, TRIES = 1 << 18, 200  # about 1 ms each, so that some are undisturbed


class Product(NamedTuple):
    """One product of a worker's step: y (M, N) = a (M, K) · b (K, N); how often a step has it."""

    name: str
    M: int
    K: int
    N: int
    a_turned: bool  # the transpose of what lies in memory
    b_turned: bool
    count: int

    @property
    def flops(self) -> int:
        """Operations."""
        return 2 * self.M * self.K * self.N


def products(shape: Shape, workers: int) -> Iterator[Product]:
    """Yield the products of linear maps in one worker's step, in which the head makes its logits once."""
    from tinyllm.layers import head

    rows, C = max(shape.B // workers, 1) * shape.T, shape.C
    maps = [("qkv", 3 * C, C, shape.L), ("out", C, C, shape.L), ("up", 4 * C, C, shape.L),
            ("down", C, 4 * C, shape.L), ("head", shape.V, C, 1)]  # fmt: skip
    for name, wide, narrow, count in maps:
        at_once = head.block_rows(rows, shape.V) if name == "head" else rows
        times = count * (rows // at_once)
        yield Product(f"{name} y", at_once, narrow, wide, False, True, times)
        yield Product(f"{name} dx", at_once, wide, narrow, False, False, times)
        yield Product(f"{name} dw", wide, at_once, narrow, True, False, times)


def peak() -> float:
    """Return the operations a second of multiply-adds whose operands stay in registers, on one core."""
    import numpy as np
    from llvmlite import ir  # type: ignore[import-untyped]
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    from tinyllm.kernels import jit, strips

    vector = ir.VectorType(strips.NUMBER, strips.LANES)

    @intrinsic
    def spin(_: Any, place: Any, count: Any) -> Any:
        def emit(_: Any, b: Any, __: Any, arguments: Any) -> None:
            place, count = arguments
            factor = strips.load(b, vector, place)
            sums = [cgutils.alloca_once_value(b, factor) for _ in range(12)]
            name = f"llvm.fma.v{strips.LANES}f32"
            kind = ir.FunctionType(vector, [vector] * 3)
            fused = cgutils.get_or_insert_function(b.module, kind, name)
            with cgutils.for_range(b, count):
                for total in sums:
                    b.store(b.call(fused, [b.load(total), factor, factor]), total)
            for i, total in enumerate(sums):
                strips.store(b, b.load(total), place, 4 * strips.LANES * i)

        return types.void(types.intp, types.intp), emit

    @jit.jit
    def run(place: int, count: int) -> None:
        jit.wide_vectors()
        spin(place, count)

    memory = np.full(12 * strips.LANES, 0.5, np.float32)
    run(jit.address(memory), 1)
    took = min(_seconds(lambda: run(jit.address(memory), SPINS)) for _ in range(TRIES))
    return SPINS * 12 * strips.LANES * 2 / took


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def compare(p: Product, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Return the times in s of one product, own and BLAS's, of each turn."""
    import numpy as np

    from tinyllm import kernels

    rng = np.random.default_rng(0)
    a, b = (
        rng.standard_normal(size[::-1] if turned else size, dtype=np.float32)
        for size, turned in (((p.M, p.K), p.a_turned), ((p.K, p.N), p.b_turned))
    )
    a, b = a.T if p.a_turned else a, b.T if p.b_turned else b
    y, room = np.empty((p.M, p.N), np.float32), np.empty(kernels.ROOM, np.float32)
    calls: dict[str, Callable[[], Any]] = {
        "own": lambda: kernels.multiply(y, a, b, room),
        "blas": lambda: np.matmul(a, b, out=y),
    }
    repeats = max(1, int(seconds / _seconds(calls["own"])))

    def turn(which: str) -> float:
        return median(_seconds(calls[which]) for _ in range(repeats))

    return by_turns(calls, rounds, turn)


def show_products(config: str, args: argparse.Namespace) -> None:
    """Print a table of one config's products, and their sum."""
    best, total = peak(), dict.fromkeys(("own", "blas"), 0.0)
    flops = 0
    print(f"{config}: one core's peak {best / 1e9:.0f} GFLOP/s")
    print(f"{'':10}{'M':>7}{'K':>7}{'N':>7}{'times':>7}{'own':>9}{'of peak':>9}{'BLAS':>9}{'ratio':>8}")
    for p in products(CONFIGS[config], args.workers):
        turns = compare(p, args.rounds, args.seconds)
        ratio = median(blas / own for own, blas in zip(turns["own"], turns["blas"], strict=True))
        took = {name: median(times) for name, times in turns.items()}
        flops += p.count * p.flops
        for name in total:
            total[name] += p.count * took[name]
        print(
            f"{p.name:10}{p.M:7}{p.K:7}{p.N:7}{p.count:7}{p.flops / took['own'] / 1e9:9.0f}"
            f"{p.flops / took['own'] / best:9.0%}{p.flops / took['blas'] / 1e9:9.0f}{ratio:8.2f}",
            flush=True,
        )
    print(
        f"{'all':38}{flops / total['own'] / 1e9:9.0f}{flops / total['own'] / best:9.0%}"
        f"{flops / total['blas'] / 1e9:9.0f}{total['blas'] / total['own']:8.2f}"
    )


def show_steps(config: str, args: argparse.Namespace) -> None:
    """Print how long whole steps take with either, step by step by turns in this process."""
    from benchmarks.peers import own

    built = {name: own.build(CONFIGS[config], cores(), products=name)[0] for name in ("own", "blas")}
    by_turns(built, 2, lambda name: built[name]())
    turns = by_turns(built, args.rounds, lambda name: _seconds(built[name]))
    ratio = median(blas / mine for mine, blas in zip(turns["own"], turns["blas"], strict=True))
    took = ", ".join(f"{name} {1e3 * median(times):.1f} ms" for name, times in turns.items())
    print(f"{config}: a step: {took}; ratio {ratio:.3f} ({args.rounds} turns)", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the command line, in a process whose environment is clean."""
    top = argparse.ArgumentParser("bench_products", description=(__doc__ or "").partition("\n")[0])
    top.add_argument("--config", action="append", choices=CONFIGS, help="may be given again (default: S)")
    top.add_argument("--steps", action="store_true", help="whole steps in place of products")
    top.add_argument("--workers", type=int, default=cores(), metavar="N", help="that share the rows")
    top.add_argument("--seconds", type=float, default=0.02, metavar="N", help="of a turn (default: 0.02)")
    top.add_argument("--rounds", type=int, default=15, metavar="N", help="turns of each (default: 15)")
    args = top.parse_args(argv)
    _, removed = clean(os.environ)
    for setting in removed:  # NumPy is not loaded yet
        del os.environ[setting]
    set_blas_threads(1)
    print(f"{processor()}; {cores()} cores")
    for config in args.config or ["S"]:
        (show_steps if args.steps else show_products)(config, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
