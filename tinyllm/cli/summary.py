"""What a person reads before and after training: what is trained on what, how it ended, what the model says.

Order: before the first step, when there is nothing to do, after a stop, after the last step.
"""

from __future__ import annotations

from collections.abc import Mapping

from tinyllm.checkpoint.policy import FINAL_NAME
from tinyllm.cli.clock import probe
from tinyllm.cli.request import Request, Resume, shell_quoted
from tinyllm.cli.rows import labelled
from tinyllm.escape import printable
from tinyllm.parallel.threads import cores
from tinyllm.run.state import TrainState
from tinyllm.text.batches import Dataset
from tinyllm.words import counted


def description(state: TrainState, datasets: Mapping[str, Dataset], request: Request) -> str:
    """Return a few lines: the model, its tokenizer, the data, the hardware, where checkpoints are kept."""
    model, environment, config = state.config.model, state.environment, state.config
    workers = int(environment["workers"])
    threads = counted(int(environment["blas_threads"]), "BLAS thread")
    rows = {
        "model": f"{counted(state.layout.count, 'parameter')}, context {model.block_size:,}",
        "shape": f"{counted(model.n_layer, 'layer')}, {counted(model.n_head, 'head')}, "
        f"{counted(model.n_embd, 'channel')}",
        "tokenizer": f"{config.data.tokenizer}, {counted(state.tokenizer.vocab_size, 'token')}",
        **{phase: _amount(dataset) for phase, dataset in datasets.items()},
        "hardware": f"{counted(workers, 'worker')} x {threads} on {counted(cores(), 'core')}",
        "BLAS": f"core {environment['blas_core']}, sgemm at {probe(workers):,.0f} GFLOP/s",
        "checkpoints": f"{printable(request.directory)}, strategy {config.saving.strategy}",
    }
    return labelled(rows)


def _amount(dataset: Dataset) -> str:
    tokens, documents = counted(dataset.tokens, "token"), counted(dataset.documents, "document")
    return f"{tokens} in {documents}, {counted(dataset.windows, 'window')} per epoch"


def already_finished(state: TrainState, request: Request) -> str:
    """Return why a resumed run has nothing left to do, and the command that extends it."""
    progress = state.progress
    train = state.config.train.of(progress.phase)
    if progress.status == "rolled_back":
        why = f"stopped early (no improvement for {counted(train.patience, 'epoch')}) and was rolled back"
    else:
        length = counted(train.max_steps, "step") if train.max_steps else counted(train.epochs, "epoch")
        why = f"completed its {length}"
    extend = f"--max-steps {2 * train.max_steps}" if train.max_steps else f"--epochs {2 * train.epochs}"
    if not state.schedule.lr(progress.step):  # nothing more can be learned at a rate of 0
        extend += f" --lr {train.lr / 10:g}"
    return f"this run is finished: {progress.phase} {why}; to extend it: {request.resume_command} {extend}"


def stopped(state: TrainState, request: Request) -> str:
    """Return where a run was stopped and saved, and the command that resumes it."""
    progress = state.progress
    return f"saved at epoch {progress.epoch}, step {progress.step:,}; resume with: {request.resume_command}"


def nothing_begun(request: Request) -> str:
    """Return what a stop before the first step means."""
    if isinstance(request.start, Resume) and not request.start.otherwise:
        return f"stopped before the first step; the checkpoints are as they were: {request.resume_command}"
    return "stopped before the first step; nothing was saved: the same command starts the run again"


def saved_anyway(request: Request) -> str:
    """Return what a stop after the last step means."""
    return (
        f"stopped after the last step; the run is finished and saved in {request.directory / FINAL_NAME}. "
        f"To draw a report that is missing: {request.resume_command}"
    )


def invitation(state: TrainState, request: Request) -> str:
    """Return the command line that lets the finished model speak: in a chat, if it has learnt to answer."""
    if "instruction_tuning" in state.phases:
        return f"talk to it: python -m tinyllm.chat {shell_quoted(request.directory)}"
    return f"let it write: python -m tinyllm.generate {shell_quoted(request.directory)}"
