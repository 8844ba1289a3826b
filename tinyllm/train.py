"""Train a GPT: `python -m tinyllm.train`; the order of a run, from the command line to the last word.

Order: stopping by signal, main, the run, its parts. NumPy is imported only after the options are read,
so that the number of BLAS threads can still be set.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from tinyllm import __version__
from tinyllm.cli.options import options
from tinyllm.config import ConfigError
from tinyllm.parallel.threads import choose, cores, probe, set_blas_threads

if TYPE_CHECKING:
    from tinyllm.checkpoint import CheckpointManager
    from tinyllm.cli.display import Lines
    from tinyllm.run.state import TrainState
    from tinyllm.text.batches import Dataset


AT_ONCE = "stopped at once; the checkpoints on disk are good: --resume goes on from the newest"


class Interrupt:
    """Turns the first SIGINT or SIGTERM into a question the loop asks; a second SIGINT ends at once."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        return bool(self.signal)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            # No exception: it could land between any two lines, and leave other threads waiting for this one.
            os.write(2, f"\n{AT_ONCE}\n".encode())
            os._exit(130)
        self.signal = number
        name = signal.Signals(number).name
        print(f"\n{name}: finishing the step and saving ...", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 1 failed, 128 + signal when stopped and saved."""
    args = options(argv)
    began = time.monotonic()
    print(f"tinyllm {__version__}", flush=True)
    sequences = 1 << 30 if args.resuming else args.config.train.batch_size  # a checkpoint's: not known yet
    set_blas_threads(choose(sequences, cores(), args.workers, args.blas_threads)[1])
    from tinyllm.checkpoint import CheckpointError
    from tinyllm.training.step import TrainingError

    try:
        with Interrupt() as interrupt:
            return _run(args, interrupt, began)
    except (CheckpointError, TrainingError, ValueError, OSError, RuntimeError, MemoryError) as error:
        text = str(error) or type(error).__name__
        print(f"error: {text}", file=sys.stderr, flush=True)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print(AT_ONCE, file=sys.stderr)
        return 130


def _run(args: argparse.Namespace, interrupt: Interrupt, began: float) -> int:
    from tinyllm.checkpoint import CheckpointManager, CheckpointStrategy
    from tinyllm.cli.display import duration, watcher
    from tinyllm.parallel.team import Team
    from tinyllm.report import ReportError, write
    from tinyllm.training import setup
    from tinyllm.training.loop import Loop, SaveRhythm
    from tinyllm.training.metrics import Metrics
    from tinyllm.training.step import Engine

    directory = Path(args.checkpoint_dir)
    try:
        strategy = CheckpointStrategy.parse(args.strategy)
    except ValueError as error:
        raise ConfigError(f"--strategy: {error}") from error
    if args.resuming and not args.resume_from and not directory.is_dir():
        raise FileNotFoundError(
            f"{directory}: found no such directory to resume in; give the run's --checkpoint-dir"
        )
    _compile()
    watch = watcher(args.plain)
    try:
        with CheckpointManager(
            directory, strategy, args.keep_best_n, asynchronous=not args.no_async,
            on_notice=lambda text: watch.notice(f"note: {text}"),
        ) as manager:  # fmt: skip
            state, datasets = _state(args, manager, watch)
            if args.resuming and setup.is_finished(state):
                watch.line(_finished_already(state, args))
                return 0
            workers, blas_threads = setup.threads(state, args.workers, args.blas_threads, watch.notice)
            environment = setup.environment(workers, blas_threads)
            for change in setup.environment_changes(state.environment, environment):
                watch.notice(f"warning: {change}: the run goes on, but not with the same last bits")
            state.environment = environment
            with Team(workers * blas_threads) as team, Metrics(directory) as metrics:
                watch.line(_description(state, datasets, args, directory))
                config, V = state.config, state.tokenizer.vocab_size
                engine = Engine(
                    config.model, V, config.train.batch_size, state.layout, team, workers, args.recompute,
                    accumulate=config.train.accumulate > 1,
                )  # fmt: skip
                manager.reserve(state)  # touched now, the first save is no slower than the others
                rhythm = SaveRhythm(args.save_every_steps, args.save_every_minutes)
                loop = Loop(state, datasets, engine, manager, metrics, watch, rhythm, interrupt)
                if args.resuming:
                    metrics.write(step=state.progress.step, event="resume", phase=state.progress.phase)
                done = loop.run()
            try:
                write(directory)
            except ReportError as error:  # the model is safe on the disk; its picture can be drawn again
                watch.notice(f"warning: no report: {error}")
    finally:
        watch.close()
    if not done:
        where = f"epoch {state.progress.epoch}, step {state.progress.step:,}"
        print(f"saved at {where}; go on with: {_command(args)} --resume", file=sys.stderr, flush=True)
        return 128 + interrupt.signal
    took = duration(time.monotonic() - began)
    print(f"\n{directory / 'model_final.bin'} and {directory / 'report.html'} written in {took}")
    if not args.no_samples:
        _compile(decoding=True)
        _samples(state)
    # Trained on single questions alone, a model takes an unrelated second one for a part of the first.
    alone = " --memory 0" if "instruction_tuning" in state.phases else ""
    print(f"\ntalk to it: python -m tinyllm.chat {directory / 'model_final.bin'}{alone}")
    return 0


def _compile(decoding: bool = False) -> None:
    """Compile the kernels, or what makes texts; say nothing if an earlier run has."""
    from tinyllm import kernels

    if not (kernels.is_decoding_warm() if decoding else kernels.is_warm()):
        began, what = time.monotonic(), "what makes texts" if decoding else "the kernels"
        print(f"compiling {what}, once (about {5 if decoding else 10} s) ...", end=" ", flush=True)
        (kernels.compile_decoding if decoding else kernels.compile_all)()
        print(f"done in {time.monotonic() - began:.1f} s", flush=True)


def _sources(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return the texts named on the command line, by phase."""
    named = {"pretraining": args.data or args.pretraining_data, "instruction_tuning": args.chat_data}
    return {phase: [str(Path(path).resolve()) for path in paths] for phase, paths in named.items() if paths}


def _state(
    args: argparse.Namespace, manager: CheckpointManager, watch: Lines
) -> tuple[TrainState, dict[str, Dataset]]:
    """Return the run to train: a fresh one, or the one of the checkpoint that was asked for."""
    from tinyllm.training import setup
    from tinyllm.training.metrics import FILE_NAME

    directory, sources = Path(args.checkpoint_dir), _sources(args)
    if args.resuming:
        state = _loaded(args, manager, watch)
        return state, setup.resumed(
            state, args.changes, sources, args.phase, args.allow_new_data, directory, watch.notice,
            watch.reading,
        )  # fmt: skip
    held = manager.list_checkpoints()
    if held and not args.fresh:
        raise FileExistsError(
            f"{directory} already holds a run ({len(held)} checkpoints): --resume goes on with it, "
            f"--fresh sets it aside, and --checkpoint-dir names another place"
        )
    if held or (directory / FILE_NAME).exists():  # a run may have ended before its first checkpoint
        watch.notice(f"note: the earlier run is now in {setup.set_aside(directory)}")
        manager.list_checkpoints()  # so that it forgets them
    if not args.data:
        sources = {**{phase: [text] for phase, text in setup.BUNDLED.items()}, **sources}
    if args.phase:
        sources = {args.phase: sources[args.phase]}
    return setup.fresh(args.config, sources, directory, watch.notice, watch.reading, args.recompute)


def _loaded(args: argparse.Namespace, manager: CheckpointManager, watch: Lines) -> TrainState:
    """Return the state of --resume-from, else the newest or the best sound one; it is kept from retention."""
    from tinyllm.checkpoint import CheckpointError, CheckpointManager

    place = args.resume_from or args.checkpoint_dir
    newest = f"--resume alone takes the newest sound checkpoint in {args.checkpoint_dir}"
    path = Path(args.resume_from) if args.resume_from else manager.get_last_checkpoint()
    if args.resume_from and not Path(place).exists():
        raise FileNotFoundError(f"{place}: not found, expected a checkpoint; {newest}")
    if args.resume_from and Path(place).is_dir():
        with CheckpointManager(place, read_only=True, on_notice=watch.notice) as other:
            path = other.get_last_checkpoint()
    if args.resume_best and path is not None:
        path = manager.get_best_checkpoint(manager.load_checkpoint(path)[1].phase)
    if path is None:
        raise FileNotFoundError(
            f"{place}: found no sound {'best ' if args.resume_best else ''}checkpoint to resume from; "
            f"drop --resume to begin anew, or give the run's --checkpoint-dir"
        )
    state: TrainState
    try:
        state, metadata = manager.load_checkpoint(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {newest}") from error
    manager.pin(path)
    about = f"{metadata.phase}, epoch {metadata.epoch}, step {state.progress.step:,}"
    watch.notice(f"resuming from {path.name}: {about}")
    return state


def _description(
    state: TrainState, datasets: dict[str, Dataset], args: argparse.Namespace, directory: Path
) -> str:  # fmt: skip
    """Say in a few lines what is about to be trained, on what, and where it is kept."""
    model = state.config.model
    rows = [
        f"model        {state.layout.count:,} parameters: {model.n_layer} layers, {model.n_head} heads, "
        f"{model.n_embd} channels, context {model.block_size}",
        f"tokenizer    {state.config.data.tokenizer}, {state.tokenizer.vocab_size:,} tokens",
    ]
    for phase, dataset in datasets.items():
        rows.append(
            f"{'texts' if len(rows) == 2 else '':<12} {phase}: {dataset.tokens:,} tokens in "
            f"{dataset.documents:,} documents, {dataset.windows:,} windows an epoch"
        )
    team = f"{state.environment['workers']} workers x {state.environment['blas_threads']} BLAS threads"
    speed = f"sgemm at {probe(int(state.environment['workers'])):.0f} GFLOP/s"
    rows.append(
        f"machine      {team} on {cores()} cores; BLAS core {state.environment['blas_core']}, {speed}"
    )
    rows.append(f"checkpoints  {directory}, strategy {args.strategy}")
    return "\n".join(rows)


def _finished_already(state: TrainState, args: argparse.Namespace) -> str:
    progress, train = state.progress, state.config.train
    if progress.status == "rolled_back":
        why = f"{progress.phase} stopped early (no gain for {train.patience} epochs) and was rolled back"
    else:
        done = f"{train.max_steps:,} steps" if train.max_steps else f"{train.epochs} epochs"
        why = f"{progress.phase} has had its {done}"
    extend = f"--max-steps {2 * train.max_steps}" if train.max_steps else f"--epochs {2 * train.epochs}"
    return f"this run is finished: {why}. To train on: {_command(args)} --resume {extend}"


def _samples(state: TrainState) -> None:
    """Let the finished model answer questions of its training, or go on with a text of it."""
    from tinyllm.inference import samples
    from tinyllm.inference.language_model import LanguageModel
    from tinyllm.training import setup

    phase = state.phases[-1]
    texts = setup.open_texts(state.config, phase, state.sources[phase].paths)
    model = LanguageModel.of(state)
    if phase == "pretraining":
        beginning, rest = samples.sample_continuation(model, texts)
        print(f"\nhow it goes on after the first words of its texts:\n  {beginning}|{rest}")
        return
    answers = samples.answer_training_questions(model, texts)
    print("\nquestions of its training, answered:")
    for answer in answers[:5]:
        prompt = answer.prompt.replace("\n", " ")
        said = answer.said if len(answer.said) <= 100 else answer.said[:100] + " ..."
        print(f"  {prompt}{' ' if prompt.endswith(':') else ''}{said}".replace("\n", " "))
    same = sum(answer.said == answer.expected for answer in answers)
    recognised = sum(answer.is_recognisable for answer in answers)
    counts = f"{recognised} of {len(answers)}, {same} word for word"
    print(f"recalled: {counts}; this shows memory, not understanding")


def _command(args: argparse.Namespace) -> str:
    where = "" if args.checkpoint_dir == "checkpoints" else f" --checkpoint-dir {args.checkpoint_dir}"
    return f"python -m tinyllm.train{where}"


if __name__ == "__main__":
    sys.exit(main())
