"""How times are taken here: by turns, in clean environments, on a machine that is described.

Nothing here imports NumPy: the processes that are measured settle their threads before they load it. Order:
the environment, the machine, the turns.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from tinyllm.parallel.threads import cores

K = TypeVar("K")
R = TypeVar("R")

# What makes a competitor faster or slower by the accident of a shell: how BLAS chooses its kernels, how many
# threads there are and how they wait, the allocator, a framework's own switches.
LIBRARIES = (
    "OPENBLAS|GOTO|BLIS|MKL|VECLIB|NUMEXPR|OMP|KMP|GOMP|NUMBA|TORCH|TORCHINDUCTOR|XLA|JAX|THP|TCMALLOC|MALLOC"
)
SETTINGS = re.compile(rf"({LIBRARIES})_\w+|GLIBC_TUNABLES|LD_PRELOAD")
PLACES = re.compile(r"\w+_CACHE_DIR")  # say where, not how fast


def clean(environment: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the environment without what decides speed, and what was taken out of it."""
    removed = {
        name: value
        for name, value in environment.items()
        if SETTINGS.fullmatch(name) and not PLACES.fullmatch(name)
    }
    return {name: value for name, value in environment.items() if name not in removed}, removed


def thread_counts() -> list[int]:
    """Return 1, 2, 4 ... and all cores: the numbers of threads that are worth a try."""
    return sorted({2**i for i in range(cores().bit_length())} | {cores()})


def processor() -> str:
    """Return the processor's name and its widest vectors."""
    facts = dict(re.findall(r"^(model name|flags)\s*:\s*(.*)$", _read("/proc/cpuinfo"), re.MULTILINE))
    flags = facts.get("flags", "").split()
    vectors = {"avx512f": "AVX-512", "avx2": "AVX2"}
    widest = next((name for flag, name in vectors.items() if flag in flags), "no AVX2")
    return f"{facts.get('model name', platform.machine())}, {widest}"


def is_intel() -> bool:
    """Whether the processor says it is Intel's."""
    return "GenuineIntel" in _read("/proc/cpuinfo")


def peak_rss() -> float:
    """Return this process's largest resident memory so far, in MB of 10^6 bytes.

    Not getrusage's ru_maxrss, which begins at what the process had that started this one.
    """
    return int(re.findall(r"VmHWM:\s*(\d+) kB", _read("/proc/self/status"))[0]) * 1024 / 1e6


def busy_seconds() -> float:
    """Return how long all cores together have been busy since the machine started, stolen time included."""
    user, nice, system, _idle, _wait, irq, soft, steal = map(int, _read("/proc/stat").split()[1:9])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="replace")


def by_turns(names: Iterable[K], rounds: int, measure: Callable[[K], R]) -> dict[K, list[R]]:
    """Call `measure` on A B C A B C ..., `rounds` times each; return the results by name."""
    results: dict[K, list[R]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, found in results.items():
            found.append(measure(name))
    return results
