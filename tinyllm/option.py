"""A setting is a field of a frozen dataclass with a rule, which the command line and stored files share.

Order: declaring a field, checking it, reading it back from a stored document.
"""

from __future__ import annotations

import dataclasses
import math
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

LONGEST_TEXT = 256  # characters of a stored text that is no path
LARGEST_COUNT = 1 << 62  # of steps, epochs, tokens, saves: all fit a signed 64-bit integer with room
LARGEST = 1 << 40  # of whole numbers that have no limit of their own; steps counted with them fit 64 bits


class ConfigError(ValueError):
    """A setting is out of range or contradicts another; names the option, what was found and expected."""


def option(default: Any, text: str, *, low: float | None = None, high: float | None = None,
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


class Section:
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
            raise ConfigError(f"{name}: found {value!r:.80}, expected one of {', '.join(rule['choices'])}")
        return
    if isinstance(value, str):
        if not value.isascii() and value != value.encode("utf-8", "replace").decode():
            raise ConfigError(f"{name}: found {value!r:.80}, expected text in UTF-8")
        return
    if not -math.inf < value < math.inf:  # isfinite fails for whole numbers beyond float64
        raise ConfigError(f"{name}: found {value}, expected a finite number")
    if rule["above"] is not None and not value > rule["above"]:
        raise ConfigError(f"{name}: found {value}, expected more than {rule['above']}")
    if rule["low"] is not None and value < rule["low"]:
        raise ConfigError(f"{name}: found {value}, expected at least {rule['low']}")
    high = LARGEST if rule["high"] is None and isinstance(value, int) else rule["high"]
    if high is not None and value > high:
        raise ConfigError(f"{name}: found {value}, expected at most {high}")


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
        free = issubclass(kind, Section) or rules[field].get("free")
        values[field] = value if free else checked(value, f"{name}.{field}")
    return kind(**values)


def checked(value: Any, name: str) -> Any:
    """Return a stored value, or raise ConfigError: numbers count something, texts are one printable line."""
    if type(value) is int and not 0 <= value < LARGEST_COUNT:
        raise ConfigError(f"{name}: found {value}, expected a whole number of at least 0")
    if isinstance(value, str) and not (len(value) <= LONGEST_TEXT and value.isprintable()):
        raise ConfigError(f"{name}: expected one line of {LONGEST_TEXT} characters, found {value!r:.80}")
    return value
