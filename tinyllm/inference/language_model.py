"""A trained model, ready to generate: its parameters, its tokenizer, and the form of its training texts.

Order: the form of the texts, LanguageModel, loading one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyllm.arena import Array, aligned_empty
from tinyllm.checkpoint import CheckpointError, CheckpointManager, load_weights
from tinyllm.checkpoint.reader import retry_if_gone
from tinyllm.config import PHASES, Config, DataConfig, ModelConfig, is_bundled
from tinyllm.inference import writing
from tinyllm.inference.decode import Decoder
from tinyllm.inference.settings import Sampling
from tinyllm.inference.weights import Weights
from tinyllm.inference.writing import Continuation
from tinyllm.option import ConfigError
from tinyllm.run.state import Sources, TrainState, layout_of
from tinyllm.text.dialogue import Turn, encode, joined, prompt_for
from tinyllm.text.tokenizer import Tokenizer
from tinyllm.words import counted


class Form(NamedTuple):
    """What the training texts looked like: prompts look the same."""

    starts_with_end: bool = True  # end_of_text stands before each
    separate_markers: bool = True  # those of dialogues are encoded apart
    system: str = ""  # the system text of all dialogues, if they share one
    questions: tuple[str, ...] = ()  # some of the dialogues, to be tried
    earlier: int | None = None  # exchanges before a question that a chat shows; None: as many as fit

    @classmethod
    def of(cls, fields: dict[str, Any], data: DataConfig) -> Form:
        """Return the form of a state's texts, judging by its `to_dict()`; ConfigError if that cannot be.

        end_of_text stood before all but streams, of which training saw windows from the middle: .txt files
        without --documents. If the fields do not name the texts, it did.
        """
        stored = fields.get("sources") or {}
        if not isinstance(stored, dict):
            raise ConfigError(f"sources: expected texts by phase, found {stored!r:.80}")
        sources = {
            phase: Sources.from_dict(stored[phase], f"sources.{phase}") for phase in PHASES if phase in stored
        }
        paths = [path for source in sources.values() for path in source.paths]
        streams = bool(paths) and all(path.lower().endswith(".txt") for path in paths)
        starts_with_end = not streams or data.documents or "instruction_tuning" in sources
        # Of the last phase: no other has dialogues.
        last = [*sources.values()][-1] if sources else Sources([], "")
        earlier = 1 if is_bundled("instruction_tuning", last.paths) else None
        return cls(starts_with_end, data.separate_markers, last.system, tuple(last.questions), earlier)


UNKNOWN = Form()


@dataclass(frozen=True)
class LanguageModel:
    """Parameters, and all that is needed to encode prompts for them and to decode what they generate."""

    weights: Weights
    tokenizer: Tokenizer
    form: Form = UNKNOWN
    threads: int = 1

    @classmethod
    def of(cls, state: TrainState) -> LanguageModel:
        """Return the model of a run in memory; it shares the parameters, so training changes it."""
        weights = Weights.of(state.config.model, state.layout, state.rows[0])
        return cls(weights, state.tokenizer, Form.of(state.to_dict(), state.config.data))

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.weights.config

    def decoder(self, B: int = 1) -> Decoder:
        """Return a decoder for B sequences."""
        return Decoder(self.weights, B, self.threads)

    def prompt(self, text: str) -> Array:
        """Return the tokens (n,) int32 of `text` as the start of a text."""
        tokens = self.tokenizer.encode(text)
        if self.form.starts_with_end or not tokens.size:  # a prediction needs at least one token before it
            tokens = np.concatenate([np.array([self.tokenizer.end_of_text], np.int32), tokens])
        return tokens

    def question(self, turns: Sequence[Turn]) -> Array:
        """Return the tokens (n,) int32 behind which the model answers the last of `turns`, a question."""
        segments = prompt_for(turns)
        return encode(self.tokenizer, segments if self.form.separate_markers else joined(segments))[0]

    def generate(
        self, prompt: Array, sampling: Sampling, max_tokens: int, address: tuple[int, ...],
        *, min_tokens: int = 0, decoder: Decoder | None = None,
    ) -> Iterator[int]:  # fmt: skip
        """Yield up to `max_tokens` tokens that continue the prompt (n,), until the model ends the text.

        `address` is the seed and the number of the text: the same address samples the same text. It does not
        end before it has `min_tokens` tokens, and is UTF-8, though its end may lack the rest of a character.
        The part of the prompt that `decoder` already holds is not computed again. The repetition penalty
        counts the prompt's tokens too. Raises SamplingError.
        """
        end = self.tokenizer.end_of_text
        states = self.tokenizer.states
        continuation = Continuation(prompt, sampling, address, end, max_tokens, min_tokens, states)
        return writing.generate(decoder or self.decoder(), continuation)

    def generate_all(
        self, prompts: Sequence[Array], sampling: Sampling, max_tokens: int, seed: int, *, min_tokens: int = 0
    ) -> list[Iterator[int]]:
        """Return one iterator per prompt over the tokens that continue it; they are generated in batches.

        Number i yields what `generate` does at the address (seed, i), to the bit. Reading them in order
        needs the least memory.
        """
        end, states = self.tokenizer.end_of_text, self.tokenizer.states
        continuations = [
            Continuation(prompt, sampling, (seed, number), end, max_tokens, min_tokens, states)
            for number, prompt in enumerate(prompts)
        ]
        decoder = self.decoder(min(len(continuations), writing.MAX_TOGETHER))
        return writing.split(writing.generate_all(decoder, continuations), len(continuations))


def load_model(
    path: Path, notice: Callable[[str], None] = lambda _: None, threads: int = 1, phase: str | None = None
) -> LanguageModel:
    """Return the model in a .bin, or in a folder of checkpoints; it will generate on so many threads.

    Of a folder: the best checkpoint of the phase. Without one, of the phase that the newest checkpoint is in,
    or the newest if there is no best; damaged files are skipped with a notice. Raises CheckpointError.
    """
    return load_model_with_file(path, notice, threads, phase)[0]


def load_model_with_file(
    path: Path, notice: Callable[[str], None] = lambda _: None, threads: int = 1, phase: str | None = None
) -> tuple[LanguageModel, Path]:
    """Return the model of `load_model`, and the file it was read from, or raise CheckpointError."""

    def read() -> tuple[Path, dict[str, Any], dict[str, Array]]:
        chosen = checkpoint_in(path, notice, phase) if path.is_dir() else path
        return chosen, *load_weights(chosen)

    file, fields, weights = retry_if_gone(read) if path.is_dir() else read()
    try:
        whole, tokenizer = Config.from_dict(fields["config"]), Tokenizer.from_dict(fields["tokenizer"])
        config, form = whole.model, Form.of(fields, whole.data)
        if config.n_layer > len(weights):  # before the layout is made, which has as many blocks
            found = counted(len(weights), "tensor")
            raise ValueError(f"config.model.n_layer: {config.n_layer}, with {found} in all")
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise CheckpointError(f"{file}: document: not a valid model: {error}") from error
    layout = layout_of(config, tokenizer.vocab_size)
    expected = {slot.name: slot.spec.shape for slot in layout.slots}
    for name in sorted(expected.keys() | weights.keys()):
        shape = weights[name].shape if name in weights else None
        if shape != expected.get(name):
            raise CheckpointError(f"{file}: {name}: expected {expected.get(name)}, found {shape}")
    row = aligned_empty(layout.size, np.float32)
    row[:] = 0
    for name, view in layout.named(row).items():
        view[...] = weights.pop(name)
    return LanguageModel(Weights.of(config, layout, row), tokenizer, form, threads), file


def checkpoint_in(folder: Path, notice: Callable[[str], None], phase: str | None = None) -> Path:
    """Return the file that `load_model` reads, and say which it is; CheckpointError if there is none."""
    with CheckpointManager(folder, read_only=True, on_notice=notice) as manager:
        file = manager.get_best_checkpoint(phase) if phase else None
        if phase and not file and manager.list_checkpoints():
            notice(f"{folder}: no best checkpoint of {phase.replace('_', ' ')} was kept")
        file = file or manager.get_best_checkpoint() or manager.get_last_checkpoint()
    if file is None:
        raise CheckpointError(f"{folder}: no valid checkpoint here; give the folder of a run, or a .bin")
    notice(f"using {file}")
    return file
