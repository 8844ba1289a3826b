"""A reader of the output may go away at any time, and no program ends with a traceback or a lost run for it.

`| head`, a terminal that closes, a log on a full disk, `>&-`. The programs whose result is what they print
have nothing more to do then: they end as others in a pipe do, with 128 + SIGPIPE. To training the screen is
a display only: it falls silent, the run continues, and the exit code tells how the run ended.

Order: streams that are closed from the start, a stream that is silenced, a display, the end of a program.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from shutil import get_terminal_size
from typing import Any, TextIO, cast

from tinyllm.words import fold

PIPE_CLOSED = (
    141  # 128 + SIGPIPE: what a shell reports of a program that the signal ends, such as `yes | head`
)


def open_closed_streams() -> None:
    """Connect each standard stream that was closed before the start (`>&-`) to the null device.

    Otherwise the next files to be opened, such as a checkpoint, would take the numbers 0 to 2, and get
    whatever is written to standard error.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest free number: this one
    sys.stdin = sys.stdin or os.fdopen(0, "r", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def silence(stream: TextIO) -> None:
    """Connect the stream to the null device: what its buffer still holds would fail again, and at exit."""
    with suppress(OSError, ValueError):  # it may be closed, or have no number
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


class Display:
    """A stream that falls silent, for good, as soon as it cannot be written.

    On a terminal its lines are broken at words; elsewhere, as in a log, a message stays one line.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._silent = stream, False

    def write(self, text: str) -> int:
        """Write the text if that is still possible; return its length."""
        self._attempt(lambda: self._stream.write(self._folded(text)))
        return len(text)

    def _folded(self, text: str) -> str:
        if "\x1b" in text or not self._stream.isatty():  # an escape sequence takes no columns
            return text
        return fold(text, get_terminal_size().columns)

    def flush(self) -> None:
        """Hand what was written to the operating system if that is still possible."""
        self._attempt(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _attempt(self, action: Callable[[], object]) -> None:
        if self._silent:
            return
        try:
            action()
        except BlockingIOError:  # a full pipe that does not block; its reader is there, and loses a line
            pass
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) and not self._stream.closed:
                raise
            self._silent = True
            silence(self._stream)


@contextmanager
def stderr_as_display() -> Iterator[None]:
    """Make stderr a Display until the end of the block: notes and errors are no program's result."""
    err = Display(sys.stderr)
    with redirect_stderr(cast(TextIO, err)):
        try:
            yield
        finally:
            err.flush()


@contextmanager
def as_display() -> Iterator[None]:
    """Make stdout and stderr a Display each until the end of the block, or of the decorated function."""
    out = Display(sys.stdout)
    with stderr_as_display(), redirect_stdout(cast(TextIO, out)):
        try:
            yield
        finally:
            out.flush()


def flushed(code: int) -> int:
    """Flush stdout, and return the exit code of a process that is about to end with `code`.

    0 becomes PIPE_CLOSED if the reader has gone away, and 1 if the output cannot be written otherwise.
    """
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        silence(sys.stdout)
        return code or unwritten(error)
    return code


def unwritten(error: Exception) -> int:
    """Return the exit code for output that could not be written, and say why unless the reader went away."""
    if isinstance(error, BrokenPipeError):
        return PIPE_CLOSED
    print(f"error: the output cannot be written: {error}", file=sys.stderr, flush=True)
    return 1
