"""Ctrl-C and other signals: the first asks to stop and save, a second Ctrl-C ends the process.

Where a run has something to save, it polls a flag; where it has not, the signal raises `Stopped`. Order: the
flag, the exit code of every program.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from tinyllm.cli.output import flushed, open_closed_streams, stderr_as_display, unwritten
from tinyllm.cli.streams import prepare_streams

INTERRUPTED = 130  # 128 + SIGINT
AT_ONCE = "stopped at once; the checkpoints are intact: --resume continues from the latest"
BOUNCE = 1.0  # seconds after the first signal in which another Ctrl-C is the same key, or the same impatience
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # a terminal that closes, a scheduler's warning


class Stopped(BaseException):
    """A signal ended work of which nothing needs to be saved; not an error that any work may handle."""


class Interrupt:
    """Turns the first signal into a flag that the loop polls; a later Ctrl-C exits with 130."""

    def __init__(self, seconds: Callable[[], float] = time.monotonic) -> None:
        self.signal, self._first, self._seconds = 0, 0.0, seconds
        self._consequence: str | None = None  # of a stop here and now, where that needs no saving
        self._before: dict[int, Any] = {}
        self.show: Callable[[str, bool], None] = _write  # the text, and whether it is the last

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
                # Under nohup a closing terminal is to be ignored, which is what nohup is for.
                if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        """Return whether a signal has come; once true, it stays true."""
        return bool(self.signal)

    @property
    def name(self) -> str:
        """The name of the signal that has come."""
        return signal.Signals(self.signal).name

    @property
    def exit_code(self) -> int:
        """The exit code of a process that has stopped for the signal: 128 + its number."""
        return 128 + self.signal

    @contextmanager
    def ends(self, consequence: str) -> Iterator[None]:
        """Let a signal end the block at once, as `Stopped(consequence)`: nothing in it is to be saved first.

        One that came before the block, or whose exception was lost in it, is raised at its beginning or end.
        """
        try:
            self._consequence = consequence
            self._raise_if_stopped(consequence)
            yield
        finally:
            self._consequence = None
        self._raise_if_stopped(consequence)

    def _raise_if_stopped(self, consequence: str) -> None:
        if self.signal:
            raise Stopped(consequence)

    def _note(self, number: int, _: FrameType | None) -> None:
        now = self._seconds()
        if not self.signal:
            self.signal, self._first = number, now
            if self._consequence is not None:
                raise Stopped(self._consequence)
            self.show(f"{self.name}: finishing the step and saving ...", False)
        elif number == signal.SIGINT and now - self._first >= BOUNCE:
            # No exception: it could land between any two lines, and leave other threads waiting for this one.
            self.show(AT_ONCE, True)
            os._exit(INTERRUPTED)


def _write(text: str, _: bool) -> None:
    """Write a line to stderr from a signal handler, where print could be re-entered, unless it is closed."""
    with suppress(OSError):
        os.write(2, f"\n{text}\n".encode())


def exit_code(main: Callable[[], int]) -> int:
    """Return the exit code of `main`, which is the whole process; 130 for a Ctrl-C that it lets through.

    From then on Ctrl-C is ignored: Python is ending, and would be killed by it or show a traceback. Output
    that cannot be written: 141 where the reader has gone away, else 1 after an error line.
    """
    open_closed_streams()
    prepare_streams()
    with stderr_as_display():
        try:
            code = main()
        except KeyboardInterrupt:
            code = INTERRUPTED
        except SystemExit as end:  # of argparse
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except OSError as error:
            if error.filename is not None:
                raise
            code = unwritten(error)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return flushed(code)
