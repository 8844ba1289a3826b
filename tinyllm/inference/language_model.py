"""A trained model, ready to write: its parameters, its tokenizer, and how the texts it knows begin.

Order: LanguageModel, loading one, how its texts begin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyllm.arena import Array, aligned_empty
from tinyllm.checkpoint import CheckpointError, CheckpointManager, load_weights
from tinyllm.checkpoint.reader import patient
from tinyllm.config import Config, ModelConfig
from tinyllm.inference import writing
from tinyllm.inference.decode import Decoder
from tinyllm.inference.settings import Sampling
from tinyllm.inference.weights import Weights
from tinyllm.inference.writing import Text
from tinyllm.run.state import TrainState, layout_of
from tinyllm.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class LanguageModel:
    """Parameters and what is needed to read and write text with them."""

    weights: Weights
    tokenizer: Tokenizer
    begins_texts: bool = True  # the texts of its training began with end_of_text: so does a prompt
    threads: int = 1

    @classmethod
    def of(cls, state: TrainState) -> LanguageModel:
        """Return the model of a run in memory; it shares the parameters, and so follows the training."""
        weights = Weights.of(state.config.model, state.layout, state.rows[0])
        return cls(weights, state.tokenizer, begins_texts(state.document()))

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.weights.config

    def decoder(self, B: int = 1) -> Decoder:
        """Return what B texts need to grow."""
        return Decoder(self.weights, B, self.threads)

    def prompt(self, text: str) -> Array:
        """Return the tokens (n,) int32 that stand for `text` at the beginning of a text."""
        tokens = self.tokenizer.encode(text)
        if self.begins_texts or not tokens.size:  # there is no prediction without a token before it
            tokens = np.concatenate([np.array([self.tokenizer.end_of_text], np.int32), tokens])
        return tokens

    def write(
        self, prompt: Array, sampling: Sampling, max_tokens: int, address: tuple[int, ...],
        *, at_least: int = 0, decoder: Decoder | None = None,
    ) -> Iterator[int]:  # fmt: skip
        """Yield up to `max_tokens` tokens that continue the prompt (n,), until the model ends the text.

        `address` is the seed and the number of the text: the same address draws the same text. end_of_text
        is not drawn before `at_least` tokens. What `decoder` holds of the prompt's beginning is not computed
        again. The repetition penalty counts the prompt's tokens too. Raises SamplingError.
        """
        text = Text(prompt, sampling, address, self.tokenizer.end_of_text, max_tokens, at_least)
        return writing.write(decoder or self.decoder(), text)

    def write_all(
        self, prompts: Sequence[Array], sampling: Sampling, max_tokens: int, seed: int, *, at_least: int = 0
    ) -> list[Iterator[int]]:
        """Return the tokens of texts that go on from the prompts side by side; read them in order.

        Number i is what `write` gives at the address (seed, i), to the bit.
        """
        end = self.tokenizer.end_of_text
        texts = [
            Text(prompt, sampling, (seed, number), end, max_tokens, at_least)
            for number, prompt in enumerate(prompts)
        ]
        decoder = self.decoder(min(len(texts), writing.TOGETHER))
        return writing.apart(writing.write_all(decoder, texts), len(texts))


def load(path: Path, notice: Callable[[str], None] = lambda _: None, threads: int = 1) -> LanguageModel:
    """Return the model in a .bin, or in a folder of checkpoints; it will write on so many threads.

    Of a folder: the best checkpoint of the phase that the newest one is in, or the newest if there is no
    best; damaged files are passed over with a notice. Raises CheckpointError.
    """
    return load_with_file(path, notice, threads)[0]


def load_with_file(
    path: Path, notice: Callable[[str], None] = lambda _: None, threads: int = 1
) -> tuple[LanguageModel, Path]:
    """Return what `load` does, and the file that it was read from, or raise CheckpointError."""

    def look() -> tuple[Path, dict[str, Any], dict[str, Array]]:
        chosen = _chosen(path, notice) if path.is_dir() else path
        return chosen, *load_weights(chosen)

    file, document, weights = patient(look) if path.is_dir() else look()
    try:
        config = Config.from_document(document["config"]).model
        tokenizer = Tokenizer.from_document(document["tokenizer"])
        begins = begins_texts(document)
        if config.n_layer > len(weights):  # before a layout is made: it would have as many blocks
            raise ValueError(f"config.model.n_layer: {config.n_layer}, with {len(weights)} tensors in all")
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise CheckpointError(f"{file}: document: no model can be made of it: {error}") from error
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
    return LanguageModel(Weights.of(config, layout, row), tokenizer, begins, threads), file


def _chosen(folder: Path, notice: Callable[[str], None]) -> Path:
    with CheckpointManager(folder, read_only=True, on_notice=notice) as manager:
        file = manager.get_best_checkpoint() or manager.get_last_checkpoint()
    if file is None:
        raise CheckpointError(f"{folder}: holds no sound checkpoint; give a folder of a run, or a .bin")
    notice(f"using {file}")
    return file


def begins_texts(document: dict[str, Any]) -> bool:
    """Return whether the training texts began with end_of_text, from what a checkpoint says of them.

    All do but streams, of which training saw windows from the middle: .txt files without --documents.
    Where the document does not tell, they do.
    """
    sources = document.get("sources") or {}
    paths = [path for source in sources.values() for path in source["paths"]]
    streams = bool(paths) and all(path.lower().endswith(".txt") for path in paths)
    return not streams or document["config"]["data"]["documents"] or "instruction_tuning" in sources
