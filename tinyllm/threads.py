"""How many threads a matrix product uses is decided once, before NumPy loads. Imports nothing heavy."""

from __future__ import annotations

import os
import sys

VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
)


def set_blas_threads(n: int) -> None:
    """Let BLAS use `n` threads, where the environment does not say otherwise.

    Does nothing once NumPy is loaded: the libraries read these variables only then, and to set them later
    would tell child processes, and whoever looks, something untrue.
    """
    if "numpy" not in sys.modules:
        for name in VARIABLES:
            os.environ.setdefault(name, str(n))
