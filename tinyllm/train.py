"""Train a GPT: `python -m tinyllm.train`; the order of a run, from the command line to the last line.

Order: main, the run, its parts as they come. NumPy is imported only after the options are read, so that
the number of BLAS threads can still be set.
"""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from tinyllm import __version__
from tinyllm.cli.interrupt import Interrupt, Stopped, exit_code
from tinyllm.cli.options import options
from tinyllm.cli.output import as_display
from tinyllm.cli.request import Fresh, Machine, Request, Resume
from tinyllm.config import ConfigError
from tinyllm.parallel.threads import choose, cores, set_blas_threads

if TYPE_CHECKING:
    from tinyllm.checkpoint import CheckpointManager, CheckpointStrategy
    from tinyllm.cli.display import Lines
    from tinyllm.run.state import TrainState
    from tinyllm.text.batches import Dataset


@as_display()
def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0 done, 1 failed, 2 wrong options, 128 + signal when stopped and saved."""
    started = time.monotonic()
    request, machine = options(argv)
    print(f"tinyllm {__version__}", flush=True)
    # The batch of a checkpoint is not known yet: assume that it is large.
    batch = request.start.config.train.batch_size if isinstance(request.start, Fresh) else 1 << 30
    set_blas_threads(choose(batch, cores(), machine.workers, machine.blas_threads)[1])
    # Imported before signals are caught: until then Ctrl-C ends the program at once.
    from tinyllm.checkpoint import CheckpointError
    from tinyllm.training.step import TrainingError

    interrupt = Interrupt()
    try:
        with interrupt:
            return _run(request, machine, interrupt, started)
    except Stopped as stopped:
        print(f"{interrupt.name}: {stopped}", file=sys.stderr, flush=True)
        return interrupt.exit_code
    except (CheckpointError, TrainingError, ValueError, OSError, RuntimeError, MemoryError) as error:
        text = str(error) or type(error).__name__
        print(f"error: {text}", file=sys.stderr, flush=True)
        return 2 if isinstance(error, ConfigError) else 1


def _run(request: Request, machine: Machine, interrupt: Interrupt, started: float) -> int:
    from tinyllm.cli import summary
    from tinyllm.cli.clock import SystemClock
    from tinyllm.cli.display import watcher
    from tinyllm.network import Purpose
    from tinyllm.parallel.team import Team
    from tinyllm.training import setup
    from tinyllm.training.control import Control, Outputs, SaveRhythm
    from tinyllm.training.environment import use_machine
    from tinyllm.training.loop import Loop
    from tinyllm.training.metrics import Metrics
    from tinyllm.training.step import Engine

    strategy = _strategy(request)
    _check_directory(request)
    with interrupt.ends(summary.nothing_begun(request)):
        _compile()
    with closing(watcher(request.plain)) as watch, _open_manager(request, strategy, watch) as manager:
        with interrupt.ends(summary.nothing_begun(request)):
            state, datasets = _start(request, machine, manager, watch)
        if isinstance(request.start, Resume) and setup.is_finished(state):
            watch.line(summary.already_finished(state, request))
            if _report_is_due(request.directory):
                with interrupt.ends(summary.saved_anyway(request)):
                    _write_report(request.directory, watch)
            return 0
        workers, blas_threads = use_machine(state, machine.workers, machine.blas_threads, watch.notice)
        watch.line(summary.description(state, datasets, request))
        with Team(workers * blas_threads) as team, Metrics(request.directory) as metrics:
            purpose = Purpose(recompute=machine.recompute, accumulate=state.config.train.accumulate > 1)
            engine = Engine(state, team, workers, purpose)
            manager.reserve(state)  # touched now, the first save is no slower than the others
            rhythm = SaveRhythm(request.saving.every_steps, request.saving.every_minutes)
            control = Control(SystemClock(), interrupt, rhythm)
            loop = Loop(state, datasets, engine, Outputs(manager, metrics, watch), control)
            if isinstance(request.start, Resume):
                metrics.write(step=state.progress.step, event="resume", phase=state.progress.phase)
            done = loop.run()
        if done:
            with interrupt.ends(summary.saved_anyway(request)):
                drawn = _write_report(request.directory, watch)
    if not done:
        print(summary.stopped(state, request), file=sys.stderr, flush=True)
        return interrupt.exit_code
    with interrupt.ends(summary.saved_anyway(request)):
        _conclude(state, request, drawn, time.monotonic() - started)
    return 0


def _strategy(request: Request) -> CheckpointStrategy:
    """Return --strategy as a value; ConfigError if it is none."""
    from tinyllm.checkpoint import CheckpointStrategy

    try:
        return CheckpointStrategy.parse(request.saving.strategy)
    except ValueError as error:
        raise ConfigError(f"--strategy: {error}") from error


def _check_directory(request: Request) -> None:
    """Raise FileNotFoundError, before any kernel is compiled, if there is nothing to resume from."""
    directory, start = request.directory, request.start
    if isinstance(start, Resume) and not start.source and not directory.is_dir():
        raise FileNotFoundError(
            f"{directory}: no such directory to resume from; give the --checkpoint-dir of the run"
        )


def _compile(decoding: bool = False) -> None:
    """Compile the kernels of training, or of generation; say nothing if an earlier run has."""
    from tinyllm import kernels

    if not (kernels.is_decoding_warm() if decoding else kernels.is_warm()):
        started, what = time.monotonic(), "the generation kernels" if decoding else "the kernels"
        print(f"compiling {what}, once (about {5 if decoding else 10} s) ...", end=" ", flush=True)
        (kernels.compile_decoding if decoding else kernels.compile_all)()
        print(f"done in {time.monotonic() - started:.1f} s", flush=True)


def _open_manager(request: Request, strategy: CheckpointStrategy, watch: Lines) -> CheckpointManager:
    """Return the manager of the run's directory, which it locks until it is closed."""
    from tinyllm.checkpoint import CheckpointManager

    return CheckpointManager(
        request.directory, strategy, request.saving.keep_best_n, asynchronous=request.saving.asynchronous,
        on_notice=lambda text: watch.notice(f"note: {text}"),
    )  # fmt: skip


