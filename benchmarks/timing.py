"""How times are taken here: competitors by turns, in clean environments, beside the machine's own pace.

Nothing here imports NumPy: the processes that are measured settle their threads before they load it. Order:
the environment, the machine, turns, statistics.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

R = TypeVar("R")

# What would make one competitor faster or slower by the accident of a shell: BLAS's choice of kernels, counts
# and habits of threads, the allocator, the frameworks' own switches.
SETTINGS = re.compile(
    r"(OPENBLAS|GOTO|MKL|OMP|KMP|GOMP|BLIS|VECLIB|NUMEXPR|NUMBA|XLA|JAX|TORCH|TORCHINDUCTOR|THP|MALLOC|TCMALLOC)_\w+"
    r"|XLA_FLAGS|GLIBC_TUNABLES|LD_PRELOAD"
)
KEPT = {"NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "JAX_PLATFORMS"}  # where, not how fast


def clean(environment: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the environment without what decides speed, and what was taken out of it."""
    removed = {n: value for n, value in environment.items() if SETTINGS.fullmatch(n) and n not in KEPT}
    return {name: value for name, value in environment.items() if name not in removed}, removed


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def processor() -> str:
    """Return the processor's name, and the widest vectors it has."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    facts = dict(re.findall(r"^(model name|flags)\s*:\s*(.*)$", text, re.MULTILINE))
    flags = facts.get("flags", "").split()
    vectors = next((n for n, flag in (("AVX-512", "avx512f"), ("AVX2", "avx2")) if flag in flags), "no AVX2")
    return f"{facts.get('model name', platform.machine())}, {vectors}"


def peak_rss() -> float:
    """Return this process's largest resident memory so far, in MB (10^6 bytes).

    Not getrusage's ru_maxrss, which a child inherits from the process that started it.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0]) * 1024 / 1e6


def by_turns(names: Iterable[str], rounds: int, measure: Callable[[str], R]) -> dict[str, list[R]]:
    """Call `measure` on A B C A B C ..., `rounds` times each; return the results by name."""
    results: dict[str, list[R]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, found in results.items():
            found.append(measure(name))
    return results
