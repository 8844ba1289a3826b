"""Every number that can be chosen: frozen, validated dataclasses, one field per option of the command line.

Order: how a field is declared and checked, the four sections, Config, stored documents. Nothing here
imports NumPy, so `--help` is instant and BLAS threads can still be set once the options are read.
"""

from __future__ import annotations

import codecs
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

LONGEST_TEXT = 256  # characters of a stored text that is no path
LARGEST_COUNT = 1 << 62  # of steps, epochs, tokens, saves: all fit a signed 64-bit integer with room
LARGEST = 1 << 40  # of whole numbers that have no limit of their own; steps counted with them fit 64 bits
PHASES = ("pretraining", "instruction_tuning")
HAN_RUN = 16  # of --han-run; measured in docs/log.md
BUNDLED = {"pretraining": "bundled:pretraining.json", "instruction_tuning": "bundled:chat.json"}


class ConfigError(ValueError):
    """A setting is out of range or contradicts another; names the option, what was found and expected."""


def _option(default: Any, text: str, *, low: float | None = None, high: float | None = None,
            choices: tuple[str, ...] | None = None, above: float | None = None,
            before: Any = ...) -> Any:  # fmt: skip
    """Return a field with a rule; files written before it existed mean `before`, if that is given."""
    rule = {"help": text, "low": low, "high": high, "choices": choices, "above": above}
    return dataclasses.field(default=default, metadata=rule if before is ... else {**rule, "before": before})


def added(before: Any, now: Any = None) -> Any:
    """Return a field that files written before it existed lack: they mean `before`, and a new value `now`.

    It is no option of the command line.
    """
    return dataclasses.field(default=before if now is None else now, metadata={"before": before})


class _Section:
    """Checks every field against its declared range when an instance is made."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            check_field(field, getattr(self, field.name))


def flag(name: str) -> str:
    """Return the command-line spelling of a field's name: `n_layer` -> `--n-layer`."""
    return "--async" if name == "asynchronous" else "--" + name.replace("_", "-")  # `async` is a keyword


def is_option(field: dataclasses.Field[Any]) -> bool:
    """Return whether the command line has an option for a field of the config."""
    return "help" in field.metadata


def check_field(field: dataclasses.Field[Any], value: Any) -> None:
    """Raise ConfigError, which names the option, unless a value of the right type is in the field's range."""
    if value is None or isinstance(value, bool) or not is_option(field):
        return
    rule, name = field.metadata, flag(field.name)
    if rule["choices"]:
        if value not in rule["choices"]:
            raise ConfigError(f"{name}: found {value!r}, expected one of {', '.join(rule['choices'])}")
        return
    if isinstance(value, str):
        if not value.isascii() and value != value.encode("utf-8", "replace").decode():
            raise ConfigError(f"{name}: found {value!r}, expected text in UTF-8")
        return
    if not math.isfinite(value):
        raise ConfigError(f"{name}: found {value}, expected a finite number")
    if rule["above"] is not None and not value > rule["above"]:
        raise ConfigError(f"{name}: found {value}, expected more than {rule['above']}")
    if rule["low"] is not None and value < rule["low"]:
        raise ConfigError(f"{name}: found {value}, expected at least {rule['low']}")
    high = LARGEST if rule["high"] is None and isinstance(value, int) else rule["high"]
    if high is not None and value > high:
        raise ConfigError(f"{name}: found {value}, expected at most {high}")


@dataclass(frozen=True)
class ModelConfig(_Section):
    """The shapes of the network; a checkpoint's can never be changed."""

    n_layer: int = _option(2, "transformer blocks", low=1, high=1000)
    n_head: int = _option(8, "attention heads; must divide --n-embd", low=1, high=1 << 16)
    n_embd: int = _option(256, "channels of the residual stream", low=1, high=1 << 16)
    block_size: int = _option(128, "context length, in tokens", low=1, high=1 << 20)
    dropout: float = _option(0.0, "dropout probability", low=0.0, high=0.99)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_embd % self.n_head:
            raise ConfigError(
                f"--n-embd {self.n_embd} is not divisible by --n-head {self.n_head}; "
                f"every head gets the same number of channels"
            )


