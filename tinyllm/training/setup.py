"""How a run begins: fresh from texts, or from a checkpoint with what may be changed changed.

Order: sources, a fresh run, a resumed run, what a resume may change, the environment.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import platform
from collections.abc import Callable
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numba
import numpy as np

from tinyllm import model
from tinyllm.arena import Layout
from tinyllm.checkpoint import policy
from tinyllm.config import PHASES, Config, ConfigError, flag, replace
from tinyllm.parallel.threads import blas_core, choose, cores, set_blas_threads
from tinyllm.run.phases import enter_phase, floor_rate, phase_schedule, phase_steps
from tinyllm.run.state import Sources, TrainState, layout_of
from tinyllm.text.batches import Dataset, prepare
from tinyllm.text.texts import Texts, strings, training_sample
from tinyllm.text.tokenizer import Tokenizer, train_bpe, train_char
from tinyllm.training import metrics

BUNDLED = {"pretraining": "bundled:pretraining.json", "instruction_tuning": "bundled:chat.json"}
# Changing these would make the checkpoint's cursor, shapes or records meaningless: that is another run.
FIXED = {
    "model": {"n_layer", "n_head", "n_embd", "block_size"},
    "train": {"batch_size", "accumulate", "seed", "monitor"},
    "data": {"tokenizer", "vocab_size", "documents", "train_on_prompts", "val_fraction"},
}
Notice = Callable[[str], None]
Progress = Callable[[str, int, int], None]  # what is done, how many bytes of it are done, and of how many


def unseen(what: str, done: int, total: int) -> None:
    """The Progress of a run that nobody watches."""


class DataMismatchError(RuntimeError):
    """The texts are not those of the checkpoint."""


def located(source: str) -> Path:
    """Return the path of a source; `bundled:NAME` is a text that comes with tinyllm."""
    kind, _, name = source.partition("bundled:")
    return Path(str(resources.files("tinyllm.corpus").joinpath(name))) if name and not kind else Path(source)


def open_texts(config: Config, phase: str, sources: list[str]) -> Texts:
    """Return the texts of a phase; those of instruction tuning are dialogues."""
    dialogues = phase == "instruction_tuning"
    return Texts(
        [located(source) for source in sources], dialogues=dialogues, documents=config.data.documents
    )


def open_dataset(
    config: Config, phase: str, sources: list[str], tokenizer: Tokenizer, directory: Path, notice: Notice,
    progress: Progress = unseen,
) -> Dataset:  # fmt: skip
    """Return a phase's tokens, from the cache in `directory` where it fits; OSError if that is full."""
    texts = open_texts(config, phase, sources)
    texts.on_progress = partial(progress, f"reading the texts of {phase}")
    try:
        dataset = prepare(texts, tokenizer, config, directory / "data", phase)
    except OSError as error:
        if error.filename:
            raise
        raise OSError(
            f"{directory / 'data'}: the tokens of {phase} cannot be kept here: {error.strerror or error}; "
            f"free some space, or give another --checkpoint-dir"
        ) from error
    for text in texts.notices:
        notice(text)
    return dataset


def fresh(
    config: Config, sources: dict[str, list[str]], directory: Path, notice: Notice,
    progress: Progress = unseen, recompute: bool = False,
) -> tuple[TrainState, dict[str, Dataset]]:  # fmt: skip
    """Return a new run over the phases of `sources`, its tokenizer trained on all their texts."""
    texts = [open_texts(config, phase, paths) for phase, paths in sources.items()]
    for each, phase in zip(texts, sources, strict=True):
        each.on_progress = partial(progress, f"reading {phase} for the tokenizer")
    if config.data.tokenizer == "char":
        tokenizer: Tokenizer = train_char(string for each in texts for string in strings(each))
    else:
        tokenizer = train_bpe((s for each in texts for s in training_sample(each)), config.data.vocab_size)
    datasets = {
        phase: open_dataset(config, phase, paths, tokenizer, directory, notice, progress)
        for phase, paths in sources.items()
    }
    _check_memory(memory_needed(config, tokenizer.vocab_size, recompute))
    first = next(iter(sources))
    state = TrainState.fresh(
        config, tokenizer, phase_schedule(config.train, datasets[first].windows, 0), tuple(sources)
    )
    state.sources = {phase: Sources(paths, datasets[phase].fingerprint) for phase, paths in sources.items()}
    return state, datasets


