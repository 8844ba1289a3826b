"""Ctrl-C and other signals: the first asks the loop to stop and save, a second Ctrl-C ends the process.

Order: the loop's flag, the exit code of every program.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from tinyllm.cli.streams import prepare_streams

INTERRUPTED = 130  # 128 + SIGINT
AT_ONCE = "stopped at once; the checkpoints are intact: --resume continues from the latest"


BOUNCE = 1.0  # seconds after the first signal in which another Ctrl-C is the same key, or the same impatience
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # a terminal that closes, a scheduler's warning


class Interrupt:
    """Turns the first signal into a flag that the loop polls; a later Ctrl-C exits with 130."""

    def __init__(self, seconds: Callable[[], float] = time.monotonic) -> None:
        self.signal, self._first, self._seconds = 0, 0.0, seconds
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        return bool(self.signal)

    def _note(self, number: int, _: FrameType | None) -> None:
        now = self._seconds()
        if not self.signal:
            self.signal, self._first = number, now
            _write(f"{signal.Signals(number).name}: finishing the step and saving ...")
        elif number == signal.SIGINT and now - self._first >= BOUNCE:
            # No exception: it could land between any two lines, and leave other threads waiting for this one.
            _write(AT_ONCE)
            os._exit(INTERRUPTED)


def _write(text: str) -> None:
    """Write a line to stderr from a signal handler, where print could be re-entered, unless it is closed."""
    with suppress(OSError):
        os.write(2, f"\n{text}\n".encode())


def exit_code(main: Callable[[], int]) -> int:
    """Return the exit code of `main`, which is the whole process; 130 for a Ctrl-C that it lets through.

    From then on Ctrl-C is ignored: Python is ending, and would be killed by it or show a traceback.
    """
    prepare_streams()
    try:
        return main()
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
