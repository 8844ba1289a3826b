"""metrics.jsonl: one JSON object per line, appended and never rewritten.

A run that was killed and resumed has logged some steps twice; `read` makes one history of them.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from tinyllm import safe_files

FILE_NAME = "metrics.jsonl"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Metrics:
    """The open file; `write` buffers, `flush` hands everything to the operating system.

    `check_directory` raises an error if the directory is no longer the run's.
    """

    def __init__(self, directory: Path, check_directory: Callable[[], None] = lambda: None) -> None:
        self.path, self._check_directory = directory / FILE_NAME, check_directory
        with self._named():
            self._file = os.fdopen(safe_files.open_own(self.path, os.O_APPEND), "a+b")
            if not _ends_a_line(self._file):  # a kill in its middle; the next line must not continue it
                self._file.write(b"\n")

    def write(self, **values: Any) -> None:
        """Append one object; `train__loss=...` becomes the tag "train/loss", NaN and infinity become null."""
        line = {
            name.replace("__", "/"): None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        with self._named():
            self._file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())

    def flush(self) -> None:
        """Hand buffered lines to the operating system, so that a killed process keeps them.

        FileNotFoundError if the file is no longer under its name, where nobody would find its lines.
        """
        self._check_directory()
        with self._named():
            self._file.flush()
        if not safe_files.is_at(self._file.fileno(), self.path):
            raise FileNotFoundError(
                f"{self.path}: deleted, moved or replaced while the run was writing it; the checkpoints are "
                f"intact: --resume continues, with a new log"
            )

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
                f"{self.path}: cannot be written: {error.strerror or error}"
                f"{'; free some space' * (error.errno in _FULL)}"
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


def _ends_a_line(file: BinaryIO) -> bool:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 1, 0))
    return file.read(1) in (b"", b"\n")


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
