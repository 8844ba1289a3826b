# PYTHON_ARGCOMPLETE_OK
"""Train a GPT: `python -m tinyllm.train`; the order of a run, from the command line to the last line.

Order: main, the run, its parts as they come. NumPy is imported only after the options are read, so that
the number of BLAS threads can still be set.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

from tinyllm import __version__
from tinyllm.cli.interrupt import Interrupt, Stopped, exit_code
from tinyllm.cli.options import options
from tinyllm.cli.output import as_display
from tinyllm.cli.request import EXIT_UNFINISHED, Fresh, Machine, Request, Resume
from tinyllm.escape import printable, reason
from tinyllm.option import ConfigError
from tinyllm.parallel.threads import choose, cores, set_blas_threads

if TYPE_CHECKING:
    from tinyllm.checkpoint import CheckpointManager
    from tinyllm.cli.display import Lines
    from tinyllm.cli.start import Begun


@as_display()
def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code.

    0: finished; 1: failed; 2: wrong options; 75: --max-minutes are over; 128 + signal: stopped. All but
    1 and 2 have saved.
    """
    started = time.monotonic()
    request, machine = options(argv)
    print(f"tinyllm {__version__}", flush=True)
    # The batch of a checkpoint is not known yet: assume that it is large.
    batch = request.start.config.train.batch_size if isinstance(request.start, Fresh) else 1 << 30
    set_blas_threads(choose(batch, cores(), machine.workers, machine.blas_threads)[1])
    # Imported before signals are caught: until then Ctrl-C ends the program at once.
    import numpy as np

    from tinyllm.checkpoint import CheckpointError
    from tinyllm.training.step import TrainingError

    interrupt = Interrupt()
    try:
        with interrupt, np.errstate(all="ignore"):  # as in cli/command.py
            return run(request, machine, interrupt, started)
    except Stopped as stopped:
        print(f"{interrupt.name}: {stopped}", file=sys.stderr, flush=True)
        return interrupt.exit_code
    except (CheckpointError, TrainingError, ValueError, OSError, RuntimeError, MemoryError) as error:
        print(f"error: {reason(error)}", file=sys.stderr, flush=True)
        return 2 if isinstance(error, ConfigError) else 1


def run(request: Request, machine: Machine, interrupt: Interrupt, started: float) -> int:
    """Run what was asked for, to its last line, and return the exit code; raise whatever ends it early."""
    from tinyllm import report
    from tinyllm.checkpoint import CheckpointManager
    from tinyllm.cli import summary
    from tinyllm.cli.display import watcher
    from tinyllm.cli.start import begin

    _check_directory(request)
    with interrupt.ends(summary.nothing_begun(request)):
        _compile()
        if request.plan:
            from tinyllm.cli import plan

            return plan.show(request, machine)
    with (
        closing(watcher(request.plain)) as watch,
        CheckpointManager(request.directory, on_notice=lambda text: watch.notice(f"note: {text}")) as manager,
    ):
        interrupt.show = watch.interrupted
        with interrupt.ends(summary.nothing_begun(request)):
            begun = begin(request, manager, watch)
        if begun.is_finished:
            watch.line(summary.already_finished(begun.state, request))
            if report.is_due(request.directory):
                with interrupt.ends(summary.saved_anyway(request)):
                    report.try_to_write(request.directory, watch.notice)
            return 0
        done = _train(begun, request, machine, (manager, watch), _stop(interrupt, request, started))
        if done:
            manager.check_directory()  # what was saved may be gone by now; nothing is written in its place
            with interrupt.ends(summary.saved_anyway(request)):
                drawn = report.try_to_write(request.directory, watch.notice)
    if not done:
        why = "" if interrupt.signal else "time is up (--max-minutes): "
        print(why + summary.stopped(begun.state, request), file=sys.stderr, flush=True)
        return interrupt.exit_code if interrupt.signal else EXIT_UNFINISHED
    with interrupt.ends(summary.saved_anyway(request)):
        _conclude(begun, request, drawn, time.monotonic() - started)
    return 0


def _check_directory(request: Request) -> None:
    """Raise FileNotFoundError, before any kernel is compiled, if there is nothing to resume from."""
    directory, start = request.directory, request.start
    if isinstance(start, Resume) and not (start.source or start.otherwise or directory.is_dir()):
        raise FileNotFoundError(
            f"{directory}: no such directory to resume from; give the --checkpoint-dir of the run"
        )


