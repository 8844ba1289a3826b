"""The machine's own pace: NumPy's product of two large square float32 matrices, on all cores."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.shapes import Shape

SIDE = 2048
FLOPS = 2 * SIDE**3


def build(shape: Shape, threads: int) -> tuple[Callable[[], float], str]:
    """Return a function that makes one product, and what makes it; BLAS left alone takes all cores."""
    import numpy as np

    a, b = np.random.default_rng(0).standard_normal((2, SIDE, SIDE), dtype=np.float32)
    product = np.empty_like(a)

    def step() -> float:
        np.matmul(a, b, out=product)
        return float(product[0, 0])

    return step, f"NumPy {np.__version__}, {_blas()}"


def _blas() -> str:
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return "install threadpoolctl to see which BLAS"
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return ", ".join(
        f"{pool['internal_api']} {pool['version']} on {pool.get('architecture', 'an unknown core')}, "
        f"{pool['num_threads']} threads"
        for pool in pools
    )