def memory_needed(config: Config, V: int, recompute: bool = False) -> int:
    """Return about how many bytes training takes: state, gradient, a snapshot, one batch's activations."""

    def of(layers: int) -> int:
        shape = dataclasses.replace(config.model, n_layer=layers)
        B = config.train.batch_size
        scratch = Layout(model.scratch(shape, V, B, config.train.accumulate > 1)).size
        batch = Layout(model.acts(shape, B, recompute)).size + scratch
        return 4 * (7 * layout_of(shape, V).size + batch)

    return of(1) + (config.model.n_layer - 1) * (of(2) - of(1))


def _check_memory(needed: int) -> None:
    if not hasattr(os, "sysconf"):
        return
    held = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > held:
        raise MemoryError(
            f"this model with this batch needs about {needed / 1e9:,.1f} GB of memory, the machine has "
            f"{held / 1e9:,.1f}; choose a smaller --n-embd, --n-layer, --block-size or --batch-size, "
            f"or give --recompute"
        )


def resumed(
    state: TrainState, changes: dict[str, dict[str, Any]], sources: dict[str, list[str]], phase: str | None,
    allow_new_data: bool, directory: Path, notice: Notice, progress: Progress = unseen,
) -> dict[str, Dataset]:  # fmt: skip
    """Prepare a loaded `state` to go on, with `changes` to its config; return the data it still needs.

    `sources` are the texts named on the command line; the checkpoint's own are used otherwise.
    Raises ConfigError for a change that cannot be, DataMismatchError for texts other than the checkpoint's.
    """
    if phase is not None and phase not in state.phases:
        state.phases = tuple(p for p in PHASES if p in (*state.phases, phase))
    current = phase or state.progress.phase
    needed = state.phases[state.phases.index(current) :]
    for name, paths in sources.items():
        if name not in state.phases:
            raise ConfigError(f"{', '.join(paths)}: this run has no {name}; --phase {name} adds it")
        if name not in needed and paths != state.sources[name].paths:
            notice(f"note: {name} is over, its texts are not read; --phase {name} goes back to it")
    config = changed_config(state, changes, notice)
    datasets = {}
    for name in needed:
        stored = state.sources.get(name)
        paths = sources.get(name) or (stored.paths if stored else [BUNDLED[name]])
        datasets[name] = dataset = open_dataset(
            config, name, paths, state.tokenizer, directory, notice, progress
        )
        if stored and stored.fingerprint != dataset.fingerprint:
            if not allow_new_data:
                raise DataMismatchError(
                    f"{name}: the texts in {', '.join(paths)} are not those of the checkpoint "
                    f"(fingerprint: found {dataset.fingerprint[:12]}, expected {stored.fingerprint[:12]}); "
                    f"give the same texts, or --allow-new-data to train on these"
                )
            notice(f"{name}: new texts; the epoch that was under way begins again on them")
            if name == state.progress.phase:
                state.progress.index, state.progress.loss_sum, state.progress.loss_tokens = 0, 0.0, 0
        state.sources[name] = Sources(paths, dataset.fingerprint)
    previous, state.config = state.config, config
    if current != state.progress.phase:
        enter_phase(state, current, datasets[current].windows)
    else:
        _continue_phase(state, previous, datasets[current].windows)
    return datasets