def _start(
    request: Request, machine: Machine, manager: CheckpointManager, watch: Lines
) -> tuple[TrainState, dict[str, Dataset]]:
    """Return the run to train and its data: a fresh one, or that of the checkpoint that was asked for."""
    from tinyllm.training import setup
    from tinyllm.training.metrics import FILE_NAME

    start, directory = request.start, request.directory
    if isinstance(start, Resume):
        state = _load(start, directory, manager, watch)
        return state, setup.resumed(state, start.changes, directory, watch)
    held = manager.list_checkpoints()
    if held and not start.set_aside:
        raise FileExistsError(
            f"{directory} already holds a run ({len(held)} checkpoints): --resume continues it, --fresh "
            f"moves it to a folder previous-N in it, another --checkpoint-dir leaves it alone"
        )
    if held or (directory / FILE_NAME).exists():  # a run may have ended before its first checkpoint
        watch.notice(f"note: the earlier run was moved to {setup.set_aside(directory)}")
        manager.list_checkpoints()  # so that it forgets them
    return setup.fresh(start.config, start.sources, directory, watch, machine.recompute)


def _load(start: Resume, directory: Path, manager: CheckpointManager, watch: Lines) -> TrainState:
    """Return the state of the checkpoint that was asked for, and protect that from retention."""
    from tinyllm.checkpoint import CheckpointError

    latest = f"--resume alone continues from the latest valid checkpoint in {directory}"
    path = _source(start, manager, watch, latest)
    if path is None:
        raise FileNotFoundError(
            f"{start.source or directory}: no valid {'best ' if start.best else ''}checkpoint to resume "
            f"from; drop --resume to start from scratch, or give the --checkpoint-dir of the run"
        )
    state: TrainState
    try:
        state, metadata = manager.load_checkpoint(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {latest}") from error
    manager.pin(path)
    about = f"{metadata.phase}, epoch {metadata.epoch}, step {state.progress.step:,}"
    watch.notice(f"resuming from {path.name}: {about}")
    return state


def _source(start: Resume, manager: CheckpointManager, watch: Lines, latest: str) -> Path | None:
    """Return the checkpoint to resume from; None if there is no valid one."""
    from tinyllm.checkpoint import CheckpointManager

    if start.source is None:
        path = manager.get_last_checkpoint()
        if path is None or not start.best:
            return path
        return manager.get_best_checkpoint(manager.load_checkpoint(path)[1].phase)
    if not start.source.exists():
        raise FileNotFoundError(f"{start.source}: not found, expected a checkpoint; {latest}")
    if start.source.is_dir():
        with CheckpointManager(start.source, read_only=True, on_notice=watch.notice) as other:
            return other.get_last_checkpoint()
    return start.source


def _report_is_due(directory: Path) -> bool:
    """Return whether the run in the directory is logged and finished, but its report older or missing."""
    from tinyllm.checkpoint.policy import FINAL_NAME
    from tinyllm.report import FILE_NAME as REPORT
    from tinyllm.training.metrics import FILE_NAME as METRICS

    final, report = directory / FINAL_NAME, directory / REPORT
    if not final.exists() or not (directory / METRICS).exists():
        return False
    return not report.exists() or report.stat().st_mtime_ns < final.stat().st_mtime_ns


def _write_report(directory: Path, watch: Lines) -> bool:
    """Draw the report; return False, with a warning, where that fails: the model is safe on the disk."""
    from tinyllm.report import ReportError, write_report

    try:
        write_report(directory)
    except (ReportError, OSError, ValueError, MemoryError) as error:
        watch.notice(f"warning: no report: {str(error) or type(error).__name__}")
        return False
    return True


def _conclude(state: TrainState, request: Request, drawn: bool, seconds: float) -> None:
    """Say what was written and in what time, let the model speak, and how to talk to it."""
    from tinyllm.cli import summary
    from tinyllm.cli.display import duration

    report = f" and {request.directory / 'report.html'}" if drawn else ""
    print(f"\n{request.directory / 'model_final.bin'}{report} written in {duration(seconds)}")
    if request.samples:
        _compile(decoding=True)
        try:
            print(f"\n{summary.sample_texts(state)}")
        except (ValueError, RuntimeError, OSError, MemoryError) as error:  # the texts may be gone by now
            print(f"warning: no samples: {str(error) or type(error).__name__}", file=sys.stderr)
    print(f"\ntalk to it: {summary.chat_command(state, request)}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
