"""`train --plan`: how large a run is and how long it takes, measured by making a few of its steps.

The run is prepared as training prepares it, with its texts, its shapes and its threads; the steps change
nothing but memory. Nothing is written to the run's directory: new tokens go to a temporary one. Order: the
plan, its rows, the probe, memory.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tinyllm import safe_files
from tinyllm.checkpoint import CheckpointManager
from tinyllm.checkpoint.image import estimated_bytes
from tinyllm.cli import summary
from tinyllm.cli.display import Lines
from tinyllm.cli.request import Fresh, Machine, Request
from tinyllm.cli.rows import labelled
from tinyllm.cli.start import Begun, begin
from tinyllm.run.phases import phase_end, phase_steps, steps_per_epoch
from tinyllm.run.state import TrainState
from tinyllm.text.batches import Batch, Dataset
from tinyllm.training.environment import use_machine
from tinyllm.training.step import Engine, engine_of
from tinyllm.words import counted, duration

SECONDS = 2.0  # of the probe, in all
WARM_UP = 2  # steps that are not counted: they touch memory, and wake threads


class Phase(NamedTuple):
    """What is ahead of one phase."""

    name: str
    steps: int
    tokens: int  # with loss
    step_seconds: float
    evaluations: int
    evaluation_seconds: float

    @property
    def seconds(self) -> float:
        """The time of the phase."""
        return self.steps * self.step_seconds + self.evaluations * self.evaluation_seconds


def show(request: Request, machine: Machine) -> int:
    """Print the plan of a run; return the exit code."""
    lines = Lines()
    with (
        CheckpointManager(request.directory, read_only=True, on_notice=lines.notice) as manager,
        _elsewhere(request.directory) as place,
    ):
        begun = begin(_prepared(request, manager, place, lines), manager, lines)
        if begun.is_finished:
            lines.line(summary.already_finished(begun.state, request))
            return 0
        state = begun.state
        workers, blas_threads = use_machine(state, machine.workers, machine.blas_threads, lines.notice)
        lines.line(summary.description(state, begun.datasets, request))
        with engine_of(state, workers, blas_threads) as engine:
            phases = _phases(begun, engine)
        lines.line(_rows(state, phases))
    return 0


@contextmanager
def _elsewhere(directory: Path) -> Iterator[Path]:
    """Yield a temporary directory in which the tokens of the run's directory can be read."""
    with TemporaryDirectory(prefix="tinyllm-plan-") as name:
        place = Path(name)
        safe_files.own_directory(place / "data")
        for tokens in (directory / "data").glob("*.tokens"):
            (place / "data" / tokens.name).symlink_to(tokens.resolve())  # replaced, not followed, if unfit
        yield place


def _prepared(request: Request, manager: CheckpointManager, place: Path, lines: Lines) -> Request:
    """Return the request with `place` for its tokens; that a run is in its way is said, and no error."""
    start = request.start
    if isinstance(start, Fresh) and not start.set_aside and manager.list_checkpoints():
        lines.notice(
            f"note: {request.directory} holds a run already: to train this, give --fresh or another "
            f"--checkpoint-dir"
        )
        start = dataclasses.replace(start, set_aside=True)
    return dataclasses.replace(request, start=start, directory=place)


def _phases(begun: Begun, engine: Engine) -> list[Phase]:
    """Return what is ahead, phase by phase, each probed for its share of SECONDS."""
    state, train = begun.state, begun.state.config.train
    current, found = state.progress.phase, []
    ahead = {  # before the probe, whose steps count in progress
        name: phase_end(state.progress, train.of(name), data.windows) - state.progress.step
        if name == current
        else phase_steps(train.of(name), data.windows)
        for name, data in begun.datasets.items()
    }
    for name, data in begun.datasets.items():
        steps, per_epoch = ahead[name], steps_per_epoch(train, data.windows)
        evaluations, evaluation = 0, 0.0
        if data.held_out_windows:
            evaluations = -(-steps // per_epoch)
            if train.eval_every:  # one that falls on the end of an epoch is made once
                evaluations += steps // train.eval_every - steps // math.lcm(train.eval_every, per_epoch)
            evaluation = _evaluation_seconds(state, data, engine)
        seconds = _step_seconds(state, data, engine, SECONDS / len(ahead))
        tokens = round(steps * data.targets / per_epoch)
        found.append(Phase(name, steps, tokens, seconds, evaluations, evaluation))
    return found


def _rows(state: TrainState, phases: list[Phase]) -> str:
    """Return what was found, in words."""
    rows = {
        phase.name: f"{counted(phase.steps, 'step')}, {counted(phase.tokens, 'token')}, "
        f"{_short(phase.step_seconds)} per step: {duration(phase.seconds)}"
        for phase in phases
    }
    disk = estimated_bytes(state)
    rows["memory"] = f"{_size(_peak_memory() + disk)} at its peak; {_size(disk)} per checkpoint on disk"
    rows["time"] = f"{duration(sum(phase.seconds for phase in phases))} to the end"
    if state.config.train.patience:
        rows["time"] += "; early stopping may end it sooner"
    return f"{labelled(rows)}\nnothing was written: it was only a plan"


def _step_seconds(state: TrainState, data: Dataset, engine: Engine, seconds: float) -> float:
    """Return the mean time of a training step, after some that warm up."""
    train = state.config.train
    buffers: list[Batch] = []

    def step(number: int) -> None:
        index = number % steps_per_epoch(train, data.windows)
        engine.train(state, data.micro_batches(train, 0, index, buffers))

    for number in range(WARM_UP):
        step(number)
    began, elapsed, done = time.perf_counter(), 0.0, 0
    while not done or elapsed < seconds:
        step(WARM_UP + done)
        elapsed, done = time.perf_counter() - began, done + 1
    return elapsed / done


def _evaluation_seconds(state: TrainState, data: Dataset, engine: Engine) -> float:
    """Return the time of a whole evaluation, from its first batches."""
    size = state.config.train.batch_size
    engine.evaluate(state, itertools.islice(data.validation(size), 1))
    began, elapsed, done = time.perf_counter(), 0.0, 0
    for batch in data.validation(size):
        engine.evaluate(state, [batch])
        elapsed, done = time.perf_counter() - began, done + 1
        if elapsed >= SECONDS / 4:
            break
    return elapsed / done * -(-data.held_out_windows // size)


def _peak_memory() -> int:
    """Return the largest number of bytes that this process has held in memory."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _short(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
