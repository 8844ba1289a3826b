"""Every number that can be chosen: frozen, validated dataclasses, one field per option of the command line.

Order: the four sections, Config, changing it; option.py says how a field is declared. Nothing here
imports NumPy, so `--help` is instant and BLAS threads can still be set once the options are read.
"""

from __future__ import annotations

import codecs
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinyllm.option import ConfigError, Section, added, from_fields, option

PHASES = ("pretraining", "instruction_tuning")
HAN_RUN = 16  # of --han-run; measured in docs/log.md
BUNDLED = {
    "pretraining": ["bundled:pretraining.json", "bundled:chat.json"],
    "instruction_tuning": ["bundled:chat.json"],
}
BUNDLED_OPTIONS: dict[str, dict[str, Any]] = {  # defaults where all texts are bundled ones; see docs/log.md
    "train": {"epochs": 11, "lr": 3e-3, "beta2": 0.99, "tuning_epochs": 1, "tuning_lr": 3e-4},
    "data": {"vocab_size": 4096, "han_run": 1, "join_documents": True, "vary_questions": True},
}


@dataclass(frozen=True)
class ModelConfig(Section):
    """The shapes of the network; a checkpoint's can never be changed."""

    n_layer: int = option(2, "transformer blocks", low=1, high=1000)
    n_head: int = option(8, "attention heads; must divide --n-embd", low=1, high=1 << 16)
    n_embd: int = option(256, "channels of the residual stream", low=1, high=1 << 16)
    block_size: int = option(128, "context length, in tokens", low=1, high=1 << 20)
    dropout: float = option(0.0, "dropout probability", low=0.0, high=0.99)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_embd % self.n_head:
            raise ConfigError(
                f"--n-embd {self.n_embd} is not divisible by --n-head {self.n_head}; "
                f"every head gets the same number of channels"
            )


