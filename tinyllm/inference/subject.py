"""A model that is to be measured, and the texts of the run it comes from.

The tokens that the run has left beside its checkpoints are used where they are those of the checkpoint; else
the texts are read again. Nothing is written but into a directory that the caller gives.
Order: Subject, its own texts, given texts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tinyllm.checkpoint.disk import Disk
from tinyllm.checkpoint.reader import read_head
from tinyllm.config import PHASES, Config
from tinyllm.inference.language_model import LanguageModel, load_model_with_file
from tinyllm.run.state import Sources
from tinyllm.text.batches import Dataset
from tinyllm.text.files import DataError
from tinyllm.text.passages import Passages
from tinyllm.text.tokens import Tokens, load_tokens, save_tokens
from tinyllm.training.setup import open_texts


class Subject(NamedTuple):
    """A model, the file it is in, and what that file says of its run."""

    model: LanguageModel
    file: Path
    config: Config
    sources: dict[str, Sources]  # of the phases so far, in order; exported weights may have none

    @classmethod
    def load(cls, path: Path, notice: Callable[[str], None], threads: int = 1) -> Subject:
        """Return the model of a .bin or a folder of checkpoints, as `load_model` does; CheckpointError."""
        model, file = load_model_with_file(path, notice, threads)
        fields: dict[str, Any] = read_head(file, Disk()).fields
        stored, progress = fields.get("sources") or {}, fields.get("progress")
        phase = (
            progress.get("phase") if isinstance(progress, dict) else None
        )  # exported weights may have none
        last = PHASES.index(phase) if phase in PHASES else len(PHASES) - 1
        sources = {
            phase: Sources.from_dict(stored[phase], f"sources.{phase}")
            for phase in PHASES[: last + 1]
            if phase in stored
        }
        return cls(model, file, Config.from_dict(fields["config"]), sources)


class Own(NamedTuple):
    """The texts of one phase of a run; equal texts, divided alike, have equal identities."""

    training: Passages
    held_out: Passages | None
    identity: tuple[Any, ...]

    @property
    def measured(self) -> Passages:
        """The held-out part, or the training texts if nothing is held out."""
        return self.held_out or self.training


def own_texts(subject: Subject, phase: str, scratch: Path) -> Own:
    """Return the texts of a phase of the model's run.

    Raises DataError, or OSError, where they can no longer be read, or are others now.
    """
    source, config, model = subject.sources[phase], subject.config, subject.model
    read = scratch / "data" / f"{source.fingerprint}.tokens"
    for path in (subject.file.parent / "data" / f"{phase}.tokens", read):
        tokens = load_tokens(path, model.tokenizer.vocab_size)
        dataset = _dataset(tokens, config, phase) if tokens else None
        if dataset and dataset.fingerprint == source.fingerprint:
            break
    else:
        tokens = _read(model, config, phase, source.paths, read)
        dataset = Dataset(tokens, config, phase)
        if dataset.fingerprint != source.fingerprint:
            raise DataError(
                f"{', '.join(source.paths)}: these are not the texts that the model was trained on"
            )
    assert tokens is not None
    all_loss, data = config.data.train_on_prompts, config.data
    held_out = Passages.of(tokens, dataset.held_out, all_loss) if len(dataset.held_out) else None
    division = (data.val_fraction, data.held_out_by, config.train.seed) if held_out else ()
    identity = (phase, all_loss, *tokens.made_of.values(), *division)
    return Own(Passages.of(tokens, dataset.training, all_loss), held_out, identity)


def _dataset(tokens: Tokens, config: Config, phase: str) -> Dataset | None:
    try:
        return Dataset(tokens, config, phase)
    except DataError:  # tokens of other texts, too few for this config
        return None


def given_texts(
    subject: Subject, like: Config, phase: str, sources: Sequence[str], scratch: Path
) -> Passages:  # fmt: skip
    """Return all of the given texts, read as a run of `phase` with the config `like` reads them; DataError.

    So models with different settings are measured on the same bytes; only how a dialogue's markers are cut
    into tokens is the model's own.
    """
    data = dataclasses.replace(like.data, separate_markers=subject.config.data.separate_markers)
    config = dataclasses.replace(like, data=data)
    path = scratch / "data" / f"{len([*scratch.glob('data/*')])}.tokens"
    tokens = _read(subject.model, config, phase, sources, path)
    return Passages.of(tokens, train_on_prompts=data.train_on_prompts)


def _read(model: LanguageModel, config: Config, phase: str, sources: Sequence[str], path: Path) -> Tokens:
    """Return the tokens of texts, which are written to a file of their own at `path`."""
    save_tokens(path, open_texts(config, phase, list(sources)), model.tokenizer)
    found = load_tokens(path, model.tokenizer.vocab_size)
    if found is None:
        raise DataError(f"{path}: cannot be read back as it was written; check the disk")
    return found
