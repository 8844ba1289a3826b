"""The same programs from Python: `tinyllm.load`, a model that writes, answers and is measured; `tinyllm.fit`.

Order: loading, a model, a chat, training, its options. `import tinyllm` imports nothing of this until it is
used.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Iterable
from contextlib import nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from tinyllm import train
from tinyllm.cli.interrupt import Interrupt, Stopped
from tinyllm.cli.request import Fresh, Machine, Request, Resume, absolute
from tinyllm.config import BUNDLED, SECTIONS, Config
from tinyllm.inference.conversation import Conversation
from tinyllm.inference.evaluation import Measures, evaluate
from tinyllm.inference.language_model import LanguageModel, checkpoint_in, load_model
from tinyllm.inference.settings import ANSWER, OPTIONS, TEXT, Sampling, check
from tinyllm.kernels import compile_decoding
from tinyllm.option import ConfigError, from_fields, is_option
from tinyllm.parallel.threads import cores
from tinyllm.run.changes import Changes
from tinyllm.text.dialogue import Turn
from tinyllm.text.passages import Passages
from tinyllm.words import counted

Paths = str | Path | Iterable[str | Path]


def load(path: str | Path = "checkpoints") -> Model:
    """Return the model of a run's folder, or of a .bin file; CheckpointError if there is none."""
    return Model(Path(path).expanduser())


class Model:
    """A trained model; of a run's folder, each use takes the best checkpoint of the phase that fits it.

    These are pretraining to write, instruction tuning to answer, the latest to be measured. The sampling
    options are those of the command line: temperature, top_k, top_p, repetition_penalty. The same seed gives
    the same text.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str | None, Path] = {}
        self._models: dict[Path, LanguageModel] = {}
        self._latest = self._of(None)
        compile_decoding()

    def __repr__(self) -> str:
        count, T = self._latest.weights.layout.count, self._latest.config.block_size
        return f"Model({str(self.path)!r}: {counted(count, 'parameter')}, context of {counted(T, 'token')})"

    def generate(
        self, prompt: str = "", *, max_tokens: int = 200, seed: int = 1337, **sampling: float
    ) -> str:  # fmt: skip
        """Return the text that continues the prompt, without it; the model ends it, or `max_tokens` does."""
        settings, model = _sampling(TEXT, max_tokens, sampling), self._of("pretraining")
        with np.errstate(all="ignore"):  # as in cli/command.py
            tokens = model.generate(model.prompt(prompt), settings, max_tokens, (seed, 0))
            return "".join(model.tokenizer.stream(tokens))

    def ask(self, question: str, *, max_tokens: int = 128, seed: int = 1337, **sampling: float) -> str:
        """Return the answer to one question, which no other comes before; "" if the model has none."""
        return self._chat(None, max_tokens, seed, sampling).ask(question)

    def chat(
        self, *, memory: int | None = None, max_tokens: int = 128, seed: int = 1337, **sampling: float
    ) -> Chat:  # fmt: skip
        """Return a conversation, whose `ask` remembers `memory` earlier questions (default: as `chat`)."""
        if memory is not None:
            check("memory", memory, low=0)
        return self._chat(memory, max_tokens, seed, sampling)

    def evaluate(self, text: str) -> Measures:
        """Return how well the model predicts a text: loss, perplexity, bits_per_byte, accuracy."""
        with np.errstate(all="ignore"):
            return evaluate(self._latest, Passages.of_text(self._latest.tokenizer, text), cores())

    def _chat(self, memory: int | None, max_tokens: int, seed: int, sampling: dict[str, float]) -> Chat:
        settings = _sampling(ANSWER, max_tokens, sampling)
        model = self._of("instruction_tuning")
        return Chat(Conversation(model, settings, max_tokens, seed, memory))

    def _of(self, phase: str | None) -> LanguageModel:
        """Return the model of a phase, or of the latest, chosen and read once."""
        if phase not in self._files:
            file = checkpoint_in(self.path, _notice, phase) if self.path.is_dir() else self.path
            if file not in self._models:
                self._models[file] = load_model(file, _notice, cores())
            self._files[phase] = file
        return self._models[self._files[phase]]


def _notice(text: str) -> None:
    if not text.startswith("using "):
        warnings.warn(text, stacklevel=4)


def _sampling(defaults: Sampling, max_tokens: int, given: dict[str, float]) -> Sampling:
    check("max_tokens", max_tokens, low=1)
    if unknown := [name for name in given if name not in OPTIONS]:
        raise TypeError(f"{unknown[0]}: expected one of {', '.join(OPTIONS)}, max_tokens, seed")
    options: dict[str, Any] = dict(given)
    return dataclasses.replace(defaults, **options)


class Chat:
    """A conversation with a model: every answer may depend on what was said before."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def ask(self, question: str) -> str:
        """Return the answer and remember both; "" if the model has none, which is not remembered."""
        with np.errstate(all="ignore"):
            answer = "".join(self._conversation.answer(self._conversation.prompt(question)))
        self._conversation.remember(question, answer)
        return answer

    def clear(self) -> None:
        """Forget what was said."""
        self._conversation.clear()

    @property
    def turns(self) -> list[Turn]:
        """What was said so far, each a (role, content)."""
        return list(self._conversation.turns)