@dataclass(frozen=True)
class TrainConfig(Section):
    """How the weights are found; what may be changed at resume is printed as old -> new."""

    batch_size: int = option(8, "sequences per micro-batch", low=1)
    accumulate: int = option(1, "gradient accumulation: micro-batches per update", low=1)
    epochs: int = option(20, "passes over the data in each phase", low=1)
    max_steps: int | None = option(None, "updates in each phase; replaces --epochs", low=1)
    tuning_epochs: int | None = option(
        None, "passes over the data of instruction tuning (default: as --epochs)", low=1, before=None
    )
    lr: float = option(1e-3, "peak learning rate", above=0.0)
    tuning_lr: float | None = option(
        None, "peak learning rate of instruction tuning (default: as --lr)", above=0.0, before=None
    )
    min_lr: float | None = option(
        None, "learning rate at the end of a phase (default: a tenth of --lr)", low=0.0
    )
    warmup: int | None = option(
        None, "updates of linear warm-up (default: a twentieth of the phase, at most 100)", low=0
    )
    weight_decay: float = option(0.0, "decoupled weight decay, of matrices only", low=0.0)
    beta1: float = option(0.9, "decay rate of Adam's first moment", low=0.0, high=0.999999)
    beta2: float = option(0.999, "decay rate of Adam's second moment", low=0.0, high=0.9999999)
    epsilon: float = option(1e-8, "Adam's epsilon", above=0.0)
    grad_clip: float = option(1.0, "maximum global norm of the gradient; 0 turns clipping off", low=0.0)
    patience: int = option(
        30, "early stopping: epochs without an improvement of --min-delta (with --eval-every and "
        "--monitor val: evaluations); 0 turns it off", low=0,
    )  # fmt: skip
    min_delta: float = option(0.01, "minimum improvement of the monitored loss", low=0.0)
    monitor: str | None = option(
        None, "loss that decides which checkpoint is best and when to stop early (default: val where data "
        "are held out)", choices=("train", "val"),
    )  # fmt: skip
    eval_every: int | None = option(
        None,
        "updates between evaluations on the validation data (default: once per epoch); with "
        "--monitor val each decides which checkpoint is best",
        low=1,
    )
    seed: int = option(1337, "random seed", low=0)
    recompute: bool = option(
        False, "keep only the residual stream of each block and recompute its other activations in the "
        "backward pass: a fraction of the memory for about 25%% more time", before=False,
    )  # fmt: skip
    products: str = option(
        "blas", "who multiplies matrices: compiled loops of this program, or NumPy's BLAS",
        choices=("own", "blas"), before="blas",
    )  # fmt: skip

    # No option: the output head also reads positions that carry no loss, for nothing. Earlier runs go on so,
    # because products of other shapes may round their sums in another way.
    all_rows: bool = added(True, now=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_lr is not None and self.min_lr > self.lr:
            raise ConfigError(
                f"--min-lr {self.min_lr} is above --lr {self.lr}; the rate decays from --lr to --min-lr"
            )

    def of(self, phase: str) -> TrainConfig:
        """Return the settings that hold in a phase: instruction tuning may have its own epochs and rate."""
        if phase != "instruction_tuning":
            return self
        lr = self.tuning_lr or self.lr
        min_lr = None if self.min_lr is None else min(self.min_lr, lr)
        return dataclasses.replace(self, epochs=self.tuning_epochs or self.epochs, lr=lr, min_lr=min_lr)


def _is_encoding(name: str) -> bool:
    """Return whether Python can decode text of this encoding piece by piece."""
    try:
        decodes = codecs.lookup(name).incrementaldecoder is not None
        return decodes and "".encode(name).decode(name) == ""
    except (LookupError, ValueError):  # unknown, or not of text, such as hex
        return False


@dataclass(frozen=True)
class DataConfig(Section):
    """How text becomes batches; stored, because other choices would be another run."""

    tokenizer: str = option("bpe", "byte-level BPE, or one token per character", choices=("bpe", "char"))
    vocab_size: int = option(2048, "maximum vocabulary size of the BPE tokenizer", low=257, high=1 << 20)
    documents: bool = option(
        False, "split .txt files into documents at blank lines; by default a file is one stream"
    )
    train_on_prompts: bool = option(False, "also compute the loss on prompt tokens")
    val_fraction: float | None = option(
        None, "fraction of the data held out (default: 0.1; bundled 0.05, small texts 0)", low=0.0, high=0.9
    )
    encoding: str = option(
        "utf-8", "encoding of texts without a byte order mark, such as gb18030", before="utf-8"
    )
    separator: str = option(
        "", "split texts into documents at this string, such as '<|endoftext|>'", before=""
    )
    han_run: int | None = option(
        None, f"longest run of Han that BPE may merge (default: {HAN_RUN})", low=1, high=16, before=None
    )
    suffix: str = option(
        "", "of folders, also read files with these suffixes as text, such as .md,.py", before=""
    )
    join_dialogues: bool = option(
        True, "join dialogues into conversations of one to three, others in each epoch", before=False
    )
    join_documents: bool = option(
        False,
        "join short documents that are no dialogues too, so that each is met behind others",
        before=False,
    )
    vary_questions: bool = option(
        False, "ask questions in other forms in each epoch: without their mark, in lower case", before=False
    )
    # No option: the hash of a document's tokens says whether it is held out. The oldest runs drew it by the
    # document's place among the others; later ones hashed its content and the phase, each phase by itself.
    held_out_by: str = added("place", now="tokens")
    mixed_windows: bool = added(False, now=True)  # short documents are packed in an order of chance
    separate_markers: bool = added(False, now=True)  # in dialogues they are encoded apart, as in dialogue.py

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _is_encoding(self.encoding):
            raise ConfigError(
                f"--encoding: found {self.encoding!r:.80}, expected one such as utf-8 or gb18030"
            )
        if not all(part.startswith(".") and part != "." for part in self.suffixes):
            raise ConfigError(f"--suffix: found {self.suffix!r:.80}, expected suffixes such as .md,.py")
        if self.held_out_by not in ("tokens", "content", "place"):
            raise ConfigError(
                f"held_out_by: found {self.held_out_by!r:.80}, expected tokens, content or place"
            )

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The suffixes of --suffix, in lower case."""
        return tuple(part.strip().lower() for part in self.suffix.split(",")) if self.suffix else ()


@dataclass(frozen=True)
class SavingConfig(Section):
    """Which checkpoints are written, and how: no number of the training depends on it."""

    strategy: str = option(
        "best-and-last", "which checkpoints to keep: best, last, periodic:N, best-and-last or "
        "best-and-periodic:N, with N in epochs",
    )  # fmt: skip
    keep_best_n: int = option(3, "best checkpoints kept per phase", low=1)
    save_every_steps: int = option(0, "also save checkpoint_last every N updates; 0 turns it off", low=0)
    save_every_minutes: float = option(5.0, "also save checkpoint_last every X minutes; 0: off", low=0)
    sample_every: int = option(0, "show a text that the model writes every N updates", low=0, before=0)
    asynchronous: bool = option(True, "write in the background, instead of waiting for each save")


@dataclass(frozen=True)
class Config:
    """All that decides a run, apart from the texts themselves; stored in every checkpoint."""

    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    data: DataConfig = DataConfig()
    saving: SavingConfig = SavingConfig()

    def __post_init__(self) -> None:
        # None is not yet decided, which training/defaults.py does once the texts are known.
        if self.train.monitor == "val" and self.data.val_fraction == 0:
            raise ConfigError("--monitor val: there is no validation data; give --val-fraction, such as 0.1")
        if self.train.eval_every and self.data.val_fraction == 0:
            raise ConfigError("--eval-every: there is no validation data; give --val-fraction, such as 0.1")

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return the config as nested plain dicts, as they are stored in a checkpoint."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Config:
        """Rebuild a Config; unknown or missing fields and wrong types raise ConfigError."""
        if not isinstance(fields, dict) or not set(SECTIONS) - {"saving"} <= set(fields) <= set(SECTIONS):
            raise ConfigError(f"config: expected the sections {', '.join(SECTIONS)}")
        return cls(**{name: from_fields(SECTIONS[name], fields[name], f"config.{name}") for name in fields})


SECTIONS: dict[str, type[Any]] = {
    "model": ModelConfig, "train": TrainConfig, "data": DataConfig, "saving": SavingConfig,
}  # fmt: skip


def replace(config: Config, options: Mapping[str, Mapping[str, Any]]) -> Config:
    """Return `config` with other values for the given fields of each section; ConfigError as for a Config."""
    parts = {name: dataclasses.replace(getattr(config, name), **options.get(name, {})) for name in SECTIONS}
    return Config(**parts)


def is_bundled(phase: str, paths: list[str]) -> bool:
    """Return whether the texts of a phase are those that come with tinyllm."""
    return paths == BUNDLED[phase]


def for_texts(
    options: Mapping[str, Mapping[str, Any]], sources: Mapping[str, list[str]], trained: bool = False
) -> dict[str, dict[str, Any]]:
    """Return the given `options`, and the defaults of the bundled texts if all `sources` are those.

    With `trained`, a tokenizer is there already. What is given for all phases holds for tuning too.
    """
    found = {section: dict(values) for section, values in options.items()}
    if not all(is_bundled(phase, paths) for phase, paths in sources.items()):
        return found
    given = {name for values in options.values() for name in values}
    without = (
        {"vocab_size", "han_run"} if trained or found.get("data", {}).get("tokenizer") == "char" else set()
    )
    without |= {"epochs", "tuning_epochs"} if given & {"epochs", "max_steps"} else set()
    without |= {"tuning_lr"} if "lr" in given else set()
    for section, values in BUNDLED_OPTIONS.items():
        kept = {name: value for name, value in values.items() if name not in without}
        found[section] = {**kept, **found.get(section, {})}
    return found
