"""One competitor in a process of its own, resident but idle while it is not its turn.

The measured side is `python -m benchmarks.competitor`: it makes the first steps, says so, and then times
steps whenever it is asked to, in JSON lines. Order: the side that asks, the side that is measured.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from benchmarks.peers import COMPETITORS, Competitor, tuning
from benchmarks.shapes import Shape
from benchmarks.timing import busy_seconds, clean, peak_rss
from tinyllm.parallel.threads import cores

WARM_UP = 1  # steps after the first that are made and not timed; every turn adds one
TRIES, DISTURBED = 4, 0.05  # part of the machine that other processes may take in a turn
ROOT = Path(__file__).resolve().parents[1]


class CompetitorError(RuntimeError):
    """A competitor's process ended; the message holds its last words."""


class Turn(NamedTuple):
    """What one turn found."""

    times: list[float]  # s a step
    others: float  # part of the machine that other processes took meanwhile


class Process:
    """A competitor, ready once it is constructed.

    `about` says what it is made of, `loss` is what its first step returned, `first_step` the time from its
    start to the end of that step in s, `peak_rss` its largest resident memory up to its last turn in MB.
    """

    def __init__(
        self, name: str, shape: Shape, threads: int, competitor: Competitor | None = None, **options: Any
    ) -> None:
        self.name, self.threads, self.peak_rss = name, threads, 0.0
        competitor = competitor or COMPETITORS[name]
        environment, _ = clean(os.environ)
        if competitor.tuned:
            environment |= tuning.environment()[0]
        order = {"shape": shape, "threads": threads, "options": competitor.options | options}
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed by close)
        began = time.perf_counter()
        self._child = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, competitor.module, json.dumps(order)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True, cwd=ROOT,
            env=environment,
        )  # fmt: skip
        try:
            answer = self._answer()
            self.about: str = answer["about"]
            self.loss: float = answer["loss"]
            self.first_step = time.perf_counter() - began
        except BaseException:
            self.close()
            raise

    def run(self, seconds: float) -> Turn:
        """Make steps for about `seconds`; once more, up to `TRIES` times, when other processes disturbed it.

        Two threads that meet at every operation lose half their speed and more to one busy neighbour, so a
        disturbed turn says nothing. The quietest counts.
        """
        turns = []
        for _ in range(TRIES):
            turns.append(self._turn(seconds))
            if turns[-1].others < DISTURBED:
                break
        return min(turns, key=lambda turn: turn.others)

    def _turn(self, seconds: float) -> Turn:
        """Make steps for about `seconds`, of which the first is not timed and one at least is."""
        assert self._child.stdin
        began, busy = time.perf_counter(), busy_seconds()
        self._child.stdin.write(f"{seconds}\n")
        self._child.stdin.flush()
        answer = self._answer()
        busy, took = busy_seconds() - busy, time.perf_counter() - began
        self.peak_rss = answer["peak_rss"]
        # The system counts in ticks: what it says of a short turn may be less than nothing, or more than all.
        others = (busy - answer["cpu"]) / (took * cores())
        return Turn(answer["times"], min(max(others, 0.0), 1.0))

    def close(self) -> None:
        """End the process."""
        self._child.communicate()
        self._said.close()

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout
        line = self._child.stdout.readline()
        if not line:
            code = self._child.wait()
            self._said.seek(0)
            words = self._said.read().decode(errors="replace").strip().splitlines()[-15:]
            raise CompetitorError(f"{self.name}: its process ended with code {code}:\n" + "\n".join(words))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def timed(step: Callable[[], object], seconds: float) -> list[float]:
    """Return the times of steps in s until `seconds` are over, after one that is not timed."""
    step()
    times: list[float] = []
    began = time.perf_counter()
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
    build = importlib.import_module(module).build
    step, about = build(Shape(*order["shape"]), order["threads"], **order["options"])
    loss = step()
    print(json.dumps({"about": about, "loss": loss}), file=answers, flush=True)
    for _ in range(WARM_UP):
        step()
    for line in sys.stdin:
        cpu = time.process_time()
        times = timed(step, float(line))
        answer = {"times": times, "cpu": time.process_time() - cpu, "peak_rss": peak_rss()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
