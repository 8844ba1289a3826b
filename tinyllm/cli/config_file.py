"""`--config FILE`: the settings of a TOML file, as if they were typed; the command line overrides them.

    lr = 0.001              a setting by its name alone
    [model]                 or in its section, as a run writes them to config.toml
    n_layer = 4
    [texts]
    pretraining = ["book.txt"]      relative to the folder of the file

Order: the file, its sections, names, values.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, get_args, get_type_hints

from tinyllm import safe_files
from tinyllm.cli.request import absolute
from tinyllm.cli.spellings import bare, closest, meant
from tinyllm.config import BUNDLED, PHASES, SECTIONS
from tinyllm.escape import printable, reason
from tinyllm.inference.settings import check
from tinyllm.option import ConfigError, check_field, flag
from tinyllm.parallel.threads import most_threads
from tinyllm.run.toml import HARDWARE, TEXTS

MOST_BYTES = 1 << 20
MOST_BITS = 1000  # of a whole number: more is no float64
_OWNERS = {field.name: section for section, kind in SECTIONS.items() for field in dataclasses.fields(kind)}
_LIMITS = {"epochs", "max_steps"}
_BUNDLED = {text for texts in BUNDLED.values() for text in texts}
_THREADS = ("workers", "blas_threads")
_WORDS = {
    bool: "true or false", str: "text in quotes", int: "a whole number", float: "a number", list: "a list",
    dict: "a section",
}  # fmt: skip


class Given(NamedTuple):
    """What a file sets."""

    options: dict[str, dict[str, Any]]  # fields of the config, by section
    sources: dict[str, list[str]]  # paths of texts, by phase; those of a file are absolute
    threads: dict[str, int]


def read(path: Path) -> Given:
    """Return the settings in a file; ConfigError, which names the file and the key, for anything else."""
    try:
        return _given(_document(path), path.absolute().parent)
    except ConfigError as error:
        raise ConfigError(f"{printable(path)}: {error}") from error


def fill_in(args: argparse.Namespace, given: Given) -> None:
    """Set the options that the command line does not have to those of a file."""
    typed = set(vars(args))
    if typed & _LIMITS:  # either limits a phase, and replaces both of the file
        typed |= _LIMITS
    for values in given.options.values():
        for name in values.keys() - typed:
            setattr(args, name, values[name])
    for name, count in given.threads.items():
        if getattr(args, name) is None:
            setattr(args, name, count)


def _document(path: Path) -> dict[str, Any]:
    try:
        with os.fdopen(safe_files.open_to_read(path), "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}") from error
    if len(data) > MOST_BYTES:
        raise ConfigError(f"found more than {MOST_BYTES:,} bytes, expected a file of settings")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"found bytes that are not UTF-8 at {error.start}, expected TOML") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not TOML: {reason(error)}") from error


def _given(document: Mapping[str, Any], folder: Path) -> Given:
    given = Given({section: {} for section in SECTIONS}, {}, {})
    for key, value in document.items():
        section = key if key in SECTIONS or key in (TEXTS, HARDWARE) else None
        if section is None:
            _set(given, None, key, value, folder)
            continue
        if not isinstance(value, dict):
            hint = f"; texts are named in [{TEXTS}]" if key == "data" else ""
            raise ConfigError(f"{key}: found {_found(value)}, expected the section [{key}]{hint}")
        for inner, each in value.items():
            _set(given, section, inner, each, folder)
    return given


def _set(given: Given, section: str | None, key: str, value: Any, folder: Path) -> None:
    """Add one setting; `section` is None for a name at the top of the file."""
    name, where = bare(key).replace("-", "_"), f"{section}.{key}" if section else key
    name = "asynchronous" if name == "async" else name
    if section == TEXTS:
        given.sources[_phase(name, where)] = _paths(value, where, folder)
        return
    if name in _THREADS and section in (HARDWARE, None):
        _check_type(value, int, where)
        check(name, value, low=1, high=most_threads())
        found: dict[str, Any] = given.threads
    else:
        owner = _OWNERS.get(name)
        if owner is None or section not in (owner, None):
            raise ConfigError(_unknown(section, key, name))
        kind = SECTIONS[owner]
        value = _check_type(value, get_type_hints(kind)[name], where)
        check_field(kind.__dataclass_fields__[name], value)
        found = given.options[owner]
    if name in found:
        raise ConfigError(f"{where}: set twice, expected once")
    found[name] = value


def _phase(name: str, where: str) -> str:
    if name not in PHASES:
        similar = closest(name, PHASES)
        hint = f"; did you mean {similar}?" if similar else ""
        raise ConfigError(f"unknown setting {printable(where)}, expected {' or '.join(PHASES)}{hint}")
    return name


def _unknown(section: str | None, key: str, name: str) -> str:
    """Return the message for a name that does not exist, or not in this section."""
    text = f"unknown setting {printable(f'{section}.{key}' if section else key)}"
    if name in _OWNERS:
        return f"{text}: {name} belongs to [{_OWNERS[name]}]"
    if section is None and (similar := closest(name, (*SECTIONS, TEXTS, HARDWARE))):
        return f"{text}: did you mean [{similar}]?"
    if name in ("pretraining_data", "chat_data"):
        return f"{text}: texts are named in the section [{TEXTS}]"
    names = {f"did you mean {flag(known)}?": known for known in (*_OWNERS, *_THREADS)}
    hint = meant(key, map(flag, (*_OWNERS, *_THREADS)))
    return f"{text}{': ' if hint else ''}{f'did you mean {names[hint]}?' if hint in names else hint}"


def _paths(value: Any, where: str, folder: Path) -> list[str]:
    """Return the paths of a phase's texts; a relative one begins at the folder of the file."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(each, str) and each for each in texts):
        raise ConfigError(f"{where}: found {_found(value)}, expected a path in quotes, or a list of them")
    if any("\0" in each for each in texts):
        raise ConfigError(f"{where}: found a path with a NUL character, expected none")
    return [each if each in _BUNDLED else absolute(folder / os.path.expanduser(each)) for each in texts]


def _check_type(value: Any, hint: Any, where: str) -> Any:
    """Return the value as the field's type; ConfigError for one of another type."""
    kinds = [kind for kind in (get_args(hint) if isinstance(hint, UnionType) else (hint,)) if kind in _WORDS]
    if type(value) is int and value.bit_length() > MOST_BITS:
        raise ConfigError(f"{where}: found {_found(value)}, expected a smaller one")
    if float in kinds and type(value) is int:
        return float(value)
    if type(value) not in kinds:
        raise ConfigError(f"{where}: found {_found(value)}, expected {' or '.join(_WORDS[k] for k in kinds)}")
    return value


def _found(value: Any) -> str:
    """Return a value as the file may have it, in a few words."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {value!r:.60}"
    if isinstance(value, int) and value.bit_length() > MOST_BITS:  # Python refuses to write the longest
        return "a number of more than 300 digits"
    return _WORDS.get(type(value), type(value).__name__) if isinstance(value, dict | list) else f"{value}"