def changed_config(state: TrainState, changes: dict[str, dict[str, Any]], notice: Notice) -> Config:
    """Return the state's config with `changes`, each told as `old -> new`; ConfigError for a shape."""
    told = []
    for section, values in changes.items():
        for name, value in values.items():
            old = getattr(getattr(state.config, section), name)
            if value == old:
                continue
            if name in FIXED[section]:
                raise ConfigError(
                    f"{flag(name)} {value}: the checkpoint has {old}, and this cannot change within a run; "
                    f"drop {flag(name)}, or start a new run in another --checkpoint-dir"
                )
            told.append(f"{flag(name)}: {old} -> {value}")
    if "epochs" in changes["train"] and state.config.train.max_steps and "max_steps" not in changes["train"]:
        changes = {**changes, "train": {**changes["train"], "max_steps": None}}
        told.append("--epochs takes the place of the checkpoint's --max-steps")
    config = replace(state.config, changes)
    for text in told:
        notice(text)
    return config


def _continue_phase(state: TrainState, previous: Config, windows: int) -> None:
    """Fit schedule, patience and status to a changed config; without changes, nothing changes."""
    old, new, progress = previous.train, state.config.train, state.progress
    end = progress.phase_start + phase_steps(new, windows)
    if (new.lr, new.min_lr) != (old.lr, old.min_lr):
        state.schedule = state.schedule.extended(progress.step, end).restarted(
            progress.step, new.lr, floor_rate(new)
        )
    else:
        state.schedule = state.schedule.extended(progress.step, end)
    stopped = progress.status in ("early_stopped", "rolled_back")
    longer = (new.epochs, new.max_steps, new.patience, new.min_delta) != (
        old.epochs, old.max_steps, old.patience, old.min_delta,
    )  # fmt: skip
    if stopped and longer:
        state.stopping = state.stopping.renewed()
    if longer:
        progress.status = "running"


def is_finished(state: TrainState) -> bool:
    """Return whether the last phase has used up its steps, or has stopped early and was rolled back."""
    return state.progress.phase == state.phases[-1] and state.progress.status in ("finished", "rolled_back")


def set_aside(directory: Path) -> Path:
    """Move an earlier run's files into the first free `previous-N` of its directory, and return that.

    What a run does not write stays where it is: the directory may be a person's own.
    """
    number = next(n for n in itertools.count(1) if not (directory / f"previous-{n}").exists())
    place = directory / f"previous-{number}"
    place.mkdir()
    for path in sorted(directory.iterdir()):
        if path.is_file() and _is_of_a_run(path.name):
            path.rename(place / path.name)
    return place


def _is_of_a_run(name: str) -> bool:
    return name in (metrics.FILE_NAME, "report.html") or bool(policy.label_of(name.partition(".corrupt")[0]))


def threads(
    state: TrainState, workers: int | None, blas_threads: int | None, notice: Notice
) -> tuple[int, int]:  # fmt: skip
    """Return (workers, BLAS threads of each), the latter set.

    As given, else as the checkpoint was trained with, else as suits this machine.
    """
    stored = {name: n for name, n in state.environment.items() if isinstance(n, int)}
    workers, blas_threads = workers or stored.get("workers"), blas_threads or stored.get("blas_threads")
    chosen = choose(state.config.train.batch_size, cores(), workers, blas_threads)
    if not set_blas_threads(chosen[1]):
        notice(
            f"note: this NumPy's BLAS cannot be told to use {chosen[1]} threads; pip install threadpoolctl"
        )
    return chosen


def environment(workers: int, blas_threads: int) -> dict[str, str | int]:
    """Return what bits depend on besides the state: versions, processor, threads."""
    return {
        "python": platform.python_version(), "numpy": np.__version__, "numba": numba.__version__,
        "processor": _processor(), "blas_core": blas_core(),
        "workers": workers, "blas_threads": blas_threads,
    }  # fmt: skip


def environment_changes(old: dict[str, str | int], new: dict[str, str | int]) -> list[str]:
    """Return `name old -> new` for every difference that may change the last bits of a continued run."""
    return [f"{name} {old[name]} -> {new[name]}" for name in new if name in old and old[name] != new[name]]


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        return platform.processor() or platform.machine()
