"""metrics.jsonl: one JSON object per line, appended and never rewritten.

A run that was killed and resumed has logged some steps twice; `read` makes one history of them, and
`blocks` does so of a log that is larger than memory.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from tinyllm import safe_files

FILE_NAME = "metrics.jsonl"
BLOCK = 1 << 18  # bytes per read
LONGEST_LINE = 1 << 16  # bytes
BASELINES = "baselines"  # the event that is logged with what simple models would lose
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

    They are those of `blocks`, and of lines logged twice the later one.
    """
    latest: dict[tuple[int, str, str], dict[str, Any]] = {}
    for block in blocks(path):
        for values in block:
            event = str(values.get("event", ""))
            kind = "event" if event else "eval" if "eval/loss" in values else "train"
            if event == BASELINES:  # one per phase
                event += str(values.get("phase"))
            latest[(values["step"], kind, event)] = values
    return sorted(latest.values(), key=lambda values: int(values["step"]))


def blocks(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield the objects of a metrics file in the order of the file, a few thousand at a time.

    A resume takes back what was logged beyond its step. Torn lines, which a kill leaves behind, and lines
    longer than LONGEST_LINE are skipped. Raises OSError where there is no regular file.
    """
    with os.fdopen(safe_files.open_to_read(path), "rb") as file:
        end = os.fstat(file.fileno()).st_size  # a live run logs more meanwhile
        # First the resumes alone: how far the lines before each of them count.
        resumes = [
            values["step"]
            for lines in _lines(file, end)
            for values in _parsed([line for line in lines if b'"resume"' in line])
            if _is_resume(values)
        ]
        limits = [*accumulate(reversed(resumes), min)][::-1]  # by number of resumes so far, of those to come
        file.seek(0)
        passed = 0
        for lines in _lines(file, end):
            found = _parsed(lines)
            if passed < len(limits):
                counted = []
                for values in found:
                    passed += _is_resume(values)
                    if passed >= len(limits) or values["step"] <= limits[passed]:
                        counted.append(values)
                found = counted
            yield found


def _is_resume(values: dict[str, Any]) -> bool:
    return values.get("event") == "resume"


def _lines(file: BinaryIO, end: int) -> Iterator[list[bytes]]:
    """Yield the lines of an open file up to byte `end`, those of one read together."""
    rest = b""
    while piece := file.read(min(BLOCK, end - file.tell())):
        *lines, rest = (rest + piece).split(b"\n")
        yield lines
        if len(rest) > LONGEST_LINE:
            rest = b"?"  # no JSON begins so: the line will be skipped, however long it is
    yield [rest]


def _parsed(lines: list[bytes]) -> list[dict[str, Any]]:
    """Return the objects with a step among the lines of a log."""
    try:  # all in one call, which takes half the time
        found = json.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError):
        found = []
    if len(found) != len(lines):
        found = []
        for line in lines:
            with suppress(ValueError, RecursionError):
                found.append(json.loads(line.decode(errors="replace")))
    return [values for values in found if isinstance(values, dict) and type(values.get("step")) is int]
