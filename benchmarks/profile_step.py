"""Where each millisecond of a training step goes: every product and every kernel, timed as it is called.

    python -m benchmarks.profile_step --config S

The layers' own names are wrapped while the engine trains, so nothing is modelled. Times are in
core-milliseconds: summed over workers, medians of the calls, so that one that had to wait does not count. A
product is given in GFLOP/s and as a share of one thread's sgemm peak; a kernel in GB/s, each array that it
was handed counted once. With `--plot` the products are drawn under the machine's roofline (Williams,
Waterman and Patterson 2009, "Roofline: an insightful visual performance model").

Order: watching, telling, drawing, main.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.peers import own
from benchmarks.shapes import CONFIGS
from benchmarks.timing import clean, processor
from tinyllm.parallel.threads import cores


class Call(NamedTuple):
    """One call: its seconds, its operations (0 for a kernel) and the bytes of its arrays."""

    seconds: float
    operations: int
    moved: int


Calls = dict[str, list[Call]]


def watch() -> Calls:
    """Wrap every product and kernel that the layers call; return where their calls will be noted."""
    import numpy as np

    from tinyllm import kernels
    from tinyllm.layers import (
        attention,
        blockwise,
        dropout,
        embedding,
        head,
        layernorm,
        linear,
        mlp,
        residual_norm,
    )
    from tinyllm.training import optim, step

    calls: Calls = defaultdict(list)

    def timed(kernel: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = kernel(*arguments)
            took = time.perf_counter() - began
            moved = sum(a.nbytes for a in arguments if isinstance(a, np.ndarray))
            calls[name].append(Call(took, 0, moved))
            return result

        return call

    def multiplied(out: Any, a: Any, b: Any, make: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        make()
        took = time.perf_counter() - began
        (*batch, M, K), N = a.shape, b.shape[-1]
        name = f"{'attention ' if batch else ''}({M}, {K}) x ({K}, {N})"
        calls[name].append(Call(took, 2 * out.size * K, a.nbytes + b.nbytes + out.nbytes))
        return out

    class Products:
        """Stands in a layer for NumPy, and times its matmul."""

        def __getattr__(self, name: str) -> Any:
            return getattr(np, name)

        @staticmethod
        def matmul(a: Any, b: Any, out: Any) -> Any:
            return multiplied(out, a, b, lambda: np.matmul(a, b, out=out))

    def multiply(out: Any, a: Any, b: Any, *others: Any) -> None:
        multiplied(out, a, b, lambda: kernels.multiply(out, a, b, *others))

    for module in (linear, blockwise):
        vars(module)["np"] = Products()
    vars(linear)["multiply"] = multiply
    for module in (
        attention,
        blockwise,
        dropout,
        embedding,
        head,
        layernorm,
        mlp,
        residual_norm,
        step,
        optim,
    ):
        for name, value in list(vars(module).items()):
            if hasattr(value, "signatures") or name.startswith("dropout_"):
                vars(module)[name] = timed(value, name)
    return calls


def tell(calls: Calls, steps: int, per_step: float, workers: int, peak: float, copy: float) -> None:
    """Print one line an operation, the longest first, and what is left over."""
    print(f"{'':44}{'core-ms':>9}{'of step':>9}{'calls':>7}{'speed':>14}{'of peak':>9}")
    total = 0.0
    rows = []
    for name, found in calls.items():
        usual = median(call.seconds for call in found)
        rows.append((usual * len(found) / steps, usual, name, found))
    for spent, usual, name, found in sorted(rows, reverse=True):
        total += spent
        if found[0].operations:
            rate = found[0].operations / usual / 1e9
            speed, share = f"{rate:.0f} GFLOP/s", rate / peak
        else:
            rate = found[0].moved / usual / 1e9
            speed, share = f"{rate:.1f} GB/s", rate / copy
        part = spent / (per_step * workers)
        count = len(found) // steps
        print(f"{name:44}{1e3 * spent:9.2f}{part:9.1%}{count:7}{speed:>14}{share:9.0%}")
    rest = per_step * workers - total
    print(f"{'Python, waiting, what only NumPy does':44}{1e3 * rest:9.2f}{rest / (per_step * workers):9.1%}")


def copy_speed() -> float:
    """Return what one thread copies of an array beyond the caches, in GB/s, read and written."""
    import numpy as np

    source, times = np.zeros(1 << 25, np.float32), []
    target = np.zeros_like(source)
    for _ in range(7):
        began = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - began)
    return 2 * source.nbytes / median(times) / 1e9


def draw(calls: Calls, peak: float, copy: float, title: str, path: Path) -> None:
    """Draw the products as points under the roof of one thread's peak and memcpy's bandwidth."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2))
    ridge = peak / copy
    axes.plot([0.25, ridge, 1024], [0.25 * copy, peak, peak], color="0.3")
    for kind, colour in (("attention ", "tab:orange"), ("", "tab:blue")):
        points = [
            (call.operations / call.moved, call.operations / median(c.seconds for c in found) / 1e9)
            for name, found in calls.items()
            if found[0].operations and name.startswith("attention ") == bool(kind)
            for call in found[:1]
        ]
        if points:
            axes.scatter(*zip(*points, strict=True), s=18, color=colour, label=f"{kind or 'linear '}products")
    axes.set(
        xscale="log", yscale="log", xlabel="operations a byte", ylabel="GFLOP/s, one thread", title=title
    )
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)


def main(argv: list[str] | None = None) -> int:
    """Profile one config; print a table and, if asked, draw the roofline."""
    parser = argparse.ArgumentParser("profile_step", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", choices=CONFIGS, default="S", help="(default: S)")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="steps timed (default: 10)")
    parser.add_argument("--workers", type=int, metavar="N", help="(default: the program's choice)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the roofline there; needs matplotlib")
    args = parser.parse_args(argv)
    for name in clean(os.environ)[1]:
        del os.environ[name]
        print(f"{name} is unset for this measurement")
    shape = CONFIGS[args.config]
    workers, blas_threads = own.choose_threads(shape, cores(), args.workers, None)
    step, about = own.build(shape, cores(), workers, blas_threads)
    from tinyllm.cli.clock import probe

    before = probe(1, 0.5), copy_speed()
    calls = watch()
    for _ in range(2):
        step()
    calls.clear()
    spent = []
    for _ in range(args.steps):
        began = time.perf_counter()
        step()
        spent.append(time.perf_counter() - began)
    # A machine that others use too may be at half its speed for a while: the better of two probes is nearer.
    peak, copy = max(before[0], probe(1, 0.5)), max(before[1], copy_speed())
    per_step = median(spent)
    print(f"{processor()}; {about}")
    print(f"one thread: sgemm {peak:.0f} GFLOP/s, memcpy {copy:.1f} GB/s (read and written)")
    print(f"{args.config}: {1e3 * per_step:.1f} ms a step, {1e3 * per_step * workers:.1f} core-ms\n")
    tell(calls, args.steps, per_step, workers, peak, copy)
    if args.plot:
        draw(calls, peak, copy, f"{args.config} on {processor()}", args.plot)
        print(f"\n{args.plot} drawn")
    return 0


if __name__ == "__main__":
    sys.exit(main())
