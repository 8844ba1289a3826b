"""metrics.jsonl: one JSON object per line, appended and never rewritten.

A run that was killed and resumed has logged some steps twice; `read` makes one history of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

FILE_NAME = "metrics.jsonl"


class Metrics:
    """The open file; `write` buffers, `flush` hands everything to the operating system."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE_NAME
        torn = self.path.exists() and self.path.stat().st_size and not _ends_a_line(self.path)
        self._file = self.path.open("a", encoding="utf-8")
        if torn:  # a kill in the middle of a line; the next one must not continue it
            self._file.write("\n")

    def write(self, **values: Any) -> None:
        """Append one object; `train__loss=...` becomes the tag "train/loss", NaN and infinity become null."""
        line = {
            name.replace("__", "/"): None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        with self._named():
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def flush(self) -> None:
        """Hand buffered lines to the operating system, so that a killed process keeps them."""
        with self._named():
            self._file.flush()

    def close(self) -> None:
        """Flush and close the file."""
        with self._named():
            self._file.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Let an OSError, which knows no name when a write fails, say which file it is."""
        try:
            yield
        except OSError as error:
            raise OSError(
                f"{self.path}: cannot be written: {error.strerror or error}; free some space"
            ) from error

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except OSError:
            if kind is None:
                raise  # else another error is propagating already, perhaps of this very file


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def read(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a metrics file in step order, as a run without interruptions would leave them.

    A resume takes back what was logged beyond its step, and of lines logged twice the later counts. Torn
    lines, which a kill leaves behind, are skipped.
    """
    latest: dict[tuple[int, str, str], dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(values, dict) or type(values.get("step")) is not int:
            continue
        step, event = values["step"], str(values.get("event", ""))
        if event == "resume":
            latest = {key: kept for key, kept in latest.items() if key[0] <= step}
        kind = "event" if event else "eval" if "eval/loss" in values else "train"
        latest[(step, kind, event)] = values
    return sorted(latest.values(), key=lambda values: int(values["step"]))
