"""How a run starts: from texts, or from a checkpoint with the changes that are possible within a run.

Order: texts and datasets, a fresh run, a resumed run, what a resume may change.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tinyllm.arena import Array
from tinyllm.config import (
    BUNDLED,
    PHASES,
    Config,
    DataConfig,
    ModelConfig,
    TrainConfig,
    replace,
)
from tinyllm.network import Purpose
from tinyllm.option import ConfigError, flag
from tinyllm.run.changes import Changes
from tinyllm.run.phases import continue_phase, enter_phase, phase_schedule, replace_texts
from tinyllm.run.state import Sources, TrainState, layout_of, workspace_layouts
from tinyllm.text.batches import Dataset, prepare
from tinyllm.text.questions import typical_questions
from tinyllm.text.texts import Texts, strings, training_sample
from tinyllm.text.tokenizer import BPETokenizer, Tokenizer, train_bpe, train_char
from tinyllm.training.defaults import with_tokenizer, with_validation
from tinyllm.training.place import is_of_a_run

# Changing these would make the checkpoint's cursor, shapes or records meaningless: that is another run.
FIXED = {
    "model": {"n_layer", "n_head", "n_embd", "block_size"},
    "train": {"batch_size", "accumulate", "seed", "monitor", "all_rows"},
    "data": {
        "tokenizer", "vocab_size", "han_run", "documents", "train_on_prompts", "val_fraction", "held_out_by",
        "join_dialogues", "join_documents", "vary_questions", "mixed_windows",
    },
    "saving": set[str](),
}  # fmt: skip


class Listener(Protocol):
    """What shows a person the set-up of a run."""

    def notice(self, text: str) -> None:
        """Show something that a person should know."""

    def reading(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` bytes were read; `what` describes the reading."""


class DataMismatchError(RuntimeError):
    """The texts are not those of the checkpoint."""


def located(source: str) -> Path:
    """Return the path of a source; `bundled:NAME` is a text that comes with tinyllm."""
    kind, _, name = source.partition("bundled:")
    return Path(str(resources.files("tinyllm.corpus").joinpath(name))) if name and not kind else Path(source)


def open_texts(config: Config, phase: str, sources: list[str]) -> Texts:
    """Return the texts of a phase; those of instruction tuning are dialogues."""
    paths = [located(source) for source in sources]
    return Texts(paths, dialogues=phase == "instruction_tuning", data=config.data, is_ours=is_of_a_run)


def open_dataset(
    config: Config, phase: str, paths: list[str], tokenizer: Tokenizer, directory: Path, listener: Listener
) -> tuple[Dataset, Sources]:
    """Return a phase's tokens and what is stored of its texts; OSError if the directory is full.

    The tokens come from the cache in `directory`, if it has those of the same texts.
    """
    texts = open_texts(config, phase, paths)
    texts.on_progress = partial(listener.reading, f"reading the texts of {phase}")
    try:
        dataset = prepare(texts, tokenizer, config, directory / "data", phase)
    except OSError as error:
        place, reason = directory / "data", error.strerror or error
        if error.filename and not Path(error.filename).is_relative_to(place):
            raise
        free = "" if error.filename else "free some space, or "  # what fails in writing has no name
        raise OSError(
            f"{place}: the tokens of {phase} cannot be written: {reason}; {free}give another --checkpoint-dir"
        ) from error
    for text in texts.notices:
        listener.notice(text)
    questions = typical_questions(map(tokenizer.decode, dataset.prompts))
    return dataset, Sources(paths, dataset.fingerprint, texts.system, questions)


class Initial(NamedTuple):
    """A trained model that a new run begins from: its shape, its tokenizer, its parameters (size,)."""

    config: ModelConfig
    tokenizer: Tokenizer
    row: Array


def initial_config(options: Mapping[str, Mapping[str, Any]], model: Initial) -> Config:
    """Return the config of a run that begins from `model`; ConfigError for an option that contradicts it."""
    shape = dataclasses.replace(model.config, dropout=Config().model.dropout)
    if isinstance(model.tokenizer, BPETokenizer):
        data = DataConfig("bpe", model.tokenizer.vocab_size, han_run=model.tokenizer.han_run)
    else:
        data = DataConfig("char")
    config = Config(shape, TrainConfig(), data)
    for section, names in (("model", FIXED["model"]), ("data", {"tokenizer", "vocab_size", "han_run"})):
        for name in names & set(options.get(section, {})):
            value, found = options[section][name], getattr(getattr(config, section), name)
            if value != found:
                raise ConfigError(
                    f"{flag(name)} {value}: the model of --init-from has {_shown(found)}; drop {flag(name)}"
                )
    return replace(config, options)


def _shown(value: Any) -> Any:
    return "none" if value is None else value


def fresh(
    config: Config, sources: Mapping[str, list[str]], directory: Path, listener: Listener,
    initial: Initial | None = None,
) -> tuple[TrainState, dict[str, Dataset]]:  # fmt: skip
    """Return a new run over the phases of `sources`.

    Its tokenizer is trained on all their texts and its parameters are drawn, or both are those of `initial`.
    """
    if initial:
        tokenizer = initial.tokenizer
    else:
        config = with_tokenizer(config)
        tokenizer = _trained_tokenizer(config, sources, listener)
    opened = {
        phase: open_dataset(config, phase, paths, tokenizer, directory, listener)
        for phase, paths in sources.items()
    }
    datasets = {phase: dataset for phase, (dataset, _) in opened.items()}
    given, config = config, with_validation(config, sources, datasets, listener.notice)
    if config.data.val_fraction and given.data.val_fraction is None:
        datasets = {phase: Dataset(each.corpus, config, phase) for phase, each in datasets.items()}
    _check_memory(memory_needed(config, tokenizer.vocab_size))
    first = next(iter(sources))
    state = TrainState.fresh(
        config, tokenizer, phase_schedule(config.train.of(first), datasets[first].windows, 0), tuple(sources)
    )
    if initial:
        state.rows[0] = initial.row
    state.sources = {
        phase: dataclasses.replace(found, fingerprint=datasets[phase].fingerprint)
        for phase, (_, found) in opened.items()
    }
    return state, datasets


