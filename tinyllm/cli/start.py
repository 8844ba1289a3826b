"""Which run the command line asks for: a new one, or that of a checkpoint, ready to be trained.

Order: the run, a new one's model and strategy, the checkpoint of a resume. Nothing here moves or deletes a
file; the tokens of texts are written to the run's directory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tinyllm.checkpoint import CheckpointError, CheckpointManager, CheckpointStrategy
from tinyllm.cli.request import Request, Resume
from tinyllm.inference.language_model import load_model
from tinyllm.option import ConfigError
from tinyllm.run.state import TrainState
from tinyllm.text.batches import Dataset
from tinyllm.training import place, setup
from tinyllm.training.setup import Listener


@dataclass
class Begun:
    """A run that can be trained: its state and data, and the checkpoint it is resumed from, if any."""

    state: TrainState
    datasets: dict[str, Dataset]
    source: Path | None = None
    is_finished: bool = False


def begin(request: Request, manager: CheckpointManager, listener: Listener) -> Begun:
    """Return the run that was asked for: a fresh one, or that of a checkpoint; no file has moved yet.

    Raises FileExistsError where a fresh one would mix with an earlier run.
    """
    start, directory = request.start, request.directory
    if isinstance(start, Resume) and start.otherwise and not manager.list_checkpoints():
        start = start.otherwise
    if isinstance(start, Resume):
        state, source = _load(start, manager, listener)
        place.check_alone(state, source, manager)
        begun = Begun(state, setup.resumed(state, start.changes, directory, listener), source)
        begun.is_finished = setup.is_finished(state)
    else:
        held = manager.list_checkpoints()
        if held and not start.set_aside:
            raise FileExistsError(
                f"{directory} already holds a run: --resume continues it, --fresh "
                f"moves it to a folder previous-N in it, another --checkpoint-dir leaves it alone"
            )
        config, initial = start.config, None
        if start.initial:
            initial = _initial(start.initial, listener)
            config = setup.initial_config(start.settings, initial)
        begun = Begun(*setup.fresh(config, start.sources, directory, listener, initial))
    saving = begun.state.config.saving
    manager.configure(_strategy(saving.strategy), saving.keep_best_n, asynchronous=saving.asynchronous)
    return begun


def _initial(path: Path, listener: Listener) -> setup.Initial:
    """Return the model that a new run begins from."""
    model = load_model(path, lambda text: listener.notice(f"note: {text}"))
    return setup.Initial(model.config, model.tokenizer, model.weights.row)


def _strategy(text: str) -> CheckpointStrategy:
    """Return --strategy as a value; ConfigError if it is none."""
    try:
        return CheckpointStrategy.parse(text)
    except ValueError as error:
        raise ConfigError(f"--strategy: {error}") from error


def _load(start: Resume, manager: CheckpointManager, listener: Listener) -> tuple[TrainState, Path]:
    """Return the state of the checkpoint that was asked for, and that."""
    directory = manager.directory
    latest = f"--resume alone continues from the latest valid checkpoint in {directory}"
    path = _source(start, manager, listener, latest)
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
    about = f"{metadata.phase}, epoch {metadata.epoch}, step {state.progress.step:,}"
    listener.notice(f"resuming from {path.name}: {about}")
    return state, path


def _source(start: Resume, manager: CheckpointManager, listener: Listener, latest: str) -> Path | None:
    """Return the checkpoint to resume from; None if there is no valid one."""
    if start.source is None:
        path = manager.get_last_checkpoint()
        if path is None or not start.best:
            return path
        return manager.get_best_checkpoint(manager.load_checkpoint(path)[1].phase)
    if not start.source.exists():
        raise FileNotFoundError(f"{start.source}: not found, expected a checkpoint; {latest}")
    if start.source.is_dir():
        with CheckpointManager(start.source, read_only=True, on_notice=listener.notice) as other:
            return other.get_last_checkpoint()
    return start.source
