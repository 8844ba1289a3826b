"""The machine's own pace: NumPy's product of two large square float32 matrices, on all cores."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.shapes import Shape

SIDE = 2048
FLOPS = 2 * SIDE**3


def build(shape: Shape, threads: int) -> Callable[[], float]:
    """Return a function that makes one product; BLAS has been left to take all cores."""
    import numpy as np

    a, b = np.random.default_rng(0).standard_normal((2, SIDE, SIDE), dtype=np.float32)
    product = np.empty_like(a)

    def step() -> float:
        np.matmul(a, b, out=product)
        return float(product[0, 0])

    return step


def about() -> str:
    """Name the BLAS and the core it chose, where threadpoolctl is installed."""
    import numpy as np

    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return f"numpy {np.__version__}; install threadpoolctl to see the BLAS core"
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return f"numpy {np.__version__}, " + ", ".join(
        f"{pool['internal_api']} {pool['version']} for {pool.get('architecture', 'unknown')}, {pool['num_threads']} threads"
        for pool in pools
    )