def _trained_tokenizer(config: Config, sources: Mapping[str, list[str]], listener: Listener) -> Tokenizer:
    texts = [open_texts(config, phase, paths) for phase, paths in sources.items()]
    for each, phase in zip(texts, sources, strict=True):
        each.on_progress = partial(listener.reading, f"reading {phase} for the tokenizer")
    if config.data.tokenizer == "char":
        return train_char(string for each in texts for string in strings(each))
    sample = (string for each in texts for string in training_sample(each))
    return train_bpe(sample, config.data.vocab_size, config.data.han_run)


def memory_needed(config: Config, V: int) -> int:
    """Return about how many bytes training takes: state, gradient, a snapshot, one batch's activations."""

    def of(layers: int) -> int:
        shape = dataclasses.replace(config.model, n_layer=layers)
        B = config.train.batch_size
        batch = sum(layout.size for layout in workspace_layouts(shape, V, B, Purpose.of(config.train)))
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
    state: TrainState, changes: Changes, directory: Path, listener: Listener
) -> dict[str, Dataset]:  # fmt: skip
    """Prepare a loaded `state` to be trained further, with `changes`; return the data of the phases ahead.

    Raises ConfigError for a change that cannot be, DataMismatchError for texts other than the checkpoint's.
    """
    if changes.phase is not None and changes.phase not in state.phases:
        state.phases = tuple(phase for phase in PHASES if phase in (*state.phases, changes.phase))
    current = changes.phase or state.progress.phase
    ahead = state.phases[state.phases.index(current) :]
    for name, paths in changes.sources.items():
        if name not in state.phases:
            raise ConfigError(f"{', '.join(paths)}: this run has no {name}; --phase {name} adds it")
        if name not in ahead and paths != state.sources[name].paths:
            listener.notice(f"note: {name} is over, its texts are not read; --phase {name} returns to it")
    config = changed_config(state, changes.options, listener.notice)
    _check_memory(memory_needed(config, state.tokenizer.vocab_size))
    datasets = {}
    for name in ahead:
        stored = state.sources.get(name)
        paths = changes.sources.get(name) or (stored.paths if stored else BUNDLED[name])
        datasets[name], found = open_dataset(config, name, paths, state.tokenizer, directory, listener)
        if stored and stored.fingerprint != found.fingerprint:
            _check_allowed(changes, name, found, stored)
            listener.notice(
                f"note: {name}: new texts; the current epoch starts over on them, best and patience too"
            )
            if name == state.progress.phase:
                replace_texts(state)
        state.sources[name] = found
    previous, state.config = state.config, config
    if current != state.progress.phase:
        enter_phase(state, current, datasets[current].windows)
    else:
        continue_phase(state, previous, changes.options, datasets[current].windows)
    return datasets


def _check_allowed(changes: Changes, phase: str, found: Sources, stored: Sources) -> None:
    if not changes.allow_new_data:
        raise DataMismatchError(
            f"{phase}: the texts in {', '.join(found.paths)} are not those of the checkpoint "
            f"(fingerprint: found {found.fingerprint[:12]}, expected {stored.fingerprint[:12]}); "
            f"give the same texts, or --allow-new-data to train on these"
        )


def changed_config(
    state: TrainState, options: Mapping[str, Mapping[str, Any]], notice: Callable[[str], None]
) -> Config:
    """Return the state's config with other `options`, each shown as `old -> new`; ConfigError for a shape."""
    changed = []
    for section, values in options.items():
        for name, value in values.items():
            old = getattr(getattr(state.config, section), name)
            if value == old:
                continue
            if name in FIXED[section]:
                raise ConfigError(
                    f"{flag(name)} {value}: the checkpoint has {_shown(old)}, and this cannot change within "
                    f"a run; drop {flag(name)}, or start a new run in another --checkpoint-dir"
                )
            changed.append(f"{flag(name)}: {old} -> {value}")
    train = options.get("train", {})
    if "epochs" in train and state.config.train.max_steps and "max_steps" not in train:
        options = {**options, "train": {**train, "max_steps": None}}
        changed.append("--epochs replaces the checkpoint's --max-steps")
    for name in ("epochs", "lr"):  # for all phases, unless tuning is given its own
        if name in train and f"tuning_{name}" not in train and getattr(state.config.train, f"tuning_{name}"):
            options = {**options, "train": {**options["train"], f"tuning_{name}": None}}
            changed.append(f"--{name} replaces the checkpoint's --tuning-{name}")
    config = replace(state.config, options)
    for text in changed:
        notice(text)
    return config


def is_finished(state: TrainState) -> bool:
    """Return whether the last phase has used up its steps, or has stopped early and was rolled back."""
    return state.progress.phase == state.phases[-1] and state.progress.status in ("finished", "rolled_back")
