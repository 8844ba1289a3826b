"""Open files in every way there is, each file in a process of its own under limits, and say how it went.

    python -m tests.opener FILE ...

One JSON line for each file and way: outcome, whether memory was the reason, seconds, peak memory beyond the
file's size. A process that dies or takes longer says nothing. Order: the ways, one file, all of them.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import tinyllm.kernels
from tests.bombs import MIB
from tests.standin import file_bytes
from tests.test_promises import some_state
from tests.timing import PATIENCE
from tinyllm.checkpoint import CheckpointError, CheckpointManager, load_weights
from tinyllm.checkpoint.__main__ import show
from tinyllm.checkpoint.disk import Disk

SPARE_BYTES, CPU_SECONDS = 64 * MIB, 30
WAYS: Mapping[str, Callable[[Path], object]] = {
    "show": lambda path: show(path, Disk(), as_json=False),
    "weights": load_weights,
    "load": CheckpointManager.load_checkpoint,
}


def status(field: str) -> int:
    """Return a line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def attempt(path: Path, way: str) -> dict[str, object]:
    """Open one file in one way."""
    before, began, memory = status("VmRSS"), time.perf_counter(), False
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts over
    try:
        WAYS[way](path)
        outcome = "ok"
    except CheckpointError as error:
        outcome, memory = str(error), isinstance(error.__cause__, MemoryError)
    except Exception as error:
        outcome = f"CRASH {error!r}"
    beyond = status("VmHWM") - before - path.stat().st_size
    return {"file": path.name, "way": way, "outcome": outcome, "memory": memory,
            "seconds": time.perf_counter() - began, "beyond": beyond}  # fmt: skip


def main(paths: list[Path]) -> None:
    """Open every file in every way."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what `show` prints is for other tests
    warm = paths[0].parent / "warm.bin"  # what is compiled and loaded at the first file is no file's fault
    warm.write_bytes(file_bytes(some_state()))
    tinyllm.kernels.compile_all()
    for way in WAYS:
        assert attempt(warm, way)["outcome"] == "ok"
    for path in paths:
        for way in WAYS:
            child = os.fork()
            if child:
                os.waitpid(child, 0)
                continue
            limit = status("VmSize") + path.stat().st_size + SPARE_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
            signal.alarm(int(PATIENCE))  # one that waits uses no CPU time
            print(json.dumps(attempt(path, way)), file=answers, flush=True)
            os._exit(0)


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