def _stop(interrupt: Interrupt, request: Request, started: float) -> Callable[[], bool]:
    """Return what the loop asks whether to stop: a signal came, or --max-minutes are over."""
    end = math.inf if request.minutes is None else started + 60 * request.minutes
    return lambda: interrupt() or time.monotonic() >= end


def _train(
    begun: Begun, request: Request, machine: Machine, outputs: tuple[CheckpointManager, Lines],
    stop: Callable[[], bool],
) -> bool:  # fmt: skip
    """Train to the end, or until `stop()`; return whether the run is finished."""
    from tinyllm.cli import summary
    from tinyllm.cli.clock import SystemClock
    from tinyllm.inference.samples import sample_in_training
    from tinyllm.run import toml
    from tinyllm.training.control import Control, Outputs, SaveRhythm
    from tinyllm.training.environment import use_machine
    from tinyllm.training.header import write_header
    from tinyllm.training.loop import Loop
    from tinyllm.training.metrics import Metrics
    from tinyllm.training.step import engine_of

    (manager, watch), state = outputs, begun.state
    saving = state.config.saving
    workers, blas_threads = use_machine(state, machine.workers, machine.blas_threads, watch.notice)
    watch.begin(state, begun.datasets, summary.description(state, begun.datasets, request))
    if saving.sample_every:
        _compile(decoding=True)
    with engine_of(state, workers, blas_threads) as engine:
        manager.reserve(state)  # touched now, the first save is no slower than the others
        # There are texts, memory and room: the run can begin, and only now may earlier files move.
        forked = _take_place(begun, manager, watch)
        toml.write(state, request.directory, watch.notice)
        rhythm = SaveRhythm(saving.save_every_steps, saving.save_every_minutes)
        with Metrics(request.directory, manager.check_directory) as metrics:
            results = Outputs(manager, metrics, watch, sample_in_training)
            loop = Loop(state, begun.datasets, engine, results, Control(SystemClock(), stop, rhythm))
            write_header(metrics, state, begun.datasets, resumed=begun.source is not None)
            if forked:
                loop.save()
            return loop.run()


def _compile(decoding: bool = False) -> None:
    """Compile the kernels of training, or of generation; say nothing if an earlier run has."""
    from tinyllm import kernels

    if not (kernels.is_decoding_warm() if decoding else kernels.is_warm()):
        what, seconds = ("the generation kernels", 5) if decoding else ("the kernels", 10)
        print(f"compiling {what}, once (about {seconds} s) ...", flush=True)  # whole: a live line may follow
        (kernels.compile_decoding if decoding else kernels.compile_all)()
    if kernels.CACHE_PROBLEM and not decoding:
        print(f"note: {printable(kernels.CACHE_PROBLEM)}", file=sys.stderr, flush=True)


def _take_place(begun: Begun, manager: CheckpointManager, watch: Lines) -> bool:
    """Make the directory the run's own, moving what is not of its past; return whether it is now a fork."""
    from tinyllm.training import place

    if begun.source and place.is_inside(begun.source, manager.directory):
        manager.pin(begun.source)
        place.rewind(begun.state, manager, watch.notice)
        return False
    # A run may have ended before its first checkpoint.
    if earlier := place.files_of_a_run(manager.directory):
        watch.notice(f"note: the earlier run was moved to {place.set_aside(manager.directory, earlier)}")
        manager.list_checkpoints()  # so that it forgets them
    if begun.source:
        place.fork(begun.state, begun.source, manager, watch.notice)
    return begun.source is not None


def _conclude(begun: Begun, request: Request, drawn: bool, seconds: float) -> None:
    """Say what was written and in what time, let the model speak, and how to talk to it."""
    from tinyllm.cli import summary
    from tinyllm.cli.last_words import last_words
    from tinyllm.words import duration

    state = begun.state
    held_out = begun.datasets[state.phases[-1]].held_out_documents
    report = f" and {request.directory / 'report.html'}" if drawn else ""
    written = f"{request.directory / 'model_final.bin'}{report} written in {duration(seconds)}"
    print(f"\n{printable(written)}")
    if request.samples:
        _compile(decoding=True)
        try:
            print(flush=True)
            for line in last_words(state, request.directory, held_out):
                print(line, flush=True)
        except (ValueError, RuntimeError, OSError, MemoryError) as error:  # the texts may be gone by now
            print(f"warning: no samples: {reason(error)}", file=sys.stderr)
    print(f"\n{summary.invitation(state, request)}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
