"""How many threads share the work; nothing heavy is imported.

A worker runs the whole model on its share of the sequences; BLAS may use several threads inside a worker.
Order: the choice, setting BLAS's threads, which BLAS it is.
"""

from __future__ import annotations

import ctypes
import os
import sys
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


def most_threads() -> int:
    """Return how many threads are accepted: a few times the cores, and as many as a run elsewhere may need.

    Beyond, they only wait for each other, and take memory for it.
    """
    return max(64, 4 * cores())


def choose(
    sequences: int, cores: int, workers: int | None = None, blas_threads: int | None = None
) -> tuple[int, int]:
    """Return (workers, BLAS threads of each) for batches of `sequences`; explicit values are kept.

    There are never more workers than sequences, nor more of either than `most_threads`.

    A worker a core, since workers wait for each other only three times a step, and BLAS threads at every
    product. Where there are fewer sequences than cores, the cores that are left go to BLAS.
    """
    workers = max(1, min(workers or cores, sequences, most_threads()))
    return workers, min(blas_threads or max(1, cores // workers), most_threads())


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
