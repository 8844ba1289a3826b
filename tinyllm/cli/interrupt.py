"""Ctrl-C and SIGTERM: the first asks the loop to stop and save, a second Ctrl-C ends the process at once.

Order: the loop's flag, the exit code of every program.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

INTERRUPTED = 130  # 128 + SIGINT
AT_ONCE = "stopped at once; the checkpoints are intact: --resume continues from the latest"


class Interrupt:
    """Turns the first SIGINT or SIGTERM into a flag that the loop polls; a second SIGINT exits with 130."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        return bool(self.signal)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            # No exception: it could land between any two lines, and leave other threads waiting for this one.
            os.write(2, f"\n{AT_ONCE}\n".encode())
            os._exit(INTERRUPTED)
        self.signal = number
        name = signal.Signals(number).name
        os.write(2, f"\n{name}: finishing the step and saving ...\n".encode())  # print could be re-entered


def exit_code(main: Callable[[], int]) -> int:
    """Return the exit code of `main`, which is the whole process; 130 for a Ctrl-C that it lets through.

    From then on Ctrl-C is ignored: Python is ending, and would be killed by it or show a traceback.
    """
    try:
        return main()
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
