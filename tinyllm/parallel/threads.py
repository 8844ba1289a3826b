"""How many threads share the work, and how fast they multiply; nothing heavy is imported before measuring.

A worker runs the whole model on its share of the sequences; BLAS may use several threads inside a worker.
Order: the choice, setting BLAS's threads, what BLAS is and does.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose(
    sequences: int, cores: int, workers: int | None = None, blas_threads: int | None = None
) -> tuple[int, int]:
    """Return (workers, BLAS threads of each) for batches of `sequences`; what is given is kept to.

    A worker a core, since workers wait for each other only three times a step, and BLAS threads at every
    product. Where there are fewer sequences than cores, the cores that are left go to BLAS.
    """
    workers = max(1, min(workers or cores, sequences))
    return workers, blas_threads or max(1, cores // workers)


def set_blas_threads(n: int) -> bool:
    """Let each BLAS call use `n` threads; return whether that is sure to be so.

    Before NumPy is loaded, through the variables that every BLAS reads then, where the environment does not
    say otherwise. Afterwards, through OpenBLAS itself, or whatever threadpoolctl finds if it is installed.
    """
    if "numpy" not in sys.modules:
        for name in VARIABLES:
            os.environ.setdefault(name, str(n))
        return False
    set_threads = _openblas("set_num_threads")
    if set_threads is not None:
        set_threads(ctypes.c_int(n))
        return True
    try:
        import threadpoolctl  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return False
    threadpoolctl.threadpool_limits(n, user_api="blas")
    return True


def blas_core() -> str:
    """Return which processor OpenBLAS takes this one for, such as `SkylakeX`; `unknown` for others."""
    get = _openblas("get_corename")
    if get is None:
        return "unknown"
    get.restype = ctypes.c_char_p
    return str(get().decode())


def _openblas(function: str) -> Any:
    """Return a function of the OpenBLAS that NumPy is linked with, or None.

    NumPy's wheels give it a prefix and a suffix. A library's symbols are found through any other that
    depends on it, except on Windows.
    """
    from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

    library = ctypes.CDLL(_multiarray_umath.__file__)
    names = (f"{a}openblas_{function}{b}" for a in ("scipy_", "") for b in ("64_", ""))
    return next((getattr(library, name) for name in names if hasattr(library, name)), None)


def probe(workers: int, seconds: float = 0.2, n: int = 1024) -> float:
    """Return the operations per second, in 10**9, of n x n float32 products on `workers` threads at once.

    Each worker makes at least one product, however late it gets a core.
    """
    import numpy as np

    square = np.full((n, n), 0.5, np.float32)
    products = [np.empty_like(square) for _ in range(workers)]

    def multiply(worker: int) -> int:
        count = 0
        while not count or time.perf_counter() < end:
            np.matmul(square, square, out=products[worker])
            count += 1
        return count

    np.matmul(square, square, out=products[0])  # the first product also wakes BLAS's own threads
    with ThreadPoolExecutor(workers) as pool:
        began = time.perf_counter()
        end = began + seconds
        count = sum(pool.map(multiply, range(workers)))
        return count * 2 * n**3 / (time.perf_counter() - began) / 1e9
