"""`config.toml` in a run's directory: its settings, texts and threads, for a person and for `--config`.

Every field of the config is written, those without an option too, so that the same run can be started from
the file alone. Order: the text, its values, the file.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyllm import safe_files
from tinyllm.escape import reason

if TYPE_CHECKING:
    from tinyllm.run.state import TrainState

FILE_NAME = "config.toml"
TEXTS, HARDWARE = "texts", "hardware"  # the sections that are not the config's
_FIRST_LINE = "# The settings of a tinyllm run, written by it.\n"
_HOW = "# The same run elsewhere: tinyllm train --config config.toml --checkpoint-dir NEW\n"


def to_toml(state: TrainState) -> str:
    """Return the settings of a run as TOML 1.0; what is None there, which TOML has not, is left out."""
    sections: dict[str, dict[str, Any]] = dict(state.config.to_dict())
    sections[TEXTS] = {phase: state.sources[phase].paths for phase in state.phases if phase in state.sources}
    sections[HARDWARE] = {
        name: state.environment[name] for name in ("workers", "blas_threads") if name in state.environment
    }
    parts = [_FIRST_LINE + _HOW, *(_section(name, values) for name, values in sections.items() if values)]
    return "\n".join(parts)


def _section(name: str, values: Mapping[str, Any]) -> str:
    lines = [f"[{name}]"]
    for key, value in values.items():
        if value is None:
            continue
        try:
            lines.append(f"{key} = {_value(value)}")
        except UnicodeEncodeError:
            lines.append(f"# {key}: its name is not UTF-8, which TOML must be; give it on the command line")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """Return a plain value as TOML; UnicodeEncodeError for text with bytes that are not UTF-8."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    value.encode()
    # JSON escapes what TOML does, except DEL; TOML has no surrogate pairs, so other text stays as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def write(state: TrainState, directory: Path, notice: Callable[[str], None]) -> None:
    """Write the settings of a run to its directory; a failure, or a person's own file there, is a notice."""
    path = directory / FILE_NAME
    try:
        safe_files.check_replaceable(path, "of a run", _is_own, force=False)
        safe_files.remove_leftovers(path)
        with safe_files.replacing(path) as file:
            file.write(to_toml(state).encode())
    except OSError as error:
        what = error.strerror if error.errno == errno.EEXIST else reason(error)
        notice(f"note: the settings of this run are not written to {path}: {what}")


def is_own(path: Path) -> bool:
    """Return whether a file is one that `write` has written."""
    if path.name != FILE_NAME:
        return False
    try:
        with os.fdopen(safe_files.open_to_read(path), "rb") as file:
            return _is_own(file.read(len(_FIRST_LINE)))
    except OSError:
        return False


def _is_own(head: bytes) -> bool:
    return head.startswith(_FIRST_LINE.encode())
