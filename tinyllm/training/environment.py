"""Who computes: threads, processor and versions, on which the last bits of a run depend besides its state.

Order: using a machine, its threads, the environment as it is recorded.
"""

from __future__ import annotations

import platform
from collections.abc import Callable

import numba
import numpy as np

from tinyllm.parallel.threads import blas_core, choose, cores, set_blas_threads
from tinyllm.run.state import TrainState
from tinyllm.words import counted


def use_machine(
    state: TrainState, workers: int | None, blas_threads: int | None, notice: Callable[[str], None]
) -> tuple[int, int]:
    """Return `threads` and record them in the state's environment; notice what else has changed there."""
    chosen = threads(state, workers, blas_threads, notice)
    found = environment(*chosen)
    for change in environment_changes(state.environment, found):
        notice(f"warning: {change}: training continues, but not with the same last bits")
    state.environment = found
    return chosen


def threads(
    state: TrainState, workers: int | None, blas_threads: int | None, notice: Callable[[str], None]
) -> tuple[int, int]:
    """Return (workers, BLAS threads of each), the latter set.

    As given, else as the checkpoint was trained with, else as suits this machine.
    """
    stored = {name: n for name, n in state.environment.items() if isinstance(n, int)}
    workers, blas_threads = workers or stored.get("workers"), blas_threads or stored.get("blas_threads")
    chosen = choose(state.config.train.batch_size, cores(), workers, blas_threads)
    if not set_blas_threads(chosen[1]):
        notice(
            f"note: the BLAS of this NumPy cannot be set to {counted(chosen[1], 'thread')}; "
            f"pip install threadpoolctl"
        )
    return chosen


def environment(workers: int, blas_threads: int) -> dict[str, str | int]:
    """Return what bits depend on besides the state: versions, processor, threads."""
    return {
        "python": platform.python_version(), "numpy": np.__version__, "numba": numba.__version__,
        "processor": _processor(), "blas_core": blas_core(),
        "workers": workers, "blas_threads": blas_threads,
    }  # fmt: skip


def environment_changes(old: dict[str, str | int], new: dict[str, str | int]) -> list[str]:
    """Return `name old -> new` for every difference that may change the last bits of a continued run."""
    return [f"{name} {old[name]} -> {new[name]}" for name in new if name in old and old[name] != new[name]]


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        return platform.processor() or platform.machine()
