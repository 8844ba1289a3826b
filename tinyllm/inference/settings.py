"""How a text is sampled, as a value; nothing imports NumPy here, so `--help` is instant.

Order: the check of a value's range, Sampling, the usual ones, what the command line says of its fields.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tinyllm.option import ConfigError, flag


def check(
    name: str, value: float, *, low: float | None = None, above: float | None = None, high: float = math.inf
) -> None:
    """Raise ConfigError, which names the option, unless `value` is finite and within the bounds."""
    lower = f"at least {low}" if low is not None else f"more than {above}"
    expected = lower + (f" and at most {high}" if high < math.inf else "")
    fits = -math.inf < value <= high and value < math.inf  # isfinite fails for whole numbers beyond float64
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
TEXT = Sampling(temperature=0.8, top_p=0.95)  # where nothing else is asked for: of a text,
ANSWER = GREEDY  # of an answer: what is sampled is more often wrong
OPTIONS = {
    "temperature": ("X", "higher is more random; 0 always takes the most probable token"),
    "top_k": ("K", "sample from the K most probable tokens only; 0: from all"),
    "top_p": ("P", "nucleus sampling: the smallest set of tokens with total probability P; 1: off"),
    "repetition_penalty": ("X", "above 1 makes tokens that are already in the text less likely; 1: off"),
}
