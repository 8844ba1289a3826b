"""One competitor in a process of its own, resident but idle while it is not its turn.

The measured side is `python -m benchmarks.competitor`: it makes a first step, says so, and then times steps
whenever it is asked to, one JSON line each. Order: the side that asks, the side that is measured.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.peers import COMPETITORS, tuning
from benchmarks.shapes import Shape
from benchmarks.timing import clean, cores, peak_rss

WARM_UP = 2  # steps at the beginning that are not counted, after the first
ROOT = Path(__file__).resolve().parents[1]


class CompetitorError(RuntimeError):
    """A competitor's process ended; the message holds its last words."""


class Process:
    """A competitor that is ready when the constructor returns; `first_step` is how long that took, in s."""

    def __init__(self, name: str, shape: Shape, threads: int, **options: Any) -> None:
        self.name, self.threads = name, threads
        competitor = COMPETITORS[name]
        environment, _ = clean(os.environ)
        if competitor.tuned:
            environment |= tuning.environment()[0]
        order = {"shape": shape, "threads": threads, "options": competitor.options | options}
        self._said = tempfile.TemporaryFile()
        began = time.perf_counter()
        self._child = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, competitor.module, json.dumps(order)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True, cwd=ROOT,
            env=environment,
        )  # fmt: skip
        try:
            self.about: str = self._answer()["about"]
        except BaseException:
            self.close()
            raise
        self.first_step = time.perf_counter() - began
        self.peak_rss = 0.0

    def run(self, seconds: float) -> list[float]:
        """Make steps for about `seconds`, one at least; return the time of each but the first, in s."""
        assert self._child.stdin
        self._child.stdin.write(f"{seconds}\n")
        self._child.stdin.flush()
        answer = self._answer()
        self.peak_rss = answer["peak_rss"]
        times: list[float] = answer["times"]
        return times

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout
        line = self._child.stdout.readline()
        if not line:
            self._child.wait()
            self._said.seek(0)
            words = self._said.read().decode(errors="replace").strip().splitlines()[-15:]
            raise CompetitorError(f"{self.name} ended with {self._child.returncode}:\n" + "\n".join(words))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._child.communicate()
        self._said.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def timed(step: Any, seconds: float) -> list[float]:
    """Return the times of steps until `seconds` are over, after one that is not counted."""
    step()
    times, began = [], time.perf_counter()
    while not times or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    """Make the first steps, then serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a framework prints is no answer
    module, order = sys.argv[1], json.loads(sys.argv[2])
    competitor = importlib.import_module(f"benchmarks.peers.{module}")
    step = competitor.build(Shape(*order["shape"]), order["threads"], **order["options"])
    loss = step()
    print(json.dumps({"about": competitor.about(), "loss": loss}), file=answers, flush=True)
    for _ in range(WARM_UP):
        step()
    for line in sys.stdin:
        times = timed(step, float(line))
        print(json.dumps({"times": times, "peak_rss": peak_rss()}), file=answers, flush=True)


if __name__ == "__main__":
    main()