@dataclass(frozen=True)
class TrainConfig(_Section):
    """How the weights are found; what may be changed at resume is printed as old -> new."""

    batch_size: int = _option(8, "sequences per micro-batch", low=1)
    accumulate: int = _option(1, "gradient accumulation: micro-batches per update", low=1)
    epochs: int = _option(20, "passes over the data in each phase", low=1)
    max_steps: int | None = _option(None, "updates in each phase; replaces --epochs", low=1)
    lr: float = _option(1e-3, "peak learning rate", above=0.0)
    min_lr: float | None = _option(
        None, "learning rate at the end of a phase (default: a tenth of --lr)", low=0.0
    )
    warmup: int | None = _option(
        None, "updates of linear warm-up (default: a twentieth of the phase, at most 100)", low=0
    )
    weight_decay: float = _option(0.0, "decoupled weight decay, of matrices only", low=0.0)
    beta1: float = _option(0.9, "decay rate of Adam's first moment", low=0.0, high=0.999999)
    beta2: float = _option(0.999, "decay rate of Adam's second moment", low=0.0, high=0.9999999)
    epsilon: float = _option(1e-8, "Adam's epsilon", above=0.0)
    grad_clip: float = _option(1.0, "maximum global norm of the gradient; 0 turns clipping off", low=0.0)
    patience: int = _option(
        30, "early stopping: epochs without an improvement of --min-delta (with --eval-every and "
        "--monitor val: evaluations); 0 turns it off", low=0,
    )  # fmt: skip
    min_delta: float = _option(0.01, "minimum improvement of the monitored loss", low=0.0)
    monitor: str | None = _option(
        None, "loss that decides which checkpoint is best and when to stop early (default: val where data "
        "are held out)", choices=("train", "val"),
    )  # fmt: skip
    eval_every: int | None = _option(
        None,
        "updates between evaluations on the validation data (default: once per epoch); with "
        "--monitor val each decides which checkpoint is best",
        low=1,
    )
    seed: int = _option(1337, "random seed", low=0)
    recompute: bool = _option(
        False, "keep only the residual stream of each block and recompute its other activations in the "
        "backward pass: a fraction of the memory for about 25%% more time", before=False,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_lr is not None and self.min_lr > self.lr:
            raise ConfigError(
                f"--min-lr {self.min_lr} is above --lr {self.lr}; the rate decays from --lr to --min-lr"
            )


def _is_encoding(name: str) -> bool:
    """Return whether Python can decode text of this encoding piece by piece."""
    try:
        decodes = codecs.lookup(name).incrementaldecoder is not None
        return decodes and "".encode(name).decode(name) == ""
    except (LookupError, ValueError):  # unknown, or not of text, such as hex
        return False


@dataclass(frozen=True)
class DataConfig(_Section):
    """How text becomes batches; stored, because other choices would be another run."""

    tokenizer: str = _option("bpe", "byte-level BPE, or one token per character", choices=("bpe", "char"))
    vocab_size: int = _option(2048, "maximum vocabulary size of the BPE tokenizer", low=257, high=1 << 20)
    documents: bool = _option(
        False, "split .txt files into documents at blank lines; by default a file is one stream"
    )
    train_on_prompts: bool = _option(False, "also compute the loss on prompt tokens")
    val_fraction: float | None = _option(
        None, "fraction of the data held out (default: 0.1; bundled 0.05, small texts 0)", low=0.0, high=0.9
    )
    encoding: str = _option(
        "utf-8", "encoding of texts without a byte order mark, such as gb18030", before="utf-8"
    )
    separator: str = _option(
        "", "split texts into documents at this string, such as '<|endoftext|>'", before=""
    )
    han_run: int | None = _option(
        None, f"longest run of Han that BPE may merge (default: {HAN_RUN})", low=1, high=16, before=None
    )
    suffix: str = _option(
        "", "of folders, also read files with these suffixes as text, such as .md,.py", before=""
    )
    join_dialogues: bool = _option(
        True, "join dialogues into conversations of one to three, others in each epoch", before=False
    )
    vary_questions: bool = _option(
        False, "ask questions in other forms in each epoch: without their mark, in lower case", before=False
    )
    # No option. Runs from before it held documents out by their place among the others.
    held_out_by: str = added("place", now="content")
    mixed_windows: bool = added(False, now=True)  # short documents are packed in an order of chance
    separate_markers: bool = added(False, now=True)  # in dialogues they are encoded apart, as in dialogue.py

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _is_encoding(self.encoding):
            raise ConfigError(f"--encoding: found {self.encoding!r}, expected one such as utf-8 or gb18030")
        if not all(part.startswith(".") and part != "." for part in self.suffixes):
            raise ConfigError(f"--suffix: found {self.suffix!r}, expected suffixes such as .md,.py")
        if self.held_out_by not in ("content", "place"):
            raise ConfigError(f"held_out_by: found {self.held_out_by!r}, expected content or place")

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The suffixes of --suffix, in lower case."""
        return tuple(part.strip().lower() for part in self.suffix.split(",")) if self.suffix else ()


@dataclass(frozen=True)
class SavingConfig(_Section):
    """Which checkpoints are written, and how: no number of the training depends on it."""

    strategy: str = _option(
        "best-and-last", "which checkpoints to keep: best, last, periodic:N, best-and-last or "
        "best-and-periodic:N, with N in epochs",
    )  # fmt: skip
    keep_best_n: int = _option(3, "best checkpoints kept per phase", low=1)
    save_every_steps: int = _option(0, "also save checkpoint_last every N updates; 0 turns it off", low=0)
    save_every_minutes: float = _option(5.0, "also save checkpoint_last every X minutes; 0: off", low=0)
    sample_every: int = _option(0, "show a text that the model writes every N updates", low=0, before=0)
    asynchronous: bool = _option(True, "write in the background, instead of waiting for each save")


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
S = TypeVar("S")


def from_fields(kind: type[S], stored: Any, name: str) -> S:
    """Build the dataclass `kind` from a plain dict of exactly its fields and types; ConfigError otherwise.

    A field that says what files from before it existed mean may be missing.
    """
    hints = get_type_hints(kind)
    rules = {each.name: each.metadata for each in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values = {name: rule["before"] for name, rule in rules.items() if "before" in rule}
    if not isinstance(stored, dict) or not set(hints) - set(values) <= set(stored) <= set(hints):
        raise ConfigError(f"{name}: expected the fields {', '.join(hints)}")
    for field, value in stored.items():
        hint = hints[field]
        allowed = [get_origin(t) or t for t in (get_args(hint) if isinstance(hint, UnionType) else (hint,))]
        if float in allowed and type(value) is int:
            value = float(value)
        if type(value) not in allowed:
            raise ConfigError(f"{name}.{field}: expected {hint}, found {type(value).__name__}")
        # A section checks its own fields, of which some may hold a line end, and so may running text.
        free = issubclass(kind, _Section) or rules[field].get("free")
        values[field] = value if free else checked(value, f"{name}.{field}")
    return kind(**values)


def checked(value: Any, name: str) -> Any:
    """Return a stored value, or raise ConfigError: numbers count something, texts are one printable line."""
    if type(value) is int and not 0 <= value < LARGEST_COUNT:
        raise ConfigError(f"{name}: found {value}, expected a whole number of at least 0")
    if isinstance(value, str) and not (len(value) <= LONGEST_TEXT and value.isprintable()):
        raise ConfigError(f"{name}: expected one line of {LONGEST_TEXT} characters, found {value!r:.80}")
    return value


def replace(config: Config, options: Mapping[str, Mapping[str, Any]]) -> Config:
    """Return `config` with other values for the given fields of each section; ConfigError as for a Config."""
    parts = {name: dataclasses.replace(getattr(config, name), **options.get(name, {})) for name in SECTIONS}
    return Config(**parts)