def fit(
    data: Paths | None = None, chat_data: Paths | None = None, *, directory: str | Path = "checkpoints",
    resume: bool = False, fresh: bool = False, quiet: bool = False, **options: Any,
) -> Model:  # fmt: skip
    """Train in this process as `tinyllm train` does, and return the model that was saved in `directory`.

    `data` are files or folders of texts for pretraining, `chat_data` of dialogues for instruction tuning
    after it; with neither, the bundled texts of both. They are paths, because a resume reads them again.
    `options` are those of the command line: n_layer=2, epochs=5, lr=1e-3, workers=1. An earlier run in the
    directory is continued with `resume`, set aside with `fresh`, else an error. Ctrl-C, or a notebook's
    stop, saves and raises KeyboardInterrupt. Raises what the command line prints as errors.
    """
    workers = options.pop("workers", None)
    if workers is not None:
        check("workers", workers, low=1)
    sources = {phase: _paths(each) for phase, each in zip(BUNDLED, (data, chat_data), strict=True) if each}
    given, place = _by_section(options), Path(directory).expanduser()
    start: Fresh | Resume = Resume(None, False, Changes(given, sources))
    if not resume:
        if "pretraining" not in sources:  # before any dialogues, and with none given before the bundled ones
            sources = {**BUNDLED, **sources}
        start = Fresh(given, sources, fresh)
    interrupt = Interrupt()
    try:
        shown = redirect_stdout(StringIO()) if quiet else nullcontext()
        with interrupt, shown, np.errstate(all="ignore"):
            request = Request(start, place, None, plain=True, samples=False)
            code = train.run(request, Machine(workers, None), interrupt, time.monotonic())
    except Stopped as stopped:
        raise KeyboardInterrupt(str(stopped)) from None
    if code:
        raise KeyboardInterrupt("saved; fit(..., resume=True) continues")
    return load(place)


def _paths(given: Paths) -> list[str]:
    paths = [given] if isinstance(given, str | Path) else given
    return [absolute(Path(path).expanduser()) for path in paths]


def _by_section(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the options by section of the config, checked; TypeError or ConfigError for a wrong one."""
    found: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for section, kind in SECTIONS.items():
        for field in filter(is_option, dataclasses.fields(kind)):
            if field.name in options:
                found[section][field.name] = options.pop(field.name)
    if options:
        raise TypeError(f"{next(iter(options))}: fit has no such option; `tinyllm train --help` lists them")
    if found["train"].keys() >= {"epochs", "max_steps"}:
        raise ConfigError("epochs and max_steps both limit a phase: give one of them")
    defaults = Config().to_dict()
    for section, kind in SECTIONS.items():
        checked = from_fields(kind, {**defaults[section], **found[section]}, "fit")
        found[section] = {name: getattr(checked, name) for name in found[section]}
    return found
