"""How good each kernel is: beside its NumPy reference, beside memcpy, and beside PyTorch's operator.

    python -m benchmarks.bench_kernels --config M

All on one core, as a worker runs them, on one worker's share of a step. `GB/s` is what the operation must
read and write, over its time; `of memcpy` compares it with copying as many bytes, and exceeds 100 % where a
kernel writes where it has read: memcpy fetches what it overwrites. PyTorch's backward operators do not count
their forward. Candidates take turns; before each call the arguments are written again, which also brings them
near; figures are medians. Order: timing, showing, the command line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

from benchmarks.shapes import CONFIGS
from benchmarks.timing import by_turns, clean, processor
from tinyllm.parallel.threads import cores, set_blas_threads

Call = Callable[[], Any]


class Result(NamedTuple):
    """One kernel's figures; times in s, None where there is no PyTorch."""

    kernel: str
    config: str
    seconds: float
    gb_per_second: float
    share_of_memcpy: float
    numpy_ratio: float  # the reference's time over the kernel's
    torch_ratio: float | None


def candidates(name: str, case: Any, torch: Any) -> dict[str, tuple[Call, tuple[Any, ...]]]:
    """Return what is timed of one kernel, as calls without arguments, and the arguments they work on."""
    import numpy as np

    from tinyllm import kernels
    from tinyllm.kernels import reference

    half = max(case.moved // 8, 1)  # floats to copy: as many bytes are read, and as many written
    source, copy = np.ones(half, np.float32), np.ones(half, np.float32)
    calls: dict[str, tuple[Call, tuple[Any, ...]]] = {
        "kernel": (lambda: getattr(kernels, name)(*case.arguments), case.arguments),
        "numpy": (case.numpy or (lambda: getattr(reference, name)(*case.arguments)), case.arguments),
        "memcpy": (lambda: np.copyto(copy, source), (source, copy)),
    }
    if torch and case.torch:
        calls["torch"] = case.torch(torch, *tensors(torch, case.arguments)), case.arguments
    return calls


def tensors(torch: Any, arguments: tuple[Any, ...]) -> list[Any]:
    """Return the arguments with tensors for arrays: the same memory, but for indices, which become int64."""
    import numpy as np

    found = []
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            writeable = argument if argument.flags.writeable else argument.copy()
            argument = torch.from_numpy(writeable)
            argument = argument.long() if argument.dtype == torch.int32 else argument
        found.append(argument)
    return found


def timed(call: Call, arguments: tuple[Any, ...], seconds: float) -> float:
    """Return the median time of a call in s, its arguments restored before each; the first is not counted."""
    import numpy as np

    arrays = [a for a in arguments if isinstance(a, np.ndarray) and a.flags.writeable]
    saved = [a.copy() for a in arrays]
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 2 or time.perf_counter() - began < seconds:
        for array, before in zip(arrays, saved, strict=True):
            np.copyto(array, before)
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times[1:])


def measure(name: str, config: str, args: argparse.Namespace, torch: Any) -> Result:
    """Return one kernel's figures."""
    from benchmarks.kernel_cases import CASES
    from benchmarks.kernel_sizes import Sizes

    case = CASES[name](Sizes(CONFIGS[config], cores()))
    calls = candidates(name, case, torch)
    turns = by_turns(calls, args.rounds, lambda which: timed(*calls[which], args.seconds))
    took = {which: median(times) for which, times in turns.items()}
    own = took["kernel"]
    return Result(
        name, config, own, case.moved / own / 1e9, took["memcpy"] / own, took["numpy"] / own,
        took["torch"] / own if "torch" in took else None,
    )  # fmt: skip


def show(r: Result) -> None:
    """Print one row."""
    torch = "" if r.torch_ratio is None else f"{r.torch_ratio:.2f} x"
    print(
        f"{r.kernel:26}{1e3 * r.seconds:9.3f}{r.gb_per_second:9.1f}{r.share_of_memcpy:11.0%}"
        f"{r.numpy_ratio:8.1f} x{torch:>10}",
        flush=True,
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command line, in a process whose environment is clean."""
    top = argparse.ArgumentParser("bench_kernels", description=(__doc__ or "").partition("\n")[0])
    top.add_argument("--config", choices=CONFIGS, default="S", help="sizes (default: S)")
    top.add_argument("--kernel", action="append", metavar="NAME", help="may be given again (default: all)")
    top.add_argument("--seconds", type=float, default=0.1, metavar="N", help="of every turn (default: 0.1)")
    top.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each (default: 5)")
    top.add_argument("--json", action="store_true", help="print one JSON line a kernel")
    args = top.parse_args(argv)
    _, removed = clean(os.environ)
    for setting in removed:  # NumPy is not loaded yet
        del os.environ[setting]
    set_blas_threads(1)
    from benchmarks.kernel_cases import CASES
    from tinyllm.kernels import compile_all

    for name in args.kernel or ():
        if name not in CASES:
            top.error(f"--kernel: found {name!r}, expected one of {', '.join(CASES)}")
    try:
        import torch
    except ImportError:
        torch = None
    else:
        torch.set_num_threads(1)
    compile_all()
    if not args.json:
        print(f"{processor()}; one core of {cores()}; config {args.config}")
        print("NumPy, PyTorch: their time over the kernel's")
        print(f"{'':26}{'ms':>9}{'GB/s':>9}{'of memcpy':>11}{'NumPy':>10}{'PyTorch':>10}")
    for name in args.kernel or CASES:
        result = measure(name, args.config, args, torch)
        if args.json:
            print(json.dumps(result._asdict()), flush=True)
        else:
            show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
