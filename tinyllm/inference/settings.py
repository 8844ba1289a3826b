"""The options of generate and chat; nothing imports NumPy here, so `--help` is instant.

Order: the check, Sampling, its options, the other options that both programs have.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import Any

from tinyllm.config import ConfigError, flag
from tinyllm.parallel.threads import cores


def check(
    name: str, value: float, *, low: float | None = None, above: float | None = None, high: float = math.inf
) -> None:
    """Raise ConfigError, which names the option, unless `value` is finite and within the bounds."""
    lower = f"at least {low}" if low is not None else f"more than {above}"
    expected = lower + (f" and at most {high}" if high < math.inf else "")
    fits = math.isfinite(value) and value <= high
    if not fits or (low is not None and value < low) or (above is not None and value <= above):
        raise ConfigError(f"{flag(name)}: found {value}, expected {expected}")


@dataclass(frozen=True)
class Sampling:
    """How the next token is sampled; all four combine, and ConfigError names a value out of range."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        check("temperature", self.temperature, low=0)
        check("top_k", self.top_k, low=0)
        check("top_p", self.top_p, above=0, high=1)
        check("repetition_penalty", self.repetition_penalty, above=0)


GREEDY = Sampling(temperature=0.0)
OPTIONS = {
    "temperature": ("X", "higher is more random; 0 always takes the most probable token"),
    "top_k": ("K", "sample from the K most probable tokens; 0: off"),
    "top_p": ("P", "nucleus sampling: the smallest set of tokens with total probability P; 1: off"),
    "repetition_penalty": ("X", "above 1 makes tokens that occurred before less probable; 1: off"),
}


def add_sampling_arguments(parser: argparse.ArgumentParser, defaults: Sampling) -> None:
    """Add one option per field of Sampling, absent from the namespace unless given; and the seed."""
    group = parser.add_argument_group("sampling")
    for name, (letter, text) in OPTIONS.items():
        value = getattr(defaults, name)
        group.add_argument(
            flag(name), type=type(value), default=argparse.SUPPRESS, metavar=letter,
            help=f"{text} (default: {value:g})",
        )  # fmt: skip
    group.add_argument(
        "--seed",
        type=int,
        default=1337,
        metavar="N",
        help="the same seed gives the same text (default: 1337)",
    )


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Add the model."""
    parser.add_argument(
        "model", metavar="MODEL",
        help="a .bin (a checkpoint or exported weights), or a folder of checkpoints: its best of the latest "
        "phase, or else its newest",
    )  # fmt: skip


def add_model_arguments(parser: argparse.ArgumentParser, max_tokens: int) -> None:
    """Add the model, the longest text, and the threads."""
    add_model_argument(parser)
    parser.add_argument(
        "--max-tokens", type=int, default=max_tokens, metavar="N",
        help=f"maximum length of a text, in tokens (default: {max_tokens})",
    )  # fmt: skip
    parser.add_argument(
        "--blas-threads", type=int, default=cores(), metavar="N",
        help="threads that share the work on every token (default: one per core, here %(default)s)",
    )  # fmt: skip


def given_sampling(args: argparse.Namespace) -> dict[str, Any]:
    """Return the sampling options that were given on the command line."""
    return {name: getattr(args, name) for name in OPTIONS if hasattr(args, name)}


def check_common(args: argparse.Namespace) -> None:
    """Raise ConfigError where an option of both programs is out of range."""
    check("max_tokens", args.max_tokens, low=1)
    check("blas_threads", args.blas_threads, low=1)
    check("seed", args.seed, low=0)
